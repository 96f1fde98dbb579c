"""N: a policy starts well: the first weights of what a wrapper holds, and the first answers.

What third parties may choose otherwise is judged only where it is declared: ``declared["init"]``
may hold ``actor_gain``, ``critic_gain`` and ``recurrent`` ("orthogonal"); ``first_entropy`` (a
share of the largest) and ``first_value`` relax N5; ``initialises_wrapped`` is a wrapper's reason to
change what it holds. `numerics.CHECKS` lists these checks with the others of the family.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Scope, check
from puffer_policies.checks.probes.parts import (
    centers_of,
    parts_of,
)
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import Subject, seeded
from puffer_policies.checks.probes.tolerances import GAIN, ORTHOGONALITY, difference
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


def needs_first_weights(subject: Subject) -> str:
    """Return why a check of first weights does not apply: a policy may have been trained."""
    return str(subject.declared.get("built", ""))


@check(
    "N4",
    "init-survives-wrapping",
    promise="A wrapper leaves the weights of what it holds as they were; gains of actor and critic "
    "and orthogonal recurrent gates are as declared.",
    why="A wrapper that initializes everything it holds raises the actor's gain from 0.01 to 1: "
    "the first policy is far from uniform.",
    fix="Initialize only the wrapper's own layers.",
    scope=Scope.MODULES,
)
def init_survives_wrapping(subject: Subject) -> None:
    """Build while watching what is put into what, then measure what is declared.

    What a factory does to its policy after it is built, such as loading weights, is its own matter.
    """
    trained = needs_first_weights(subject)
    with _watch_registrations() as registrations, _watch_wrappers(subject, registrations):
        policy = subject.fresh()
    gains = {} if trained else _declared_init(subject, policy)
    if trained:
        # What a factory loads after the constructors is no harm that a wrapper does.
        registrations = [each for each in registrations if each.after is not None]
    if not registrations and not gains:
        raise CheckSkipped(
            trained or "it wraps no policy, and declares nothing of its initial weights"
        )
    _require_untouched(subject, policy, registrations)
    for what, gain in gains.items():
        _MEASURES[what](policy, gain)


DECLARED = (
    "Initialize it so, as nn.init.layer_init does, or declare what you chose under init in the "
    "class's conformance."
)
"""What to do about first weights that are not as declared."""


CONSTRUCTOR = "__init__"


@dataclass
class Registration:
    """A policy that became part of another module, and its weights at that moment."""

    outer: nn.Module
    inner: nn.Module
    before: dict[str, Tensor]
    after: dict[str, Tensor] | None = None
    """Its weights where the constructor of the outer module ends, if that was watched."""


@contextmanager
def _watch_registrations() -> Iterator[list[Registration]]:
    """Collect every structured policy that becomes part of a module meanwhile."""
    registrations: list[Registration] = []

    def note(outer: nn.Module, _: str, inner: Any) -> None:
        if _is_structured(inner):
            registrations.append(Registration(outer, inner, _weights_of(inner)))

    handle = register_module_module_registration_hook(note)
    try:
        yield registrations
    finally:
        handle.remove()


@contextmanager
def _watch_wrappers(subject: Subject, registrations: list[Registration]) -> Iterator[None]:
    """Note the weights of what the wrappers of a policy hold where their constructors end."""
    wrappers = {type(m) for m in subject.policy.modules() if any(map(_is_structured, m.children()))}

    def watched(constructor: Any) -> Any:
        @functools.wraps(constructor)
        def construct(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            constructor(self, *args, **kwargs)
            for each in registrations:
                if each.outer is self:
                    each.after = _weights_of(each.inner)

        return construct

    # None for a class that inherits its constructor: what is set here is deleted again.
    own = {cls: vars(cls).get(CONSTRUCTOR) for cls in wrappers}
    for cls in wrappers:
        setattr(cls, CONSTRUCTOR, watched(cls.__init__))
    try:
        yield
    finally:
        for cls, constructor in own.items():
            if constructor is None:
                delattr(cls, CONSTRUCTOR)
            else:
                setattr(cls, CONSTRUCTOR, constructor)


def _is_structured(module: Any) -> bool:
    return all(hasattr(module, name) for name in ("encode_observations", "decode_actions"))


def _weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in module.named_parameters()}


def _require_untouched(
    subject: Subject, policy: nn.Module, registrations: list[Registration]
) -> None:
    if subject.declared.get("initialises_wrapped"):
        return
    # The name in the whole policy is the one that a reader can look up.
    names = {id(p): name for name, p in policy.named_parameters()}
    for each in registrations:
        for key, weight in (each.after or _weights_of(each.inner)).items():
            before = each.before.get(key)
            if before is not None and difference(before, weight) > 0:
                parameter = each.inner.get_parameter(key)
                name = names.get(id(parameter), key)
                raise CheckFailed(
                    f"{name} of the wrapped policy as it was",
                    f"norm {float(weight.norm()):.4g} after wrapping, "
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
        tensors = centers_of(out) or [getattr(out, "loc", out)]
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
    policy = subject.copy_policy()
    observations = subject.map(
        lambda leaf: leaf.clamp(-1, 1) if leaf.is_floating_point() else leaf,
        subject.observations(20),
    )
    logits, values, _ = subject.step(observations, policy=policy)
    line = "logits, values, _ = subject.step(observations)"
    share = float(subject.declared.get("first_entropy", FIRST_ENTROPY))
    for part in parts_of(subject.layout, logits):
        if part.layout.num_reals:
            continue
        largest = sum(math.log(n) for n in part.layout.nvec)
        entropy = float(subject.distribution(part.logits_of(logits)).entropy().mean())
        if not entropy >= share * largest - 1e-6:  # a single action has entropy 0
            raise CheckFailed(
                f"an entropy{part} of at least {share:.0%} of {largest:.3f}",
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
