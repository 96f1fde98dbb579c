"""A: actions are members of the space, their log-probability is theirs, and masks are obeyed.

`B` rows, `D` dimensions of an action. Where logits are of a type that we know, sampling is ours and
only their parameters can be wrong. A type that a package registers brings its own sampling and
density, which is what A2, A3 and A6 are about. Action masks (A4, A5) are in masks.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, check
from puffer_policies.checks.probes.density import (
    InterdependentError,
    Slices,
    largest_correlation,
    sampling_gap,
    total_mass,
)
from puffer_policies.checks.probes.outputs import draw, log_probs
from puffer_policies.checks.probes.parts import (
    Part,
    bounds_of_columns,
    label,
    names_of_columns,
    options_of,
    parts_of,
)
from puffer_policies.checks.probes.rollouts import select
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import BATCH, Subject, seeded
from puffer_policies.checks.probes.tolerances import (
    ATOM,
    CHANGE,
    CORRELATION,
    DENSITY,
    ENTROPY,
    MASS,
    PRECISION,
    SAMPLING_GAP,
    difference,
    is_same,
)
from puffer_policies.checks.probes.weights import opinionated_copy, perturbed_copy
from puffer_policies.checks.promises import masks
from puffer_policies.nn.distributions import Distribution, Product, distribution
from puffer_policies.spaces import ActionLayout

DRAWS, FAR_APART = 200, 0.3
"""Of B = 5 rows each: 1000 samples; and by how many deviations their moments are others."""

CHOICE_DRAWS, OPTIONS = 2000, 16
"""Draws whose shares are compared with probabilities, as SAMPLING_GAP asks for; options of a choice
that are compared one by one, and the square of that is most actions in all."""

LIKELIER = 1e-4
"""Nats by which rounding can make another option likelier than the mode."""

TAIL = 0.02
"""Share of the samples beyond a mode that is nowhere near their middle."""

MARKED, LEAST_SHARE, MOST_SHARE = 0.1, 0.3, 1.6
"""A fall of the entropy, in nats, that is compared with that of the mean of -log_prob, and the
shares of it that the latter may have: half, where a bound stands for the entropy of a mixture."""

NARROWING = 0.3
"""How far weights are moved against the entropy: a log_std by as much."""

OUTSIDE = 0.05
"""How far beyond a bound a sample lies whose density differs visibly from that of the bound."""

ANEW, CERTAIN = 40, 0.3
"""Distributions of equal logits that are sampled, and the entropy that such samples need to differ
in some: of two options, one of which has 9 %."""

REGISTER = "Register the type with puffer_policies.nn.distributions.distribution.register"


def needs_numbers(subject: Subject) -> str:
    """Return why a check of densities does not apply, or ''."""
    return "" if subject.layout.num_reals else "its actions are choices, not real numbers"


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
    is_real = np.issubdtype(layout.policy_dtype, np.floating)
    if actions.is_floating_point() != is_real:
        kind = "floating-point" if is_real else "integer"
        raise CheckFailed(f"{kind} actions", f"{actions.dtype}", example=lines)
    shape = layout.policy_shape
    # Only the number of elements counts: to_env reshapes.
    if actions.shape[1:].numel() != int(np.prod(shape)):
        actual = f"actions of shape (N, {tuple(actions.shape[1:])})"
        raise CheckFailed(f"actions of shape (N, {shape})", actual, example=lines)
    if layout.parts:
        _require_options(layout, actions, lines)
    _require_members_of(space, layout.to_env(actions.numpy()), (), lines)


def _require_members_of(space: Any, members: Any, keys: tuple[Any, ...], lines: str) -> None:
    """Ask the space of each part about its members, (N, *shape) in every leaf."""
    if isinstance(members, dict | tuple):
        parts = members if isinstance(members, dict) else dict(enumerate(members))
        for key, each in parts.items():
            _require_members_of(space[key], each, (*keys, key), lines)
        return
    strangers = [each for each in map(np.asarray, members) if not space.contains(each)]
    if strangers:
        actual = f"{len(strangers)} of {len(members)} are not, such as {strangers[0]!r}"
        raise CheckFailed(f"every action{label(keys)} in {space}", actual, example=lines)


def _require_options(layout: ActionLayout, actions: Tensor, lines: str) -> None:
    """Refuse a number between options, which is cut off on its way to the env."""
    columns = actions.reshape(len(actions), -1).unbind(1)
    for column, options, name in zip(
        columns, options_of(layout), names_of_columns(layout), strict=True
    ):
        between = column[column != column.round()]
        if options and len(between):
            text = f"{len(between)} of {len(column)} lie between options"
            actual = f"{text}, such as {float(between[0]):.3g}"
            raise CheckFailed(f"an option as {name} of every action", actual, example=lines)


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
    logits, _ = _step(subject)
    for part in parts_of(subject.layout, logits):
        if part.layout.num_reals:
            _require_unclipped(part, subject.distribution(part.logits_of(logits)))


def _require_unclipped(part: Part, dist: Distribution) -> None:
    actions = draw(dist, DRAWS)  # (draws, B, *shape)
    scores = torch.stack([dist.log_prob(action) for action in actions])  # (draws, B)
    if not torch.isfinite(scores).all():
        raise CheckFailed(
            f"a finite log-probability for every sample{part}",
            f"{int((~torch.isfinite(scores)).sum())} of {scores.numel()} are not",
            example=_score_example(),
        )
    low, high = (each.to(actions.dtype) for each in bounds_of_columns(part.layout))
    columns = actions.flatten(2) if actions.ndim > 2 else actions.unsqueeze(2)  # (draws, B, A)
    atoms = float(((columns == low) | (columns == high)).float().mean())
    if atoms > ATOM:
        actual = f"{atoms:.0%} of the samples are exactly on a bound"
        raise CheckFailed(f"samples{part} that are not clipped", actual, example=_score_example())
    _require_slope(part, dist, actions, scores, columns.clamp(low, high).reshape(actions.shape))


def _require_slope(
    part: Part, dist: Distribution, actions: Tensor, scores: Tensor, clipped: Tensor
) -> None:
    """Refuse a log-probability that is the same for a sample outside the box and for its bound."""
    distance = (actions - clipped).abs().reshape(*scores.shape, -1).amax(-1)
    outside = distance > OUTSIDE
    if int(outside.sum()) < BATCH:
        return  # too few to tell
    other = torch.stack([dist.log_prob(action) for action in clipped])
    if difference(scores[outside], other[outside]) < CHANGE:
        actual = "samples outside the box have the log-probability of the bound nearest to them"
        expected = f"the density{part} of the sample itself"
        raise CheckFailed(expected, actual, example=_score_example())


def _score_example() -> str:
    return example(
        "logits, values, _ = subject.step(observations)",
        "dist = subject.distribution(logits)",
        "action = dist.sample(); print(action, dist.log_prob(action))",
    )


@check(
    "A3",
    "deterministic-mode",
    promise="In evaluation mode the likeliest action is the same every time, in the space, and as "
    "likely as any other by its own log_prob.",
    why="An evaluation that draws lots, leaves the space or takes an unlikely action measures "
    "another policy.",
    fix="Switch noise off in eval(), and let mode() return the likeliest action.",
    needs=("S8", "A1", "R6", "S5"),
)
def deterministic_mode(subject: Subject) -> None:
    """Ask twice for the mode, under two seeds, then for the likelihood of other actions."""
    observations, policy = subject.observations(), opinionated_copy(subject)
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
    _require_own_modes(subject, policy, modes[0])
    for part in parts_of(subject.layout, logits):
        _require_likely(part, subject.distribution(part.logits_of(logits)))


def _require_own_modes(subject: Subject, policy: nn.Module, modes: Tensor) -> None:
    """Ask for the mode of each row alone, which no other row can have changed."""
    observations = subject.observations()
    for row, mode in enumerate(modes):
        alone = select(observations, [row])
        logits, _, _ = subject.step(alone, policy=policy)
        other = subject.distribution(logits).mode().detach()[0]
        if not is_same(other, mode, subject.tolerance(PRECISION)):
            raise CheckFailed(
                "the same most likely action of a row alone and among others",
                f"they differ by {difference(other, mode):.3g} in row {row}",
                example=_mode_example(),
            )


def _require_likely(part: Part, dist: Distribution) -> None:
    """Compare with each other option of each choice; of reals, with the middle of the samples."""
    mode = dist.mode().detach()
    best, columns = dist.log_prob(mode), options_of(part.layout)
    for place, options in enumerate(columns):
        for option in range(min(options, OPTIONS)):
            other = mode.reshape(BATCH, -1).clone()
            other[:, place] = option
            gain = float((dist.log_prob(other.reshape(mode.shape)) - best).detach().max())
            if gain > LIKELIER:
                raise CheckFailed(
                    "a mode that is at least as likely as any other action",
                    f"option {option} of choice {place}{part} is likelier by {gain:.2g} nats",
                    example=_mode_example(),
                )
    if any(columns):
        return
    samples = draw(dist, DRAWS)
    below = (samples < mode).double().mean(0)
    # The tanh of a mean is not quite the mode of its density, and a usual stand-in.
    is_off = ((below < TAIL) | (below > 1 - TAIL)).reshape(BATCH, -1).any(1)
    scores = torch.stack([dist.log_prob(action) for action in samples]).median(0).values
    if bool((is_off & (best < scores)).any()):
        raise CheckFailed(
            f"a mode{part} among its samples, or likelier than most",
            f"{float(torch.minimum(below, 1 - below).min()):.1%} of the samples are beyond it",
            example=_mode_example(),
        )


def _mode_example() -> str:
    return example(
        "logits, _, _ = subject.step(observations)",
        "dist = subject.distribution(logits)",
        "print(dist.log_prob(dist.mode()), [dist.log_prob(dist.sample()) for _ in range(5)])",
    )


@check(
    "A6",
    "density-integrates-to-one",
    promise="The density exp(log_prob) integrates to 1 and is that of the samples; the entropy is "
    "that of the density, or at least falls where the samples come closer.",
    why="A squashed Gaussian without its Jacobian, samples of another temperature, or an own "
    "log_prob that nobody calls, train with wrong ratios; an entropy of the wrong sign rewards "
    "certainty.",
    fix="Subtract log |dy/dx| of the squashing and scaling; sample, score and sum up the entropy "
    "from the same probabilities. " + REGISTER + ".",
    needs=("S8", "A2", "R6"),
)
def density_integrates(subject: Subject) -> None:
    """Integrate over a grid, one dimension after the other, and compare with samples."""
    _require_new_draws(subject)
    _require_entropy_gradient(subject)
    logits, _ = _step(subject)
    reasons = [_reason_to_skip(subject, part) for part in parts_of(subject.layout, logits)]
    if all(reasons):
        raise CheckSkipped(reasons[0])


def _reason_to_skip(subject: Subject, part: Part) -> str:
    """Judge one part of an action; return why that can't be done, or ''."""
    if part.is_mixed:
        return "its choices and real numbers are one type, which no sum or integral takes apart"
    try:
        if part.layout.nvec:
            _require_consistent_choices(subject, part)
        else:
            _require_density(subject, part)
    except CheckSkipped as reason:
        return str(reason)
    return ""


def _require_density(subject: Subject, part: Part) -> None:
    _require_entropy_of_spread(subject, part)
    logits = part.logits_of(_step(subject)[0])
    dist = subject.distribution(logits)
    _require_own_density(logits, dist)
    slices = Slices(dist, part.layout, partial(log_probs, subject, logits))
    try:
        mass = total_mass(slices)
    except InterdependentError:
        raise CheckSkipped("its dimensions depend on each other: no grid can cover them") from None
    if not abs(mass) < MASS:
        raise CheckFailed(
            f"a density{part} that integrates to 1",
            f"it integrates to {np.exp(mass):.3g}",
            example=_score_example(),
        )
    gap = sampling_gap(slices)
    if not gap < SAMPLING_GAP:
        raise CheckFailed(
            f"samples{part} that follow the density",
            f"their cumulative distribution is off by {gap:.2f}",
            example=_score_example(),
        )
    correlation = largest_correlation(slices)
    if not correlation < CORRELATION:
        raise CheckFailed(
            f"samples{part} whose dimensions are independent, as in the density",
            f"two of them have a correlation of {correlation:.2f}",
            example=_score_example(),
        )


def _require_new_draws(subject: Subject) -> None:
    """Sample from equal logits, each time by a new distribution, as one step after the other does.

    The rows observe the same, and draw apart all the same.
    """
    first = subject.observations(1)
    observations = select(first, [0] * BATCH)
    whole, _, _ = subject.step(observations, policy=subject.copy_policy())
    for part in parts_of(subject.layout, whole):
        _require_new_draws_of(subject, part, part.logits_of(whole))


def _require_new_draws_of(subject: Subject, part: Part, logits: Any) -> None:
    dist = subject.distribution(logits)
    if _is_ours(dist):
        return
    if part.layout.nvec and not bool((dist.entropy() > CERTAIN).all()):
        return  # of a certain choice there is but one draw
    with seeded(0):
        draws = torch.stack([subject.distribution(logits).sample() for _ in range(ANEW)])
    for what, where, draw_of_other in (
        ("a new draw at every step", "steps draw", draws[:1]),
        ("a draw of its own for every row", "rows draw", draws[:, :1]),
    ):
        if bool((draws == draw_of_other).all()):
            raise CheckFailed(
                what,
                f"all {where} the same{part} from equal observations",
                fix="Draw from torch's global generator, or the one that sample() is given, "
                "numbers of the shape of the action, (N, ...).",
                example=example(
                    "for _ in range(5):",
                    "    logits, values, _ = subject.step(observations)",
                    "    print(subject.distribution(logits).sample())",
                ),
            )


def _require_entropy_gradient(subject: Subject) -> None:
    """Fail if the entropy follows the weights, and no gradient says so."""
    observations = subject.observations()
    logits_of = [
        subject.sequence(observations, policy=policy, grad=True)[0]
        for policy in (subject.copy_policy(), perturbed_copy(subject))
    ]
    for part in parts_of(subject.layout, logits_of[0]):
        answers = [subject.distribution(part.logits_of(logits)).entropy() for logits in logits_of]
        if any(each.requires_grad for each in answers) or difference(*answers) <= CHANGE:
            continue
        raise CheckFailed(
            f"a gradient of the entropy{part}",
            "it follows the weights, and is detached from them",
            fix="Compute the entropy from the logits with gradient: its bonus is a part of the "
            "loss.",
            example=example(
                "logits, _ = subject.sequence(observations, grad=True)",
                "print(subject.distribution(logits).entropy().requires_grad)",
            ),
        )


def _is_ours(dist: Distribution) -> bool:
    if type(dist) is Product:
        return all(map(_is_ours, dist.parts))
    return type(dist).__module__ == distribution.__module__


def _require_consistent_choices(subject: Subject, part: Part) -> None:
    """Sum probabilities, and compare them with samples and the entropy, of a registered type."""
    policy = opinionated_copy(subject)
    logits, _, _ = subject.step(subject.observations(), policy=policy)
    dist = subject.distribution(part.logits_of(logits))
    if _is_ours(dist):
        raise CheckSkipped("its choices are sampled, scored and summed up by this package")
    options = list(itertools.product(*map(range, part.layout.nvec)))[: OPTIONS**2]
    if len(options) < math.prod(part.layout.nvec):
        raise CheckSkipped("it has too many actions to sum up")
    shape = (BATCH, *part.layout.policy_shape)
    actions = [torch.tensor(each).expand(BATCH, -1).reshape(shape) for each in options]
    scores = torch.stack([dist.log_prob(each) for each in actions], 1)
    probabilities = scores.detach().exp().double()  # (B, all actions)
    draws = draw(dist, CHOICE_DRAWS).reshape(CHOICE_DRAWS, BATCH, 1, -1).long()
    is_drawn = (draws == torch.tensor(options)).all(-1)  # (draws, B, all actions)
    gap = float((is_drawn.double().mean(0) - probabilities).abs().max())
    entropy = torch.special.entr(probabilities).sum(1)
    off = difference(dist.entropy().detach().double(), entropy)
    mass = float((probabilities.sum(1) - 1).abs().max())
    for expected, actual, is_good in (
        (f"probabilities{part} that sum to 1", f"a sum off by {mass:.2g}", mass < ENTROPY),
        (
            f"samples{part} as likely as log_prob says",
            f"shares off by {gap:.2f}",
            gap < SAMPLING_GAP,
        ),
        (f"the entropy of these probabilities{part}", f"it is off by {off:.2g}", off < ENTROPY),
    ):
        if not is_good:
            raise CheckFailed(expected, actual, example=_score_example())


def _require_entropy_of_spread(subject: Subject, part: Part) -> None:
    """Move weights so that the entropy falls: the samples must not spread out.

    The deviation of samples with several modes may rise meanwhile. Their surprise tells, the mean
    of -log_prob, which is an entropy too.
    """
    policy = subject.copy_policy()
    observations = subject.observations()

    low, high = (each.reshape(part.layout.shape) for each in bounds_of_columns(part.layout))
    is_bounded = True

    def spread_and_entropy() -> tuple[float, float, Tensor]:
        nonlocal is_bounded
        logits, _ = subject.sequence(observations, policy=policy, grad=True)
        logits = part.logits_of(logits)
        dist = subject.distribution(logits)
        actions = draw(dist, DRAWS)
        is_bounded &= bool(((actions >= low) & (actions <= high)).all())
        surprise = -log_probs(subject, logits, actions).detach().mean()
        spread = actions.double().std(0).log().mean()
        return float(spread), float(surprise), dist.entropy().mean()

    spread, surprise, entropy = spread_and_entropy()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    if not entropy.requires_grad:
        return  # a scale that is fixed, or _require_entropy_gradient has told
    grads = torch.autograd.grad(entropy, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                parameter.sub_(NARROWING * grad.sign() * (grad.abs() > CHANGE))
    narrow, surprise_after, after = spread_and_entropy()
    fall = float((entropy - after).detach())
    # Of a bounded density the entropy before the bounds is a usual stand-in.
    share = (surprise - surprise_after) / fall if fall > MARKED and not is_bounded else 1.0
    if not LEAST_SHARE < share < MOST_SHARE:
        raise CheckFailed(
            f"an entropy{part} that moves with the mean of -log_prob",
            f"it fell by {fall:.2g}, and that by {surprise - surprise_after:.2g}",
            example=_score_example(),
        )
    if fall > 0.05 and narrow > spread + 0.05 and surprise_after > surprise + 0.05:
        raise CheckFailed(
            f"an entropy{part} that falls where samples come closer",
            f"it fell by {fall:.2g}, and their deviation rose "
            f"{math.exp(narrow - spread):.2f} times",
            example=_score_example(),
        )


def _require_own_density(logits: Any, dist: Distribution) -> None:
    """Refuse a subclass of Normal whose own `log_prob` or samples stay unused."""
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
    if all(getattr(type(logits), name) is getattr(Normal, name) for name in ("sample", "rsample")):
        return
    sample: Callable[[], Tensor] = logits.sample
    with seeded(0):
        theirs = torch.stack([sample() for _ in range(DRAWS)]).double()
    ours = draw(dist, DRAWS).double()
    gap = max(difference(theirs.mean(0), ours.mean(0)), difference(theirs.std(0), ours.std(0)))
    if gap > FAR_APART * float(ours.std(0).max()):
        raise CheckFailed(
            f"the samples of {type(logits).__name__} itself",
            f"their means or deviations differ by {gap:.2g} from those in use. {REGISTER}",
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
