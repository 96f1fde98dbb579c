"""Names and the records that they lead to. It knows nothing of plug-ins, files and torch."""

from puffer_policies.registry.registry import Kind, Registry, Timing

__all__ = ["Kind", "Registry", "Timing"]
