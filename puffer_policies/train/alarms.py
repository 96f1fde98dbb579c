"""Alarms: silent failures of training, each said in one line as soon as it can be seen.

`Reading` holds what was measured in an update, `alarms` is the list of what is wrong with it, and
`Watch` keeps an alarm from being repeated at every update.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RATIO_TOLERANCE = 1e-3
"""Of |ratio - 1| before the first gradient step; float32 gives 1e-6, an LSTM over 1,000 steps 1e-4.
bfloat16 has its own, `RATIO_TOLERANCE_BF16`."""

RATIO_TOLERANCE_BF16 = 0.2

DEAD_UNITS = 0.5
"""Share of hidden units that are constant over a batch: a healthy ReLU layer has up to a third."""

ENTROPY_SHARE = 1e-3
"""Entropy over its maximum: below this the likeliest action has a probability above 0.9999."""

SATURATED_LOGIT = 50.0
"""Spread of a row's logits; float32 rounds a probability of exp(-50) away beside 1."""

VALUE_SHARE = 0.95
"""Share of the squared gradient that comes from the value loss while the gradient is clipped: the
policy then learns with a twentieth of the step. A run with raw returns of 13 had 0.99."""

CLIPPED_ACTIONS = 0.5
"""Share of action elements outside of the Box: they all play as its edge, and learn nothing."""

EXPLAINED_VARIANCE = -0.5
"""Below 0 the values are worse than their mean; as low as this they mislead."""

SETTLING = 10
"""Updates after which values should have been learnt."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an update shows of the health of training; None or empty where it was not measured."""

    epoch: int
    """Updates before this one."""
    ratio_error: float | None = None
    """Largest |ratio - 1| of the first minibatch, before any gradient step."""
    ratio_tolerance: float = RATIO_TOLERANCE
    idle_parameters: tuple[str, ...] = ()
    """Names of parameters that got no gradient, or zeros only."""
    dead_units: float | None = None
    """Share of hidden units that are constant over the batch."""
    entropy_share: float | None = None
    """Entropy over the largest possible one."""
    logit_spread: float | None = None
    """Largest difference between two logits of a row that are not masked."""
    value_share: float | None = None
    """Share of the squared gradient that comes from the value loss."""
    gradient_clipped: bool = False
    """Whether that gradient was longer than max_grad_norm."""
    clipped_actions: float | None = None
    """Share of action elements outside of the Box."""
    explained_variance: float | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something wrong: a name for the log, a line for people."""

    name: str
    text: str


def alarms(reading: Reading) -> list[Alarm]:
    """Return what is wrong with a reading."""
    found = [
        _ratio(reading),
        _idle(reading),
        _dead(reading),
        _entropy(reading),
        _logits(reading),
        _value(reading),
        _actions(reading),
        _variance(reading),
    ]
    return [each for each in found if each is not None]


def _ratio(reading: Reading) -> Alarm | None:
    error = reading.ratio_error
    if error is None or error <= reading.ratio_tolerance:
        return None
    return Alarm(
        "ratio",
        f"before the first gradient step the probability ratio is off 1 by {error:.2g}: forward "
        "and forward_eval disagree, or memory is not reset the same way (puffer-policies check)",
    )


def _idle(reading: Reading) -> Alarm | None:
    names = reading.idle_parameters
    if not names:
        return None
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    shown = f"{', '.join(names[:3])}{more}"
    return Alarm("idle", f"no gradient reaches {shown}: not used by the loss, or detached")


def _dead(reading: Reading) -> Alarm | None:
    share = reading.dead_units
    if share is None or share <= DEAD_UNITS:
        return None
    return Alarm(
        "dead_units",
        f"{share:.0%} of the hidden units give the same for every observation: a lower "
        "learning_rate, or scaled observations, keep them alive",
    )


def _entropy(reading: Reading) -> Alarm | None:
    share = reading.entropy_share
    if share is None or share >= ENTROPY_SHARE:
        return None
    return Alarm(
        "entropy",
        f"entropy has fallen to {share:.2%} of its maximum: the policy explores no more "
        "(raise ent_coef, or stop here if the return is good)",
    )


def _logits(reading: Reading) -> Alarm | None:
    spread = reading.logit_spread
    if spread is None or spread <= SATURATED_LOGIT:
        return None
    return Alarm(
        "logits", f"logits are {spread:.0f} apart: saturated, their gradient is rounded away"
    )


def _value(reading: Reading) -> Alarm | None:
    share = reading.value_share
    early = reading.epoch < SETTLING  # values that have not been learnt are far off
    if share is None or share <= VALUE_SHARE or not reading.gradient_clipped or early:
        return None
    return Alarm(
        "value_share",
        f"the value loss takes {share:.1%} of the clipped gradient, so the policy hardly moves: "
        "set scale_rewards, or lower vf_coef",
    )


def _actions(reading: Reading) -> Alarm | None:
    share = reading.clipped_actions
    if share is None or share <= CLIPPED_ACTIONS:
        return None
    return Alarm(
        "clipped_actions",
        f"{share:.0%} of the actions lie outside of the Box and are clipped to its edge",
    )


def _variance(reading: Reading) -> Alarm | None:
    explained = reading.explained_variance
    if explained is None or reading.epoch < SETTLING or not explained < EXPLAINED_VARIANCE:
        return None
    return Alarm(
        "explained_variance",
        f"values explain {explained:.1f} of the returns' variance: worse than their mean (0)",
    )


@dataclass(slots=True)
class Watch:
    """Tells of each alarm once in a run; the log has every reading."""

    told: set[str] = field(default_factory=set)

    def new(self, found: list[Alarm]) -> list[Alarm]:
        """Return those of `found` that were not told before."""
        begun = [each for each in found if each.name not in self.told]
        self.told |= {each.name for each in begun}
        return begun
