"""The hooks that a plug-in may implement, and the markers to do it with.

A plug-in is a module (or any object) named by an entry point of the group
``puffer_policies.plugins``; it implements a hook by a function of the hook's name::

    from puffer_policies.hookspecs import hookimpl

    @hookimpl
    def register_policies(registrar):
        registrar.add_policy("MyNet", "acme.nets:MyNet", summary="...")
"""

from __future__ import annotations

from typing import Any

import pluggy

PROJECT = "puffer_policies"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_policies(registrar: Any) -> None:
    """Register policies and wrappers that only code can name.

    Args:
        registrar: its `add_policy` and `add_wrapper` take a name, a target and the keys of a
            registry.toml as keywords. If the hook raises, nothing of the plug-in is registered.
    """


@hookspec
def register_checks(registrar: Any) -> None:
    """Add checks to the conformance suite.

    Args:
        registrar: the suite's registrar; see `puffer_policies.checks`.
    """


@hookspec
def policy_built(policy: Any, spec: Any) -> None:
    """Act after `get_policy` built a policy, for example to log it. Do not change the policy.

    Args:
        policy: the ``nn.Module``.
        spec: the `PolicySpec` that rebuilds it.
    """


@hookspec
def register_commands(commands: Any) -> None:
    """Add verbs to ``puffer-policies``.

    Args:
        commands: the sub-parsers of `argparse`; ``commands.add_parser(verb)`` adds one. The
            parser's default ``run`` is called with the parsed arguments and returns the exit code.
    """
