"""Checks of numbers: extremes stay finite, scales positive, float32 near float64.

`B` rows. N1 is in `poison`; N4 and N5 in `initial`, N6 and N7 in `gradients`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, check
from puffer_policies.checks.probes.outputs import described, draws, example, flat_grads, still
from puffer_policies.checks.probes.subject import BATCH, Subject, difference
from puffer_policies.checks.promises import gradients, initial, poison
from puffer_policies.nested import leaves

LARGE_OBSERVATION = 1e6
LONG, LONG_IMAGES = 1024, 64
MANY_NUMBERS = 1000
"""Observations of more numbers than this get `LONG_IMAGES` steps instead of `LONG`."""

DRIVEN = 200.0
DOUBLE_TOLERANCE = 1e-4


# -- N2 --------------------------------------------------------------------------------------------


@check(
    "N2",
    "finite-at-extremes",
    promise="Log-probabilities, entropy, values and gradients are finite for the largest and "
    "smallest observations (1e6 where the space has no bound), and over long sequences.",
    why="One large observation, or one long segment, makes every weight NaN.",
    fix="Normalise or squash inputs, clamp what goes into exp, work in log space in scans.",
)
def finite_at_extremes(subject: Subject) -> None:
    """Run and differentiate at both ends of the space, then over T = 1024 if there is memory."""
    observations = subject.observations(steps=2)
    for value in (LARGE_OBSERVATION, -LARGE_OBSERVATION):
        extreme = _extreme(subject.spaces.observation, observations, value)
        _require_finite(subject, extreme, f"at observations of {value:g} (or the space's bound)")
    if subject.recurrent:
        numbers = sum(leaf[0, 0].numel() for leaf in leaves(observations))
        steps = LONG if numbers <= MANY_NUMBERS else LONG_IMAGES
        _require_finite(subject, subject.observations(1, steps=steps), f"after {steps} steps")


def _extreme(space: Any, observations: Any, value: float) -> Any:
    """Fill every float leaf with `value`, or with the bound of its space if that is nearer."""
    parts = getattr(space, "spaces", None)
    if parts is not None:
        if isinstance(observations, dict):
            return {key: _extreme(parts[key], each, value) for key, each in observations.items()}
        pairs = zip(parts, observations, strict=True)
        return tuple(_extreme(part, each, value) for part, each in pairs)
    if not hasattr(space, "low") or not hasattr(space, "high"):
        return observations
    bounded = np.clip(np.full(space.low.shape, value), space.low, space.high)
    return torch.as_tensor(bounded).to(observations.dtype).expand_as(observations).clone()


def _require_finite(subject: Subject, observations: Any, when: str) -> None:
    policy = still(subject)
    logits, values = subject.sequence(observations, policy=policy, grad=True)
    dist = subject.distribution(logits)
    log_prob, entropy = dist.log_prob(draws(dist, 1)[0]), dist.entropy()
    torch.autograd.backward(log_prob.sum() + entropy.sum() + values.sum())
    found = {
        "log-probabilities": log_prob,
        "entropy": entropy,
        "values": values,
        "gradients": flat_grads(policy),
    }
    for what, tensor in found.items():
        if not bool(torch.isfinite(tensor).all()):
            largest = float(subject.map(lambda leaf: leaf, next(leaves(observations))).max())
            raise CheckFailed(
                f"finite {what} {when}",
                f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} are not",
                example=example(
                    f"observations = subject.map(lambda x: torch.full_like(x, {largest:g}), "
                    "observations)",
                    "print(policy(observations, subject.state(5)))",
                ),
            )


# -- N3 --------------------------------------------------------------------------------------------


@check(
    "N3",
    "scale-bounded-in-log-space",
    promise="With the parameters of a Gaussian's scale at +200 and -200 the scale stays positive "
    "and finite, and so do log-probabilities and gradients.",
    why="In float32, exp(-200) is 0 and exp(200) is infinite: clamping after exp leaves NaN "
    "gradients.",
    fix="Clamp log_std before exp, for instance to [-5, 2].",
    applies=lambda s: "" if s.layout.is_continuous else "its actions are choices",
)
def scale_bounded_in_log_space(subject: Subject) -> None:
    """Find the parameters that move the scale and nothing else, and drive them both ways."""
    found = _scale_parameters(subject)
    for sign in (1.0, -1.0):
        policy = still(subject)
        parameters = dict(policy.named_parameters())
        with torch.no_grad():
            for name, slope in found.items():
                parameters[name].add_(slope.sign() * sign * DRIVEN)
        _require_scale(subject, policy, f"{sign * DRIVEN:+g}", sorted(found))


def _scale_parameters(subject: Subject) -> dict[str, Tensor]:
    """Return the slope of the scale in each parameter's elements that leave location and values."""
    policy = still(subject)
    with torch.enable_grad():
        logits, values = policy.forward_eval(*_inputs(subject, policy))  # type: ignore[operator]
        if not hasattr(logits, "scale") or not hasattr(logits, "loc"):
            raise CheckSkipped(f"its {type(logits).__name__} has no loc and scale")
        if not logits.scale.requires_grad:
            raise CheckSkipped("no parameter moves its scale")
        names, parameters = zip(*policy.named_parameters(), strict=True)
        slopes = _slopes(logits.scale.sum(), parameters)
        others = [_slopes(each, parameters) for each in (logits.loc.abs().sum(), values.sum())]
    found = {}
    for name, slope, loc, value in zip(names, slopes, *others, strict=True):
        alone = slope * (loc == 0) * (value == 0)
        if bool(alone.any()) and slope.ndim <= max(1, len(subject.layout.shape)):
            found[name] = alone
    if not found:
        raise CheckSkipped("no bias or log_std moves its scale alone")
    return found


def _inputs(subject: Subject, policy: nn.Module) -> tuple[Any, dict[str, Any]]:
    observations = subject.observations()
    return observations, subject.unmasked(dict(subject.state(BATCH, policy)), observations)


def _slopes(output: Tensor, parameters: Any) -> list[Tensor]:
    if not output.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    wanted = [p for p in parameters if p.requires_grad]
    grads = iter(torch.autograd.grad(output, wanted, retain_graph=True, allow_unused=True))
    found = [next(grads) if p.requires_grad else None for p in parameters]
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def _require_scale(subject: Subject, policy: nn.Module, drive: str, names: list[str]) -> None:
    with torch.enable_grad():
        logits, _ = policy.forward_eval(*_inputs(subject, policy))  # type: ignore[operator]
        dist = subject.distribution(logits)
        log_prob = dist.log_prob(draws(dist, 1)[0])
        torch.autograd.backward(log_prob.sum() + dist.entropy().sum())
    scale = logits.scale.detach()
    for what, good in {
        f"a positive, finite scale, got {float(scale.min()):g}": torch.isfinite(scale)
        & (scale > 0),
        "finite log-probabilities": torch.isfinite(log_prob),
        "finite gradients": torch.isfinite(flat_grads(policy)),
    }.items():
        if not bool(good.all()):
            expected, _, found = what.partition(", got ")
            raise CheckFailed(
                f"{expected} with {', '.join(names)} driven by {drive}",
                found or "some are not finite",
                example=example(
                    f"policy.get_parameter({names[0]!r}).data.fill_({float(drive):g})",
                    "print(policy.forward_eval(observations, subject.state(5))[0])",
                ),
            )


# -- N8 --------------------------------------------------------------------------------------------


@check(
    "N8",
    "float32-near-float64",
    promise="Float32 answers are within 1e-4 of those of a float64 copy.",
    why="A formula that loses digits, or a hidden half precision, adds noise to every ratio.",
    fix="Use a stable formula (centred variance, log-space sums), and leave precision to callers.",
)
def float32_near_float64(subject: Subject) -> None:
    """Run a sequence in both precisions."""
    policy, observations = still(subject), subject.observations(steps=4)
    single = _answers(subject, policy, observations)
    reference = still(subject).double()
    try:
        double = _answers(subject, reference, subject.map(_double, observations))
    except Exception as error:
        raise CheckSkipped(f"it does not run in float64: {_first_line(error)}") from error
    for what, low, high in zip(("log-probabilities", "values"), single, double, strict=True):
        gap = difference(low, high) / max(1.0, float(high.abs().max()))
        if gap > DOUBLE_TOLERANCE:
            raise CheckFailed(
                f"{what} within {DOUBLE_TOLERANCE:g} of float64",
                f"they differ by {gap:.3g}",
                example=example(
                    "other = subject.copied().double()",
                    "print(policy(observations, subject.state(5)))",
                    "print(other(subject.map(lambda x: x.double(), observations), {}))",
                ),
            )


def _answers(subject: Subject, policy: nn.Module, observations: Any) -> tuple[Tensor, Tensor]:
    weight = next(iter(_floats(policy)), torch.zeros(()))
    state = {
        key: value.to(weight.dtype) if value.is_floating_point() else value  # some count
        for key, value in subject.state(BATCH, policy).items()
    }
    given = state if callable(getattr(policy, "initial_state", None)) else None
    logits, values = subject.sequence(observations, given, policy=policy)
    return described(subject, logits), values.reshape(-1, 1)


def _floats(policy: nn.Module) -> Iterator[Tensor]:
    return (p for p in policy.parameters() if p.is_floating_point())


def _double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


CHECKS = (
    *poison.CHECKS,
    finite_at_extremes,
    scale_bounded_in_log_space,
    *initial.CHECKS,
    *gradients.CHECKS,
    float32_near_float64,
)
