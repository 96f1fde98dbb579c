"""Collecting a rollout: T steps of N envs into buffers that are allocated once.

`T` steps of a rollout, `N` envs, `L` steps of a segment, `S` = T/L segments of each env.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import EnvError
from puffer_policies.nested import leaves, map_nested
from puffer_policies.nn.distributions import distribution
from puffer_policies.train.carry import Carry, Tensors
from puffer_policies.train.episodes import EpisodeTracker
from puffer_policies.train.feed import Arrays, Feed, on_device
from puffer_policies.vector.protocol import Step, VecEnv

Shown = tuple[Any, np.ndarray, Arrays]
"""What envs show: observations, episode starts, and what else the policy is sent."""


def as_tensor(array: Any) -> Tensor:
    """Return a NumPy leaf as a tensor, on the same memory if torch can share it."""
    array = np.asarray(array)
    if not (array.flags.writeable and array.flags.c_contiguous):
        array = array.copy()
    return torch.from_numpy(array)


def to_tensor(array: Any) -> Tensor:
    """Return a NumPy leaf as a tensor of the dtype that policies see: float64 becomes float32."""
    tensor = as_tensor(array)
    return tensor.float() if tensor.dtype is torch.float64 else tensor


@dataclass(frozen=True, slots=True)
class Rollout:
    """What T steps of N envs gave, time first. Tensors are on the device, arrays on the host."""

    observations: Any
    """(T, N, *obs), nested as the space is."""
    starts: Tensor
    """(T, N) bool: the observation is the first of an episode."""
    sent: Tensors
    """(T, N, ...): what else the policy was sent, by state key, such as ``action_mask``."""
    actions: Tensor
    """(T, N, ...), as the policy drew them: not clipped."""
    log_probs: Tensor
    """(T, N) float32."""
    values: Tensor
    """(T, N) float32."""
    next_values: np.ndarray
    """(T, N) float32: value of what each step led to, the final observation if it was cut there."""
    rewards: np.ndarray
    """(T, N) float32, raw."""
    terminated: np.ndarray
    """(T, N) bool."""
    done: np.ndarray
    """(T, N) bool: terminated or truncated."""
    ghost: np.ndarray
    """(T, N) bool: no transition, the env only restarted."""
    states: list[Tensors]
    """The recurrent state (N, ...) before each of the S segments, before any reset there."""


class Collector:
    """Steps a policy through envs, keeping observation and recurrent state between rollouts."""

    def __init__(
        self,
        vecenv: VecEnv,
        carry: Carry,
        feed: Feed,
        *,
        num_steps: int,
        segment: int,
        device: torch.device,
        generator: torch.Generator,
        seed: int,
    ) -> None:
        self.episodes = EpisodeTracker(vecenv.num_agents)
        self._vecenv, self._carry, self._feed = vecenv, carry, feed
        self._num_steps, self._segment = num_steps, segment
        self._generator = generator
        self.env_seconds = 0.0
        """What the envs have taken, for whoever reads it to set back."""
        observations = vecenv.reset(seed=seed)
        starts = np.ones(vecenv.num_agents, dtype=bool)
        shown = observations, starts, feed.now()
        self._buffers = _Buffers(num_steps, vecenv.num_agents, shown, device)
        self._begin(shown)

    def restart(self, *, seed: int) -> None:
        """Start new episodes in every env."""
        self._carry.restart()
        self.episodes.restart()
        observations = self._vecenv.reset(seed=seed)
        starts = np.ones(self._vecenv.num_agents, dtype=bool)
        self._begin((observations, starts, self._feed.now()))

    def here(self) -> Tensors:
        """Return what the next rollout begins with, (N, ...) each: what is shown, the state."""
        carried = {f"state.{key}": each for key, each in self._carry.tensors.items()}
        return {**self._seen(), **carried}

    def go_on(self, here: Tensors) -> None:
        """Begin the next rollout with what another collector's `here` returned."""
        for name, each in self._seen().items():
            each.copy_(here[name])
        carried = self._carry.tensors
        self._carry.tensors = {k: here[f"state.{k}"].to(each) for k, each in carried.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what the next rollout starts with.

        ``episodes`` is the state of the tracker, ``next_step`` holds tensors (N, ...): the last
        observations, episode starts and inputs, and the recurrent state. The tensors are not
        copies: the next rollout writes over them.
        """
        return {"episodes": self.episodes.state_dict(), "next_step": self.here()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; the envs must be brought to the same step."""
        self.episodes.load_state_dict(state["episodes"])
        self.go_on(state["next_step"])

    def _seen(self) -> Tensors:
        observations, starts, sent = self._buffers.seen(self._num_steps)
        seen = {f"observation.{i}": each for i, each in enumerate(leaves(observations))}
        return {**seen, "starts": starts, **{f"sent.{key}": each for key, each in sent.items()}}

    def _begin(self, shown: Shown) -> None:
        # The last row: a rollout begins with what the one before it saw last.
        self._buffers.show(self._num_steps, shown)

    @torch.no_grad()
    def collect(self) -> Rollout:
        """Take T steps and return them. The buffers are overwritten by the next call."""
        buffers, states = self._buffers, []
        buffers.rewind()
        for t in range(self._num_steps):
            if t % self._segment == 0:
                # Copied: a state may be a view of observations, which this rollout writes over.
                states.append({key: each.clone() for key, each in self._carry.tensors.items()})
            self._step(t)
        observations, starts, sent = buffers.seen(self._num_steps)
        return buffers.rollout(self._carry.peek(observations, starts, sent=sent), states)

    def _step(self, t: int) -> None:
        buffers = self._buffers
        observations, starts, sent = buffers.seen(t)
        logits, values = self._carry.step(observations, starts, sent=sent)
        drawn = distribution(logits)
        actions = drawn.sample(self._generator)
        buffers.decide(actions, drawn.log_prob(actions), values)
        taken, begun = actions.cpu().numpy(), time.perf_counter()
        step = self._vecenv.step(taken)
        self.env_seconds += time.perf_counter() - begun
        self._feed.took(taken, step.rewards)
        self.episodes.update(step)
        buffers.outcome(t, step)
        if step.final_observations is not None and (step.truncated & ~step.terminated).any():
            buffers.override(t, step.truncated, self._final_values(step))
        buffers.show(t + 1, (step.observations, step.starts, self._feed.now()))

    def _final_values(self, step: Step) -> Tensor:
        """Return the values (N,) of final observations, by the state after the step, not reset."""
        _, starts, _ = self._buffers.seen(0)
        observations = map_nested(
            lambda leaf: to_tensor(leaf).to(starts.device), step.final_observations
        )
        # The episode goes on in this state: nothing is reset. Values depend on no mask.
        sent = on_device(self._feed.now(), starts.device)
        if ACTION_MASK in sent:
            sent[ACTION_MASK] = torch.ones_like(sent[ACTION_MASK])
        return self._carry.peek(observations, torch.zeros_like(starts), sent=sent)


class _Buffers:
    """The memory of a rollout. What envs show has one row more, for what comes next.

    It is a tree: observations, episode starts, and what else the policy is sent.

    What envs show is written to host rows. On the CPU these are the memory of the tensors that the
    policy reads; for another device they are one row, sent there at every step.
    """

    def __init__(self, num_steps: int, num_envs: int, shown: Shown, device: torch.device) -> None:
        rows, shape = num_steps + 1, (num_steps, num_envs)
        self._shown = map_nested(lambda leaf: _zeros(leaf, rows, device), shown)
        # Cut once: indexing a tensor costs as much as adding two.
        self._rows = [map_nested(operator.itemgetter(t), self._shown) for t in range(rows)]
        self._shared = device.type == "cpu"
        staged = map_nested(_staged, self._rows[0])
        self._staged = [self._rows[t] if self._shared else staged for t in range(rows)]
        self._host = [map_nested(Tensor.numpy, each) for each in self._staged]
        self._decided: list[tuple[Tensor, Tensor, Tensor]] = []
        self._rewards = np.zeros(shape, dtype=np.float32)
        self._terminated, self._truncated, self._ghost = (np.zeros(shape, bool) for _ in range(3))
        self._overrides: list[tuple[int, np.ndarray, Tensor]] = []

    def rewind(self) -> None:
        """Make the last row the first."""
        self._overrides, self._decided = [], []
        map_nested(Tensor.copy_, self._rows[0], self._rows[-1])

    def show(self, t: int, shown: Shown) -> None:
        """Put what the envs show at `t` on the device."""
        map_nested(_write, self._host[t], shown)
        if not self._shared:
            map_nested(Tensor.copy_, self._rows[t], self._staged[t])

    def seen(self, t: int) -> tuple[Any, Tensor, Tensors]:
        """Return observations (N, *obs), starts (N,) and what else is sent (N, ...) at `t`."""
        observations, starts, sent = self._rows[t]
        return observations, starts, sent

    def decide(self, actions: Tensor, log_probs: Tensor, values: Tensor) -> None:
        """Keep what the policy said at the next step."""
        self._decided.append((actions, log_probs, values))

    def outcome(self, t: int, step: Step) -> None:
        """Keep what the envs answered at `t`."""
        self._rewards[t] = step.rewards
        self._terminated[t] = step.terminated
        self._truncated[t] = step.truncated
        self._ghost[t] = step.ghost

    def override(self, t: int, rows: np.ndarray, values: Tensor) -> None:
        """Give the rows that were cut at `t` the values of their final observations."""
        self._overrides.append((t, rows, values))

    def rollout(self, last_values: Tensor, states: list[Tensors]) -> Rollout:
        """Return what there is; `last_values` (N,) belong to what the last step showed."""
        actions, log_probs, values = (
            torch.stack(each) for each in zip(*self._decided, strict=True)
        )
        next_values = torch.cat([values[1:], last_values[None]]).cpu().numpy()  # (T, N)
        for t, rows, final in self._overrides:
            next_values[t][rows] = final.cpu().numpy()[rows]
        observations, starts, sent = map_nested(lambda rows: rows[:-1], self._shown)
        return Rollout(
            observations=observations,
            starts=starts,
            sent=sent,
            actions=actions,
            log_probs=log_probs,
            values=values,
            next_values=next_values,
            rewards=self._rewards,
            terminated=self._terminated,
            done=self._terminated | self._truncated,
            ghost=self._ghost,
            states=states,
        )


def _zeros(leaf: Any, rows: int, device: torch.device) -> Tensor:
    example = to_tensor(leaf)
    return torch.zeros((rows, *example.shape), dtype=example.dtype, device=device)


def _staged(row: Tensor) -> Tensor:
    return torch.zeros_like(row, device="cpu")


def _write(row: np.ndarray, shown: Any) -> None:
    try:
        np.copyto(row, shown)
    except TypeError as error:  # fractions are not rounded to the integers of a careless reset()
        raise EnvError(
            f"The env's step() returned observations of {np.asarray(shown).dtype}, its reset() of "
            f"{row.dtype}.",
            fix="Return the observation space's dtype from both.",
        ) from error
