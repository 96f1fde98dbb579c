"""P, second half: whether a policy can be exported, copied, moved and compiled.

`B` rows, `T` steps. `persistence.CHECKS` lists these checks with the others of the family.
"""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, check
from puffer_policies.checks.probes.reloading import answers
from puffer_policies.checks.probes.rollouts import (
    State,
    judged,
    kept,
    outputs,
    part,
    require_same,
    step_through,
    stirred,
)
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, numbers
from puffer_policies.contract import EPISODE_START

WARM_UP = 2
"""Steps that may each be compiled: the second finds what changes, such as numbers."""

RECOMPILES = 1
"""Graphs that the steps after these may cost together."""


class _Step(nn.Module):
    """One step as a function of tensors: the state comes in and goes out."""

    def __init__(self, policy: nn.Module, keys: list[str], always: State) -> None:
        super().__init__()
        self.policy = policy
        self.keys = keys
        self.always = always

    def forward(
        self, observations: Any, starts: Tensor, *state: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        carried: State = {**self.always, **dict(zip(self.keys, state, strict=True))}
        carried[EPISODE_START] = starts
        logits, values = self.policy.forward_eval(observations, carried)  # type: ignore[operator]
        return outputs(logits, values), tuple(carried[key] for key in self.keys)


@check(
    "P7",
    "export-parity",
    promise="Exported with its state as input and output, it acts the same, resets included.",
    why="A deployed policy whose memory is frozen in the graph, or never reset, plays badly.",
    fix="Keep the step a function of observations, episode_start and state: tensors only, and no "
    "branch on torch.compiler.is_exporting().",
    once=True,
)
def export_parity(subject: Subject) -> None:
    """Export one step with torch.export, and feed its state back over episodes."""
    policy, seen = judged(subject), subject.observations(steps=STEPS)
    state = subject.state(BATCH, policy)
    starts = subject.starts(at=[(0, 0), (1, 2), (2, 2), (3, STEPS - 1)])
    expected, _ = step_through(subject, policy, seen, state=state, starts=starts)
    keys = list(state)
    first = part(subject, seen, (slice(None), 0))
    step = _Step(policy, keys, subject.unmasked({}, first))
    exported = _exported(step, first, starts, state)
    carried, rows = tuple(kept(state).values()), []
    for t in range(STEPS):
        found, carried = _run_exported(
            exported, part(subject, seen, (slice(None), t)), starts[:, t].clone(), *carried
        )
        rows.append(found)
    require_same(
        torch.stack(rows, 1),
        expected,
        "the exported step equals forward_eval over episodes with resets",
        where="in the exported program",
    )


def _exported(step: nn.Module, first: Any, starts: Tensor, state: State) -> Any:
    copies = tuple(kept(state).values())
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(step, (first, starts[:, 0].clone(), *copies)).module()
    except Exception as error:
        # Control flow that depends on data is allowed; only a wrong program is a defect.
        raise CheckSkipped(f"torch.export refuses it: {_first_line(error)}") from error


def _run_exported(program: Any, *inputs: Any) -> Any:
    try:
        with torch.no_grad():
            return program(*inputs)
    except (RuntimeError, AssertionError) as error:
        raise CheckFailed("the exported step to run", _first_line(error)) from error


@check(
    "P8",
    "copies-and-devices",
    promise="It can be deep-copied, pickled and moved, and makes tensors where its inputs are.",
    why="Workers get policies by pickle, evaluation by deepcopy; torch.zeros without a device "
    "works on one machine only.",
    fix="Hold no lambdas, locks or open files; write torch.zeros(..., device=x.device); keep fixed "
    "tensors as buffers.",
)
def copies_and_devices(subject: Subject) -> None:
    """Compare copies, and run one step on the meta device, which refuses tensors of another."""
    # Built anew: `judged` is a copy already.
    policy, seen = stirred(subject.fresh()).eval(), subject.observations(steps=STEPS)
    twins = {"deepcopy": _duplicate(policy, copy.deepcopy, "copy.deepcopy")}
    if _can_be_pickled(policy):
        twins["pickle"] = _duplicate(policy, lambda p: pickle.loads(pickle.dumps(p)), "pickle")
    expected = answers(subject, policy, seen)
    for name, twin in twins.items():
        require_same(answers(subject, twin, seen), expected, f"a {name} acts alike", where="in it")
        shared = {id(each) for each in policy.parameters()} & {id(p) for p in twin.parameters()}
        if shared:
            raise CheckFailed(f"a {name} to have parameters of its own", "it shares some")
    _require_one_device(subject, twins["deepcopy"])


def _duplicate(policy: nn.Module, make: Any, what: str) -> nn.Module:
    try:
        twin: nn.Module = make(policy)
    except Exception as error:
        raise CheckFailed(f"{what} of the policy to work", _first_line(error)) from error
    return twin


def _can_be_pickled(policy: nn.Module) -> bool:
    """Whether its classes can be imported; scripted modules are saved in their own way."""
    return all(
        _is_importable(type(each)) and not isinstance(each, torch.jit.ScriptModule)
        for each in policy.modules()
    )


def _is_importable(cls: type) -> bool:
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls


def _require_one_device(subject: Subject, policy: nn.Module) -> None:
    seen, state = subject.observations(), subject.state(BATCH, policy)
    starts = subject.starts(steps=1)[:, 0]
    meta = torch.device("meta")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits, values, _ = subject.step(
                subject.map(lambda leaf: leaf.to(meta), seen),
                {key: _moved(each, meta) for key, each in state.items()},
                starts=starts.to(meta),
                policy=policy.to(meta),
            )
    except Exception as error:
        # Reading a value back is impossible there, and allowed; mixing devices is neither.
        if "device" in str(error) and "cpu" in str(error):
            raise CheckFailed(
                "every tensor of a step to be on the device of its inputs", _first_line(error)
            ) from error
        return
    stray = {str(each.device) for each in (numbers(logits), values)} - {"meta"}
    if stray:
        raise CheckFailed("outputs on the device of the inputs", f"outputs on {stray.pop()}")


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


@check(
    "P9",
    "compile-parity",
    promise="Compiled, it gives the same outputs, and is not recompiled at every step.",
    why="A compiled policy that differs trains on other outputs; one that recompiles is slower "
    "than without.",
    fix="Branch on shapes only, keep no changing Python numbers on the module, and do not treat "
    "torch.compiler.is_compiling() as another policy.",
    once=True,
)
def compile_parity(subject: Subject) -> str:
    """Compile both methods with dynamo alone, compare, and count graphs and their breaks."""
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    seen = subject.observations(steps=STEPS)
    expected = answers(subject, judged(subject), seen)
    reset()
    counters.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _require_few_graphs(subject, _compiled(subject), seen)
            counters.clear()
            found = answers(subject, _compiled(subject), seen)
        breaks = sum(counters["graph_break"].values())
    finally:
        reset()
        counters.clear()
    require_same(found, expected, "compiled outputs equal the others", where="after torch.compile")
    return f"{breaks} graph break{'' if breaks == 1 else 's'}"


def _compiled(subject: Subject) -> nn.Module:
    policy = judged(subject)
    # The eager backend: dynamo's view of the Python is what differs, not the kernels.
    for name in ("forward_eval", "forward"):
        setattr(policy, name, torch.compile(getattr(policy, name), backend="eager"))
    return policy


def _require_few_graphs(subject: Subject, policy: nn.Module, observations: Any) -> None:
    """Fail if the third step and those after it are compiled again."""
    from torch._dynamo.utils import counters

    graphs = []
    for steps in (slice(None, WARM_UP), slice(WARM_UP, None)):
        seen = part(subject, observations, (slice(None), steps))
        step_through(subject, policy, seen, starts=subject.starts()[:, steps])
        graphs.append(counters["stats"]["unique_graphs"])
    again = int(graphs[1] - graphs[0])
    if again > RECOMPILES:
        raise CheckFailed(
            f"at most {RECOMPILES} graph more in {STEPS - WARM_UP} further steps of one shape",
            f"{again}: something outside the inputs changes at every step",
        )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"
