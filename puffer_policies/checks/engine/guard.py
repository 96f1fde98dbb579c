"""Keeps one check's effects on the process from the next: generators, switches, folder."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def untouched() -> Iterator[None]:
    """Run a block on one thread; the state that policies are known to change is restored after it.

    Warnings inside are dropped: a policy that warns is no failure, and a host that turns warnings
    into errors should get the same verdict as one that does not.
    """
    python, numpy, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()
    dtype, grad, threads = (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )
    deterministic, folder = torch.are_deterministic_algorithms_enabled(), os.getcwd()
    # Tiny tensors: more threads wait for each other, for minutes where tests run side by side.
    if threads != 1:
        torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(generator)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        # These two cost something even where they change nothing.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            torch.use_deterministic_algorithms(deterministic)
        os.chdir(folder)
