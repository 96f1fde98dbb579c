"""Where records come from: installed packages, registry files, plug-ins and decorators."""

from puffer_policies.discovery.decorators import register_policy, register_wrapper
from puffer_policies.discovery.default import (
    default_registry,
    discover,
    list_policies,
    list_wrappers,
    set_default_registry,
)

__all__ = [
    "default_registry",
    "discover",
    "list_policies",
    "list_wrappers",
    "register_policy",
    "register_wrapper",
    "set_default_registry",
]
