"""Measures what files of every policy of this repository answer, into docs/export.json.

python tools/measure_export.py             what is not in it yet; all takes 40 minutes of CPU
python tools/measure_export.py GRUWrapper  those with this name in them again

A checkpoint is loaded in a new process, and an export is played in its runtime. What was measured
with other versions of torch and onnxruntime is measured again.
"""

from __future__ import annotations

import functools
import gc
import inspect
import json
import multiprocessing
import os
import random
import sys
import zlib
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.fit import require_stack
from puffer_policies.assembly.golden import difference
from puffer_policies.assembly.header import installed_version
from puffer_policies.checks.engine.matrix import kinds, spaces_for
from puffer_policies.checks.probes.fresh_process import outputs_of_new_process
from puffer_policies.checks.probes.rollouts import run_both_ways
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.contract import ACTION_MASK, EPISODE_START, PREV_ACTION, PREV_REWARD
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.export.graph import Call, Tensors, play
from puffer_policies.export.onnx_file import converted, open_session
from puffer_policies.export.recording import Recording, record_step
from puffer_policies.export.source import Source, source_of
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

START_SHARE = 0.1
"""The share of steps at which an episode starts, in each row."""

ROWS = {5: 200, 1: 20}
"""Numbers of rows, none that of the recording -> steps that are compared with them."""

LOAD_ROWS, LOAD_STEPS = 5, 20
"""Of observations that a loaded policy answers to, step by step and as sequences."""

NOISE = 0.05
"""Added to the weights: fresh heads are nearly zero, and would hide most differences."""

PROCESSES = 3

VERSIONS = {name: installed_version(name) for name in ("torch", "onnxruntime")}


@dataclass(frozen=True, slots=True)
class Stack:
    """A policy in wrappers, and the pairs of spaces of which it gets the first that it serves."""

    expression: str
    pairs: tuple[Spaces, ...]

    def build(self) -> tuple[nn.Module, Spaces]:
        """Return the policy and its spaces.

        Raises:
            IncompatibleSpace: it serves none of the pairs.
        """
        problems = []
        for pair in self.pairs:
            try:
                return get_policy(self.expression, pair), pair
            except IncompatibleSpace as error:
                problems.append(error)
        raise problems[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How a loaded and an exported policy answer.

    Differences are the largest ones from PyTorch, as shares of the size of a number, or of 1.
    """

    spaces: str
    """The kinds of the spaces, of the export if there is one."""
    loaded: float
    """Of a policy that another process loads from a checkpoint: 0 where all bits are equal."""
    onnx: float | None = None
    """In onnxruntime; None as long as the stack has not been exported."""
    torch: float | None = None
    """In the loaded program of `torch.export`."""
    operators: int | None = None
    """Of the graph in ONNX."""


@dataclass(slots=True)
class Measurements:
    """What docs/export.json holds."""

    versions: dict[str, str] = field(default_factory=lambda: VERSIONS)
    stacks: dict[str, Parity] = field(default_factory=dict)
    """By expression."""
    refused: dict[str, str] = field(default_factory=dict)
    """Stacks that nobody can build -> the reason."""


def product() -> tuple[list[Stack], dict[str, str]]:
    """Return every policy alone and in each wrapper, and why the others can't be stacked.

    A stack may still serve no pair of spaces. Memories also come with two layers.
    """
    registry = default_registry()
    policies, wrappers = registry.names("policy"), registry.names("wrapper")
    stacks: list[Stack] = []
    refused: dict[str, str] = {}
    for name in policies:
        record = registry.get(name)
        pairs = spaces_for(record.capabilities)
        small = f"{name}({SMALL})" if _takes(name, "hidden_size") else name
        for wrapper in wrappers:
            try:
                require_stack(record, [registry.get(wrapper)])
            except BuildError as error:
                refused[f"{wrapper}({name})"] = error.problem
            else:
                stacks.append(_stack(f"{wrapper}({small})", pairs))
                if name == "Default" and _takes(wrapper, "num_layers"):
                    stacks.append(_stack(f"{wrapper}({small}, num_layers=2)", pairs))
        stacks.append(_stack(name, pairs))
    return stacks, refused


def _stack(expression: str, pairs: list[Spaces]) -> Stack:
    """Return a stack whose first pair follows from its name, so that new stacks change no other."""
    start = zlib.crc32(expression.encode()) % len(pairs)
    return Stack(expression, (*pairs[start:], *pairs))


def source(stack: Stack) -> Source:
    """Build a stack, and change its statistics and weights."""
    torch.manual_seed(0)
    policy, spaces = stack.build()
    update = getattr(policy, "update_statistics", None)
    if update is not None:
        update(random_observations(spaces.observation, (64,), seed=1))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(NOISE * torch.randn_like(weight))
    return source_of(policy.eval(), spaces)


def measure_loading(stack: Stack) -> Parity:
    """Load a stack in a new process, and play it beside this one."""
    own = source(stack)
    return Parity(spaces=kinds(own.spaces), loaded=loading_gap(own))


def measure_exports(stack: Stack, parity: Parity, *, strict: bool = False) -> Parity:
    """Export a stack, play it in both runtimes, and add it; `strict` as in `record_step`."""
    keep_operators()
    own = source(stack)
    recording = record_step(own, DEFAULT_STYLE, strict=strict)
    data = converted(recording)
    calls = [open_session(data, recording), recording.program.module()]
    in_onnx, in_torch = gaps(calls, recording)
    return replace(
        parity,
        spaces=kinds(own.spaces),
        onnx=in_onnx,
        torch=in_torch,
        operators=operators_of(data),
    )


def loading_gap(own: Source) -> float:
    """Return how far a policy is from one that a new process loads, which has the file alone.

    Both answer step by step and in sequences, with episodes that start in the middle.
    """
    subject = Subject(own.name, own.spaces, lambda: own.policy)
    observations = subject.observations(LOAD_ROWS, steps=LOAD_STEPS)
    expected = run_both_ways(subject, own.policy, observations)
    return difference(outputs_of_new_process(subject, own.policy, observations), expected)


def gaps(calls: list[Call], recording: Recording) -> list[float]:
    """Return for each call the largest difference of any output over all steps and rows."""
    largest = [0.0] * len(calls)
    for rows, steps in ROWS.items():
        sample = inputs_of(recording, rows, steps)
        with quiet_torch(), torch.no_grad():
            expected = play(recording.graph, recording.graph, sample)
            for i, call in enumerate(calls):
                outputs = play(call, recording.graph, sample)
                each = [difference(outputs[n].double(), expected[n].double()) for n in expected]
                largest[i] = max(largest[i], *each)
    return largest


def inputs_of(recording: Recording, rows: int, steps: int) -> Tensors:
    """Return random inputs of many steps, (T, R, ...) each."""
    graph, generator = recording.graph, torch.Generator().manual_seed(rows)
    assert isinstance(graph, Step)
    lead = (steps, rows)
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


@functools.cache
def keep_operators() -> None:
    """Let torch make its table of ONNX's operators once: it makes one for each file, in 1.5 s."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


def operators_of(data: bytes) -> int:
    """Return how many operators a file of ONNX has."""
    import onnx

    return len(onnx.load_from_string(data).graph.node)


def read_data() -> Measurements:
    """Return what was measured."""
    data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    stacks = {name: Parity(**each) for name, each in data.pop("stacks", {}).items()}
    return Measurements(stacks=stacks, **data)


def write_data(measurements: Measurements) -> None:
    """Write what was measured, stacks in the order of their names."""
    text = json.dumps(asdict(measurements), indent=1, sort_keys=True)
    DATA.write_text(text + "\n", encoding="utf-8")


def _takes(name: str, argument: str) -> bool:
    return argument in inspect.signature(default_registry().get(name).load()).parameters


def measure_all(pool: Executor, stacks: list[Stack], measurements: Measurements) -> int:
    """Load stacks that are new, export the others, and return how many failed."""
    futures = {}
    for stack in stacks:
        known = measurements.stacks.get(stack.expression)
        task = (measure_loading, stack) if known is None else (measure_exports, stack, known)
        futures[pool.submit(*task)] = stack.expression
    failures = 0
    for future in as_completed(futures):
        expression = futures[future]
        try:
            measurements.stacks[expression] = future.result()
        except IncompatibleSpace as error:
            measurements.refused[expression] = error.problem
        except Exception as error:  # the others are measured nevertheless
            failures += 1
            print(f"{expression}: {error!r}", flush=True)
        else:
            print(f"{expression}: {measurements.stacks[expression]}", flush=True)
        write_data(measurements)
    return failures


def main(names: list[str]) -> None:
    """Measure, and keep the others of the file whose stacks are still there."""
    stacks, refused = product()
    kept = {
        each.expression for each in stacks if not any(name in each.expression for name in names)
    }
    measurements = read_data()
    if measurements.versions != VERSIONS:
        measurements = Measurements()
    measurements.stacks = {k: v for k, v in measurements.stacks.items() if k in kept}
    measurements.refused = {k: v for k, v in measurements.refused.items() if k in kept} | refused
    known = measurements.stacks
    random.Random(0).shuffle(stacks)  # what is there after a while is of all kinds
    # A process that has one thread answers as any other that has one, bit for bit.
    os.environ["OMP_NUM_THREADS"] = "1"
    # Python would look for garbage all the time among what torch records.
    options = {"initializer": gc.set_threshold, "initargs": (100_000, 50)}
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawned, **options) as pool:
        done = {*known, *measurements.refused}
        new = [each for each in stacks if each.expression not in done]
        failures = measure_all(pool, new, measurements)
        loaded = [each for each in stacks if each.expression in known]
        rest = [each for each in loaded if known[each.expression].onnx is None]
        failures += measure_all(pool, rest, measurements)
    write_data(measurements)
    sys.exit(f"{failures} stacks could not be measured" if failures else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
