"""Estimates from rewards: advantages by GAE or V-trace, and the running scale of rewards.

Time first: `T` steps of `N` envs, as NumPy arrays or as tensors, see `train.arrays`. Of envs on the
host they are estimated there, for a GPU too: a loop over time launches kernels of a few hundred
numbers. Of envs on a device they stay where they are, as the way to the host and back costs more.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from puffer_policies.config.schema import TrainConfig
from puffer_policies.nn.moments import Moments, merge_moments, moments_of, of_all_processes
from puffer_policies.train.arrays import double, namespace
from puffer_policies.vector.protocol import Array

SMALLEST_VARIANCE = 1e-8
"""Returns that vary less are taken for equal: dividing by their deviation would amplify noise."""


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    *,
    terminated: Array,
    done: Array,
    gamma: float,
    gae_lambda: float,
) -> Array:
    """Return advantages (T, N) float32 (Schulman et al. 2016, https://arxiv.org/abs/1506.02438).

    `next_values[t]` is the value of the observation that step t led to: the *final* one where an
    episode was truncated there. Only a termination drops it; every end cuts the trace.
    """
    # Pardo et al. 2018, https://arxiv.org/abs/1712.00378: a time limit is not an end of the task,
    # so a truncated episode still counts what would have followed.
    not_terminated = double(gamma, rewards) * ~terminated
    decay = double(gamma * gae_lambda, rewards) * ~done
    return backward_sums(rewards + not_terminated * next_values - values, decay)


@dataclass(frozen=True, slots=True)
class Clips:
    """The largest importance ratios that V-trace lets through."""

    rho: float = 1.0
    """Of the ratio that weights a step's own error: it decides what the values converge to."""
    c: float = 1.0
    """Of the ratio that lets later errors through: it decides how fast they converge."""

    @classmethod
    def of(cls, config: TrainConfig) -> Self | None:
        """Return the clips of a config, or None if it sets neither; one alone leaves the other 1.

        1 is PufferLib's default and the paper's choice for both.
        """
        rho, c = config.vtrace_rho_clip, config.vtrace_c_clip
        if rho is None and c is None:
            return None
        return cls(rho=1.0 if rho is None else rho, c=1.0 if c is None else c)


def vtrace(
    rewards: Array,
    values: Array,
    next_values: Array,
    *,
    ratios: Array,
    terminated: Array,
    done: Array,
    gamma: float,
    gae_lambda: float,
    clips: Clips,
) -> Array:
    """Return advantages (T, N) float32: V-trace's targets minus the values.

    Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, equation 1, with lambda in the trace as
    in its remark 2. `ratios` (T, N) is the probability of each action under the current policy over
    that under the policy which chose it. While all are 1, and no clip is below 1, this is GAE. As
    in PufferLib, targets minus values serve as advantages, where the paper takes one step to the
    next target. The other arguments are those of `gae`.
    """
    rho, c = ratios.clip(max=clips.rho), ratios.clip(max=clips.c)
    # Section 4.1 of the paper: rho moves the fixed point of the values from that of the policy that
    # played to that of the current one, c changes only how fast it is reached.
    errors = rewards + double(gamma, rewards) * ~terminated * next_values - values
    decay = (gamma * gae_lambda) * c * ~done
    return backward_sums(rho * errors, decay)


def backward_sums(errors: Array, decay: Array) -> Array:
    """Return ``S[t] = errors[t] + decay[t] * S[t+1]``, (T, N) float32; `errors` is overwritten."""
    sums, library = _sums_from_the_end(errors, decay[:-1]), namespace(errors)
    return library.asarray(sums, dtype=library.float32)


def updated_next_values(values: Array, next_values: Array, done: Array) -> Array:
    """Return a copy of `next_values` (T, N) with the newer predictions in `values` (T, N).

    Where an episode ended, and at the end of the rollout, nothing newer is known: the observation
    that followed is not part of the batch.
    """
    library = namespace(values)
    updated = library.where(done[:-1], next_values[:-1], values[1:])
    return library.concatenate([updated, next_values[-1:]])


def discounted_returns(
    rewards: Array, done: Array, *, start: Array, gamma: float
) -> tuple[Array, Array]:
    """Return the discounted return of each row up to every step (T, N), and after the last (N,).

    This sum runs forward, ``G[t] = gamma * G[t-1] + r[t]``, from `start` (N,) float64 and from 0
    after each end.
    """
    library = namespace(rewards)
    # In float64, as the statistics over the whole run that are made of it.
    terms = library.asarray(rewards, dtype=library.float64)
    terms = library.concatenate([terms[:1] + gamma * start, terms[1:]])
    decay = double(gamma, rewards) * ~done
    # From the end of what is turned around, that is from the start.
    terms, turned = library.flip(terms, (0,)), library.flip(decay[:-1], (0,))
    returns = library.flip(_sums_from_the_end(terms, turned), (0,))
    return returns, returns[-1] * ~done[-1]


def _sums_from_the_end(terms: Array, decay: Array) -> Array:
    """(T, ...), (T-1, ...) -> ``S[t] = terms[t] + decay[t] * S[t+1]``; `terms` is overwritten."""
    if isinstance(terms, Tensor) and terms.device.type != "cpu":
        return sums_by_doubling(terms, decay)
    for t in range(len(terms) - 2, -1, -1):
        row = terms[t]  # by a name, as ``terms[t] +=`` would write a tensor's row twice
        row += decay[t] * terms[t + 1]
    return terms


def sums_by_doubling(terms: Tensor, decay: Tensor) -> Tensor:
    """Return the sums of `_sums_from_the_end` in log2 T rounds, for a device.

    Hillis and Steele 1986, https://doi.org/10.1145/7902.7903: each round doubles the number of
    terms in every sum. 64 steps take 18 launches of kernels and not 126. A CPU reads all terms in
    each round: for 64 steps of 4,096 envs it takes 40 times as long as the loop.
    """
    # The products of a segment's decays are rounded, which float64 hides.
    sums, decay, reach = terms, decay.double(), 1
    while reach < len(terms):
        nearer = torch.addcmul(sums[:-reach], decay, sums[reach:])
        sums = torch.cat([nearer, sums[-reach:]])
        decay = decay[:-reach] * decay[reach:]
        reach *= 2
    return sums


@dataclass(slots=True)
class RewardScale:
    """Divides rewards by the running standard deviation of discounted returns, without a shift.

    Values of order one keep the value loss from dominating the clipped gradient of a shared trunk.
    The rule is that of OpenAI baselines' VecNormalize (https://github.com/openai/baselines), but
    per rollout instead of per step. A shift would change which behavior is best: it pays for, or
    against, every further step of an episode.
    """

    running_returns: Array
    """(N,) float64: discounted return of each row so far."""
    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def update(self, rewards: Array, *, done: Array, valid: Array, gamma: float) -> float:
        """Add a rollout, (T, N) each, of every process, and return the factor for rewards."""
        # Of returns and not of rewards: the values that the critic learns are returns.
        returns, self.running_returns = discounted_returns(
            rewards, done, start=self.running_returns, gamma=gamma
        )
        # Chan, Golub and LeVeque 1983: moments of parts merge exactly; see nn/moments.py.
        added = of_all_processes(moments_of(torch.as_tensor(returns[valid]), ()))
        before = Moments(*(_scalar(each) for each in (self.count, self.mean, self.squares)))
        total = merge_moments(before, added)
        # One message from a device.
        numbers: list[float] = torch.stack([total.count, total.mean, total.m2]).tolist()
        self.count, self.mean, self.squares = numbers
        return self.factor

    @property
    def factor(self) -> float:
        """The factor that rewards are multiplied by; 1 while all returns are equal."""
        variance = self.squares / self.count if self.count else 0.0
        return float(variance**-0.5) if variance > SMALLEST_VARIANCE else 1.0

    def restart(self) -> None:
        """Start new returns in all rows; the statistics stay."""
        self.running_returns = namespace(self.running_returns).zeros_like(self.running_returns)

    def state_dict(self) -> dict[str, Any]:
        """Return the returns under way, (N,) float64, and the statistics, as floats."""
        return {
            "running_returns": copy.deepcopy(self.running_returns),
            "count": self.count,
            "mean": self.mean,
            "squares": self.squares,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned for as many rows."""
        self.running_returns[:] = state["running_returns"]
        self.count, self.mean, self.squares = (
            float(state[name]) for name in ("count", "mean", "squares")
        )


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def return_variation(returns: Array) -> float:
    """Return the standard deviation over the root of the mean square: 0 all equal, 1 around 0."""
    if not len(returns):
        return 0.0
    library = namespace(returns)
    wide = library.asarray(returns, dtype=library.float64)
    size = float(library.square(wide).mean()) ** 0.5
    return float(_variance(wide)) ** 0.5 / size if size else 0.0


def explained_variance(values: Array, returns: Array) -> float:
    """Return how much of the returns' variance the values explain: 1 all, 0 none, below 0 worse."""
    variance = float(_variance(returns)) if len(returns) else 0.0
    return 1.0 - float(_variance(returns - values)) / variance if variance > 0 else float("nan")


def _variance(array: Array) -> Array:
    # NumPy's own recipe. Its function divides by N, and torch's of the same name by N - 1.
    return namespace(array).square(array - array.mean()).mean()
