"""Checks of actions: that they are members of the space, and that their log-probability is theirs.

`B` rows, `D` dimensions of an action. Where logits are of a type that we know, sampling is ours and
only their parameters can be wrong; a type that a package registers brings its own sampling and
density, which is what A2, A3 and A6 are about.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from puffer_policies.checks.model import CheckFailed, CheckSkipped, check
from puffer_policies.checks.probes.density import (
    InterdependentError,
    Slices,
    sampling_gap,
    total_mass,
)
from puffer_policies.checks.probes.outputs import draws, example, still
from puffer_policies.checks.probes.subject import BATCH, Subject, difference, seeded
from puffer_policies.checks.promises import masks
from puffer_policies.nn.distributions import Distribution, distribution

DRAWS = 200
"""Of B = 5 rows each: 1000 samples."""

ATOM = 0.01
"""Share of samples on the very bounds of a Box that no density without atoms explains."""

MASS_TOLERANCE = 0.03
"""What integrating over a grid in float32 may miss, in log of the total."""

GAP_TOLERANCE = 0.06
"""Largest gap between two cumulative distributions that chance explains at 2000 draws."""

REGISTER = "Register the type with puffer_policies.nn.distributions.distribution.register"


def _discrete_only(subject: Subject) -> str:
    return "" if subject.layout.is_continuous else "its actions are choices, not real numbers"


def _dist(subject: Subject) -> tuple[Any, Distribution]:
    """Return the logits of one step of B rows in evaluation mode, and their distribution."""
    logits, _, _ = subject.step(subject.observations(), policy=still(subject))
    return logits, subject.distribution(logits)


@check(
    "A1",
    "samples-in-space",
    promise="A thousand samples, as the environment gets them, are members of the action space.",
    why="An environment gets an action that it does not have: it fails, or clips without a word.",
    fix="Sample 0..n-1 for a choice (the space's start is added later) and (N, *shape) floats for "
    "a Box.",
)
def samples_in_space(subject: Subject) -> None:
    """Sample, hand over as a rollout does, and ask the space."""
    _, dist = _dist(subject)
    _require_members(subject, draws(dist, DRAWS).flatten(0, 1), "dist.sample()")


def _require_members(subject: Subject, actions: Tensor, call: str) -> None:
    layout, space = subject.layout, subject.spaces.action
    lines = (
        "logits, values, _ = subject.step(observations)",
        f"dist = subject.distribution(logits); print({call}, spaces.action)",
    )
    if actions.is_floating_point() != layout.is_continuous:
        kind = "floating-point" if layout.is_continuous else "integer"
        raise CheckFailed(f"{kind} actions", f"{actions.dtype}", example=example(*lines))
    wanted = (*_policy_shape(subject),)
    if actions.shape[1:].numel() != int(np.prod(wanted)):
        found = f"actions of shape (N, {tuple(actions.shape[1:])})"
        raise CheckFailed(f"actions of shape (N, {wanted})", found, example=example(*lines))
    members = layout.to_env(actions.numpy())
    strange = [each for each in map(np.asarray, members) if not space.contains(each)]
    if strange:
        found = f"{len(strange)} of {len(members)} are not, such as {strange[0]!r}"
        raise CheckFailed(f"every action in {space}", found, example=example(*lines))


def _policy_shape(subject: Subject) -> tuple[int, ...]:
    layout = subject.layout
    if layout.is_continuous:
        return layout.shape
    return () if layout.kind == "discrete" else (len(layout.nvec),)


@check(
    "A2",
    "log-prob-of-the-sample",
    promise="The log-probability is that of the number that was drawn, not of its clipped self.",
    why="Clipping before the log-probability piles samples on the bounds, and the gradient is that "
    "of other actions than those taken.",
    fix="Sample and score unclipped numbers; clipping is the last thing before the environment.",
    applies=_discrete_only,
)
def log_prob_of_the_sample(subject: Subject) -> None:
    """Look for atoms on the bounds, and for a density that is flat beyond them."""
    _, dist = _dist(subject)
    actions = draws(dist, DRAWS)  # (draws, B, *shape)
    scores = torch.stack([dist.log_prob(action) for action in actions])  # (draws, B)
    if not torch.isfinite(scores).all():
        raise CheckFailed(
            "a finite log-probability for every sample",
            f"{int((~torch.isfinite(scores)).sum())} of {scores.numel()} are not",
            example=_score_example(),
        )
    low, high = (_bound(bound, actions) for bound in (subject.layout.low, subject.layout.high))
    atoms = float(((actions == low) | (actions == high)).float().mean())
    if atoms > ATOM:
        found = f"{atoms:.0%} of the samples are exactly on a bound"
        raise CheckFailed("samples that are not clipped", found, example=_score_example())
    _require_slope(dist, actions, scores, actions.clamp(low, high))


def _bound(bound: np.ndarray | None, actions: Tensor) -> Tensor:
    return torch.as_tensor(bound, dtype=actions.dtype)


def _require_slope(dist: Distribution, actions: Tensor, scores: Tensor, clipped: Tensor) -> None:
    """Refuse a log-probability that is the same for a sample outside the box and for its bound."""
    distance = (actions - clipped).abs().reshape(*scores.shape, -1).amax(-1)
    outside = distance > 0.05
    if int(outside.sum()) < BATCH:
        return
    other = torch.stack([dist.log_prob(action) for action in clipped])
    if difference(scores[outside], other[outside]) < 1e-6:
        found = "samples outside the box have the log-probability of the bound nearest to them"
        raise CheckFailed("the density of the sample itself", found, example=_score_example())


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
)
def deterministic_mode(subject: Subject) -> None:
    """Ask twice for the mode, under two seeds."""
    observations, policy = subject.observations(), still(subject)
    modes = []
    for seed in (1, 2):
        logits, _, _ = _seeded_step(subject, policy, observations, seed)
        modes.append(_seeded_mode(subject.distribution(logits), seed))
    if difference(*modes) > 1e-5:
        raise CheckFailed(
            "the same most likely actions twice",
            f"they differ by {difference(*modes):.3g}",
            example=example(
                "policy.eval()",
                "for _ in range(2):",
                "    logits, values, _ = subject.step(observations, policy=policy)",
                "    print(subject.distribution(logits).mode())",
            ),
        )
    _require_members(subject, modes[0], "dist.mode()")


def _seeded_step(subject: Subject, policy: Any, observations: Any, seed: int) -> Any:
    with seeded(seed):
        return subject.step(observations, policy=policy)


def _seeded_mode(dist: Distribution, seed: int) -> Tensor:
    with seeded(seed):
        return dist.mode().detach()


@check(
    "A6",
    "density-integrates-to-one",
    promise="The density exp(log_prob) integrates to 1 and is that of the samples.",
    why="A squashed Gaussian without its Jacobian, or an own log_prob that nobody calls, trains "
    "with wrong ratios.",
    fix="Subtract log |dy/dx| of the squashing and scaling. " + REGISTER + ".",
    applies=_discrete_only,
)
def density_integrates(subject: Subject) -> None:
    """Integrate over a grid, one dimension after the other, and compare with samples."""
    logits, dist = _dist(subject)
    _require_own_density(logits, dist)
    slices = Slices(dist, subject.layout)
    try:
        mass = total_mass(slices)
    except InterdependentError:
        raise CheckSkipped("its dimensions depend on each other: no grid can cover them") from None
    if not abs(mass) < MASS_TOLERANCE:
        raise CheckFailed(
            "a density that integrates to 1",
            f"it integrates to {np.exp(mass):.3g}",
            example=_score_example(),
        )
    gap = sampling_gap(slices)
    if not gap < GAP_TOLERANCE:
        raise CheckFailed(
            "samples that follow the density",
            f"their cumulative distribution is off by {gap:.2f}",
            example=_score_example(),
        )


def _require_own_density(logits: Any, dist: Distribution) -> None:
    """Refuse a subclass of Normal whose own `log_prob` stays unused."""
    registered = distribution.dispatch(type(logits)) is not distribution.dispatch(Normal)
    if not isinstance(logits, Normal) or registered:
        return
    actions = draws(dist, 1)[0]
    own: Tensor = logits.log_prob(actions)  # type: ignore[no-untyped-call]
    own = own.reshape(len(actions), -1).sum(-1)
    gap = difference(own, dist.log_prob(actions))
    if gap > 1e-3 * max(1.0, float(own.abs().max())):
        raise CheckFailed(
            f"the log_prob of {type(logits).__name__} itself",
            f"its log_prob differs by {gap:.3g} from the one in use. {REGISTER}",
            example=_score_example(),
        )


CHECKS = (
    samples_in_space,
    log_prob_of_the_sample,
    deterministic_mode,
    *masks.CHECKS,
    density_integrates,
)
