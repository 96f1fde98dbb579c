"""Gymnasium's autoreset modes, or in words what their absence means."""

from __future__ import annotations

import gymnasium

from puffer_policies.errors import MissingDependency

try:
    from gymnasium.vector import AutoresetMode
except ImportError as error:
    raise MissingDependency(
        f"Training needs gymnasium 1.1 or newer, this is {gymnasium.__version__}.",
        fix="pip install 'puffer-policies[train]'",
    ) from error

__all__ = ["AutoresetMode"]
