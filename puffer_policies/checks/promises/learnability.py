"""N: every parameter of a policy can learn: gradients, and what cuts them off.

`B` rows, `T` steps. ``declared["frozen"]`` lists patterns of parameters that get no gradient, and
``detached`` of those that the actor's loss does not reach. `numerics.CHECKS` lists this check with
the others of the family.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, Level, check
from puffer_policies.checks.probes.bandits import first_epoch_loss
from puffer_policies.checks.probes.outputs import describe
from puffer_policies.checks.probes.parts import (
    Part,
    parts_of,
)
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import STEPS, Subject, seeded
from puffer_policies.checks.probes.tolerances import magnitude
from puffer_policies.checks.probes.weights import perturbed_copy, trained_parameters

FIRST_UPDATES = 4
"""Updates within which a weight that starts at 0 gets its first gradient, however deep it lies."""

EQUAL_UNITS = 1e-6
"""Up to which rows of a weight or of its gradient are equal: a share of the largest number."""

MOVE, LEAST_EFFECT = 1e-2, 1e-5
"""How far weights are moved that got no gradient, and what is an effect of it."""


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
