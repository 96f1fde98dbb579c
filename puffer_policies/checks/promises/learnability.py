"""N: a policy starts well and can learn: first weights, first answers, gradients, one batch.

`B` rows, `T` steps. What third parties may choose otherwise is judged only where it is declared:
``declared["init"]`` may hold ``actor_gain``, ``critic_gain`` and ``recurrent`` ("orthogonal");
``first_entropy`` (a share of the largest) and ``first_value`` relax N5; ``initialises_wrapped`` is
a wrapper's reason to change what it holds; ``frozen`` lists patterns of parameters that get no
gradient, ``detached`` of those that the actor's loss does not reach; ``bounded`` is left out by
N7. `numerics.CHECKS` lists these checks with the others of the family.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.modules.module import register_module_module_registration_hook

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Scope, check
from puffer_policies.checks.probes.bandits import first_epoch_loss
from puffer_policies.checks.probes.outputs import describe, draw
from puffer_policies.checks.probes.parts import (
    Part,
    bounds_of_columns,
    centers_of,
    label,
    leaves_of,
    parts_of,
)
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import STEPS, Subject, seeded
from puffer_policies.checks.probes.tolerances import GAIN, ORTHOGONALITY, difference, magnitude
from puffer_policies.checks.probes.weights import perturbed_copy, trained_parameters
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.cores.fused import FusedLayers
from puffer_policies.spaces import ActionLayout

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

FIRST_UPDATES = 4
"""Updates within which a weight that starts at 0 gets its first gradient, however deep it lies."""

FIT_STEPS, FIT_RATE = 120, 2e-2
"""Most steps of Adam towards one goal. A policy of 16 units takes some 20."""

GOAL_PROBABILITY, GOAL_VALUE = 0.9, 3.0
"""Of each choice, and of the sum of rewards. A tanh reaches 1; rewards of 1 sum up to more."""

BEYOND = 0.5
"""How much further it is driven: values by as much, and half of what probabilities lack to 1."""

FREE, MARGIN = 2.0, 0.05
"""How far means have to reach where a Box has no bounds; and, as a share of its width, how near to
them where it has some."""

EQUAL_UNITS = 1e-6
"""Up to which rows of a weight or of its gradient are equal: a share of the largest number."""

AS_LIKELY = math.log(1.1)
"""Nats by which the likeliest action may be likelier than what counts as another one."""

MANY, FEW_ROWS, SEVERAL = 32, 3, 8
"""Rows in which a number that is cut off shows, how many of those are looked at, and how many
choices or dimensions are compared with each other."""

MOVE, LEAST_EFFECT = 1e-2, 1e-5
"""How far weights are moved that got no gradient, and what is an effect of it."""


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


# -- gradients -------------------------------------------------------------------------------------


@check(
    "N6",
    "every-parameter-learns",
    promise="Every parameter gets a gradient from PPO's loss, unless it has requires_grad=False or "
    "is declared frozen, and neither a table nor all that leads to the heads has "
    "requires_grad=False undeclared; every number of it that moves the actions gets one from the "
    "actor's loss; units of a layer do not start and move alike.",
    why="A detached or forgotten layer stays as it was drawn, and nobody notices. One that only "
    "the critic trains never learns what the actor needs.",
    fix='Use the layer, drop the detach, or declare {"frozen": ["its.name*"]}, or '
    '{"detached": ["its.name*"]} for what the critic alone is to train.',
    needs=("S2", "S8", "R7", "R6"),
)
def every_parameter_learns(subject: Subject) -> None:
    """Take one backward pass, from weights moved a little, over a sequence with episode starts.

    Then move what got no gradient: outputs that follow show a gradient that is cut.
    """
    _require_start(subject)
    _require_unlike_units(subject)
    _require_thawed(subject)
    # Perturbed, as a branch behind a weight that starts at 0 has no gradient yet.
    # In train mode where that differs, as noise may have parameters that nothing else reads.
    policy = perturbed_copy(subject, training="train_differs" in subject.declared)
    starts = subject.starts(at=[(0, 0), (1, 3)]) if subject.recurrent else None
    loss = first_epoch_loss(subject, policy, subject.observations(steps=STEPS), starts=starts)
    torch.autograd.backward(loss)
    trained = trained_parameters(subject, policy)
    dead = [
        name
        for name, parameter in trained.items()
        if parameter.grad is None or not bool(parameter.grad.ne(0).any())
    ]
    # A bias that shifts all logits alike changes no probability, and does no harm.
    shifts = {f"{name.removesuffix('weight')}bias" for name in trained if name not in dead}
    failure = CheckFailed(
        "a gradient for every parameter",
        f"none for {', '.join(dead)}",
        example=example(
            "from puffer_policies.checks.probes.bandits import first_epoch_loss",
            "first_epoch_loss(subject, policy, observations).backward()",
            "print([name for name, p in policy.named_parameters() if p.grad is None])",
            steps=STEPS,
        ),
        level=Level.ADVICE if shifts.issuperset(dead) else None,
    )
    if dead and failure.level is None:
        raise failure
    _require_uncut(subject, policy, starts)
    _require_every_scale(subject, policy)
    if dead:
        raise failure


def _require_thawed(subject: Subject) -> None:
    """Fail if tables have no gradient, or nothing before the heads has, and nobody declared it.

    Under layers that learn, a part without gradient says for itself that it is meant so. A table
    gets there by the default of `nn.Embedding.from_pretrained`.
    """
    policy, patterns = subject.copy_policy(), subject.declared.get("frozen", ())
    frozen = {
        name: parameter
        for name, parameter in policy.named_parameters()
        if not parameter.requires_grad
        and parameter.is_floating_point()
        and not any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not frozen:
        return
    tables = {
        id(module.weight)
        for module in policy.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    names = [name for name, parameter in frozen.items() if id(parameter) in tables]
    expected = "tables of vectors that learn, or that are declared frozen"
    if not names and subject.recurrent:
        return  # its memory learns
    if not names:
        hidden = policy.encode_observations(subject.observations(2))  # type: ignore[operator]
        if hidden.requires_grad:
            return
        names, expected = list(frozen), "layers before the heads that learn"
    raise CheckFailed(
        expected,
        f"requires_grad is False for {', '.join(names[:8])}"
        + (f" and {len(names) - 8} more" if len(names) > 8 else ""),
        fix="Leave requires_grad as it is, and pass freeze=False to nn.Embedding.from_pretrained; "
        f'or declare conformance = {{"frozen": [{names[0].rpartition(".")[0] + ".*"!r}]}}.',
        example="print([name for name, p in policy.named_parameters() if not p.requires_grad])",
    )


def _require_start(subject: Subject) -> None:
    """Fail if weights that start at 0 get no gradient in the first updates, for each other's sake.

    A branch whose last layer starts at 0 lets its other layers learn from the next update on.
    """
    policy = subject.copy_policy(training="train_differs" in subject.declared)
    parameters = trained_parameters(subject, policy)
    still = {name for name, each in parameters.items() if each.ndim > 1 and not bool(each.any())}
    if not still:
        return
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    observations = subject.observations(steps=STEPS)
    for _ in range(FIRST_UPDATES):
        optimizer.zero_grad()
        torch.autograd.backward(first_epoch_loss(subject, policy, observations))
        optimizer.step()
        still = {name for name in still if not bool(parameters[name].any())}
        if not still:
            return
    raise CheckFailed(
        f"weights that start at 0 to move within {FIRST_UPDATES} updates",
        f"still 0: {', '.join(sorted(still))}",
        fix="Let one factor of a product start at random, and only the other at 0.",
        example=example(f"print(policy.get_parameter({min(still)!r}))"),
    )


def _require_unlike_units(subject: Subject) -> None:
    """Fail if units of a layer that start alike move alike: they are one unit for ever."""
    policy = subject.copy_policy(training="train_differs" in subject.declared)
    alike = {
        name: parameter
        for name, parameter in trained_parameters(subject, policy).items()
        # One number a unit is its bias, and what makes units differ comes before it.
        if parameter.ndim > 1
        and len(parameter) > 1
        and parameter[0].numel() > 1
        and _has_equal_rows(parameter)
    }
    if not alike:
        return
    observations = subject.observations(steps=STEPS)
    torch.autograd.backward(first_epoch_loss(subject, policy, observations))
    for name, parameter in alike.items():
        grad = parameter.grad
        # Without a gradient it does not learn at all, or not yet.
        if grad is not None and bool(grad.ne(0).any()) and _has_equal_rows(grad):
            raise CheckFailed(
                "units of a layer that learn apart",
                f"all {len(parameter)} of {name} start alike and have the same gradient",
                fix="Draw first weights at random, such as orthogonal ones.",
                example=example(f"print(policy.get_parameter({name!r}))"),
            )


def _has_equal_rows(tensor: Tensor) -> bool:
    rows = tensor.detach().flatten(1)
    return bool((rows - rows[:1]).abs().max() <= EQUAL_UNITS * rows.abs().max())


def _require_uncut(subject: Subject, policy: nn.Module, starts: Tensor | None) -> None:
    """Fail if numbers of a weight move outputs, and no gradient of these outputs reaches them."""
    observations = subject.observations(steps=STEPS)
    parameters = trained_parameters(subject, policy)
    detached = subject.declared.get("detached", ())

    def run(*, grad: bool = False) -> tuple[Tensor, Tensor]:
        # In train mode the noise has to be the same, and so have statistics that a pass moves.
        buffers = {each: each.clone() for each in policy.buffers()}
        with seeded(3):
            logits, values = subject.sequence(observations, starts=starts, policy=policy, grad=grad)
        for buffer, value in buffers.items():
            buffer.data = value
        actions = describe(subject, logits).double()
        return actions, torch.cat([actions, values.reshape(len(actions), 1).double()], 1)

    grads_of = []
    for outputs in run(grad=True):
        with seeded(5):
            loss = (outputs * torch.randn_like(outputs)).sum()
        grads_of.append(
            torch.autograd.grad(
                loss, list(parameters.values()), retain_graph=True, allow_unused=True
            )
        )
    unmoved = run()
    for part, what in ((1, "any loss"), (0, "the loss of the actor")):
        grads, middle = grads_of[part], unmoved[part]
        unreached = {
            name: torch.ones_like(parameter) if grad is None else (grad == 0).to(parameter.dtype)
            for (name, parameter), grad in zip(parameters.items(), grads, strict=True)
            if not any(fnmatchcase(name, pattern) for pattern in detached)
        }
        for name, row in _padding_rows(policy).items():
            if name in unreached:
                unreached[name][row] = 0
        unreached = {name: mask for name, mask in unreached.items() if bool(mask.any())}
        if not unreached or not _matters(parameters, unreached, middle, lambda: run()[part]):  # noqa: B023
            continue
        # Moved together they may bend what none of them moves alone, such as a norm.
        cut = [
            name
            for name, mask in unreached.items()
            if _matters(parameters, {name: mask}, middle, lambda: run()[part])  # noqa: B023
        ]
        if not cut:
            continue
        counts = [f"{int(unreached[n].sum())} of {unreached[n].numel()} in {n}" for n in cut]
        raise CheckFailed(
            f"a gradient of {what} for every number of a weight that moves its outputs",
            f"none for {', '.join(counts)}",
            example=example(
                "logits, values = subject.sequence(observations, grad=True)",
                "subject.distribution(logits).entropy().sum().backward()",
                "print({name: p.grad for name, p in policy.named_parameters()})",
                steps=STEPS,
            ),
        )


def _padding_rows(policy: nn.Module) -> dict[str, int]:
    """Return the weights of tables -> the row of their padding, which torch keeps as it is."""
    tables = (nn.Embedding, nn.EmbeddingBag)
    return {
        f"{name}.weight".lstrip("."): module.padding_idx
        for name, module in policy.named_modules()
        if isinstance(module, tables) and module.padding_idx is not None
    }


def _matters(
    parameters: dict[str, nn.Parameter],
    masks: dict[str, Tensor],
    middle: Tensor,
    run: Callable[[], Tensor],
) -> bool:
    """Whether outputs follow a small move of some numbers, and its opposite the other way.

    A unit that is dead, or a pool that looks elsewhere, answers to one direction at most. `middle`
    are the outputs where nothing is moved.
    """
    before = {name: parameters[name].detach().clone() for name in masks}
    answers = []
    for sign in (1, -1):
        with seeded(6), torch.no_grad():
            for name, mask in masks.items():
                move = torch.randn_like(mask) * mask * MOVE
                parameters[name].copy_(before[name] + sign * move)
            answers.append(run().detach())
    with torch.no_grad():
        for name, value in before.items():
            parameters[name].copy_(value)
    there, back = answers
    straight, bend = (there - back).norm(), (there + back - 2 * middle).norm()
    return bool(straight > LEAST_EFFECT * magnitude(middle)) and bool(bend < 0.3 * straight)


def _require_every_scale(subject: Subject, policy: nn.Module) -> None:
    """Fail if a parameter moves the scale of some dimensions of an action, and of others none."""
    logits, _ = subject.sequence(subject.observations(), policy=policy, grad=True)
    for part in parts_of(subject.layout, logits):
        scale = getattr(part.logits_of(logits), "scale", None)
        if isinstance(scale, Tensor) and scale.requires_grad:
            _require_moving(subject, policy, part, scale.reshape(len(scale), -1))


def _require_moving(subject: Subject, policy: nn.Module, part: Part, scale: Tensor) -> None:
    parameters = list(trained_parameters(subject, policy).values())
    moves = []
    for column in scale.unbind(1):
        grads = torch.autograd.grad(column.sum(), parameters, retain_graph=True, allow_unused=True)
        moves.append(any(grad is not None and bool(grad.ne(0).any()) for grad in grads))
    if any(moves) and not all(moves):
        still = [number for number, moving in enumerate(moves) if not moving]
        raise CheckFailed(
            f"a scale{part} that can learn in every dimension of an action",
            f"no parameter moves it in dimensions {still}: detached, or outside the clamp",
            example=example("print(policy.forward_eval(observations, state)[0])"),
        )


@check(
    "N7",
    "reaches-every-answer",
    promise="Some steps of Adam on one batch bring any action to a probability of 90 %, means near "
    "both ends of a Box, and values to +3 and to -3.",
    why="A policy whose logits are squeezed, whose means end before the bounds, or whose choices "
    "share a head never takes the action that it should; values that can't be negative train on "
    "what they can't say.",
    fix="Give logits, means and values as a layer makes them, without softmax, tanh or ReLU; scale "
    "a tanh to the middle and half the width of the Box; a head for each choice. What is bounded "
    'on purpose is declared: {"bounded": ["values"]}, "actions" or "choices".',
    scope=Scope.MODULES,
    level=Level.ERROR,
    needs=("S2", "S8", "R6"),
)
def reaches_every_answer(subject: Subject) -> None:
    """Drive actions and values of one copy to one end, and those of another to the other."""
    _require_no_dead_number(subject)
    _require_apart(subject)
    observations = subject.observations()
    parts = parts_of(subject.layout, subject.step(observations)[0])
    for number in range(2):
        policy, goal = subject.copy_policy(), _Goal(subject, parts, number)
        parameters = [p for p in policy.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=FIT_RATE)
        distances: list[Tensor] = []
        for step in range(FIT_STEPS):
            logits, values = subject.sequence(observations, policy=policy, grad=True)
            optimizer.zero_grad()
            loss, distance = goal.loss(logits, values)
            distances.append(distance)
            if not bool(distance.any()) or (step % 20 == 19 and goal.is_stuck(distances[-20:])):
                break
            torch.autograd.backward(loss)
            optimizer.step()
        if failure := goal.failure(distances):
            raise CheckFailed(
                *failure,
                example=example("logits, values = subject.sequence(observations, grad=True)"),
            )


class _Goal:
    """An action and a value to reach, and how far each number of an answer is from them."""

    def __init__(self, subject: Subject, parts: list[Part], number: int) -> None:
        self.subject, self.sign = subject, 1 if number == 0 else -1
        # Of a type that holds both nobody knows the probability of the choices alone.
        self.parts = [each for each in parts if not each.is_mixed]
        bounded = subject.declared.get("bounded", ())
        self.wants_values = "values" not in bounded
        self.wants_actions = "actions" not in bounded
        self.wants_choices = "choices" not in bounded
        self.targets = [self._target(part.layout, number) for part in self.parts]

    def _target(self, layout: ActionLayout, number: int) -> Tensor:
        if layout.nvec:
            # The same for all choices, as agents that share weights have no places to go by.
            return (torch.tensor(layout.nvec) - 1) * number
        low, high = _near_bounds(layout)
        return high if self.sign > 0 else low

    def loss(self, logits: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what to minimize, and distances: of actions, then of the value.

        Real numbers of an action have a distance each, and the choices of a part one together.
        """
        # Adam aims a little further than what is asked, as it slows down where it ends.
        shortfall = (GOAL_VALUE - self.sign * values.reshape(-1)) * self.wants_values
        losses = [torch.relu(shortfall + BEYOND * self.wants_values).mean()]
        distances = []
        for part, target in zip(self.parts, self.targets, strict=True):
            dist = self.subject.distribution(part.logits_of(logits))
            goal = target.expand(values.numel(), -1)  # (N, D) or (N, K)
            reach = self._choose if part.layout.nvec else self._approach
            loss, gap = reach(dist, goal, part.layout.policy_shape)
            losses.append(loss)
            distances.append(gap)
        distances.append(torch.relu(shortfall).amax().reshape(1))
        return torch.stack(losses).sum(), torch.cat(distances).detach()

    def _approach(self, dist: Any, goal: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the loss and the distances (D,) of real numbers (N, D)."""
        mode = dist.mode().reshape(goal.shape)
        gap = torch.relu(self.sign * (goal - mode)) * self.wants_actions
        loss = gap.mean()
        if not mode.requires_grad and self.wants_actions:
            # Such as the middle of the likeliest bin: what is as likely is as good.
            gap = torch.where(_is_likely(dist, mode, goal, shape), torch.zeros_like(gap), gap)
            loss = -dist.log_prob(goal.reshape(-1, *shape)).mean()
        return loss, gap.amax(0)

    def _choose(self, dist: Any, goal: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the loss and the distance (1,) of choices (N, K)."""
        least = goal.shape[1] * math.log(GOAL_PROBABILITY)
        gap = (least - dist.log_prob(goal.reshape(-1, *shape))) * self.wants_choices
        loss = torch.relu(gap + BEYOND * -least * self.wants_choices).mean()
        return loss, torch.relu(gap.mean()).reshape(1)

    def is_stuck(self, distances: list[Tensor]) -> bool:
        """Whether nothing moved in some steps, neither nearer nor, for another's sake, away."""
        recent = torch.stack(distances)
        return bool((recent.amax(0) - recent.amin(0) <= 0.01 * recent.amax(0) + 1e-4).all())

    def failure(self, distances: list[Tensor]) -> tuple[str, str] | None:
        """Return what was to be reached and what was, or None."""
        rest, steps = distances[-1], len(distances)
        # A wide Box takes longer, and so does a trunk that stands still: what goes on at a good
        # pace is on its way. Of a probability half the way has to be done: temperature slows it.
        moved, late = distances[0] - rest, distances[-max(1, steps // 3)] - rest
        is_on_its_way = (late > 0.1 * moved) & (moved > 0) & (steps == FIT_STEPS)
        is_half_way = is_on_its_way & (moved > 0.5 * distances[0])
        first = 0
        for part, target in zip(self.parts, self.targets, strict=True):
            if part.layout.nvec:
                if rest[first] > 0 and not is_half_way[first]:
                    return self._unlikely(part, target, float(rest[first]), steps)
                first += 1
                continue
            for number, goal in enumerate(target.tolist()):
                gap = float(rest[first + number])
                if gap > 0 and not is_on_its_way[first + number]:
                    return (
                        f"the mean of dimension {number} of the action{part} near {goal:.3g}, "
                        "which is in the Box",
                        f"it ends at {goal - self.sign * gap:.3g} after {steps} steps",
                    )
            first += len(target)
        is_value_slow = (is_half_way if self.subject.layout.nvec else is_on_its_way)[-1]
        if rest[-1] > 0 and not is_value_slow:
            goal = self.sign * GOAL_VALUE
            reached = goal - self.sign * float(rest[-1])
            return f"values of {goal:+g}", f"{reached:+.3g} after {steps} steps"
        return None

    def _unlikely(self, part: Part, target: Tensor, gap: float, steps: int) -> tuple[str, str]:
        least = len(target) * math.log(GOAL_PROBABILITY)
        each = math.exp((least - gap) / len(target))
        return (
            f"a probability of {GOAL_PROBABILITY:.0%} for choices {target.tolist()}{part}",
            f"{each:.0%} after {steps} steps",
        )


@torch.no_grad()
def _is_likely(dist: Any, mode: Tensor, goal: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N, D): whether the goal is as likely as the mode and samples, in a dimension alone."""
    actions = [mode.reshape(-1, *shape), *draw(dist, MANY)]
    best = torch.stack([dist.log_prob(action) for action in actions]).amax(0)
    columns = []
    for number in range(mode.shape[1]):
        action = mode.clone()
        action[:, number] = goal[:, number]
        columns.append(dist.log_prob(action.reshape(-1, *shape)) > best - AS_LIKELY)
    return torch.stack(columns, 1)


def _require_no_dead_number(subject: Subject) -> None:
    """Fail if a logit, a mean or a value is cut off at a bound, where nothing can move it."""
    policy = perturbed_copy(subject)
    logits, values = subject.sequence(subject.observations(MANY), policy=policy, grad=True)
    outputs = [("value", values.reshape(MANY, -1))]
    for keys, leaf in leaves_of(logits):
        what = f"logit or mean{label(keys)}"
        outputs += [(what, tensor.reshape(MANY, -1)) for tensor in centers_of(leaf) or []]
    parameters = [p for p in policy.parameters() if p.requires_grad]
    declared = subject.declared.get("bounded", ())
    for what, columns in outputs:
        if ("values" if what == "value" else "actions") in declared or "choices" in declared:
            continue
        for number, column in enumerate(columns.unbind(1)):
            # What is cut off is the same number in several rows; a reference of 0 is so in all.
            numbers, places, counts = torch.unique(
                column.detach(), return_inverse=True, return_counts=True
            )
            rows = (counts[places] > 1).nonzero().flatten() if len(numbers) > 1 else []
            for row in [int(each) for each in rows if torch.isfinite(column[each])][:FEW_ROWS]:
                if not column.requires_grad:
                    break
                grads = torch.autograd.grad(
                    column[row], parameters, retain_graph=True, allow_unused=True
                )
                if not any(grad is not None and bool(grad.any()) for grad in grads):
                    raise CheckFailed(
                        f"every {what} to have a gradient for every observation",
                        f"number {number} is cut off at {float(column[row].detach()):.3g} in "
                        f"{int(counts[places[row]])} of {MANY} rows, where no weight moves it",
                        example=example(
                            "print(subject.sequence(observations, grad=True))", batch=MANY
                        ),
                    )


def _require_apart(subject: Subject) -> None:
    """Fail if no weight can move two choices, or two dimensions, in different ways.

    The first logit stands for a choice.
    """
    policy = perturbed_copy(subject)
    logits, _ = subject.sequence(subject.observations(MANY), policy=policy, grad=True)
    columns = {}
    for keys, leaf in leaves_of(logits):
        tensors, word = centers_of(leaf) or [], "choice"
        if isinstance(leaf, Normal):
            tensors, word = [*torch.split(leaf.loc.reshape(MANY, -1), 1, 1)], "dimension"
        for number, tensor in enumerate(tensors):
            columns[f"{word} {number}{label(keys)}"] = tensor[:, 0]
    columns = {name: each for name, each in columns.items() if each.requires_grad}
    if len(columns) < 2:
        return
    parameters = [p for p in policy.parameters() if p.requires_grad]
    with seeded(7):
        weights = torch.randn(MANY)
    gradients = []
    for column in itertools.islice(columns.values(), SEVERAL):
        loss = (column * weights).sum()
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(parameters, grads, strict=True)
        flat = [torch.zeros_like(p) if grad is None else grad for p, grad in pairs]
        gradients.append(torch.cat([each.reshape(-1).double() for each in flat]))
    for (i, one), (j, other) in itertools.combinations(zip(columns, gradients, strict=False), 2):
        cosine = torch.nn.functional.cosine_similarity(one, other, dim=0)
        if float(cosine.abs()) > 1 - 1e-6:
            raise CheckFailed(
                "choices and dimensions of an action that can be learned apart",
                f"every weight moves {i} and {j} alike: they share one number",
                example=example("print(policy.forward_eval(observations, state)[0])"),
            )


def _near_bounds(layout: ActionLayout) -> tuple[Tensor, Tensor]:
    """Return numbers near both ends of a Box, (D,); moderate ones where it has no end."""
    low, high = bounds_of_columns(layout)
    low = torch.where(torch.isinf(low), torch.where(torch.isinf(high), -FREE, high - 2 * FREE), low)
    high = torch.where(torch.isinf(high), low + 2 * FREE, high)
    margin = MARGIN * (high - low)
    return low + margin, high - margin
