"""A recorded step with all that its file tells about it, and the proof that the file answers alike.

Whoever writes a kind of file records the step here, writes it, and asks the file.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.assembly.golden import difference, tolerance
from puffer_policies.contract import EPISODE_START
from puffer_policies.errors import ExportError
from puffer_policies.export.graph import BATCH, Call, Graph, Tensors, play
from puffer_policies.export.source import Source, exported, refused
from puffer_policies.export.step import Step
from puffer_policies.export.styles import STYLES
from puffer_policies.nn.trace import record
from puffer_policies.spaces import action_layout

FORMAT_VERSION = 1

MAX_SAMPLE = 4_000_000
"""Bytes of a sample that stands in a file; of large images there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A step that `torch.export` has recorded."""

    source: Source
    graph: Graph
    style: str
    program: Any
    """The `torch.export.ExportedProgram`: a dict of inputs -> a dict of outputs."""
    rows: Any
    """For each input the axis of its rows, which may be any number, as `torch.export` takes it."""
    sample: Tensors
    """Inputs of a few steps, (T, R, ...)."""
    answers: Tensors
    """The outputs of the policy itself, (T, R, ...)."""

    def metadata(self) -> str:
        """Return what the file tells about itself, as JSON."""
        layout = action_layout(self.source.spaces.action)
        data: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "style": self.style,
            **self.source.about(),
            "inputs": [port.to_data() for port in self.graph.inputs],
            "outputs": [port.to_data() for port in self.graph.outputs],
            "carried": dict(self.graph.carried),
            "nvec": list(layout.nvec),
        }
        if self.graph.carried:
            data["reset"] = self.graph.reset
        arrays = {"inputs": self.sample, "outputs": self.answers}
        if sum(each.nbytes for part in arrays.values() for each in part.values()) <= MAX_SAMPLE:
            data["sample"] = {
                part: {name: _array_data(each) for name, each in tensors.items()}
                for part, tensors in arrays.items()
            }
        return json.dumps(data, sort_keys=True)

    def require_same(self, call: Call, runtime: str) -> None:
        """Refuse a file whose answers to the sample are not those of the policy.

        They are asked for with all rows of the sample and with one of them: neither is the number
        of rows with which the step was recorded.

        Raises:
            ExportError: what the file gives in `runtime` differs, or nothing comes.
        """
        limit = tolerance(self.source.policy)
        count = self.sample[EPISODE_START].shape[1]
        for rows in sorted({count, 1}):
            sample, answers = (
                {
                    name: each[:, -rows:] if self._has_rows(name) else each
                    for name, each in part.items()
                }
                for part in (self.sample, self.answers)
            )
            try:
                outputs = play(call, self.graph, sample)
            except Exception as error:
                problem = f"{runtime} can't run its step with {rows} rows"
                raise refused(self.source, problem, error) from error
            gaps = {
                port.name: difference(outputs[port.name].double(), answers[port.name].double())
                for port in self.graph.outputs
                if port.is_fixed
            }
            name = max(gaps, key=lambda each: gaps[each])
            # Not `gaps[name] > limit`, as NaN has to fail too.
            if not gaps[name] <= limit:
                raise ExportError(
                    f"{self.source.name} can't be exported: with {rows} rows, {runtime} gives "
                    f"{name!r} that is off by {gaps[name]:.2g} of its size from the policy's.",
                    fix="Something in its step is taken for a constant, or draws at random. "
                    f"`puffer-policies check '{self.source.name}' --select P7` shows more.",
                )

    def _has_rows(self, name: str) -> bool:
        ports = {port.name: port for port in (*self.graph.inputs, *self.graph.outputs)}
        return self.graph.max_rows is None and (name not in ports or ports[name].has_rows)


def record_step(source: Source, style: str, *, strict: bool = False) -> Recording:
    """Record one step of a policy, with the inputs and outputs of a style.

    Args:
        source: the policy.
        style: one of `STYLES`.
        strict: see `record`.

    Raises:
        ExportError: the step can't be recorded, or the style does not fit the policy.
    """
    return exported(source, lambda: _recorded(source, style, strict=strict))  # type: ignore[no-any-return]


def _recorded(source: Source, style: str, *, strict: bool) -> Recording:
    step = Step(source.policy, source.spaces, has_values=source.has_values)
    graph = STYLES[style](step)
    batch = {0: torch.export.Dim(BATCH)}
    rows = {port.name: batch if port.has_rows else {} for port in graph.inputs}
    # The example is of zeros: what the file answers to real inputs is compared afterwards.
    program = record(graph, (graph.example(),), (rows,), strict=strict)
    sample = graph.feed(step.sample())
    with torch.no_grad():
        answers = play(graph, graph, sample)
    return Recording(source, graph, style, program, rows, sample, answers)


def _array_data(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as its shape, its dtype, and its bytes, little-endian, in base 64."""
    array = tensor.contiguous().numpy()
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return {
        "shape": list(array.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "data": base64.b64encode(little.tobytes()).decode(),
    }
