"""Alarms: silent failures of training, each reported in one line as soon as it can be detected.

`Reading` holds the measurements of an update, `alarms` returns what is wrong with them, and `Watch`
reports each alarm only once in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

RATIO_TOLERANCE = 1e-3
"""Largest |ratio - 1| before the first gradient step. In float32 it is 1e-6, and 1e-4 for an LSTM
over 1,000 steps."""

RATIO_TOLERANCE_BF16 = 0.2
"""The same under bfloat16, whose 8 bits of precision move a log-probability by some hundredths."""

DEAD_UNITS = 0.5
"""Largest share of hidden units that are constant over a batch; a healthy ReLU layer has up to a
third."""

ENTROPY_SHARE = 1e-3
"""Smallest entropy over its maximum. Below it the likeliest action has a probability of more than
0.9999."""

SATURATED_LOGIT = 50.0
"""Largest spread of the median row's logits: float32 rounds 1 + exp(-50) to 1.
A few rows of a healthy policy are further apart: Acrobot, solved, had one of 62."""

VALUE_SHARE = 0.95
"""Largest share of the squared gradient that comes from the value loss while the gradient is
clipped: the policy then learns with a twentieth of the step. A run with raw returns of 13 had 0.99.
"""

CLIPPED_ACTIONS = 0.5
"""Largest share of action elements outside of the Box. The env gets the edge of the Box for all of
them, so the reward does not tell them apart."""

EXPLAINED_VARIANCE = -0.5
"""Smallest explained variance. Below 0 the values are worse than the mean of the returns; as low as
this they mislead the policy."""

RETURN_VARIATION = 0.1
"""Returns that vary less, as a share of their size, leave values nothing to explain. Solved runs
had 0.001 (CartPole) to 0.07 (MaskedRecall), those under way 0.15 to 0.8."""

RETURNS_OUTSIDE = 0.01
"""Largest share of the returns that lie beyond what the value head can give; all of them get the
same value."""

SETTLING = 10
"""Updates before values are judged: they are far off until they have been learned."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Measurements of the health of training in an update; None or empty where there are none."""

    epoch: int
    """Updates before this one."""
    ratio_error: float | None = None
    """Largest |ratio - 1| of the first minibatch, before any gradient step."""
    ratio_tolerance: float = RATIO_TOLERANCE
    idle_parameters: tuple[str, ...] = ()
    """Names of parameters whose gradient is missing or zero."""
    dead_units: float | None = None
    """Share of hidden units that are constant over the batch."""
    entropy_share: float | None = None
    """Entropy over the largest possible one."""
    logit_spread: float | None = None
    """Largest difference between two logits of a row that are not masked, the median of rows."""
    value_share: float | None = None
    """Share of the squared gradient that comes from the value loss."""
    gradient_clipped: bool = False
    """Whether that gradient was longer than max_grad_norm."""
    clipped_actions: float | None = None
    """Share of action elements outside of the Box."""
    explained_variance: float | None = None
    """Share of the returns' variance that values explain; below 0, the mean would do better."""
    return_variation: float | None = None
    """Standard deviation of the returns over the root of their mean square, 0 to 1."""
    returns_outside: float | None = None
    """Share of the returns that lie beyond the bounds of the value head."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A failure of training: a name for the log, a line for people."""

    name: str
    text: str


def alarms(reading: Reading) -> list[Alarm]:
    """Return the alarms that a reading sets off."""
    return [
        Alarm(rule.name, rule.text.format(r=reading, idle=_first_of(reading.idle_parameters)))
        for rule in _RULES
        if rule.is_broken(reading)
    ]


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    is_broken: Callable[[Reading], bool]
    text: str
    """A format of the reading ``r`` and the names of ``idle`` parameters."""


def _above(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _first_of(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


# A new alarm is a field of `Reading`, a limit above with its reason, and a rule here.
_RULES = (
    _Rule(
        "ratio",
        # Nothing has changed since the rollout, so that any other ratio is an error of the policy.
        lambda r: _above(r.ratio_error, r.ratio_tolerance),
        "before the first gradient step the probability ratio is off 1 by {r.ratio_error:.2g}: "
        "forward and forward_eval disagree, or memory is not reset the same way "
        "(puffer-policies check)",
    ),
    _Rule(
        "idle",
        lambda r: bool(r.idle_parameters),
        "no gradient reaches {idle}: the loss does not use it, or it is detached",
    ),
    _Rule(
        "dead_units",
        # A ReLU that is 0 for every observation gets no gradient, and never comes back.
        lambda r: _above(r.dead_units, DEAD_UNITS),
        "{r.dead_units:.0%} of the hidden units have the same output for every observation: a "
        "lower learning_rate, or scaled observations, keep them alive",
    ),
    _Rule(
        "entropy",
        lambda r: _below(r.entropy_share, ENTROPY_SHARE),
        "entropy has fallen to {r.entropy_share:.2%} of its maximum: the policy explores no more "
        "(raise ent_coef, or stop here if the return is good)",
    ),
    _Rule(
        "logits",
        lambda r: _above(r.logit_spread, SATURATED_LOGIT),
        "logits are {r.logit_spread:.0f} apart in half of the rows: saturated, their gradient is "
        "rounded away",
    ),
    _Rule(
        "value_share",
        # Untrained values are far off, and a large value loss is right then.
        lambda r: r.epoch >= SETTLING and r.gradient_clipped and _above(r.value_share, VALUE_SHARE),
        "the value loss takes {r.value_share:.1%} of the clipped gradient, so the policy hardly "
        "moves: set scale_rewards, or lower vf_coef",
    ),
    _Rule(
        "clipped_actions",
        lambda r: _above(r.clipped_actions, CLIPPED_ACTIONS),
        "{r.clipped_actions:.0%} of the actions lie outside of the Box and are clipped to its edge",
    ),
    _Rule(
        "explained_variance",
        lambda r: (
            r.epoch >= SETTLING
            and _above(r.return_variation, RETURN_VARIATION)
            and _below(r.explained_variance, EXPLAINED_VARIANCE)
        ),
        "values explain {r.explained_variance:.1f} of the returns' variance: worse than their mean "
        "(0)",
    ),
    _Rule(
        "returns_outside",
        lambda r: _above(r.returns_outside, RETURNS_OUTSIDE),
        "{r.returns_outside:.0%} of the returns lie outside of the value head's bins: set its low "
        "and high further apart, or set scale_rewards",
    ),
)


@dataclass(slots=True)
class Watch:
    """Reports each alarm once in a run."""

    reported: set[str] = field(default_factory=set)

    def new(self, current: list[Alarm]) -> list[Alarm]:
        """Return those of `current` that were not reported before."""
        fresh = [each for each in current if each.name not in self.reported]
        self.reported |= {each.name for each in fresh}
        return fresh

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the reported alarms, as a sorted list."""
        return {"reported": sorted(self.reported)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.reported = set(state["reported"])
