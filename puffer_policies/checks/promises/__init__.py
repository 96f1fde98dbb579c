"""The promises of the suite: one family in one file, or in two that say what they hold.

`CHECKS` has all of them in the order in which they run: what other promises rest on comes first.
"""

from __future__ import annotations

from puffer_policies.checks.promises import (
    actions,
    build,
    learning,
    numerics,
    passes,
    persistence,
    recurrence,
    shapes,
)

CHECKS = (
    *build.CHECKS,
    *passes.CHECKS,
    *shapes.CHECKS,
    *recurrence.CHECKS,
    *actions.CHECKS,
    *numerics.CHECKS,
    *persistence.CHECKS,
    *learning.CHECKS,
)
