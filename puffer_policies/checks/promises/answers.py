"""N: a policy can come to give every answer: any action, and values of both signs.

`B` rows, `T` steps. What ``declared["bounded"]`` names is left out. `numerics.CHECKS` lists this
check with the others of the family.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from puffer_policies.checks.model import CheckFailed, Level, Scope, check
from puffer_policies.checks.probes.outputs import draw
from puffer_policies.checks.probes.parts import (
    Part,
    bounds_of_columns,
    centers_of,
    label,
    leaves_of,
    parts_of,
)
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import Subject, seeded
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.spaces import ActionLayout

FIT_STEPS, FIT_RATE = 120, 2e-2
"""Most steps of Adam towards one goal. A policy of 16 units takes some 20."""

GOAL_PROBABILITY, GOAL_VALUE = 0.9, 3.0
"""Of each choice, and of the sum of rewards. A tanh reaches 1; rewards of 1 sum up to more."""

BEYOND = 0.5
"""How much further it is driven: values by as much, and half of what probabilities lack to 1."""

FREE, MARGIN = 2.0, 0.05
"""How far means have to reach where a Box has no bounds; and, as a share of its width, how near to
them where it has some."""

AS_LIKELY = math.log(1.1)
"""Nats by which the likeliest action may be likelier than what counts as another one."""

MANY, FEW_ROWS, SEVERAL = 32, 3, 8
"""Rows in which a number that is cut off shows, how many of those are looked at, and how many
choices or dimensions are compared with each other."""


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
