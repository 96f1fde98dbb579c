"""P: whether a policy can be exported, copied, moved and compiled.

`B` rows, `T` steps. `persistence.CHECKS` lists these checks with the others of the family.
"""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Scope, check
from puffer_policies.checks.probes.construction import needs_constructor
from puffer_policies.checks.probes.outputs import numbers
from puffer_policies.checks.probes.parts import tensors_of
from puffer_policies.checks.probes.rollouts import (
    State,
    copy_state,
    run_both_ways,
    select,
    step_through,
)
from puffer_policies.checks.probes.snippets import error_line
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.checks.probes.tolerances import require_same
from puffer_policies.checks.probes.weights import perturb, perturbed_copy
from puffer_policies.contract import EPISODE_START
from puffer_policies.nn.trace import record
from puffer_policies.spaces.nested import map_nested

WARM_UP = 2
"""Steps that may each be compiled: the second finds what changes, such as numbers."""

RECOMPILES = 1
"""Graphs that the steps after these may cost together."""


class _Step(nn.Module):
    """One step as a function of tensors: the state comes in and goes out."""

    def __init__(self, subject: Subject, policy: nn.Module) -> None:
        super().__init__()
        self.subject, self.policy = subject, policy

    def forward(self, observations: Any, extras: State, state: State) -> tuple[Tensor, State]:
        carry = {**extras, **state}
        logits, values = self.policy.forward_eval(observations, carry)  # type: ignore[operator]
        outputs = numbers(self.subject, logits, values, extras[EPISODE_START].shape[0])
        return outputs, {key: carry[key] for key in state}


@check(
    "P7",
    "export-parity",
    promise="Exported with its state as input and output, it acts the same with any number of "
    "rows, resets included.",
    why="A deployed policy whose memory is frozen in the graph, or never reset, plays badly; and "
    "who deploys it has one row, or a thousand.",
    fix="Keep the step a function of observations, episode_start and state: tensors only, and no "
    "branch on torch.compiler.is_exporting(). tensor.shape[0] is any number of rows, "
    "len(tensor) that of the export.",
    scope=Scope.POLICY,
    needs=("R6",),
)
def export_parity(subject: Subject) -> None:
    """Export one step with torch.export, and feed its state back over episodes."""
    policy, observations = perturbed_copy(subject), subject.observations(steps=STEPS)
    state = subject.state(BATCH, policy)
    starts = subject.starts(at=[(0, 0), (1, 2), (2, 2), (3, STEPS - 1)])
    expected, _ = step_through(subject, policy, observations, state=state, starts=starts)
    inputs = [
        _with_extras(subject, select(observations, (slice(None), t)), starts[:, t].clone())
        for t in range(STEPS)
    ]
    step, example = _Step(subject, policy), (*inputs[0], copy_state(state))
    any_rows = map_nested(lambda leaf: {0: ROWS} if leaf.ndim else {}, example)
    fixed_by = None
    try:
        program = record(step, example, any_rows)
    except Exception as error:
        program, fixed_by = _export(step, example), error
    for rows in (BATCH,) if fixed_by else (BATCH, BATCH - 1):
        outputs = _run(program.module(), inputs, state, rows)
        require_same(
            outputs,
            expected[:rows],
            "the exported step equals forward_eval over episodes with resets",
            where=f"in the exported program, with {rows} rows",
        )
    if fixed_by:
        raise CheckFailed(
            "an exported step for any number of rows",
            f"torch.export fixes them: {error_line(fixed_by)}",
            level=Level.ADVICE,
        )


ROWS = torch.export.Dim("rows")


def _with_extras(subject: Subject, observations: Any, starts: Tensor) -> tuple[Any, State]:
    """Return observations and all else that a step reads besides the state."""
    return observations, {**subject.add_required({}, observations), EPISODE_START: starts}


def _run(program: nn.Module, inputs: list[tuple[Any, State]], state: State, rows: int) -> Tensor:
    """Return the outputs (rows, T, n) of an exported step, with the first rows of its inputs."""
    outputs, carry = [], select(copy_state(state), slice(rows))
    for each in inputs:
        try:
            with torch.no_grad():
                output, carry = program(*select(each, slice(rows)), carry)
        except (RuntimeError, AssertionError) as error:
            raise CheckFailed(
                f"the exported step to run with {rows} rows", error_line(error)
            ) from error
        outputs.append(output)
    return torch.stack(outputs, 1)


def _export(step: nn.Module, inputs: tuple[Any, ...]) -> Any:
    try:
        return record(step, inputs, None)
    except Exception as error:
        # Control flow that depends on data is allowed; only a wrong program is a defect.
        raise CheckSkipped(f"torch.export refuses it: {error_line(error)}") from error


@check(
    "P8",
    "copies-and-devices",
    promise="It can be deep-copied, pickled and moved, makes tensors where its inputs are, and "
    "keeps no env.",
    why="Workers get policies by pickle, evaluation by deepcopy; torch.zeros without a device "
    "works on one machine only. An env that the policy keeps is copied with it, or can't be.",
    fix="Hold no lambdas, locks, open files or envs, only the spaces or sizes that are needed; "
    "write torch.zeros(..., device=x.device); keep fixed tensors as buffers.",
    scope=Scope.POLICY,
    needs=("B4", "B5", "R6"),
)
def copies_and_devices(subject: Subject) -> None:
    """Compare copies, and run one step on the meta device, which refuses tensors of another."""
    # Built, as `copy_policy` would copy it already.
    policy, observations = perturb(subject.fresh()).eval(), subject.observations(steps=STEPS)
    twins = {"deepcopy": _duplicate(policy, copy.deepcopy, "copy.deepcopy")}
    if _can_be_pickled(policy):
        twins["pickle"] = _duplicate(policy, lambda p: pickle.loads(pickle.dumps(p)), "pickle")
    expected = run_both_ways(subject, policy, observations)
    for name, twin in twins.items():
        outputs = run_both_ways(subject, twin, observations)
        require_same(outputs, expected, f"a {name} acts alike", where="in it")
        shared = {id(each) for each in policy.parameters()} & {id(p) for p in twin.parameters()}
        if shared:
            raise CheckFailed(f"a {name} to have parameters of its own", "it shares some")
    _require_one_device(subject, twins["deepcopy"])
    _require_no_env(subject)


class _Env:
    """What a constructor reads of an env, in an object that can be neither copied nor pickled."""

    def __init__(self, subject: Subject) -> None:
        self.single_observation_space = self.observation_space = subject.spaces.observation
        self.single_action_space = self.action_space = subject.spaces.action

    def __reduce_ex__(self, _: Any) -> Any:
        raise TypeError("an env can't be copied")


def _require_no_env(subject: Subject) -> None:
    """Build from an env and let go of it: nothing may hold it."""
    if needs_constructor(subject) or "built" in subject.declared:
        return
    assert subject.cls is not None
    env = _Env(subject)
    try:
        with seeded(0):
            policy = subject.cls(env)
    except Exception:  # it may want more of an env than its spaces
        return
    holder = weakref.ref(env)
    del env
    if holder() is not None:
        gc.collect()
    if holder() is not None:
        names = [name for name, value in vars(policy).items() if value is holder()]
        raise CheckFailed(
            "a policy that keeps no env",
            f"it does{f' as self.{names[0]}' if names else ''}, which can't be copied with it",
            example="print({name: type(each) for name, each in vars(policy).items()})",
        )


def _duplicate(policy: nn.Module, make: Callable[[nn.Module], nn.Module], what: str) -> nn.Module:
    try:
        return make(policy)
    except Exception as error:
        raise CheckFailed(f"{what} of the policy to work", error_line(error)) from error


def _can_be_pickled(policy: nn.Module) -> bool:
    """Whether its classes can be imported; scripted modules are saved in their own way."""
    return all(
        _is_importable(type(each)) and not isinstance(each, torch.jit.ScriptModule)
        for each in policy.modules()
    )


def _is_importable(cls: type) -> bool:
    value: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        value = getattr(value, name, None)
    return value is cls


def _require_one_device(subject: Subject, policy: nn.Module) -> None:
    """Run a step on the meta device, which computes nothing and refuses other devices' tensors."""
    observations, state = subject.observations(), subject.state(BATCH, policy)
    starts = subject.starts(steps=1)[:, 0]
    meta = torch.device("meta")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits, values, _ = subject.step(
                subject.map(lambda leaf: leaf.to(meta), observations),
                {
                    key: each.to(meta) if isinstance(each, Tensor) else each
                    for key, each in state.items()
                },
                starts=starts.to(meta),
                policy=policy.to(meta),
            )
    except Exception as error:
        # Reading a value back is impossible there, and allowed; mixing devices is neither.
        if "device" in str(error) and "cpu" in str(error):
            raise CheckFailed(
                "every tensor of a step to be on the device of its inputs", error_line(error)
            ) from error
        return
    stray = {str(each.device) for each in (*(tensors_of(logits) or []), values)} - {"meta"}
    if stray:
        raise CheckFailed("outputs on the device of the inputs", f"outputs on {stray.pop()}")


@check(
    "P9",
    "compile-parity",
    promise="Compiled, it gives the same outputs, and is not recompiled at every step.",
    why="A compiled policy that differs trains on other outputs; one that recompiles is slower "
    "than without.",
    fix="Branch on shapes only, keep no changing Python numbers on the module, and do not treat "
    "torch.compiler.is_compiling() as another policy.",
    scope=Scope.POLICY,
    needs=("R6",),
)
def compile_parity(subject: Subject) -> str:
    """Compile both methods with dynamo alone, compare, and count graphs and their breaks."""
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    observations = subject.observations(steps=STEPS)
    expected = run_both_ways(subject, perturbed_copy(subject), observations)
    reset()
    counters.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = _compile(subject)
            # Before the outputs, as dynamo gives up on a function after some recompilations.
            _require_few_graphs(subject, compiled, observations)
            outputs = run_both_ways(subject, compiled, observations)
        breaks = sum(counters["graph_break"].values())
    finally:
        reset()
        counters.clear()
    promise = "compiled outputs equal the others"
    require_same(outputs, expected, promise, where="after torch.compile")
    return f"{breaks} graph break{'' if breaks == 1 else 's'}"


def _compile(subject: Subject) -> nn.Module:
    policy = perturbed_copy(subject)
    # The eager backend: dynamo's view of the Python is what differs, not the kernels.
    for name in ("forward_eval", "forward"):
        setattr(policy, name, torch.compile(getattr(policy, name), backend="eager"))
    return policy


def _require_few_graphs(subject: Subject, policy: nn.Module, observations: Any) -> None:
    """Fail if the third step and those after it are compiled again."""
    from torch._dynamo.utils import counters

    graphs = []
    for steps in (slice(None, WARM_UP), slice(WARM_UP, None)):
        some = select(observations, (slice(None), steps))
        step_through(subject, policy, some, starts=subject.starts()[:, steps])
        graphs.append(counters["stats"]["unique_graphs"])
    again = int(graphs[1] - graphs[0])
    if again > RECOMPILES:
        raise CheckFailed(
            f"at most {RECOMPILES} graph more in {STEPS - WARM_UP} further steps of one shape",
            f"{again}: something outside the inputs changes at every step",
        )
