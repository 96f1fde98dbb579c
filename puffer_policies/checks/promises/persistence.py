"""P: what survives a change of mode, a file, a new process and an interruption of training.

`B` rows, `T` steps. Weights are stirred first, so that a policy can't pass by having been built
with the same seed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from puffer_policies.assembly.checkpoint import load_policy, read_header, save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.checks.model import CheckFailed, CheckSkipped, check
from puffer_policies.checks.probes.reloading import CannotRebuild, answers, answers_elsewhere
from puffer_policies.checks.probes.rollouts import (
    duplicate,
    in_sequence,
    judged,
    require_same,
    step_through,
)
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.checks.promises import portable, weights
from puffer_policies.checks.promises.weights import through_bytes
from puffer_policies.errors import CheckpointError, PolicyError
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.specs import PolicySpec

UPDATES = 2
"""Updates before an interruption, and after it."""


@check(
    "P1",
    "modes-do-not-matter",
    promise="Outputs are equal in train and eval mode, and a run changes no mode or statistic.",
    why="A policy evaluated in another mode than it was trained in is another policy.",
    fix="Use no dropout or batch statistics, or declare them: declared={'train_differs': 'why'}. "
    "Never call train() or eval() inside forward.",
)
def modes_do_not_matter(subject: Subject) -> None:
    """Compare outputs in both modes, and what a call leaves behind."""
    seen = subject.observations(steps=STEPS)
    found = {}
    for training in (False, True):
        policy = judged(subject, training=training)
        before = {name: each.clone() for name, each in policy.named_buffers()}
        with seeded(0):
            found[training] = answers(subject, policy, seen)
        _require_mode(policy, training)
        if not training:
            _require_still(policy, before)
    if "train_differs" not in subject.declared:
        require_same(
            found[True],
            found[False],
            "outputs in train mode equal those in eval mode",
            where="between the modes",
            example="policy.eval()  # then compare forward_eval with that after policy.train()",
        )


def _require_mode(policy: nn.Module, training: bool) -> None:
    changed = [name for name, each in policy.named_modules() if each.training != training]
    if changed:
        raise CheckFailed(
            "forward and forward_eval to leave every module in its mode",
            f"training is {not training} afterwards in {changed[0] or 'the policy'!r}",
        )


def _require_still(policy: nn.Module, before: dict[str, Tensor]) -> None:
    for name, buffer in policy.named_buffers():
        if name in before and not torch.equal(buffer, before[name]):
            raise CheckFailed("no buffer to change in eval mode", f"{name!r} did")


@check(
    "P2",
    "survives-a-fresh-process",
    promise="Saved, rebuilt in a fresh process and loaded, it gives the same outputs.",
    why="What is kept in no file (constructor arguments, random features, the head's type) is lost "
    "when the process ends.",
    fix="Keep what outputs depend on in parameters, persistent buffers, and the constructor's "
    "plain arguments.",
    once=True,
)
def survives_a_fresh_process(subject: Subject) -> str | None:
    """Load the weights into a policy of another seed here, then in a new Python."""
    policy, seen = judged(subject), subject.observations(steps=STEPS)
    expected = answers(subject, policy, seen)
    other = subject.fresh(seed=1).eval()
    other.load_state_dict(through_bytes(policy.state_dict()))
    promise = "a new policy with the saved weights gives the same outputs"
    require_same(answers(subject, other, seen), expected, promise, where="in this process")
    try:
        found = answers_elsewhere(subject, policy, seen)
    except CannotRebuild as reason:
        return f"reloaded in this process only: {reason}"
    require_same(found, expected, promise, where="in a new process")
    return None


def _not_by_name(subject: Subject) -> str:
    spec = getattr(subject.policy, "spec", None)
    if spec is None:
        return "it was not built by name, so its checkpoints hold no recipe"
    if isinstance(spec, PolicySpec) and spec.name.startswith("local/"):
        return "its class is in no registry, so no package could be named"
    return ""


@check(
    "P3",
    "absent-plugin-is-named",
    promise="Without its package, loading its checkpoint names the package and its version.",
    why="A checkpoint that outlives its plug-in is worth nothing unless it says what to install.",
    fix="Leave the attribute `spec` to get_policy, which puts the recipe there; a module around a "
    "policy must not hand on the inner one's.",
    applies=_not_by_name,
)
def absent_plugin_is_named(subject: Subject) -> None:
    """Save it, and load it with an empty registry."""
    policy = subject.policy
    spec = policy.spec
    if not isinstance(spec, PolicySpec):
        raise CheckFailed(
            "the attribute `spec` to be the recipe of get_policy, or absent",
            f"a {type(spec).__name__}: checkpoints would hold no recipe",
        )
    _require_own_recipe(subject, policy, spec)
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder, "policy.safetensors"), policy, env=subject.spaces)
        told = _told_without_plugins(path, subject)
        origins = read_header(path).origins
    for origin in origins:
        if origin.distribution not in told or origin.version not in told:
            raise CheckFailed(
                f"an error that names {origin.distribution} {origin.version}", repr(told)
            )


def _told_without_plugins(path: Path, subject: Subject) -> str:
    try:
        load_policy(path, subject.spaces, registry=Registry())
    except CheckpointError as error:
        return str(error)
    raise CheckFailed("loading without the package to fail", "it did not: the recipe names nobody")


def _require_own_recipe(subject: Subject, policy: nn.Module, spec: PolicySpec) -> None:
    try:
        for name in (spec.name, *(wrapper.name for wrapper in spec.wrappers)):
            default_registry().get(name)
        again = get_policy(spec, subject.spaces)
    except PolicyError as error:
        raise CheckSkipped(f"its recipe is of another registry: {error.problem}") from error
    if type(again) is not type(policy) or again.state_dict().keys() != policy.state_dict().keys():
        raise CheckFailed(
            f"the recipe {spec} to rebuild this {type(policy).__name__}",
            f"it builds a {type(again).__name__} with other tensors or of another class",
        )


@check(
    "P6",
    "resume-equals-uninterrupted",
    promise="Training that is interrupted, saved and resumed equals training without a break.",
    why="A counter or statistic outside the state_dict starts again after a resume: another run.",
    fix="Keep counters and statistics as persistent buffers, and register parameters in one order.",
)
def resume_equals_uninterrupted(subject: Subject) -> None:
    """Train twice as long at once, and in two parts with a file between."""
    whole = duplicate(subject).train()
    _update(subject, whole, _adam(whole), range(2 * UPDATES))
    first = duplicate(subject).train()
    optimizer = _adam(first)
    _update(subject, first, optimizer, range(UPDATES))
    saved = through_bytes([first.state_dict(), optimizer.state_dict()])
    second = judged(subject, training=True)  # other weights than those of the file
    second.load_state_dict(saved[0])
    optimizer = _adam(second)
    optimizer.load_state_dict(saved[1])
    _update(subject, second, optimizer, range(UPDATES, 2 * UPDATES))
    expected = {key: each for key, each in whole.state_dict().items() if isinstance(each, Tensor)}
    for key, value in second.state_dict().items():
        if key in expected:
            _require_resumed(value.double(), expected[key].double(), repr(key))
    seen = subject.observations(steps=STEPS)
    with seeded(0):
        wanted = in_sequence(subject, whole, seen), step_through(subject, whole, seen)[0]
    with seeded(0):
        found = in_sequence(subject, second, seen), step_through(subject, second, seen)[0]
    for one, two in zip(found, wanted, strict=True):
        _require_resumed(one, two, "outputs")


def _require_resumed(found: Tensor, expected: Tensor, what: str) -> None:
    promise = f"{2 * UPDATES} updates equal {UPDATES}, save, load and {UPDATES} more"
    require_same(found.flatten(), expected.flatten(), promise, where=f"in {what}")


def _adam(policy: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(policy.parameters(), lr=1e-3)


def _update(
    subject: Subject, policy: nn.Module, optimizer: torch.optim.Optimizer, numbers: range
) -> None:
    """Make one update for each number, on a batch and under a seed of that number."""
    for number in numbers:
        with seeded(number):
            seen = subject.observations(steps=3, seed=number)
            logits, values = subject.sequence(seen, policy=policy, grad=True)
            dist = subject.distribution(logits)
            advantage = torch.linspace(-1.0, 1.0, BATCH * 3)
            loss = (dist.log_prob(dist.sample()) * advantage).mean() - dist.entropy().mean()
            optimizer.zero_grad()
            (loss + (values.reshape(-1) - advantage).square().mean()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


CHECKS = (
    modes_do_not_matter,
    survives_a_fresh_process,
    absent_plugin_is_named,
    weights.prefixes_are_harmless,
    weights.strict_state_dict,
    resume_equals_uninterrupted,
    portable.export_parity,
    portable.copies_and_devices,
    portable.compile_parity,
)
