"""`get_policy`, the one builder: whatever is built by name is built by it or by its `Blueprint`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from typing import Any, Literal, get_args

from torch import nn

from puffer_policies.assembly.blueprint import (
    PolicyLike,
    WrapperLike,
    build_policy,
    prepare,
)
from puffer_policies.errors import BuildError, did_you_mean
from puffer_policies.registry import Registry, default_registry

Validation = Literal["static", "off"]

_PRETRAINED = "puffer_policies.assembly.pretrained"

_CHECKS = {
    "shapes": "puffer_policies.checks.require_shapes",
    "full": "puffer_policies.checks.require_conformance",
}
"""Validations that run the policy, and the functions for them. The functions stand above this
module, so that building a policy does not import the conformance suite."""


def get_policy(
    policy: PolicyLike,
    env: Any,
    *,
    wrappers: Iterable[WrapperLike] = (),
    registry: Registry | None = None,
    validate: Validation = "static",
    pretrained: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a policy for an environment, and tell the plug-ins.

    Args:
        policy: a registered name (``"Default"``, ``"acme/Net"``), an expression
            (``"LSTMWrapper(Default(hidden_size=256))"``), a preset, a `PolicySpec` or a class.
        env: an env, a vector env, an env id, or `Spaces`.
        wrappers: names, expressions such as ``"LSTMWrapper(num_layers=2)"``, specs or classes,
            put around the policy from the first to the last.
        registry: where names are looked up; the default registry if None.
        validate: ``"static"`` compares the class with the contract before the policy is built, and
            its attributes afterwards; ``"off"`` does neither. `puffer_policies.checks` has
            `require_shapes` and `require_conformance`, which run the policy.
        pretrained: trained weights for the policy: one of ``puffer-policies list --pretrained``,
            ``hf://org/name``, or the `Path` of a checkpoint or of a run. Arguments that are not
            given are those of its policy; a stack, an argument or spaces of others are refused.
        **kwargs: arguments of the policy's constructor.

    Returns:
        A module that keeps the contract, with the spec that rebuilds it as ``.spec``.

    Raises:
        PolicyNotFound, AmbiguousName, PolicyRemoved: the name does not lead to one policy.
        PluginError, MissingDependency: the class can't be imported.
        ContractError: it does not keep the policy contract.
        IncompatibleSpace: it does not fit the spaces of `env`.
        BuildError: wrong arguments, an impossible stack, or a constructor that raised.
        CheckpointError: `pretrained` can't be read, or is of another policy or other spaces.
    """
    registry = default_registry() if registry is None else registry
    _require_validation(validate)
    blueprint = prepare(policy, env, wrappers=wrappers, registry=registry, kwargs=kwargs)
    strict = validate == "static"
    if pretrained is None:
        return build_policy(blueprint, registry, strict=strict)
    # Imported by name, as a policy is: what reads files stands above what builds from names.
    reader = importlib.import_module(_PRETRAINED)
    trained: nn.Module = reader.build_pretrained(
        blueprint, pretrained, env, registry=registry, strict=strict
    )
    return trained


def _require_validation(validate: str) -> None:
    options = get_args(Validation)
    if validate in _CHECKS:
        raise BuildError(
            f"get_policy does not run the policy that it builds, so validate={validate!r} is not "
            f"one of {' and '.join(map(repr, options))}.",
            fix=f"Call {_CHECKS[validate]}(policy, env) afterwards.",
        )
    if validate not in options:
        hint = did_you_mean(validate, options) or f"Options are {', '.join(options)}."
        raise BuildError(f"There is no validation {validate!r}.", fix=hint)
