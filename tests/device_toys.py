"""Vector envs of tensors whose numbers are known: those of a vector env of NumPy, on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from puffer_policies.nn.observations import to_tensor
from puffer_policies.spaces.nested import map_nested
from puffer_policies.vector.protocol import Step, VecEnv
from puffer_policies.vector.state import get_state, set_state

KNOWN, ALWAYS, NEVER = "known", "always", "never"
"""When an env that restarts at once gives final observations: only in steps that have some, as envs
on the host do, in every step, as they do on a device, or not at all."""


class OnDevice:
    """A `VecEnv` of NumPy as one that takes and gives tensors on the CPU.

    Its own steps are hidden from `synchronizations`, as they stand for those of any device.
    """

    def __init__(self, vecenv: VecEnv, *, final: str = KNOWN) -> None:
        self.vecenv, self.final, self.device = vecenv, final, torch.device("cpu")
        self.num_envs = vecenv.num_envs
        self.single_observation_space = vecenv.single_observation_space
        self.single_action_space = vecenv.single_action_space

    @property
    def num_agents(self) -> int:
        return self.vecenv.num_agents

    @property
    def driver_env(self) -> Any:
        return self.vecenv.driver_env

    @property
    def action_masks(self) -> Tensor | None:
        with _hidden():
            masks = self.vecenv.action_masks
            return None if masks is None else torch.tensor(masks)

    def reset(self, *, seed: int | None = None) -> Any:
        with _hidden():
            return map_nested(_tensor, self.vecenv.reset(seed=seed))

    def step(self, actions: Tensor) -> Step:
        assert isinstance(actions, Tensor)
        with _hidden():
            step = self.vecenv.step(actions.numpy())
            final = step.final_observations
            if self.final == ALWAYS and final is None:
                final = map_nested(np.copy, step.observations)
            lacks_final = self.final == NEVER
            return Step(
                map_nested(_tensor, step.observations),
                torch.tensor(step.rewards, dtype=torch.float32),
                *map(torch.tensor, (step.terminated, step.truncated, step.starts, step.ghost)),
                None if lacks_final or final is None else map_nested(_tensor, final),
                lacks_final,
            )

    def get_state(self) -> Any:
        return get_state(self.vecenv)

    def set_state(self, state: Any) -> None:
        set_state(self.vecenv, state)

    def close(self) -> None:
        self.vecenv.close()


def _tensor(leaf: Any) -> Tensor:
    return to_tensor(np.array(leaf))


# Waits for a device --------------------------------------------------------------------------

_READS = ("cpu", "numpy", "item", "tolist", "nonzero", "__array__", "__contains__")
_READS += ("__bool__", "__int__", "__float__", "__index__")
_OPERATORS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "_unique2"}
_COPIES = {"lift_fresh"}
"""What `torch.tensor` and the like make of numbers of the host: a copy to a device."""


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.is_paused = False

    def add(self, name: str) -> None:
        if not self.is_paused:
            self.counts[name] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _OPERATORS | _COPIES or (name in _INDEXING and _has_flags(args[1])):
            self.add(name)
        return func(*args, **(kwargs or {}))


_INDEXING = {"index", "index_put_", "_index_put_impl_"}


def _has_flags(indices: Any) -> bool:
    return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in indices)


_counters: list[_Counter] = []


@contextmanager
def synchronizations() -> Iterator[Counter[str]]:
    """Count by name what would wait for a GPU: tensors that are read, or copied from the host.

    On the CPU nothing waits. So reads are counted as they are written in Python, and what hides in
    an operator among torch's own; one wait may be counted in both places.
    """
    counter = _Counter()
    with ExitStack() as stack:
        for name in _READS:
            stack.enter_context(mock.patch.object(Tensor, name, _counted(Tensor, name, counter)))
        copy = staticmethod(_counted(torch, "from_numpy", counter))
        stack.enter_context(mock.patch.object(torch, "from_numpy", copy))
        stack.enter_context(counter)
        _counters.append(counter)
        try:
            yield counter.counts
        finally:
            _counters.remove(counter)


def _counted(owner: Any, name: str, counter: _Counter) -> Any:
    original = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        counter.add(name)
        return original(*args, **kwargs)

    return counted


@contextmanager
def _hidden() -> Iterator[None]:
    for each in _counters:
        each.is_paused = True
    try:
        yield
    finally:
        for each in _counters:
            each.is_paused = False
