"""What `get_policy` builds with trained weights: the policy of a checkpoint, if it is that one."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from puffer_policies.assembly.blueprint import Blueprint
from puffer_policies.assembly.checkpoint import read_checkpoint
from puffer_policies.errors import CheckpointError, PolicyNotFound
from puffer_policies.hub.location import PRETRAINED, Location
from puffer_policies.registry import Registry


def build_pretrained(
    blueprint: Blueprint, pretrained: Location, env: Any, *, registry: Registry, strict: bool
) -> nn.Module:
    """Build the policy of a checkpoint, if it is the one that was asked for.

    Args:
        blueprint: what was asked for.
        pretrained: the name of a pretrained policy, or where a checkpoint is.
        env: an env, a vector env, an env id, or `Spaces`.
        registry: where names are looked up.
        strict: whether the class is compared with the contract.

    Raises:
        PolicyNotFound: there is no such pretrained policy.
        CheckpointError: the checkpoint can't be read, or is of another policy or other spaces.
    """
    checkpoint = read_checkpoint(_location(pretrained, registry), registry=registry)
    spec, full = checkpoint.header.spec, checkpoint.header.full_spec
    problems = [] if spec is None or full is None else blueprint.differences(spec, full)
    if problems:
        raise CheckpointError(
            f"{pretrained} is not a {blueprint.request}: {'; '.join(problems)}.",
            fix=f"load_policy builds what the file holds, {spec}.",
        )
    return checkpoint.build_policy(env, registry=registry, strict=strict)


def _location(pretrained: Location, registry: Registry) -> Location:
    """Return where a checkpoint is: a text without a scheme is the name of a pretrained policy."""
    if not isinstance(pretrained, str) or "://" in pretrained:
        return pretrained
    try:
        registry.pretrained_policy(pretrained)
    except PolicyNotFound as error:
        # Names and paths look alike, and neither is ever taken for the other.
        if os.path.exists(pretrained):
            raise PolicyNotFound(
                error.problem, fix=f"For the file, give Path({pretrained!r})."
            ) from error
        raise
    return f"{PRETRAINED}{pretrained}"
