"""The families of checks, in the order in which they run."""

from __future__ import annotations

from puffer_policies.checks.promises import (
    actions,
    build,
    learning,
    numerics,
    persistence,
    recurrence,
    shapes,
)

CHECKS = (
    *build.CHECKS,
    *shapes.CHECKS,
    *recurrence.CHECKS,
    *actions.CHECKS,
    *numerics.CHECKS,
    *persistence.CHECKS,
    *learning.CHECKS,
)
