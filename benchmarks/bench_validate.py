"""Prints what it costs to validate a policy: get_policy's static validation, and what checks add.

    python benchmarks/bench_validate.py [REPEATS]

The promise: static validation costs less than 1 ms after the first.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces

from puffer_policies import Spaces, get_policy
from puffer_policies.checks import require_conformance, require_shapes

SPACES = Spaces(spaces.Box(-1.0, 1.0, (8,), np.float32), spaces.Discrete(4))
POLICIES = ("Default", "LSTMWrapper(Default)")


def milliseconds(function: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    function()
    return (time.process_time() - start) * 1e3


def main() -> None:
    """Print a line for each policy."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    torch.set_num_threads(1)
    for name in POLICIES:
        builders = {
            validate: lambda name=name, validate=validate: get_policy(
                name, SPACES, validate=validate
            )
            for validate in ("off", "static")
        }
        first = {validate: milliseconds(build) for validate, build in builders.items()}
        # In turns, so that whatever disturbs the machine disturbs both; the minimum, as
        # disturbances only ever add.
        pairs = [[milliseconds(build) for build in builders.values()] for _ in range(repeats)]
        off, static = (min(times) for times in zip(*pairs, strict=True))
        policy = get_policy(name, SPACES)
        shapes = statistics.median(
            milliseconds(lambda policy=policy: require_shapes(policy, SPACES))
            for _ in range(max(1, repeats // 10))
        )
        conformance = milliseconds(lambda policy=policy: require_conformance(policy, SPACES))
        print(
            f"{name:<22} static +{static - off:.3f} ms (first {first['static']:.1f} ms)  "
            f"shapes {shapes:.1f} ms  conformance {conformance / 1e3:.1f} s"
        )


if __name__ == "__main__":
    main()
