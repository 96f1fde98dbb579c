"""Measures how far exported policies of this repository are from PyTorch, into docs/export.json.

python tools/measure_export.py             every stack; takes minutes
python tools/measure_export.py GRUWrapper  those with this name in them again
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.golden import difference
from puffer_policies.checks.engine.matrix import kinds, spaces_for, wrappers_for
from puffer_policies.contract import ACTION_MASK, EPISODE_START, PREV_ACTION, PREV_REWARD
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.export.graph import Tensors, play
from puffer_policies.export.onnx_file import converted, open_session
from puffer_policies.export.recording import Recording, record_step
from puffer_policies.export.source import source_of
from puffer_policies.export.step import OBS, Step
from puffer_policies.export.targets import DEFAULT_STYLE
from puffer_policies.nn.samples import random_observations
from puffer_policies.nn.trace import quiet_torch
from puffer_policies.registry import default_registry
from puffer_policies.spaces import Spaces
from puffer_policies.spaces.nested import leaves, names_of

DATA = Path(__file__).parent.parent / "docs" / "export.json"

SMALL = "hidden_size=32"
"""Of a policy in a wrapper, as a memory costs the square of it."""

STEPS, START_SHARE = 200, 0.1
"""Steps that are compared, and the share of them at which an episode starts, in each row."""

ROWS = (5, 1)
"""Numbers of rows: neither is that of the recording."""

NOISE = 0.05
"""Added to the weights: fresh heads are nearly zero, and would hide most differences."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A policy in wrappers, and the pairs of spaces of which it gets the first that it serves."""

    expression: str
    pairs: tuple[Spaces, ...]

    def build(self) -> tuple[nn.Module, Spaces]:
        """Return the policy and its spaces."""
        for pair in self.pairs:
            with suppress(IncompatibleSpace):
                return get_policy(self.expression, pair), pair
        raise AssertionError(f"{self.expression} serves no pair of spaces")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The largest differences from PyTorch, as shares of the size of a number, or of 1."""

    spaces: str
    """The kinds of the spaces."""
    onnx: float
    """In onnxruntime."""
    torch: float
    """In the loaded program of `torch.export`."""
    operators: int
    """Of the graph in ONNX."""


def stacks() -> list[Stack]:
    """Return every policy alone and in one wrapper, every wrapper, and memories of two layers."""
    registry = default_registry()
    expressions: dict[str, str] = {}
    policies, wrappers = registry.names("policy"), registry.names("wrapper")
    pairs = {name: spaces_for(registry.get(name).capabilities) for name in policies}
    for i, name in enumerate(policies):
        fitting = wrappers_for(registry.get(name), registry)
        start = i % len(fitting)
        wrapper = next(w for w in fitting[start:] + fitting if _serves(w, pairs[name]))
        small = f"({SMALL})" if _takes(name, "hidden_size") else ""
        expressions |= dict.fromkeys((name, f"{wrapper}({name}{small})"), name)
    for wrapper in wrappers:
        expressions[f"{wrapper}(Default({SMALL}))"] = "Default"
        if _takes(wrapper, "num_layers"):
            expressions[f"{wrapper}(Default({SMALL}), num_layers=2)"] = "Default"
    # In turn, so that each kind of space is exported often.
    return [
        Stack(expression, tuple(pairs[name][i % len(pairs[name]) :] + pairs[name]))
        for i, (expression, name) in enumerate(expressions.items())
    ]


def recorded(stack: Stack) -> Recording:
    """Build a stack, change its statistics and weights, and record it."""
    torch.manual_seed(0)
    policy, spaces = stack.build()
    update = getattr(policy, "update_statistics", None)
    if update is not None:
        update(random_observations(spaces.observation, (64,), seed=1))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(NOISE * torch.randn_like(weight))
    return record_step(source_of(policy, spaces), DEFAULT_STYLE, strict=True)


def measure(stack: Stack) -> Parity:
    """Export a stack and play it beside PyTorch, with episodes that start in the middle."""
    recording = recorded(stack)
    data = converted(recording)
    calls = {"onnx": open_session(data, recording), "torch": recording.program.module()}
    gaps = {name: gap(call, recording) for name, call in calls.items()}
    return Parity(spaces=kinds(recording.source.spaces), operators=data_operators(data), **gaps)


def gap(call: Any, recording: Recording) -> float:
    """Return the largest difference of any output over all steps and numbers of rows."""
    largest = 0.0
    for rows in ROWS:
        sample = inputs_of(recording, rows)
        with quiet_torch(), torch.no_grad():
            expected = play(recording.graph, recording.graph, sample)
            outputs = play(call, recording.graph, sample)
        gaps = [difference(outputs[n].double(), expected[n].double()) for n in expected]
        largest = max(largest, *gaps)
    return largest


def inputs_of(recording: Recording, rows: int) -> Tensors:
    """Return random inputs of many steps, (T, R, ...) each."""
    graph, generator = recording.graph, torch.Generator().manual_seed(rows)
    assert isinstance(graph, Step)
    lead = (STEPS, rows)
    observations = random_observations(recording.source.spaces.observation, lead, seed=rows)
    named = zip(names_of(observations, OBS), leaves(observations), strict=True)
    starts = torch.rand(lead, generator=generator) < START_SHARE
    starts[0] = True
    drawn: dict[str, Tensor] = {**dict(named), EPISODE_START: starts}
    nvec = graph.layout.nvec
    if nvec:
        allowed = [torch.rand(*lead, n, generator=generator).argsort(-1) < n - 1 for n in nvec]
        drawn[ACTION_MASK] = torch.cat(allowed, -1)
        last = [torch.randint(n, lead, generator=generator) for n in nvec]
        drawn[PREV_ACTION] = torch.stack(last, -1).reshape(*lead, *graph.layout.policy_shape)
    else:
        drawn[PREV_ACTION] = torch.randn(*lead, *graph.layout.shape, generator=generator)
    drawn[PREV_REWARD] = torch.randn(lead, generator=generator)
    dtypes = {port.name: port.dtype for port in graph.inputs}
    kept = {name: each.to(dtypes[name]) for name, each in drawn.items() if name in dtypes}
    return {EPISODE_START: starts, **kept}


def data_operators(data: bytes) -> int:
    """Return how many operators a file of ONNX has."""
    import onnx

    return len(onnx.load_from_string(data).graph.node)


def read_data() -> dict[str, Parity]:
    """Return what was measured, by expression."""
    data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    return {name: Parity(**each) for name, each in data.items()}


def _serves(wrapper: str, pairs: list[Spaces]) -> bool:
    """Return whether a wrapper can change the spaces of one of these pairs, if it changes any."""
    change = getattr(default_registry().get(wrapper).load(), "wrapped_spaces", id)
    for pair in pairs:
        with suppress(IncompatibleSpace):
            change(pair)
            return True
    return False


def _takes(name: str, argument: str) -> bool:
    return argument in inspect.signature(default_registry().get(name).load()).parameters


def names_in(expression: str) -> set[str]:
    """Return the names of a policy and of wrappers in an expression."""
    return set(re.findall(r"[A-Z]\w*", expression))


def selected(names: list[str]) -> Iterator[Stack]:
    """Yield the stacks with one of these words in them; all for no words."""
    for stack in stacks():
        if not names or any(name in stack.expression for name in names):
            yield stack


def main() -> None:
    """Measure, and keep the others of the file whose names are still there."""
    data = read_data()
    for stack in selected(sys.argv[1:]):
        data[stack.expression] = measure(stack)
        print(f"{stack.expression}: {data[stack.expression]}", flush=True)
    # Which stacks there are changes with every new name; what was measured of the others stays.
    known = {*default_registry().names("policy"), *default_registry().names("wrapper")}
    current = {name: asdict(each) for name, each in data.items() if names_in(name) <= known}
    text = json.dumps(current, indent=1, sort_keys=True)
    DATA.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
