"""The interface of what is exported: a function of named tensors, and a sample of its answers.

The sample stands in the file. Whoever runs the file somewhere else can ask again. `T` steps, `R`
rows, with an episode start in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from puffer_policies.contract import EPISODE_START

Tensors = dict[str, Tensor]
Call = Callable[[Tensors], Tensors]
"""Inputs by name -> outputs by name."""

EXAMPLE_ROWS = 3
"""Rows of the example inputs. A tracer takes one row, and none, for constants."""

BATCH = "batch"
"""The name of the axis of rows."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output."""

    name: str
    shape: tuple[int, ...]
    """Without the rows, which come first."""
    dtype: torch.dtype
    has_rows: bool = True
    """Whether the tensor is (B, *shape); else it is (*shape)."""
    is_fixed: bool = True
    """Whether the same inputs give the same output: not where it is drawn at random, or where two
    choices are equally likely."""

    def zeros(self, rows: int) -> Tensor:
        """Return zeros of this form."""
        return torch.zeros(*(rows,) * self.has_rows, *self.shape, dtype=self.dtype)

    def to_data(self) -> dict[str, object]:
        """Return the port as plain data."""
        shape = [BATCH] * self.has_rows + list(self.shape)
        return {"name": self.name, "shape": shape, "dtype": str(self.dtype).removeprefix("torch.")}


class Graph(nn.Module):
    """A function of named tensors: a dict of `inputs` -> a dict of `outputs`, in their order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    carried: Mapping[str, str]
    """The inputs that are outputs of the step before -> the names of these outputs."""
    reset: str
    """How a row starts a new episode, in words."""
    max_rows: int | None = None
    """None: any number."""

    def feed(self, inputs: Tensors) -> Tensors:
        """Return inputs of a `Step` by the names of this graph, without those of a state."""
        raise NotImplementedError

    def forward(self, inputs: Tensors) -> Tensors:
        """Run the step."""
        raise NotImplementedError

    def example(self) -> Tensors:
        """Return inputs of a few rows."""
        return {port.name: port.zeros(self.max_rows or EXAMPLE_ROWS) for port in self.inputs}

    def find_outputs(self, not_fixed: tuple[str, ...] = ()) -> tuple[Port, ...]:
        """Run the example, and return its outputs as ports."""
        rows = self.max_rows or EXAMPLE_ROWS
        with torch.no_grad():
            outputs = self(self.example())
        ports = []
        for name, each in outputs.items():
            has_rows = self.max_rows is None and tuple(each.shape[:1]) == (rows,)
            shape = tuple(each.shape[1:] if has_rows else each.shape)
            ports.append(Port(name, shape, each.dtype, has_rows, name not in not_fixed))
        return tuple(ports)


def play(call: Call, graph: Graph, sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Step through the inputs of a sample, (T, R, ...) each, and return the outputs, (T, R, ...).

    Args:
        call: the graph, or what should do the same.
        graph: says what is carried from step to step.
        sample: inputs by name, and the episode starts, (T, R).
    """
    starts = sample[EPISODE_START]
    names = [port.name for port in graph.inputs]
    state = {
        each.name: each.zeros(starts.shape[1])
        for each in graph.inputs
        if each.name in graph.carried
    }
    steps = []
    for t in range(len(starts)):
        inputs = {name: sample[name][t] for name in names if name in sample}
        if EPISODE_START not in names and starts[t].any():
            # Whoever runs such a graph starts an episode by a state of zeros.
            for name, each in state.items():
                keep = ~starts[t] if graph.max_rows is None else ~starts[t].all()
                state[name] = each * keep.reshape(-1, *[1] * (each.ndim - 1)).to(each.dtype)
        outputs = call({**inputs, **state})
        state = {name: outputs[key] for name, key in graph.carried.items()}
        steps.append(outputs)
    return {name: torch.stack([each[name] for each in steps]) for name in steps[0]}
