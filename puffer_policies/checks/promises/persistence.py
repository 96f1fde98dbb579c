"""P: what survives a change of mode, a file, a new process and an interruption of training.

`B` rows, `T` steps. Weights are perturbed first, so that a policy can't pass by having been built
under the same seed. Exported, copied, moved and compiled policies (P7 to P9) are in export.py,
statistics of observations (P10) in statistics.py.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.assembly.checkpoint import load_policy, load_weights, save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.header import read_header
from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Scope, check
from puffer_policies.checks.probes.bandits import first_epoch_loss
from puffer_policies.checks.probes.fresh_process import CannotRebuild, outputs_of_new_process
from puffer_policies.checks.probes.rollouts import (
    in_sequence,
    run_both_ways,
    step_through,
    update_statistics,
)
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.checks.probes.tolerances import is_equal, require_same
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.checks.promises import export, statistics
from puffer_policies.errors import CheckpointError, PolicyError
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.specs import PolicySpec

UPDATES = 2
"""Updates before an interruption, and after it."""

PASSES = 2
"""Passes on other observations, in train mode, that must leave no trace."""


@check(
    "P1",
    "modes-do-not-matter",
    promise="Outputs are equal in train and eval mode, and a run changes no mode or statistic.",
    why="A policy evaluated in another mode than it was trained in is another policy, and so is "
    "one whose statistics have moved between the rollout and its update.",
    fix="Use no dropout or batch statistics, or declare them: declared={'train_differs': 'why'}. "
    "Never call train() or eval() inside forward, and change running statistics in "
    "update_statistics alone.",
    scope=Scope.MODULES,
    needs=("S5", "R6"),
)
def modes_do_not_matter(subject: Subject) -> None:
    """Compare outputs in both modes, and what a call leaves behind."""
    observations = subject.observations(steps=STEPS)
    outputs = {}
    for training in (False, True):
        policy = perturbed_copy(subject, training=training)
        before = {name: each.clone() for name, each in policy.named_buffers()}
        # A frozen part may stay in eval mode, whatever mode the policy is put in.
        modes = {name: each.training for name, each in policy.named_modules()}
        with seeded(0):
            outputs[training] = run_both_ways(subject, policy, observations)
        _require_modes(policy, modes)
        if not training:
            _require_constant(policy, before)
    if "train_differs" not in subject.declared:
        _require_same_after_passes(subject, policy)
        require_same(
            outputs[True],
            outputs[False],
            "outputs in train mode equal those in eval mode",
            where="between the modes",
            example=example(
                "for mode in (True, False):",
                "    print(policy.train(mode).forward_eval(observations, dict(state)))",
            ),
        )


def _require_same_after_passes(subject: Subject, policy: nn.Module) -> None:
    """Run passes as a rollout does, then as an update does: none may move those after it.

    Between the two, what an update has collected may come into use.
    """
    runs: dict[str, Callable[[Any], Tensor]] = {
        "a rollout": lambda observations: run_both_ways(subject, policy, observations),
        "an update": lambda observations: in_sequence(subject, policy, observations, grad=True),
    }
    for phase, run in runs.items():
        outputs = []
        for seed in (0, *range(2, 2 + PASSES), 0):
            with seeded(0):
                outputs.append(run(subject.observations(steps=STEPS, seed=seed)))
        require_same(
            outputs[-1],
            outputs[0],
            f"outputs in train mode are the same after other passes of {phase}",
            where="after them",
            example=example(
                "policy.train()",
                "for _ in range(3):",
                "    print(policy.forward_eval(observations, dict(state)))",
                f"    policy(subject.observations({BATCH}, seed=1) * 2, dict(state))",
            ),
        )


def _require_modes(policy: nn.Module, before: dict[str, bool]) -> None:
    for name, module in policy.named_modules():
        if module.training != before.get(name, module.training):
            raise CheckFailed(
                "forward and forward_eval to leave every module in its mode",
                f"training is {module.training} afterwards in {name or 'the policy'!r}",
            )


def _require_constant(policy: nn.Module, before: dict[str, Tensor]) -> None:
    for name, buffer in policy.named_buffers():
        if name in before and not is_equal(buffer, before[name]):
            raise CheckFailed("no buffer to change in eval mode", f"{name!r} did")


@check(
    "P2",
    "survives-a-fresh-process",
    promise="Saved, rebuilt in a fresh process and loaded, it gives the same outputs.",
    why="What is kept in no file (constructor arguments, random features, the head's type) is lost "
    "when the process ends.",
    fix="Keep what outputs depend on in parameters, persistent buffers, and the constructor's "
    "plain arguments.",
    scope=Scope.POLICY,
    needs=("R6", "P3"),
)
def survives_a_fresh_process(subject: Subject) -> str | None:
    """Load the weights into a policy of another seed here, then in a new Python."""
    policy, observations = perturbed_copy(subject), subject.observations(steps=STEPS)
    update_statistics(policy, subject.observations(BATCH, seed=1))
    expected = run_both_ways(subject, policy, observations)
    # Of another seed, so that what is in no state_dict differs from the saved one.
    other = subject.fresh(seed=1).eval()
    other.load_state_dict(_through_bytes(policy.state_dict()))
    promise = "a new policy with the saved weights gives the same outputs"
    outputs = run_both_ways(subject, other, observations)
    require_same(outputs, expected, promise, where="in this process")
    try:
        outputs = outputs_of_new_process(subject, policy, observations)
    except CannotRebuild as reason:
        return f"reloaded in this process only: {reason}"
    require_same(outputs, expected, promise, where="in a new process")
    return None


def needs_registered_name(subject: Subject) -> str:
    """Return why a check of the recorded name does not apply, or ''."""
    spec = getattr(subject.policy, "spec", None)
    if spec is None:
        return "it was not built by name, so its checkpoints hold no spec"
    if isinstance(spec, PolicySpec) and spec.name.startswith("local/"):
        return "its class is in no registry, so no package could be named"
    return ""


@check(
    "P3",
    "absent-plugin-is-named",
    promise="Without its package, loading its checkpoint names the package and its version.",
    why="A checkpoint that outlives its plug-in is worth nothing unless it says what to install.",
    fix="Leave the attribute `spec` to get_policy, which puts it there; a module around a "
    "policy must not hand on the inner one's.",
    applies=needs_registered_name,
    scope=Scope.POLICY,
)
def absent_plugin_is_named(subject: Subject) -> None:
    """Save it, and load it with an empty registry."""
    policy = subject.policy
    spec = policy.spec
    if not isinstance(spec, PolicySpec):
        raise CheckFailed(
            "the attribute `spec` to be the one of get_policy, or absent",
            f"a {type(spec).__name__}: checkpoints would not say how to build it",
        )
    _require_own_spec(subject, policy, spec)
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder, "policy.safetensors"), policy, env=subject.spaces)
        text = _error_without_plugins(path, subject)
        origins = read_header(path).origins
    for origin in origins:
        if origin.distribution not in text or origin.version not in text:
            raise CheckFailed(
                f"an error that names {origin.distribution} {origin.version}", repr(text)
            )


def _error_without_plugins(path: Path, subject: Subject) -> str:
    try:
        load_policy(path, subject.spaces, registry=Registry())
    except CheckpointError as error:
        return str(error)
    raise CheckFailed(
        "loading without the package to fail", "it did not: its spec names no package"
    )


def _require_own_spec(subject: Subject, policy: nn.Module, spec: PolicySpec) -> None:
    try:
        for name in (spec.name, *(wrapper.name for wrapper in spec.wrappers)):
            default_registry().get(name)
        again = get_policy(spec, subject.spaces)
    except PolicyError as error:
        raise CheckSkipped(f"its spec is of another registry: {error.problem}") from error
    if type(again) is not type(policy) or again.state_dict().keys() != policy.state_dict().keys():
        raise CheckFailed(
            f"the spec {spec} to rebuild this {type(policy).__name__}",
            f"it builds a {type(again).__name__} with other tensors or of another class",
        )


@check(
    "P4",
    "prefixes-are-harmless",
    promise="Weights of a compiled or distributed policy load into a bare one, and back.",
    why="Both torch.compile and DistributedDataParallel put a prefix, `_orig_mod.` or `module.`, "
    "before every key; a policy that rewrites keys loses weights.",
    fix="Rename no keys in state_dict or load hooks, or honor their `prefix` and change the start "
    "of a key only.",
    scope=Scope.POLICY,
    needs=("R6",),
)
def prefixes_are_harmless(subject: Subject) -> None:
    """Carry weights from inside a holder to a bare policy and back, through checkpoints."""
    policy = perturbed_copy(subject)
    own = policy.state_dict()
    for name in ("module", "_orig_mod"):
        holder, bare = _hold(policy, name), perturbed_copy(subject, seed=2)
        keys = list(holder.state_dict())
        if keys != [f"{name}.{key}" for key in own]:
            raise CheckFailed(f"its keys after {name!r} when it is inside a module", f"{keys[:3]}")
        # Loading hooks see the prefix only here.
        with _must_work(f"loading it as {name!r}"):
            holder.load_state_dict(holder.state_dict())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "policy.safetensors")
            with _must_work(f"moving weights out of {name!r}"):
                save_checkpoint(path, holder, env=subject.spaces)
                load_weights(path, bare)
            _require_equal(bare.state_dict(), own, f"out of {name!r}")
            other = perturbed_copy(subject, seed=3)
            with _must_work(f"moving weights into {name!r}"):
                save_checkpoint(path, policy, env=subject.spaces)
                load_weights(path, _hold(other, name))
            _require_equal(other.state_dict(), own, f"into {name!r}")


def _hold(policy: nn.Module, name: str) -> nn.Module:
    """Return a module with the policy as a part, as compiled and distributed modules have it."""
    holder = nn.Module()
    holder.add_module(name, policy)
    return holder


@contextmanager
def _must_work(what: str) -> Iterator[None]:
    try:
        yield
    except (PolicyError, RuntimeError, KeyError, TypeError, ValueError) as error:
        # The names of the keys stand in the lines after the first.
        raise CheckFailed(f"{what} to work", f"{type(error).__name__}: {error}") from error


def _require_equal(actual: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    for key, value in expected.items():
        if isinstance(value, Tensor) and not (key in actual and is_equal(actual[key], value)):
            raise CheckFailed(f"{key!r} to arrive unchanged {where}", "it is missing or differs")


@check(
    "P5",
    "strict-state-dict",
    promise="Its state_dict loads safely and strictly, and holds every tensor once.",
    why="A tensor under two names is trained once and saved twice; a key that is dropped silently "
    "is a layer that was never loaded.",
    fix="Leave state_dict and load_state_dict to nn.Module, keep plain tensors in them, and share "
    "modules instead of parameters (or declare {'tied': [names]}).",
    scope=Scope.POLICY,
)
def strict_state_dict(subject: Subject) -> None:
    """Load what it saves into another, with a key more and a key less, and look for twins."""
    policy, other = perturbed_copy(subject), perturbed_copy(subject, seed=2)
    state = policy.state_dict()
    hidden = [name for name, _ in policy.named_parameters() if name not in state]
    if hidden:
        raise CheckFailed("every parameter to be in the state_dict", f"{hidden[0]!r} is not")
    with _must_work("torch.load(weights_only=True)"):
        loaded = dict(_through_bytes(state))
    with _must_work("loading its own state_dict"):
        other.load_state_dict(loaded)
    _require_equal(other.state_dict(), state, "in a new policy")
    if state:
        # Any key would do.
        short = dict(list(loaded.items())[1:])
        _require_refused(other, {**loaded, "no_such_tensor": torch.zeros(1)}, "an unknown key")
        _require_refused(other, short, "a missing key")
    _require_distinct(state, subject.declared.get("tied", ()))


def _require_refused(policy: nn.Module, state: dict[str, Any], what: str) -> None:
    try:
        policy.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError):
        return
    raise CheckFailed(f"load_state_dict to refuse {what}", "it accepts it silently")


def _require_distinct(state: dict[str, Any], tied: Any) -> None:
    """Compare the places in memory: two names of one tensor are saved twice and trained once."""
    names: dict[Any, str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or not value.numel():
            continue
        place = (value.data_ptr(), tuple(value.shape), value.stride())
        twin = names.setdefault(place, name)
        if twin != name and not {twin, name} & set(tied):
            raise CheckFailed(
                "every tensor under one name in the state_dict",
                f"{twin!r} and {name!r} are one",
                level=Level.ADVICE,  # it works, unless one of them is replaced alone
            )


def _through_bytes(data: Any) -> Any:
    """Save and load as `torch.load` does it safely."""
    file = io.BytesIO()
    torch.save(data, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@check(
    "P6",
    "resume-equals-uninterrupted",
    promise="Training that is interrupted, saved and resumed equals training without a break.",
    why="A counter or statistic outside the state_dict starts again after a resume: another run.",
    fix="Keep counters and statistics as persistent buffers, those of update_statistics included, "
    "and register parameters in one order.",
    scope=Scope.POLICY,
    needs=("S2", "R6"),
)
def resume_equals_uninterrupted(subject: Subject) -> None:
    """Train twice as long at once, and in two parts with a file between."""
    whole = subject.copy_policy(training=True)
    _update(subject, whole, _adam(whole), range(2 * UPDATES))
    first = subject.copy_policy(training=True)
    optimizer = _adam(first)
    _update(subject, first, optimizer, range(UPDATES))
    weights, moments = _through_bytes([first.state_dict(), optimizer.state_dict()])
    second = perturbed_copy(subject, training=True)  # so that only the file can make them equal
    second.load_state_dict(weights)
    optimizer = _adam(second)
    optimizer.load_state_dict(moments)
    _update(subject, second, optimizer, range(UPDATES, 2 * UPDATES))
    expected = {key: each for key, each in whole.state_dict().items() if isinstance(each, Tensor)}
    for key, value in second.state_dict().items():
        if key in expected and not is_equal(value, expected[key]):
            _require_resumed(value, expected[key], repr(key))
    _require_resumed(_both_paths(subject, second), _both_paths(subject, whole), "outputs")


def _require_resumed(actual: Tensor, expected: Tensor, what: str) -> None:
    promise = f"{2 * UPDATES} updates equal {UPDATES}, save, load and {UPDATES} more"
    require_same(actual.flatten(), expected.flatten(), promise, where=f"in {what}")


def _both_paths(subject: Subject, policy: nn.Module) -> Tensor:
    observations = subject.observations(steps=STEPS)
    with seeded(0):  # in train mode, so that dropout draws alike
        steps, _ = step_through(subject, policy, observations)
        return torch.stack([steps, in_sequence(subject, policy, observations)])


def _adam(policy: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(policy.parameters(), lr=1e-3)


def _update(
    subject: Subject, policy: nn.Module, optimizer: torch.optim.Optimizer, numbers: range
) -> None:
    """Make one update for each number, on a batch and under a seed of that number."""
    for number in numbers:
        with seeded(number):
            observations = subject.observations(steps=3, seed=number)
            optimizer.zero_grad()
            torch.autograd.backward(first_epoch_loss(subject, policy, observations))
            optimizer.step()
            update_statistics(policy, subject.observations(seed=number))


CHECKS = (
    modes_do_not_matter,
    survives_a_fresh_process,
    absent_plugin_is_named,
    prefixes_are_harmless,
    strict_state_dict,
    resume_equals_uninterrupted,
    export.export_parity,
    export.copies_and_devices,
    export.compile_parity,
    statistics.statistics_stay_sound,
)
