"""N: a policy starts well and can learn: first weights, first answers, gradients, one batch.

`B` rows, `T` steps. What third parties may choose otherwise is judged only where it is declared:
``declared["init"]`` may hold ``actor_gain``, ``critic_gain`` and ``recurrent`` ("orthogonal");
``first_entropy`` (a share of the largest) and ``first_value`` relax N5; ``initialises_wrapped`` is
a wrapper's reason to change what it holds; ``frozen`` lists patterns of parameters that get no
gradient. `numerics.CHECKS` lists these checks with the others of the family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, check
from puffer_policies.checks.probes.bandits import first_epoch_loss
from puffer_policies.checks.probes.outputs import fixed_actions
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.checks.probes.tolerances import GAIN, ORTHOGONALITY, difference
from puffer_policies.checks.probes.weights import perturbed_copy, trained_parameters
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.cores.fused import FusedLayers

OUR_HEADS = {"actor_gain": 0.01, "critic_gain": 1.0}
"""What the policies of our zoo declare; our LSTM declares orthogonal gates."""

GATES: tuple[tuple[type[nn.Module], int], ...] = (
    (nn.LSTM, 4),
    (nn.LSTMCell, 4),
    (nn.GRU, 3),
    (nn.GRUCell, 3),
)
"""Kinds of recurrent layers, and how many blocks their hidden weights stack."""

FIRST_ENTROPY, FIRST_VALUE = 0.99, 5.0
"""Share of the largest entropy, and mean size of a value. The latter also holds where observations
are not scaled, as ids and counts are."""

FIT_STEPS, FIT_RATE = 100, 3e-3


def needs_first_weights(subject: Subject) -> str:
    """Return why a check of first weights does not apply: a policy may have been trained."""
    return str(subject.declared.get("built", ""))


# -- first weights ---------------------------------------------------------------------------------


@check(
    "N4",
    "init-survives-wrapping",
    promise="A wrapper leaves the weights of what it holds as they were; gains of actor and critic "
    "and orthogonal recurrent gates are as declared.",
    why="A wrapper that initializes everything it holds raises the actor's gain from 0.01 to 1: "
    "the first policy is far from uniform.",
    fix="Initialize only the wrapper's own layers.",
    applies=needs_first_weights,
    few=True,
)
def init_survives_wrapping(subject: Subject) -> None:
    """Build while watching what is put into what, then measure what is declared."""
    with _watch_registrations() as registrations:
        policy = subject.fresh()
    gains = _declared_init(subject, policy)
    if not registrations and not gains:
        raise CheckSkipped("it wraps no policy, and declares nothing of its initial weights")
    _require_untouched(subject, policy, registrations)
    for what, gain in gains.items():
        _MEASURES[what](policy, gain)


DECLARED = (
    "Initialize it so, as nn.init.layer_init does, or declare what you chose under init in the "
    "class's conformance."
)
"""What to do about first weights that are not as declared."""

Registration = tuple[nn.Module, dict[str, Tensor]]
"""A policy that became part of another module, and its weights at that moment."""


@contextmanager
def _watch_registrations() -> Iterator[list[Registration]]:
    """Collect every structured policy that becomes part of a module meanwhile."""
    registrations: list[Registration] = []

    def note(_: nn.Module, __: str, inner: Any) -> None:
        if all(hasattr(inner, name) for name in ("encode_observations", "decode_actions")):
            weights = {name: p.detach().clone() for name, p in inner.named_parameters()}
            registrations.append((inner, weights))

    handle = register_module_module_registration_hook(note)
    try:
        yield registrations
    finally:
        handle.remove()


def _require_untouched(
    subject: Subject, policy: nn.Module, registrations: list[Registration]
) -> None:
    if subject.declared.get("initialises_wrapped"):
        return
    names = {id(p): name for name, p in policy.named_parameters()}
    for inner, weights in registrations:
        for key, parameter in inner.named_parameters():
            before = weights.get(key)
            if before is not None and difference(before, parameter.detach()) > 0:
                name = names.get(id(parameter), key)
                raise CheckFailed(
                    f"{name} of the wrapped policy as it was",
                    f"norm {float(parameter.detach().norm()):.4g} after wrapping, "
                    f"{float(before.norm()):.4g} before",
                    example=f"print(policy.get_parameter({name!r}).norm())",
                )


def _declared_init(subject: Subject, policy: nn.Module) -> dict[str, Any]:
    """Return what is declared of the first weights, by us for parts that are ours."""
    declared = dict(subject.declared.get("init", {}))
    modules = list(policy.modules())
    if any(isinstance(each, ActorCritic) and _is_ours(each) for each in modules):
        declared = {**OUR_HEADS, **declared}
    if any(isinstance(each, FusedLayers) for each in modules):
        declared = {"recurrent": "orthogonal", **declared}
    return {key: value for key, value in declared.items() if value is not None}


def _is_ours(policy: nn.Module) -> bool:
    """Whether it is of this package's zoo; a subclass elsewhere may initialize otherwise."""
    return type(policy).__module__.startswith(("puffer_policies.zoo.", "puffer_policies.nn."))


def _actor_gain(policy: nn.Module, gain: float) -> None:
    _require_gain(policy, gain, "actor", lambda out: out[0])


def _critic_gain(policy: nn.Module, gain: float) -> None:
    _require_gain(policy, gain, "critic", lambda out: out[1])


def _require_gain(policy: nn.Module, gain: float, part: str, choose: Any) -> None:
    """Measure the largest singular value of d output / d hidden, at a small random hidden."""
    policy.eval()

    def run(hidden: Tensor) -> Tensor:
        out = choose(policy.decode_actions(hidden.unsqueeze(0)))  # type: ignore[operator]
        tensors = out if isinstance(out, tuple | list) else [getattr(out, "loc", out)]
        return torch.cat([each.reshape(-1) for each in tensors])

    with seeded(5):
        hidden = torch.randn(int(policy.hidden_size)) * 0.1  # type: ignore[arg-type]
    jacobian = torch.func.jacrev(run)(hidden)
    actual = float(torch.linalg.matrix_norm(jacobian.detach(), 2))
    if not abs(actual - gain) <= GAIN * gain:
        raise CheckFailed(
            f"a gain of {gain:g} of the {part}, as declared",
            f"{actual:.3g}",
            fix=DECLARED,
            level=Level.ADVICE,
            example="import torch\n"
            "hidden = torch.zeros(1, policy.hidden_size, requires_grad=True)\n"
            "print(policy.decode_actions(hidden))",
        )


def _orthogonal(policy: nn.Module, _: str) -> None:
    for path, module in policy.named_modules():
        gates = next((count for kind, count in GATES if isinstance(module, kind)), 0)
        for name, weight in module.named_parameters(recurse=False):
            if gates and "weight_hh" in name:
                _require_orthogonal(weight.detach(), gates, f"{path}.{name}".lstrip("."))


def _require_orthogonal(weight: Tensor, gates: int, name: str) -> None:
    for gate, block in enumerate(weight.chunk(gates)):
        gap = difference(block @ block.T, torch.eye(len(block)))
        if gap > ORTHOGONALITY:
            raise CheckFailed(
                f"an orthogonal block for gate {gate} of {name}",
                f"its product with its transpose is off the identity by {gap:.3g}",
                fix=DECLARED,
                level=Level.ADVICE,
                example=f"import torch\nw = policy.get_parameter({name!r})\n"
                f"print([torch.linalg.svdvals(gate) for gate in w.chunk({gates})])",
            )


_MEASURES: dict[str, Callable[[nn.Module, Any], None]] = {
    "actor_gain": _actor_gain,
    "critic_gain": _critic_gain,
    "recurrent": _orthogonal,
}


@check(
    "N5",
    "first-policy-near-uniform",
    promise="The first policy has 99 % of the largest entropy, and its values are near 0, at "
    "observations within -1..1 (images: as they are).",
    why="A first policy with opinions explores less; large first values swamp the first updates.",
    fix="Give the action head orthogonal weights of gain 0.01 and no bias, the critic gain 1; or "
    'declare {"first_entropy": 0.9} or {"first_value": 10}.',
    applies=needs_first_weights,
    level=Level.ADVICE,
    needs=("S8", "N4"),
)
def first_policy_near_uniform(subject: Subject) -> None:
    """Look at the first answers to moderate observations."""
    policy = subject.fresh().eval()
    observations = subject.map(
        lambda leaf: leaf.clamp(-1, 1) if leaf.is_floating_point() else leaf,
        subject.observations(20),
    )
    logits, values, _ = subject.step(observations, policy=policy)
    line = "logits, values, _ = subject.step(observations)"
    if not subject.layout.is_continuous:
        largest = sum(math.log(n) for n in subject.layout.nvec)
        share = float(subject.declared.get("first_entropy", FIRST_ENTROPY))
        entropy = float(subject.distribution(logits).entropy().mean())
        if not entropy >= share * largest - 1e-6:  # a single action has entropy 0
            raise CheckFailed(
                f"an entropy of at least {share:.0%} of {largest:.3f}",
                f"{entropy:.3f}",
                example=example(line, "print(subject.distribution(logits).entropy())"),
            )
    bound = float(subject.declared.get("first_value", FIRST_VALUE))
    size = float(values.abs().mean())
    if not size <= bound:
        raise CheckFailed(
            f"first values of size {bound:g} at most",
            f"{size:.3g} on average",
            example=example(line, "print(values)"),
        )


# -- gradients -------------------------------------------------------------------------------------


@check(
    "N6",
    "every-parameter-learns",
    promise="Every parameter gets a gradient from PPO's loss, unless it has requires_grad=False or "
    "is declared frozen.",
    why="A detached or forgotten layer stays as it was drawn, and nobody notices.",
    fix='Use the layer, drop the detach, or declare {"frozen": ["its.name*"]}.',
    needs=("S2", "R7", "R6"),
)
def every_parameter_learns(subject: Subject) -> None:
    """Take one backward pass, from weights moved a little, over a sequence with episode starts."""
    # Perturbed, as a branch behind a weight that starts at 0 has no gradient yet.
    # In train mode where that differs, as noise may have parameters that nothing else reads.
    policy = perturbed_copy(subject, training="train_differs" in subject.declared)
    starts = subject.starts(at=[(0, 0), (1, 3)]) if subject.recurrent else None
    loss = first_epoch_loss(subject, policy, subject.observations(steps=STEPS), starts=starts)
    torch.autograd.backward(loss)
    dead = [
        name
        for name, parameter in trained_parameters(subject, policy).items()
        if parameter.grad is None or not bool(parameter.grad.ne(0).any())
    ]
    if dead:
        raise CheckFailed(
            "a gradient for every parameter",
            f"none for {', '.join(dead)}",
            example=example(
                "from puffer_policies.checks.probes.bandits import first_epoch_loss",
                "first_epoch_loss(subject, policy, observations).backward()",
                "print([name for name, p in policy.named_parameters() if p.grad is None])",
                steps=STEPS,
            ),
        )


@check(
    "N7",
    "fits-one-batch",
    promise="Some 100 small steps on one batch lower the loss and make rewarded actions likelier.",
    why="A policy that can't fit five rows, for a wrong sign or a cut gradient, learns nothing.",
    fix="Check the sign and the scale of the logits, and that forward is what acts.",
    few=True,
    level=Level.ERROR,
    needs=("S2", "S8", "R6"),
)
def fits_one_batch(subject: Subject) -> None:
    """Raise the likelihood of fixed actions, and bring values to 1, by Adam."""
    policy, observations = subject.copy_policy(), subject.observations()
    shape = (BATCH, *subject.layout.policy_shape)
    actions = fixed_actions(subject.layout, 1, seed=8).expand(shape).clone()
    first = last = _fit(subject, policy, observations, actions)
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=FIT_RATE)
    for step in range(FIT_STEPS):
        logits, values = subject.sequence(observations, policy=policy, grad=True)
        log_prob = subject.distribution(logits).log_prob(actions)
        optimizer.zero_grad()
        torch.autograd.backward((values.reshape(-1) - 1).square().mean() - log_prob.mean())
        optimizer.step()
        if step % 10 == 9:
            last = _fit(subject, policy, observations, actions)
            # Where the scale is not trained, an action at the mean is as likely as can be.
            peak = last[2] - 0.01 if subject.layout.is_continuous else math.inf
            is_likelier = last[0] > min(first[0] + 0.05, peak)
            if is_likelier and last[1] < 0.9 * first[1]:
                return
    raise CheckFailed(
        "likelier rewarded actions and values nearer to 1 after 100 steps on one batch",
        f"log-probability {first[0]:.3g} -> {last[0]:.3g}, squared error of values "
        f"{first[1]:.3g} -> {last[1]:.3g}",
        example=example("logits, values = subject.sequence(observations, grad=True)"),
    )


def _fit(
    subject: Subject, policy: nn.Module, observations: Any, actions: Tensor
) -> tuple[float, float, float]:
    """Return how likely `actions` are in a rollout, the values' error, how likely the mode is."""
    logits, values, _ = subject.step(observations, policy=policy)
    dist = subject.distribution(logits)
    log_prob, mode = (dist.log_prob(each).mean() for each in (actions, dist.mode()))
    return float(log_prob), float((values.reshape(-1) - 1).square().mean()), float(mode)
