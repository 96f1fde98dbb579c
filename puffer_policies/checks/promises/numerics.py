"""N: NaN stays visible, extremes stay finite, scales positive, float32 near float64.

`B` rows, `T` steps. First weights (N4, N5), gradients (N6), answers (N7) have own files.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Scope, check
from puffer_policies.checks.probes.edges import filled
from puffer_policies.checks.probes.outputs import describe, draw, not_finite, sum_of_outputs
from puffer_policies.checks.probes.parts import (
    Part,
    centers_of,
    choices_of,
    parts_of,
    tensors_of,
)
from puffer_policies.checks.probes.rollouts import select, sequence_state, to_double
from puffer_policies.checks.probes.snippets import error_line, example
from puffer_policies.checks.probes.subject import BATCH, Subject
from puffer_policies.checks.probes.tolerances import (
    CHANGE,
    LIMIT,
    PRECISION,
    difference,
    is_same,
    magnitude,
)
from puffer_policies.checks.probes.weights import flat_gradients
from puffer_policies.checks.promises import answers, first_weights, learnability
from puffer_policies.checks.promises.padding import masks_of
from puffer_policies.spaces.nested import leaves, map_nested, names_of

FEW = 2
"""Rows with which each weight is tried."""

HUGE = 1e30
"""Stands for a number so large that an infinity should act alike; its square overflows float32."""

HALFWAY, SLOW = 1e10, 100.0
"""A number on the way there, and by what less than `HUGE` grows what grows like a logarithm."""

LITTLE = 1e-6
"""By what share numbers are moved that only a code can be blind to."""

LARGE_OBSERVATION = 1e6

LONG, LONG_IMAGES = 1024, 64
MANY_NUMBERS = 1000
"""Observations of more numbers than this get `LONG_IMAGES` steps instead of `LONG`: a convolution
over 1024 images takes seconds."""

MOST_GROWTH = 100.0
"""By how much a state may grow in the second half of a long sequence. What counts steps doubles."""

CERTAIN, DOUBLINGS = 200.0, 24
"""How far logits are driven apart, as exp(-200) is 0 in float32, and by how many doublings."""

DRIVE = 200.0
"""What is added to the parameters of a scale: exp(200) and exp(-200) leave the range of float32."""


# -- NaN and infinity ------------------------------------------------------------------------------


@check(
    "N1",
    "nan-stays-visible",
    promise="A NaN in an observation or a weight raises or makes NaN of what depends on it; an "
    "infinity does so too, or acts as a very large number.",
    why="A NaN that is turned into an ordinary action hides a broken sensor or a diverged run.",
    fix="Drop nan_to_num and its like; raise with the name of the layer, or let the NaN through.",
    needs=("S8", "R6"),
    scope=Scope.OBSERVATIONS,
)
def nan_stays_visible(subject: Subject) -> None:
    """Poison the first row of each observation leaf, then each weight.

    Guards against NaN in encoders and heads show by a comparison with the answer to clean numbers.
    """
    policy, observations = subject.copy_policy(), subject.observations()
    clean = _answer(subject, policy, observations)
    floats = [leaf.is_floating_point() for leaf in leaves(observations)]
    # A comparison makes a flag of what hides rows, and NaN is neither larger nor smaller.
    masks = {mask.name for mask in masks_of(subject.spaces.observation)}
    are_flags = [name in masks for name in names_of(observations)]
    poisoned = [index for index, is_float in enumerate(floats) if is_float and not are_flags[index]]
    hidden = []
    for index in poisoned:
        dirty = _poison(observations, index, float("nan"), whole=True)
        where = "observations[0]" if len(floats) == 1 else f"leaf {index} of observations[0]"
        try:
            _require_visible(subject, policy, dirty, clean, where, rows=1)
            _require_limit(subject, policy, observations, index)
        except CheckFailed as failure:
            hidden.append(failure)
    if hidden and len(hidden) == len(poisoned):
        if _is_stepwise(subject, policy, observations, clean):
            hidden[0].level = Level.ADVICE
        raise hidden[0]
    # A weight is for all rows, of which a few tell.
    few = select(observations, slice(FEW))
    clean = _answer(subject, policy, few)
    for name, parameter in policy.named_parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.fill_(float("nan"))
            try:
                where = f"the parameter {name}"
                _require_visible(subject, policy, few, clean, where, rows=FEW)
            finally:
                parameter.copy_(before)
    for each in hidden:
        # A guard of one sensor, such as against a vector of length 0, and not of the policy.
        each.level = Level.ADVICE
        raise each


def _is_stepwise(
    subject: Subject, policy: nn.Module, observations: Any, clean: tuple[Tensor, Tensor]
) -> bool:
    """Whether a policy makes codes of what it reads: answers stay where numbers move a little."""
    moved = subject.map(
        lambda leaf: leaf * (1 + LITTLE) if leaf.is_floating_point() else leaf, observations
    )
    answers = _answer(subject, policy, moved)
    return all(torch.equal(one, other) for one, other in zip(answers, clean, strict=True))


def _answer(subject: Subject, policy: nn.Module, observations: Any) -> tuple[Tensor, Tensor]:
    """Run one step -> what describes its actions (B, n), values (B, 1)."""
    logits, values, _ = subject.step(observations, policy=policy)
    return describe(subject, logits), values.reshape(len(values), -1)


def _poison(observations: Any, index: int, value: float, *, whole: bool) -> Any:
    """Return observations whose leaf `index` has `value` in all, or one, of its first row."""
    numbers = count()

    def poison(leaf: Tensor) -> Tensor:
        if next(numbers) != index:
            return leaf
        leaf = leaf.clone()
        row = leaf[0].reshape(-1)
        row[: None if whole else 1] = value
        leaf[0] = row.reshape(leaf[0].shape)
        return leaf

    return map_nested(poison, observations)


def _require_visible(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    clean: tuple[Tensor, Tensor],
    where: str,
    *,
    rows: int,
) -> None:
    """Refuse finite answers that a NaN has changed; unchanged ones do not depend on it."""
    try:
        dirty = _answer(subject, policy, observations)
    except Exception:
        return
    for what, before, after in zip(("log-probabilities", "values"), clean, dirty, strict=True):
        if not bool(torch.isfinite(before[:rows]).all()):
            continue
        if bool(torch.isfinite(after[:rows]).all()) and difference(before, after) > CHANGE:
            raise CheckFailed(
                f"an error, or NaN {what}, after NaN in {where}",
                f"ordinary finite {what}",
                example=_poison_example(where),
            )


def _require_limit(subject: Subject, policy: nn.Module, observations: Any, index: int) -> None:
    """Refuse an answer to infinity that is neither NaN nor that to a very large number."""
    for sign in (1, -1):
        values = (sign * float("inf"), sign * HUGE, sign * HALFWAY)
        inputs = [_poison(observations, index, value, whole=False) for value in values]
        try:
            infinite, large, halfway = (
                torch.cat(_answer(subject, policy, each), 1)[0] for each in inputs
            )
        except Exception:
            return
        both = torch.isfinite(infinite) & torch.isfinite(large)
        infinite, large, halfway = infinite[both], large[both], halfway[both]
        # Behind a logarithm no number is large enough to be near the limit.
        is_slow = magnitude(large) < SLOW * magnitude(halfway)
        if is_slow and not is_same(large, halfway, LIMIT):
            continue
        if not is_same(infinite, large, LIMIT):
            gap = difference(infinite, large)
            raise CheckFailed(
                f"an error, NaN, or the answer to {values[1]:g}, after {values[0]:g} in "
                "observations[0]",
                f"an ordinary answer that differs by {gap:.3g}",
                example=_poison_example("observations[0]"),
            )


def _poison_example(where: str) -> str:
    poison = "subject.map(lambda leaf: leaf.fill_(torch.nan), observations)"
    if where.startswith("the parameter"):
        name = where.removeprefix("the parameter ")
        poison = f"policy.get_parameter({name!r}).data.fill_(torch.nan)"
    return example(poison, "print(policy.forward_eval(observations, state))")


# -- extremes --------------------------------------------------------------------------------------


@check(
    "N2",
    "finite-at-extremes",
    promise="Runs, with finite log-probabilities, entropy, values and gradients, for the largest "
    "and smallest observations (1e6 where the space has no bound), first and last codes, zeros "
    "and empty sets, alone and among others, over long sequences, in which the state does not "
    "grow without end, and where weights make a choice certain.",
    why="One large observation, one set without a member, or one long segment makes every weight "
    "NaN; a code that never came before ends the run after hours.",
    fix="Normalize or squash inputs, clamp what goes into exp, work in log space in scans; add an "
    "epsilon to what divides, give attention over nothing an answer, and subtract the start of a "
    "Discrete.",
    needs=("S2", "S8", "R6"),
    scope=Scope.OBSERVATIONS,
)
def finite_at_extremes(subject: Subject) -> None:
    """Run and differentiate at the edges of the space, then over T = 1024 if there is memory."""
    observations = subject.observations(steps=2)
    for value in (LARGE_OBSERVATION, -LARGE_OBSERVATION, 0.0):
        extreme = subject.admit(filled(subject.spaces.observation, observations, value))
        # Among others, as an encoder that looks for special rows takes another way there.
        among = map_nested(lambda one, all: torch.cat([one[:3], all[3:]]), extreme, observations)
        at = f"at observations of {value:g} (or the space's bound)"
        _require_finite(subject, extreme, at)
        _require_finite(subject, among, f"{at} beside others")
    _require_certainty(subject)
    if subject.recurrent:
        size = sum(leaf[0, 0].numel() for leaf in leaves(observations))
        steps = LONG if size <= MANY_NUMBERS else LONG_IMAGES
        long = subject.observations(1, steps=steps)
        _require_finite(subject, long, f"after {steps} steps")
        _require_steady(subject, long, steps // 2)


def _require_certainty(subject: Subject) -> None:
    """Multiply the weights of the actor until a choice is certain: its logarithm stays finite."""
    if not subject.layout.nvec:
        return
    policy, observations = subject.copy_policy(), subject.observations()
    logits, values = subject.sequence(observations, policy=policy, grad=True)
    choices = choices_of(subject.layout, logits)
    if choices is None or tensors_of(choices) is None:
        return  # of a type that a package registered
    weights = [each for each in policy.parameters() if each.requires_grad and each.ndim > 1]
    grads_of = [
        torch.autograd.grad(each.sum(), weights, retain_graph=True, allow_unused=True)
        if each.requires_grad
        else [None] * len(weights)
        for each in (subject.distribution(choices).entropy(), values)
    ]
    actors = [
        weight
        for weight, of_actor, of_critic in zip(weights, *grads_of, strict=True)
        if of_actor is not None and of_critic is None
    ]
    gap = 0.0
    for _ in range(DOUBLINGS if actors else 0):
        with torch.no_grad():
            for weight in actors:
                weight.mul_(2)
        logits, values = subject.sequence(observations, policy=policy, grad=True)
        choices = choices_of(subject.layout, logits)
        rows = torch.cat([each.detach() for each in tensors_of(choices) or []], -1)
        gap = float((rows.amax(-1) - rows.amin(-1)).max())
        if not gap < CERTAIN:
            break
    if gap < CERTAIN:
        return  # bounded on purpose, or nothing is the actor's alone
    dist = subject.distribution(logits)
    torch.autograd.backward(sum_of_outputs(dist, values))
    for what, tensor in {
        "log-probabilities": dist.log_prob(draw(dist, 1)[0]),
        "entropy": dist.entropy(),
        "gradients": flat_gradients(policy),
    }.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckFailed(
                f"finite {what} where weights of the actor make one choice certain",
                f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} are not"
                + not_finite(subject, logits),
                fix="Return logits as a layer makes them, or log_softmax: the logarithm of a "
                "softmax is that of 0 as soon as logits are a hundred apart.",
                example=example(
                    "# multiply the weights of the action head by 1e5",
                    "print(policy.forward_eval(observations, state)[0])",
                ),
            )


def _require_steady(subject: Subject, observations: Any, half: int) -> None:
    """Fail if the state grows by a factor: it will leave the range of float32 in time."""
    policy = subject.copy_policy()
    initial = sequence_state(policy, subject.state(1, policy))
    carry: dict[str, Any] = dict(initial)
    sizes = []
    for part in (slice(half), slice(half, None)):
        some = map_nested(torch.clone, select(observations, (slice(None), part)))
        # A mask of its own for each part.
        carry = subject.add_required({key: carry.get(key) for key in initial}, some)
        with torch.no_grad():
            policy(some, carry)
        sizes.append({key: _size(carry.get(key)) for key in initial})
    for key, before in sizes[0].items():
        after = sizes[1][key]
        if after > MOST_GROWTH * max(1.0, before):
            raise CheckFailed(
                "a state that stays about as large as it is",
                f"the largest number of {key!r} is {before:.2g} after {half} steps and {after:.2g} "
                f"after {2 * half}",
                fix="Bound the factor of the old state by 1: a sigmoid, or exp(-softplus(...)).",
                example=example("# run hundreds of steps and print the state"),
            )


def _size(state: Any) -> float:
    is_real = isinstance(state, Tensor) and state.is_floating_point() and state.numel() > 0
    return float(state.abs().max()) if is_real else 0.0


def _require_finite(subject: Subject, observations: Any, when: str) -> None:
    policy = subject.copy_policy()
    largest = float(next(leaves(observations)).max())
    lines = example(
        f"extreme = subject.map(lambda x: torch.full_like(x, {largest:g}), observations)",
        "try:",
        "    print(policy(extreme, state))",
        "except Exception as error:",
        "    print(error)",
    )
    try:
        subject.step(select(observations, (slice(None), 0)), policy=policy)
        logits, values = subject.sequence(observations, policy=policy, grad=True)
    except Exception as error:
        raise CheckFailed(f"an answer {when}", error_line(error), example=lines) from error
    dist = subject.distribution(logits)
    torch.autograd.backward(sum_of_outputs(dist, values))
    for what, tensor in {
        "log-probabilities": dist.log_prob(draw(dist, 1)[0]),
        "entropy": dist.entropy(),
        "values": values,
        "gradients": flat_gradients(policy),
    }.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckFailed(
                f"finite {what} {when}",
                f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} are not"
                + not_finite(subject, logits),
                example=lines,
            )


@check(
    "N3",
    "scale-bounded-in-log-space",
    promise="With the parameters of a scale, of whatever shape, at +200 and -200 the scale stays "
    "positive and finite, and so do log-probabilities and gradients, in both passes alike.",
    why="In float32, exp(-200) is 0 and exp(200) is infinite: clamping after exp leaves NaN "
    "gradients.",
    fix="Clamp log_std before exp, for instance to [-5, 2], in one place that both passes call.",
    applies=lambda s: "" if s.layout.num_reals else "its actions are choices",
    level=Level.ADVICE,
    needs=("S8", "R6"),
)
def scale_bounded_in_log_space(subject: Subject) -> None:
    """Find the parameters that move the scale and nothing else, and drive them both ways."""
    logits, _, _ = subject.step(subject.observations())
    parts = [each for each in parts_of(subject.layout, logits) if each.layout.num_reals]
    slopes_of = [_scale_slopes(subject, part) for part in parts]
    if not any(slopes_of):
        raise CheckSkipped("no bias or log_std moves its scale alone")
    for part, slopes in zip(parts, slopes_of, strict=True):
        for sign in (1.0, -1.0) if slopes else ():
            policy = subject.copy_policy()
            parameters = dict(policy.named_parameters())
            with torch.no_grad():
                for name, slope in slopes.items():
                    parameters[name].add_(slope.sign() * sign * DRIVE)
            _require_scale(subject, part, policy, f"{sign * DRIVE:+g}", sorted(slopes))


def _scale_slopes(subject: Subject, part: Part) -> dict[str, Tensor]:
    """Return the slope of a part's scale in those elements of parameters that move nothing else."""
    policy = subject.copy_policy()
    with torch.enable_grad():
        logits, values = policy.forward_eval(*_inputs(subject, policy))  # type: ignore[operator]
        spread = _spread_of(subject, part.logits_of(logits))
        centers = centers_of(logits) or [subject.distribution(logits).mode().double()]
        names, parameters = zip(*policy.named_parameters(), strict=True)
        scale, loc, value = (
            _slopes(output, parameters)
            for output in (
                spread.sum(),
                torch.stack([each.abs().sum() for each in centers]).sum(),
                values.sum(),
            )
        )
    # Weights of a layer are left alone: driven as far, they would make NaN of any layer's output.
    # A log_std has the axes of an action, or as many numbers as one, such as PufferLib's (1, n).
    most_axes, most_numbers = max(1, len(part.layout.shape)), subject.layout.num_reals
    slopes = {
        name: slope * (of_loc == 0) * (of_value == 0)
        for name, slope, of_loc, of_value in zip(names, scale, loc, value, strict=True)
        if slope.ndim <= most_axes or slope.numel() <= most_numbers
    }
    return {name: slope for name, slope in slopes.items() if bool(slope.any())}


def _spread_of(subject: Subject, logits: Any) -> Tensor:
    """Return the scale, or the entropy of a type that shows none."""
    scale = getattr(logits, "scale", None)
    return scale if isinstance(scale, Tensor) else subject.distribution(logits).entropy()


def _inputs(subject: Subject, policy: nn.Module) -> tuple[Any, dict[str, Any]]:
    observations = subject.observations()
    return observations, subject.add_required(subject.state(BATCH, policy), observations)


def _slopes(output: Tensor, parameters: Any) -> list[Tensor]:
    """Return the gradient of an output in each parameter; 0 where it does not depend on it."""
    trained = [p for p in parameters if p.requires_grad]
    grads: Any = [None] * len(trained)
    if output.requires_grad:
        grads = torch.autograd.grad(output, trained, retain_graph=True, allow_unused=True)
    by_id = {id(p): grad for p, grad in zip(trained, grads, strict=True)}
    slopes = [by_id.get(id(p)) for p in parameters]
    return [
        torch.zeros_like(p) if slope is None else slope
        for p, slope in zip(parameters, slopes, strict=True)
    ]


def _require_scale(
    subject: Subject, part: Part, policy: nn.Module, drive: str, names: list[str]
) -> None:
    with torch.enable_grad():
        logits, values = policy.forward_eval(*_inputs(subject, policy))  # type: ignore[operator]
        dist = subject.distribution(logits)
        torch.autograd.backward(sum_of_outputs(dist, values))
    own, log_prob = part.logits_of(logits), dist.log_prob(draw(dist, 1)[0])
    trained, _ = subject.sequence(subject.observations(), policy=policy, grad=True)
    scale, other = (_spread_of(subject, each).detach() for each in (own, part.logits_of(trained)))
    has_scale = hasattr(own, "scale")
    for expected, actual, good in (
        (
            "a positive, finite scale",
            f"{float(scale.min()):g}",
            torch.isfinite(scale) & ((scale > 0) | (not has_scale)),
        ),
        ("finite log-probabilities", "some are not finite", torch.isfinite(log_prob)),
        ("finite gradients", "some are not finite", torch.isfinite(flat_gradients(policy))),
        (
            "one scale in forward and forward_eval",
            f"{float(other.min()):g} and {float(scale.min()):g}",
            torch.tensor(is_same(other, scale, PRECISION)),
        ),
    ):
        if not bool(good.all()):
            raise CheckFailed(
                f"{expected}{part} with {', '.join(names)} driven by {drive}",
                actual,
                example=example(
                    f"policy.get_parameter({names[0]!r}).data.fill_({float(drive):g})",
                    "print(policy.forward_eval(observations, state)[0])",
                ),
            )


# -- precision -------------------------------------------------------------------------------------


@check(
    "N8",
    "float32-near-float64",
    promise="Float32 answers are within 1e-4 of those of a float64 copy, and those of half "
    "precision, where it is declared or the weights are in it, within 0.05.",
    why="A formula that loses digits, or a hidden half precision, adds noise to every ratio.",
    fix="Use a stable formula (centered variance, log-space sums), and leave precision to callers; "
    'or declare {"half_precision": "why"}.',
    needs=("S2", "S8", "R6"),
    scope=Scope.OBSERVATIONS,
)
def float32_near_float64(subject: Subject) -> None:
    """Run a sequence in both precisions."""
    observations = subject.observations(steps=4)
    single = _sequence_answer(subject, subject.copy_policy(), observations)
    reference = subject.copy_policy().double()
    try:
        double = _sequence_answer(subject, reference, to_double(observations))
    except Exception as error:
        raise CheckSkipped(f"it does not run in float64: {error_line(error)}") from error
    limit = subject.tolerance(PRECISION)
    for what, low, high in zip(("log-probabilities", "values"), single, double, strict=True):
        if not is_same(low, high, limit):
            raise CheckFailed(
                f"{what} within {limit:g} of float64",
                f"they differ by {difference(low, high) / magnitude(high):.3g}",
                example=example(
                    "other = subject.copy_policy().double()",
                    "doubles = subject.map(lambda x: x.double(), observations)",
                    "print(policy(observations, state), other(doubles, {}))",
                ),
            )


def _sequence_answer(
    subject: Subject, policy: nn.Module, observations: Any
) -> tuple[Tensor, Tensor]:
    """Run a sequence -> what describes its actions (N, n), values (N, 1)."""
    floats = (p for p in policy.parameters() if p.is_floating_point())
    dtype = next(floats, torch.zeros(())).dtype
    # A state may count steps in integers, which stay.
    state = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in subject.state(BATCH, policy).items()
    }
    first = state if callable(getattr(policy, "initial_state", None)) else None
    logits, values = subject.sequence(observations, first, policy=policy)
    return describe(subject, logits), values.reshape(-1, 1)


CHECKS = (
    nan_stays_visible,
    finite_at_extremes,
    scale_bounded_in_log_space,
    first_weights.init_survives_wrapping,
    first_weights.first_policy_near_uniform,
    learnability.every_parameter_learns,
    answers.reaches_every_answer,
    float32_near_float64,
)
