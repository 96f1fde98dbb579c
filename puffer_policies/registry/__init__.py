"""Names and the records that they lead to: where records come from, and what a name means.

Nothing here needs torch, NumPy or gymnasium.
"""

from puffer_policies.registry.decorators import register_policy, register_wrapper
from puffer_policies.registry.default import (
    default_registry,
    list_policies,
    list_wrappers,
    set_default_registry,
)
from puffer_policies.registry.discovery import discover
from puffer_policies.registry.plugins import Timing
from puffer_policies.registry.records import Kind
from puffer_policies.registry.registry import Registry

__all__ = [
    "Kind",
    "Registry",
    "Timing",
    "default_registry",
    "discover",
    "list_policies",
    "list_wrappers",
    "register_policy",
    "register_wrapper",
    "set_default_registry",
]
