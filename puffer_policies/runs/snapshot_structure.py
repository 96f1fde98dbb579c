"""The structure of a snapshot: what any holds, and what one for a given trainer holds.

All of it is checked before any of it is used. A trainer's own state is the pattern for the tensors
and arrays of a saved one; what varies in length, and what a new trainer does not have yet, is
declared here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.structure import (
    Anything,
    Integer,
    Items,
    ListOf,
    MapOf,
    Number,
    OneOf,
    Optional,
    Plain,
    Structure,
    StructureError,
    Table,
    Text,
)
from puffer_policies.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class AnyTensor:
    """A tensor."""

    def check(self, value: Any, path: str) -> None:
        """Refuse all else."""
        if not isinstance(value, Tensor):
            raise StructureError(path, "a tensor", value)


@dataclass(frozen=True, slots=True)
class Like:
    """A tensor or an array of the same dtype and shape as another."""

    pattern: Any

    def check(self, value: Any, path: str) -> None:
        """Refuse all else."""
        form = _form(self.pattern)
        if form != _form(value):
            raise StructureError(path, form, _form(value))


@dataclass(frozen=True, slots=True)
class GeneratorState:
    """The state of a generator of torch on a device."""

    device: torch.device

    def check(self, value: Any, path: str) -> None:
        """Refuse what such a generator does not take, by a generator that is not used."""
        # Only torch knows which bytes are a state, and a wrong one would be refused when
        # half of the rest is back already.
        generator = torch.Generator(self.device)
        Like(generator.get_state()).check(value, path)
        try:
            generator.set_state(value)
        except RuntimeError as error:
            raise StructureError(path, f"the state of a generator ({error})", value) from error


def _form(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


_COUNT = Integer(0)
_WORD = Integer(0, 2**32 - 1)
_PLACE = Integer(0, 624)
_TWISTER = Items((*[_WORD] * 624, _PLACE), kind=tuple)
"""The 624 words of a Mersenne Twister, and the place of the next one."""

_GENERATORS: dict[str, Structure] = {
    "python": Items((OneOf((3,)), _TWISTER, Optional(Number())), kind=tuple),
    "numpy": Table(
        {
            "bit_generator": OneOf(("MT19937",)),
            "state": Table({"key": Like(np.zeros(624, np.uint32)), "pos": _PLACE}),
            "has_gauss": Integer(0, 1),
            "gauss": Number(),
        }
    ),
    "torch": GeneratorState(torch.device("cpu")),
}

SNAPSHOT = Table(
    {
        "trainer": Table(
            {"epoch": _COUNT, "global_step": _COUNT, "generator": AnyTensor()}, others=Anything()
        ),
        "policy": MapOf(AnyTensor()),
        "plan": Table({"batch_size": Integer(1), "num_agents": Integer(1), "optimizer": Text(100)}),
        "generators": Table(_GENERATORS, optional={"cuda": AnyTensor()}),
        # Whoever takes it checks it: `vector.state`.
        "envs": Anything(),
        "missing_envs": Text(100_000),
    }
)
"""The fields of any `Snapshot`; the rest of the trainer's state depends on the trainer."""


def state_structure(trainer: Trainer) -> Structure:
    """Return the structure of the states that `trainer` can go on from."""
    own = trainer.state_dict()
    episodes, scale = own["collector"]["episodes"], own["reward_scale"]
    return Table(
        {
            "epoch": _COUNT,
            "global_step": _COUNT,
            "generator": GeneratorState(trainer.device),
            "optimizer": optimizer_structure(trainer.ppo.optimizer),
            "collector": Table(
                {
                    "episodes": Table(
                        {
                            "running_returns": Like(episodes["running_returns"]),
                            "running_lengths": Like(episodes["running_lengths"]),
                            "returns": ListOf(Number()),
                            "lengths": ListOf(_COUNT),
                            "num_finished": _COUNT,
                        }
                    ),
                    "next_step": Table(
                        {key: Like(each) for key, each in own["collector"]["next_step"].items()}
                    ),
                }
            ),
            "reward_scale": Table(
                {
                    "running_returns": Like(scale["running_returns"]),
                    "count": Number(0),
                    "mean": Number(),
                    "squares": Number(0),
                }
            ),
            "alarms": Table({"reported": ListOf(Text(100))}),
        }
    )


def generators_structure(device: torch.device) -> Structure:
    """Return the structure of the process's generators for a trainer on `device`."""
    if device.type != "cuda":
        return Table(_GENERATORS, optional={"cuda": AnyTensor()})
    return Table({**_GENERATORS, "cuda": GeneratorState(device)})


def optimizer_structure(optimizer: torch.optim.Optimizer) -> Structure:
    """Return the structure of the states of an optimizer like this one, which has not stepped."""
    groups = optimizer.state_dict()["param_groups"]
    pairs = [
        (index, parameter, group)
        for group, own in zip(groups, optimizer.param_groups, strict=True)
        for index, parameter in zip(group["params"], own["params"], strict=True)
    ]
    return Table(
        {
            "state": Table({}, optional={i: _moments(p, group) for i, p, group in pairs}),
            "param_groups": Items(tuple(map(_group_structure, groups))),
        }
    )


def _moments(parameter: Tensor, group: Mapping[str, Any]) -> Structure:
    """Return the structure of what Adam or Muon remembers of a parameter; both may have nothing."""
    own = Like(parameter.detach())
    if "betas" not in group:
        return Table({}, optional={"momentum_buffer": own})
    step = Like(torch.zeros(()))
    return _Whole(Table({"step": step, "exp_avg": own, "exp_avg_sq": own}))


@dataclass(frozen=True, slots=True)
class _Whole:
    """A table as declared, or an empty one."""

    table: Table

    def check(self, value: Any, path: str) -> None:
        """Refuse a part of it."""
        if value != {}:
            self.table.check(value, path)


_OPTIONS: dict[str, Structure] = {
    "betas": Items((Number(0, 1), Number(0, 1)), kind=tuple),
    "ns_coefficients": Items((Number(), Number(), Number()), kind=tuple),
    "ns_steps": Integer(1, 99),  # torch's own limit
    **dict.fromkeys(("lr", "eps", "weight_decay", "momentum"), Number(0)),
}
"""The options of Adam and Muon that are numbers; the file's are those of its run."""


def _group_structure(group: Mapping[str, Any]) -> Structure:
    """Return the structure of a group of parameters; others are options of another torch."""
    numbers = {key: each for key, each in _OPTIONS.items() if key in group}
    flags = {key: OneOf((each,)) for key, each in group.items() if key not in {*numbers, "params"}}
    params = Items(tuple(OneOf((index,)) for index in group["params"]))
    return Table({**numbers, "params": params}, optional=flags, others=Plain())
