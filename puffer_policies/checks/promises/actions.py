"""A: actions are members of the space, their log-probability is theirs, and masks are obeyed.

`B` rows, `D` dimensions of an action. Where logits are of a type that we know, sampling is ours and
only their parameters can be wrong. A type that a package registers brings its own sampling and
density, which is what A2, A3 and A6 are about. Action masks (A4, A5) are in masks.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, check
from puffer_policies.checks.probes.density import (
    InterdependentError,
    Slices,
    sampling_gap,
    total_mass,
)
from puffer_policies.checks.probes.outputs import draw
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import BATCH, Subject, seeded
from puffer_policies.checks.probes.tolerances import (
    ATOM,
    CHANGE,
    DENSITY,
    MASS,
    SAMPLING_GAP,
    difference,
    is_same,
)
from puffer_policies.checks.promises import masks
from puffer_policies.nn.distributions import Distribution, distribution

DRAWS = 200
"""Of B = 5 rows each: 1000 samples."""

OUTSIDE = 0.05
"""How far beyond a bound a sample lies whose density differs visibly from that of the bound."""

REGISTER = "Register the type with puffer_policies.nn.distributions.distribution.register"


def needs_numbers(subject: Subject) -> str:
    """Return why a check of densities does not apply, or ''."""
    return "" if subject.layout.is_continuous else "its actions are choices, not real numbers"


def _step(subject: Subject) -> tuple[Any, Distribution]:
    """Return the logits of one step of B rows in eval mode, and their distribution."""
    logits, _, _ = subject.step(subject.observations(), policy=subject.copy_policy())
    return logits, subject.distribution(logits)


@check(
    "A1",
    "samples-in-space",
    promise="A thousand samples, as the environment gets them, are members of the action space.",
    why="An environment gets an action that it does not have: it fails, or clips without a word.",
    fix="Sample 0..n-1 for a choice (the space's start is added later) and (N, *shape) floats for "
    "a Box.",
    level=Level.ERROR,
    needs=("S8", "R6"),
)
def samples_in_space(subject: Subject) -> None:
    """Sample, hand over as a rollout does, and ask the space."""
    _, dist = _step(subject)
    _require_members(subject, draw(dist, DRAWS).flatten(0, 1), "dist.sample()")


def _require_members(subject: Subject, actions: Tensor, call: str) -> None:
    layout, space = subject.layout, subject.spaces.action
    lines = example(
        "logits, values, _ = subject.step(observations)",
        f"dist = subject.distribution(logits); print({call}, spaces.action)",
    )
    if actions.is_floating_point() != layout.is_continuous:
        kind = "floating-point" if layout.is_continuous else "integer"
        raise CheckFailed(f"{kind} actions", f"{actions.dtype}", example=lines)
    shape = layout.policy_shape
    # Only the number of elements counts: to_env reshapes.
    if actions.shape[1:].numel() != int(np.prod(shape)):
        actual = f"actions of shape (N, {tuple(actions.shape[1:])})"
        raise CheckFailed(f"actions of shape (N, {shape})", actual, example=lines)
    members = layout.to_env(actions.numpy())
    strangers = [each for each in map(np.asarray, members) if not space.contains(each)]
    if strangers:
        actual = f"{len(strangers)} of {len(members)} are not, such as {strangers[0]!r}"
        raise CheckFailed(f"every action in {space}", actual, example=lines)


@check(
    "A2",
    "log-prob-of-the-sample",
    promise="The log-probability is that of the number that was drawn, not of its clipped self.",
    why="Clipping before the log-probability piles samples on the bounds, and the gradient is that "
    "of other actions than those taken.",
    fix="Sample and score unclipped numbers; clipping is the last thing before the environment.",
    applies=needs_numbers,
    needs=("S8", "R6"),
)
def log_prob_of_the_sample(subject: Subject) -> None:
    """Look for atoms on the bounds, and for a density that is flat beyond them."""
    _, dist = _step(subject)
    actions = draw(dist, DRAWS)  # (draws, B, *shape)
    scores = torch.stack([dist.log_prob(action) for action in actions])  # (draws, B)
    if not torch.isfinite(scores).all():
        raise CheckFailed(
            "a finite log-probability for every sample",
            f"{int((~torch.isfinite(scores)).sum())} of {scores.numel()} are not",
            example=_score_example(),
        )
    low, high = (
        torch.as_tensor(bound, dtype=actions.dtype)
        for bound in (subject.layout.low, subject.layout.high)
    )
    atoms = float(((actions == low) | (actions == high)).float().mean())
    if atoms > ATOM:
        actual = f"{atoms:.0%} of the samples are exactly on a bound"
        raise CheckFailed("samples that are not clipped", actual, example=_score_example())
    _require_slope(dist, actions, scores, actions.clamp(low, high))


def _require_slope(dist: Distribution, actions: Tensor, scores: Tensor, clipped: Tensor) -> None:
    """Refuse a log-probability that is the same for a sample outside the box and for its bound."""
    distance = (actions - clipped).abs().reshape(*scores.shape, -1).amax(-1)
    outside = distance > OUTSIDE
    if int(outside.sum()) < BATCH:
        return  # too few to tell
    other = torch.stack([dist.log_prob(action) for action in clipped])
    if difference(scores[outside], other[outside]) < CHANGE:
        actual = "samples outside the box have the log-probability of the bound nearest to them"
        raise CheckFailed("the density of the sample itself", actual, example=_score_example())


def _score_example() -> str:
    return example(
        "logits, values, _ = subject.step(observations)",
        "dist = subject.distribution(logits)",
        "action = dist.sample(); print(action, dist.log_prob(action))",
    )


@check(
    "A3",
    "deterministic-mode",
    promise="In evaluation mode the likeliest action is the same every time, and in the space.",
    why="An evaluation that draws lots, or leaves the space, measures another policy.",
    fix="Switch noise off in eval(), and let mode() return the likeliest action.",
    needs=("S8", "A1", "R6"),
)
def deterministic_mode(subject: Subject) -> None:
    """Ask twice for the mode, under two seeds."""
    observations, policy = subject.observations(), subject.copy_policy()
    modes = []
    for seed in (1, 2):
        with seeded(seed):
            logits, _, _ = subject.step(observations, policy=policy)
            modes.append(subject.distribution(logits).mode().detach())
    if not is_same(modes[0], modes[1]):
        raise CheckFailed(
            "the same most likely actions twice",
            f"they differ by {difference(modes[0], modes[1]):.3g}",
            example=example(
                "policy.eval()",
                "for _ in range(2):",
                "    logits, values, _ = subject.step(observations, policy=policy)",
                "    print(subject.distribution(logits).mode())",
            ),
        )
    _require_members(subject, modes[0], "dist.mode()")


@check(
    "A6",
    "density-integrates-to-one",
    promise="The density exp(log_prob) integrates to 1 and is that of the samples.",
    why="A squashed Gaussian without its Jacobian, or an own log_prob that nobody calls, trains "
    "with wrong ratios.",
    fix="Subtract log |dy/dx| of the squashing and scaling. " + REGISTER + ".",
    applies=needs_numbers,
    needs=("S8", "A2", "R6"),
)
def density_integrates(subject: Subject) -> None:
    """Integrate over a grid, one dimension after the other, and compare with samples."""
    logits, dist = _step(subject)
    _require_own_density(logits, dist)
    slices = Slices(dist, subject.layout)
    try:
        mass = total_mass(slices)
    except InterdependentError:
        raise CheckSkipped("its dimensions depend on each other: no grid can cover them") from None
    if not abs(mass) < MASS:
        raise CheckFailed(
            "a density that integrates to 1",
            f"it integrates to {np.exp(mass):.3g}",
            example=_score_example(),
        )
    gap = sampling_gap(slices)
    if not gap < SAMPLING_GAP:
        raise CheckFailed(
            "samples that follow the density",
            f"their cumulative distribution is off by {gap:.2f}",
            example=_score_example(),
        )


def _require_own_density(logits: Any, dist: Distribution) -> None:
    """Refuse a subclass of Normal whose own `log_prob` stays unused."""
    is_registered = distribution.dispatch(type(logits)) is not distribution.dispatch(Normal)
    if not isinstance(logits, Normal) or is_registered:
        return
    actions = draw(dist, 1)[0]
    own: Tensor = logits.log_prob(actions)  # type: ignore[no-untyped-call]
    own = own.reshape(len(actions), -1).sum(-1)
    if not is_same(dist.log_prob(actions), own, DENSITY):
        gap = difference(own, dist.log_prob(actions))
        raise CheckFailed(
            f"the log_prob of {type(logits).__name__} itself",
            f"its log_prob differs by {gap:.3g} from the one in use. {REGISTER}",
            example=_score_example(),
        )


CHECKS = (
    samples_in_space,
    log_prob_of_the_sample,
    deterministic_mode,
    masks.masked_actions_never_happen,
    masks.mask_in_rollout_and_update,
    density_integrates,
)
