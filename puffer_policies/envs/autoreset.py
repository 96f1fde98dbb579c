"""Gymnasium's autoreset modes, or in words what their absence means.

An older gymnasium has none. Everything can be imported with it all the same, and policies be built
and used; only envs in batches, and so training, need a newer one.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import gymnasium

from puffer_policies.errors import MissingDependency

if TYPE_CHECKING:
    from gymnasium.vector import AutoresetMode
else:
    try:
        from gymnasium.vector import AutoresetMode
    except ImportError:

        class AutoresetMode(enum.Enum):
            """The names alone."""

            NEXT_STEP = "NextStep"
            SAME_STEP = "SameStep"
            DISABLED = "Disabled"


__all__ = ["AutoresetMode", "require_autoreset"]


def require_autoreset() -> None:
    """Refuse to make envs in batches where gymnasium is too old for it.

    Raises:
        MissingDependency: a gymnasium without autoreset modes.
    """
    if not hasattr(gymnasium.vector, "AutoresetMode"):
        raise MissingDependency(
            f"Training needs gymnasium 1.1 or newer, this is {gymnasium.__version__}.",
            fix="pip install 'puffer-policies[train]'",
        )
