"""Lines of Python that a reader pastes to see a failure, and other texts of reports.

An example consists of two parts: lines that build ``policy`` for ``spaces``, which the engine puts
first (see `snippet`), and those of the check, for which `example` gives names to start from.
"""

from __future__ import annotations

import re
from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import spaces as gym

from puffer_policies.checks.probes.subject import BATCH
from puffer_policies.spaces import Spaces

HEADER = """\
import numpy as np
import torch
from gymnasium import spaces as gym
"""


def snippet(spaces: Spaces, *, imports: str, policy: str) -> str:
    """Return lines of Python that build ``policy`` as a check does.

    Args:
        spaces: what it is built for; the lines call them ``spaces``.
        imports: lines after those that every snippet has.
        policy: an expression of the policy.
    """
    pair = f"Spaces({space_source(spaces.observation)}, {space_source(spaces.action)})"
    return f"{HEADER}{imports}\n\nspaces = {pair}\ntorch.manual_seed(0)\npolicy = {policy}"


def example(*lines: str, batch: int = BATCH, steps: int | None = None) -> str:
    """Return lines of Python that go on from ``policy`` and ``spaces``.

    They may use ``torch``, ``subject`` (a `Subject` of the policy), ``observations`` and ``state``
    (what comes before the first step).

    Args:
        lines: what shows the failure, with a ``print``.
        batch: rows of the observations.
        steps: steps of the observations, if they are sequences.
    """
    shape = f"{batch}" if steps is None else f"{batch}, steps={steps}"
    start = (
        "import torch",
        "from puffer_policies.checks import Subject",
        'subject = Subject("policy", spaces, build=lambda: policy)',
        f"observations, state = subject.observations({shape}), subject.state({batch})",
    )
    return "\n".join((*start, *lines))


def error_line(error: BaseException) -> str:
    """Return an exception in a line: its type, and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


# The one place outside spaces/ and nn/ that tells spaces apart: their own repr can't be evaluated.
@singledispatch
def space_source(space: Any) -> str:
    """Return an expression of `space`, for code that imports ``numpy as np`` and ``spaces``."""
    return repr(space)


@space_source.register
def _(space: gym.Box) -> str:
    dtype = f"np.{space.dtype.type.__name__}"  # np.bool_ before NumPy 2
    # A Box takes no Python bool as a bound.
    low, high = space.low * 1, space.high * 1
    if low.size and (low == low.flat[0]).all() and (high == high.flat[0]).all():
        bounds = f"{_numbers(low.flat[0])}, {_numbers(high.flat[0])}, {space.shape}"
        return f"gym.Box({bounds}, {dtype})"
    arrays = (f"np.array({_numbers(bound)}, {dtype})" for bound in (low, high))
    return f"gym.Box({', '.join(arrays)}, dtype={dtype})"


@space_source.register
def _(space: gym.Discrete) -> str:
    start = f", start={int(space.start)}" if space.start else ""
    return f"gym.Discrete({int(space.n)}{start})"


@space_source.register
def _(space: gym.MultiDiscrete) -> str:
    # `start` came after gymnasium 0.29.
    start = np.asarray(getattr(space, "start", 0))
    text = f", start={start.tolist()}" if start.any() else ""
    return f"gym.MultiDiscrete({space.nvec.tolist()}{text})"


@space_source.register
def _(space: gym.MultiBinary) -> str:
    size = space.shape[0] if len(space.shape) == 1 else list(space.shape)
    return f"gym.MultiBinary({size})"


@space_source.register
def _(space: gym.Dict) -> str:
    return f"gym.Dict({{{', '.join(f'{k!r}: {space_source(v)}' for k, v in space.items())}}})"


@space_source.register
def _(space: gym.Tuple) -> str:  # type: ignore[type-arg]
    members = "".join(f"{space_source(member)}, " for member in space)
    return f"gym.Tuple(({members.rstrip()}))"


@singledispatch
def brief(space: Any) -> str:
    """Return a space in a few words, for people: a Box without its bounds."""
    return " ".join(space_source(space).split()).removeprefix("gym.")


@brief.register
def _(space: gym.Box) -> str:
    return f"Box{space.shape}" + ("" if space.dtype == np.float32 else f" {space.dtype}")


@brief.register
def _(space: gym.Dict) -> str:
    return f"Dict({', '.join(f'{key}: {brief(member)}' for key, member in space.items())})"


@brief.register
def _(space: gym.Tuple) -> str:  # type: ignore[type-arg]
    return f"Tuple({', '.join(map(brief, space))})"


def _numbers(values: Any) -> str:
    return re.sub(r"\binf\b", "np.inf", repr(np.asarray(values).tolist()))
