"""Prints what each validation of get_policy costs above none: after the first call, and the first.

    python benchmarks/bench_validate.py [REPEATS]

The promise: static validation costs less than 1 ms after the first.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch
from gymnasium import spaces

from puffer_policies import Spaces, get_policy

SPACES = Spaces(spaces.Box(-1.0, 1.0, (8,), np.float32), spaces.Discrete(4))
POLICIES = ("Default", "LSTMWrapper(Default)")


def milliseconds(policy: str, validate: str) -> float:
    """Return the CPU time of one call of get_policy."""
    start = time.process_time()
    get_policy(policy, SPACES, validate=validate)  # type: ignore[arg-type]
    return (time.process_time() - start) * 1e3


def main() -> None:
    """Print a line for each policy and validation."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    torch.set_num_threads(1)
    for policy in POLICIES:
        first = {each: milliseconds(policy, each) for each in ("off", "static", "shapes")}
        pairs = [
            (milliseconds(policy, "off"), milliseconds(policy, "static")) for _ in range(repeats)
        ]
        static = min(static for _, static in pairs) - min(off for off, _ in pairs)
        shapes = statistics.median(milliseconds(policy, "shapes") for _ in range(repeats // 10))
        full = milliseconds(policy, "full")
        print(
            f"{policy:<22} static +{static:.3f} ms (first {first['static']:.1f} ms)  "
            f"shapes {shapes:.1f} ms  full {full / 1e3:.1f} s"
        )


if __name__ == "__main__":
    main()
