"""What a build does besides building: reseeding, printing, files, and settings of the process."""

from __future__ import annotations

import io
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch

from puffer_policies.checks.probes.subject import seeded

Setting = tuple[Callable[[], Any], Callable[[Any], Any]]

SETTINGS: dict[str, Setting] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "whether torch records gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic mode": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch's precision of float32 products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "torch's anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "NumPy's error state": (np.geterr, lambda state: np.seterr(**state)),
    "the environment variables": (lambda: dict(os.environ), lambda values: _set_environ(values)),
}
"""How to read and to restore each."""


def side_effects(build: Callable[[], object]) -> list[str]:
    """Build twice under different seeds and return what else happened; it is undone."""
    found: list[str] = []
    with _settings_kept(found), _directory_kept(found), _output_kept(found):
        ends = [_ends(build, seed) for seed in (11, 12)]
    for name, first in ends[0].items():
        if first == ends[1][name]:
            found.append(f"it seeds the global generator of {name}")
    return found


def _ends(build: Callable[[], object], seed: int) -> dict[str, Any]:
    """Build under a seed -> where that leaves each global generator."""
    state = random.getstate()
    try:
        with seeded(seed):
            random.seed(seed)
            build()
            return {
                "torch": torch.get_rng_state().tolist(),
                "NumPy": np.random.get_state()[1].tolist(),  # type: ignore[index]
                "Python": random.getstate(),
            }
    finally:
        random.setstate(state)


@contextmanager
def _settings_kept(found: list[str]) -> Iterator[None]:
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    try:
        yield
    finally:
        for name, (read, restore) in SETTINGS.items():
            if (now := read()) != before[name]:
                restore(before[name])
                shown = "" if isinstance(now, dict) else f" from {before[name]} to {now}"
                found.append(f"it changes {name}{shown}")


@contextmanager
def _directory_kept(found: list[str]) -> Iterator[None]:
    """Stand in an empty directory meanwhile, so that files made next to the caller show."""
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        try:
            yield
            if os.path.realpath(os.getcwd()) != os.path.realpath(empty):
                found.append(f"it changes the working directory to {os.getcwd()}")
            if made := sorted(os.listdir(empty)):
                found.append(f"it writes into the working directory: {', '.join(made)}")
        finally:
            os.chdir(home)


@contextmanager
def _output_kept(found: list[str]) -> Iterator[None]:
    with redirect_stdout(io.StringIO()) as printed:
        yield
    if text := printed.getvalue().strip():
        found.append(f"it prints {text.splitlines()[0]!r}")


def _set_environ(values: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)
