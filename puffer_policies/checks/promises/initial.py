"""Checks of a fresh policy: its weights as declared after wrapping, and its first answers.

`B` rows. What third parties may choose otherwise is judged only where it is declared:
``declared["init"]`` may hold ``actor_gain``, ``critic_gain`` and ``recurrent`` ("orthogonal");
``first_entropy`` (a share of the largest) and ``first_value`` relax N5; ``initialises_wrapped`` is
a wrapper's reason to change what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from puffer_policies.checks.model import CheckFailed, CheckSkipped, check
from puffer_policies.checks.probes.outputs import example
from puffer_policies.checks.probes.subject import Subject, difference, seeded
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.cores.fused import FusedLayers

OUR_HEADS = {"actor_gain": 0.01, "critic_gain": 1.0}
"""What the policies of our zoo declare; our LSTM declares orthogonal gates."""

Watched = tuple[str, Tensor, Tensor]
"""A parameter's name, and what it was before and after."""

GATES: tuple[tuple[type[nn.Module], int], ...] = (
    (nn.LSTM, 4),
    (nn.LSTMCell, 4),
    (nn.GRU, 3),
    (nn.GRUCell, 3),
)

FIRST_ENTROPY, FIRST_VALUE = 0.99, 5.0
"""Share of the largest entropy; mean size of a value, also where images are not scaled, as ids."""


def trained_already(subject: Subject) -> str:
    """Leave alone what can't be seen fresh."""
    return str(subject.declared.get("built", ""))


# -- N4 --------------------------------------------------------------------------------------------


@check(
    "N4",
    "init-survives-wrapping",
    promise="A wrapper leaves the weights of what it holds as they were; gains of actor and critic "
    "and orthogonal recurrent gates are as declared.",
    why="A wrapper that initialises everything it holds raises the actor's gain from 0.01 to 1: "
    "the first policy is far from uniform.",
    fix="Initialise only the wrapper's own layers.",
    applies=trained_already,
)
def init_survives_wrapping(subject: Subject) -> None:
    """Build while watching what is put into what, then measure what is declared."""
    fresh, watched = _built_watching(subject)
    wanted = _declared_init(subject)
    if not watched and not wanted:
        raise CheckSkipped("it wraps no policy, and declares nothing of its initial weights")
    for name, before, after in watched:
        if difference(before, after) > 0 and not subject.declared.get("initialises_wrapped"):
            raise CheckFailed(
                f"{name} of the wrapped policy as it was",
                f"norm {float(after.norm()):.4g} after wrapping, {float(before.norm()):.4g} before",
                example=f"print(policy.get_parameter({name!r}).norm())",
            )
    for what, gain in wanted.items():
        _GAINS[what](fresh, gain)


def _built_watching(subject: Subject) -> tuple[nn.Module, list[Watched]]:
    """Return a fresh policy, and the parameters of every policy that was put into another."""
    with _registrations() as seen:
        built = subject.fresh()
    names = {id(p): name for name, p in built.named_parameters()}
    found = []
    for inner, before in seen:
        now = dict(inner.named_parameters())
        found += [
            (names.get(id(now[key]), key), old, now[key].detach())
            for key, old in before.items()
            if key in now
        ]
    return built, found


@contextmanager
def _registrations() -> Iterator[list[tuple[nn.Module, dict[str, Tensor]]]]:
    """Collect every structured policy that becomes part of a module, with its weights then."""
    seen: list[tuple[nn.Module, dict[str, Tensor]]] = []

    def note(_: nn.Module, __: str, inner: Any) -> None:
        if all(hasattr(inner, name) for name in ("encode_observations", "decode_actions")):
            weights = {k: p.detach().clone() for k, p in inner.named_parameters()}
            seen.append((inner, weights))

    handle = register_module_module_registration_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def _declared_init(subject: Subject) -> dict[str, Any]:
    declared = dict(subject.declared.get("init", {}))
    modules = list(subject.policy.modules())
    if any(isinstance(each, ActorCritic) and _is_ours(each) for each in modules):
        declared = {**OUR_HEADS, **declared}
    if any(isinstance(each, FusedLayers) for each in modules):
        declared = {"recurrent": "orthogonal", **declared}
    return {key: value for key, value in declared.items() if value is not None}


def _is_ours(policy: nn.Module) -> bool:
    """Whether it is of this package's zoo; a subclass elsewhere may initialise otherwise."""
    return type(policy).__module__.startswith("puffer_policies.")


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
    found = float(torch.linalg.matrix_norm(jacobian.detach(), 2))
    if not 0.5 * gain <= found <= 1.5 * gain:
        raise CheckFailed(
            f"a gain of {gain:g} of the {part}, as declared",
            f"{found:.3g}",
            example="hidden = torch.zeros(1, policy.hidden_size, requires_grad=True)\n"
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
        if gap > 1e-3:
            raise CheckFailed(
                f"an orthogonal block for gate {gate} of {name}",
                f"its product with its transpose is off the identity by {gap:.3g}",
                example=f"w = policy.get_parameter({name!r})\n"
                f"print([torch.linalg.svdvals(gate) for gate in w.chunk({gates})])",
            )


_GAINS: dict[str, Callable[[nn.Module, Any], None]] = {
    "actor_gain": _actor_gain,
    "critic_gain": _critic_gain,
    "recurrent": _orthogonal,
}


# -- N5 --------------------------------------------------------------------------------------------


@check(
    "N5",
    "first-policy-near-uniform",
    promise="The first policy has 99 % of the largest entropy, and its values are near 0, at "
    "observations within -1..1 (images: as they are).",
    why="A first policy with opinions explores less; large first values swamp the first updates.",
    fix="Give the action head orthogonal weights of gain 0.01 and no bias, the critic gain 1; or "
    'declare {"first_entropy": 0.9} or {"first_value": 10}.',
    applies=trained_already,
)
def first_policy_near_uniform(subject: Subject) -> None:
    """Look at the first answers to moderate observations."""
    policy = subject.fresh().eval()
    observations = subject.map(
        lambda leaf: leaf.clamp(-1, 1) if leaf.is_floating_point() else leaf,
        subject.observations(20),
    )
    logits, values, _ = subject.step(observations, policy=policy)
    lines = ("logits, values, _ = subject.step(observations)",)
    if not subject.layout.is_continuous:
        largest = sum(math.log(n) for n in subject.layout.nvec)
        share = float(subject.declared.get("first_entropy", FIRST_ENTROPY))
        entropy = float(subject.distribution(logits).entropy().mean())
        if not entropy >= share * largest - 1e-6:
            raise CheckFailed(
                f"an entropy of at least {share:.0%} of {largest:.3f}",
                f"{entropy:.3f}",
                example=example(*lines, "print(subject.distribution(logits).entropy())"),
            )
    bound = float(subject.declared.get("first_value", FIRST_VALUE))
    size = float(values.abs().mean())
    if not size <= bound:
        found = f"{size:.3g} on average"
        raise CheckFailed(
            f"first values of size {bound:g} at most",
            found,
            example=example(*lines, "print(values)"),
        )


CHECKS = (init_survives_wrapping, first_policy_near_uniform)
