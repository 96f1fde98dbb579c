"""Gymnasium's autoreset modes, or an error in words where there are none.

Gymnasium has them since 1.1. With an older one, everything can still be imported, and policies can
be built and used; only envs in batches, and so training, need a newer one.
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
    """Refuse to make envs in batches with a gymnasium that is too old for it.

    Raises:
        MissingDependency: a gymnasium without autoreset modes.
    """
    if not hasattr(gymnasium.vector, "AutoresetMode"):
        raise MissingDependency(
            f"Training needs gymnasium 1.1 or newer, this is {gymnasium.__version__}.",
            fix="pip install 'puffer-policies[train]'",
        )
