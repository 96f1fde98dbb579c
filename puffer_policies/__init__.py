"""Find, check, compose, train and share reinforcement-learning policies by name.

The public names are imported when they are first used, so that ``import puffer_policies`` costs
nothing and listing names never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puffer_policies.agent import Agent
    from puffer_policies.assembly.checkpoint import load_policy, save_checkpoint
    from puffer_policies.assembly.factory import get_policy
    from puffer_policies.checks import check_policy
    from puffer_policies.errors import PolicyError
    from puffer_policies.export.api import export_policy
    from puffer_policies.hookspecs import hookimpl
    from puffer_policies.registry import (
        Registry,
        default_registry,
        discover,
        list_policies,
        list_wrappers,
        register_policy,
        register_wrapper,
        set_default_registry,
    )
    from puffer_policies.registry.specs import PolicySpec, WrapperSpec
    from puffer_policies.runs.share import push_to_hub
    from puffer_policies.spaces import Spaces

# The docs and plug-ins import these names from here; their modules may move.
_HOMES = {
    "Agent": "agent",
    "PolicyError": "errors",
    "PolicySpec": "registry.specs",
    "Registry": "registry",
    "Spaces": "spaces",
    "WrapperSpec": "registry.specs",
    "check_policy": "checks",
    "default_registry": "registry",
    "discover": "registry",
    "export_policy": "export.api",
    "get_policy": "assembly.factory",
    "hookimpl": "hookspecs",
    "list_policies": "registry",
    "list_wrappers": "registry",
    "load_policy": "assembly.checkpoint",
    "push_to_hub": "runs.share",
    "register_policy": "registry",
    "register_wrapper": "registry",
    "save_checkpoint": "assembly.checkpoint",
    "set_default_registry": "registry",
}
_MODULES = {"checks", "errors", "models", "nn", "pufferl", "pytorch", "spaces", "wrappers", "zoo"}

__all__ = [
    "Agent",
    "PolicyError",
    "PolicySpec",
    "Registry",
    "Spaces",
    "WrapperSpec",
    "check_policy",
    "default_registry",
    "discover",
    "export_policy",
    "get_policy",
    "hookimpl",
    "list_policies",
    "list_wrappers",
    "load_policy",
    "push_to_hub",
    "register_policy",
    "register_wrapper",
    "save_checkpoint",
    "set_default_registry",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("puffer-policies")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
