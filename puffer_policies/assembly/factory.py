"""`get_policy`: from a name to a policy that was looked at as closely as the caller wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from torch import nn

from puffer_policies.assembly.blueprint import PolicyLike, WrapperLike, prepare
from puffer_policies.checks.engine.plans import subject_of
from puffer_policies.checks.engine.validation import require_promises, require_shapes
from puffer_policies.errors import BuildError, did_you_mean
from puffer_policies.registry import Registry, default_registry

Validation = Literal["off", "static", "shapes", "full"]


def get_policy(
    policy: PolicyLike,
    env: Any,
    *,
    wrappers: Iterable[WrapperLike] = (),
    registry: Registry | None = None,
    validate: Validation = "static",
    **kwargs: Any,
) -> nn.Module:
    """Build a policy for an environment.

    Args:
        policy: a registered name (``"Default"``, ``"acme/Net"``), an expression
            (``"LSTMWrapper(Default(hidden_size=256))"``), a preset, a `PolicySpec` or a class.
        env: an env, a vector env, an env id, or `Spaces`.
        wrappers: names, expressions such as ``"LSTMWrapper(num_layers=2)"``, specs or classes,
            put around the policy from the first to the last.
        registry: where names are looked up; the default registry if None.
        validate: ``"static"`` compares the class with the contract before and the policy's
            attributes after it is built; ``"off"`` does neither. ``"shapes"`` also looks at the
            shapes of its outputs, without computing them; ``"full"`` runs the conformance suite
            on it, which takes seconds.
        **kwargs: arguments of the policy's constructor.

    Returns:
        A module that keeps the contract, with the recipe that rebuilds it as ``.spec``.

    Raises:
        PolicyNotFound, AmbiguousName, PolicyRemoved: the name does not lead to one policy.
        PluginError, MissingDependency: the class can't be imported.
        ContractError: it does not keep the policy contract.
        IncompatibleSpace: it does not fit the spaces of `env`.
        BuildError: wrong arguments, an impossible stack, or a constructor that raised.
    """
    registry = default_registry() if registry is None else registry
    _require_known(validate)
    plan = prepare(policy, env, wrappers=wrappers, registry=registry, kwargs=kwargs)
    module = plan.build(strict=validate != "off")
    if validate == "shapes":
        require_shapes(module, plan.spaces, name=str(plan.spec), capabilities=plan.capabilities)
    elif validate == "full":
        require_promises(subject_of(plan), registry)
    registry.hooks.policy_built(module, plan.spec)
    return module


def _require_known(validate: str) -> None:
    known = get_args(Validation)
    if validate not in known:
        hint = did_you_mean(validate, known) or f"Known are {', '.join(known)}."
        raise BuildError(f"There is no validation {validate!r}.", fix=hint)
