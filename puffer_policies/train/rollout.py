"""The rollout: T steps of N envs, collected into buffers that are allocated once.

`T` steps of a rollout, `N` envs, `L` steps of a segment, `S` = T/L segments of each env.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import EnvError
from puffer_policies.nn.distributions import sample_with_log_prob
from puffer_policies.nn.observations import to_tensor
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.train.arrays import beside, namespace, zeros
from puffer_policies.train.carry import Carry, Tensors
from puffer_policies.train.episodes import EpisodeTracker
from puffer_policies.train.feed import Arrays, Feed, on_device
from puffer_policies.train.graphs import Graphed, Graphs
from puffer_policies.vector.machine import require_memory
from puffer_policies.vector.protocol import Array, Step, VecEnv, device_of

Inputs = tuple[Any, Array, Arrays]
"""A policy's inputs of one step from the envs, (N, ...): observations, episode starts, extras."""


Act = Callable[[Any, Tensor, Tensors, Tensors], tuple[Tensor, Tensor, Tensor, Tensors]]
"""Observations, starts, extras, state -> actions, log-probabilities, values, state."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """T steps of N envs, time first. Tensors are on the device of the policy.

    Arrays are NumPy's of envs on the host, and tensors, too, of envs on a device.

    The memory belongs to the collector: the next rollout overwrites it.
    """

    index: int
    """Rollouts that were collected before this one."""
    observations: Any
    """(T, N, *obs), nested as the space is."""
    starts: Tensor
    """(T, N) bool: the observation is the first of an episode."""
    extras: Tensors
    """(T, N, ...): other inputs of the policy, by state key, such as ``action_mask``."""
    actions: Tensor
    """(T, N, ...), as the policy sampled them: not clipped to a Box."""
    log_probs: Tensor
    """(T, N) float32."""
    values: Tensor
    """(T, N) float32."""
    next_values: Array
    """(T, N) float32: value of the observation after each step, the final one where an episode was
    truncated."""
    rewards: Array
    """(T, N) float32, raw."""
    terminated: Array
    """(T, N) bool."""
    done: Array
    """(T, N) bool: terminated or truncated."""
    ghost: Array
    """(T, N) bool: not a transition, the env only restarted an episode. Never learned from."""
    states: list[Tensors]
    """The recurrent state (N, ...) before each of the S segments, before any reset there."""


class Collector:
    """Steps a policy through envs, and keeps observations and recurrent state between rollouts."""

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
        graphs: Graphs | None = None,
    ) -> None:
        self._env_device = device_of(vecenv)
        self.episodes = EpisodeTracker(vecenv.num_agents, device=self._env_device)
        self.num_rollouts = 0
        """Rollouts collected so far."""
        self.env_seconds = 0.0
        """Seconds spent in the envs, for the caller to read and to set back; of envs on a device,
        seconds until they have their work, which it may do later."""
        self._vecenv, self._carry, self._feed = vecenv, carry, feed
        self._num_steps, self._segment = num_steps, segment
        self._generator = generator
        self._act: Act = self._choose
        if graphs is not None:
            # Copied, as the rollout keeps what every step returns.
            self._act = graphs.of(
                self._choose, name="Acting", memory=carry.policy_tensors, copies=True
            )
        inputs = self._reset(seed)
        self._buffers = _Buffers(
            num_steps, vecenv.num_agents, inputs, device, env_device=self._env_device
        )
        self._buffers.write_inputs(num_steps, inputs)

    def restart(self, *, seed: int) -> None:
        """Start new episodes in every env."""
        self._carry.restart()
        self.episodes.restart()
        # The last row: a rollout starts with the observations that the one before it ended with.
        self._buffers.write_inputs(self._num_steps, self._reset(seed))

    def state_dict(self) -> dict[str, Any]:
        """Return what the next rollout starts with.

        ``episodes`` is the state of the tracker, ``next_step`` holds tensors (N, ...): the last
        observations, episode starts and extras, and the recurrent state. The tensors are not
        copies: the next rollout writes over them.
        """
        states = {f"state.{key}": each for key, each in self._carry.tensors.items()}
        return {
            "episodes": self.episodes.state_dict(),
            "next_step": {**self._next_inputs(), **states},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; the envs must be brought to the same step."""
        self.episodes.load_state_dict(state["episodes"])
        tensors = state["next_step"]
        for name, each in self._next_inputs().items():
            each.copy_(tensors[name])
        self._carry.tensors = {
            key: tensors[f"state.{key}"].to(each) for key, each in self._carry.tensors.items()
        }

    @torch.no_grad()
    def collect(self) -> Rollout:
        """Take T steps and return them. The next call overwrites their tensors and arrays."""
        if isinstance(self._act, Graphed):
            # A graph outlives this rollout, so it must read the weights where they are.
            self._act.refresh()
            return self._collect()
        with self._carry.fixed(may_wait=self._env_device is None):
            return self._collect()

    def _collect(self) -> Rollout:
        buffers, states = self._buffers, []
        buffers.rewind()
        for t in range(self._num_steps):
            if t % self._segment == 0:
                # Copied: a state may be a view of observations, which this rollout writes over.
                states.append({key: each.clone() for key, each in self._carry.tensors.items()})
            self._step(t)
        observations, starts, extras = buffers.inputs(self._num_steps)
        last_values = self._carry.peek(observations, starts, extras=extras)
        rollout = buffers.rollout(last_values, states, index=self.num_rollouts)
        if self._env_device is not None:
            self.episodes.update_rollout(rollout.rewards, done=rollout.done, ghost=rollout.ghost)
        self.num_rollouts += 1
        return rollout

    def _step(self, t: int) -> None:
        buffers = self._buffers
        observations, starts, extras = buffers.inputs(t)
        actions, log_probs, values, self._carry.tensors = self._act(
            observations, starts, extras, self._carry.tensors
        )
        buffers.append_choice(actions, log_probs, values)
        on_host = self._env_device is None
        array: Array = actions.cpu().numpy() if on_host else actions
        before = time.perf_counter()
        step = self._vecenv.step(array)
        self.env_seconds += time.perf_counter() - before
        # Before extras() is called again: the next step reads this action and reward.
        self._feed.update(array, step.rewards)
        if on_host:
            self.episodes.update(step)
        buffers.write_outcome(t, step)
        if step.final_observations is not None:
            # A device is not asked whether an episode was truncated, as that would wait for it. A
            # pass in every step makes rollouts of the cheapest env 1.2 times as long, with an LSTM
            # 1.9, and hardly those of a simulator. One pass for the whole rollout would need T
            # final observations and recurrent states, twice the memory of a rollout or more.
            if not on_host or (step.truncated & ~step.terminated).any():
                buffers.override_next_values(t, self._final_values(step))
        elif step.lacks_final:
            buffers.override_next_values(t, values)
        buffers.write_inputs(t + 1, (step.observations, step.starts, self._feed.extras()))

    def _choose(
        self, observations: Any, starts: Tensor, extras: Tensors, state: Tensors
    ) -> tuple[Tensor, Tensor, Tensor, Tensors]:
        """(N, ...) each -> actions (N, ...), log-probs (N,), values (N,), the state after them."""
        self._carry.tensors = state
        logits, values = self._carry.step(observations, starts, extras=extras)
        actions, log_probs = sample_with_log_prob(logits, self._generator)
        return actions, log_probs, values, self._carry.tensors

    def _final_values(self, step: Step) -> Tensor:
        """Return the values (N,) of final observations, by the state after the step, not reset."""
        _, starts, _ = self._buffers.inputs(0)
        observations = map_nested(
            lambda leaf: to_tensor(leaf).to(starts.device), step.final_observations
        )
        # The episode goes on in this state: nothing is reset. Values depend on no mask.
        extras = on_device(self._feed.extras(), starts.device)
        if ACTION_MASK in extras:
            extras[ACTION_MASK] = torch.ones_like(extras[ACTION_MASK])
        return self._carry.peek(observations, torch.zeros_like(starts), extras=extras)

    def _reset(self, seed: int) -> Inputs:
        observations = self._vecenv.reset(seed=seed)
        starts = ~zeros(self._vecenv.num_agents, bool, self._env_device)
        return observations, starts, self._feed.extras()

    def _next_inputs(self) -> Tensors:
        observations, starts, extras = self._buffers.inputs(self._num_steps)
        return {
            **{f"observation.{i}": each for i, each in enumerate(leaves(observations))},
            "starts": starts,
            **{f"extras.{key}": each for key, each in extras.items()},
        }


class _Buffers:
    """Memory of T steps, and of the inputs after the last one, written in place.

    Of envs on the host, the arrays that they are written to are the memory of the tensors that a
    policy on the CPU reads. For another device they are one row on the host, which is copied there
    at every step. Envs on a device are written to the tensors themselves.
    """

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        inputs: Inputs,
        device: torch.device,
        *,
        env_device: torch.device | None,
    ) -> None:
        rows, shape = num_steps + 1, (num_steps, num_envs)
        _require_memory(rows, num_envs, inputs, device)
        self._inputs = map_nested(lambda leaf: _zeros(leaf, rows, device), inputs)
        # Cut once: indexing a tensor costs as much as adding two.
        self._rows = [map_nested(operator.itemgetter(t), self._inputs) for t in range(rows)]
        copied = _is_copied(env_device, device)
        self._host_row = _HostRow(self._rows[0], device) if copied else None
        self._write: Callable[[Any, Any], None] = _write_tensor
        self._targets = self._rows
        if env_device is None:
            self._write = _write_array
            own = None if self._host_row is None else self._host_row.tensors
            host_rows = self._rows if own is None else [own] * rows
            self._targets = [map_nested(Tensor.numpy, each) for each in host_rows]
        self._choices: list[tuple[Tensor, Tensor, Tensor]] = []
        # Advantages are estimated where the envs are, so what only they need stays there.
        self._rewards = zeros(shape, np.float32, env_device)
        self._terminated, self._truncated, self._ghost = (
            zeros(shape, bool, env_device) for _ in range(3)
        )
        outcome = self._rewards, self._terminated, self._truncated, self._ghost
        self._outcomes = list(zip(*outcome, strict=True))
        self._overrides: list[tuple[int, Tensor]] = []

    def rewind(self) -> None:
        """Make the last row the first."""
        self._overrides, self._choices = [], []
        map_nested(Tensor.copy_, self._rows[0], self._rows[-1])

    def write_inputs(self, t: int, inputs: Inputs) -> None:
        """Copy the policy's inputs at `t` to the device."""
        if self._host_row is not None:
            self._host_row.wait()
        map_nested(self._write, self._targets[t], inputs)
        if self._host_row is not None:
            self._host_row.copy_to(self._rows[t])

    def inputs(self, t: int) -> tuple[Any, Tensor, Tensors]:
        """Return observations (N, *obs), starts (N,) and extras (N, ...) at `t`."""
        observations, starts, extras = self._rows[t]
        return observations, starts, extras

    def append_choice(self, actions: Tensor, log_probs: Tensor, values: Tensor) -> None:
        """Store the policy's output of the next step."""
        self._choices.append((actions, log_probs, values))

    def write_outcome(self, t: int, step: Step) -> None:
        """Store the envs' output at `t`."""
        outcome = step.rewards, step.terminated, step.truncated, step.ghost
        for row, each in zip(self._outcomes[t], outcome, strict=True):
            if each.shape != row.shape:
                raise _other_shape(row, each, "rewards or flags")
            row[...] = each

    def override_next_values(self, t: int, values: Tensor) -> None:
        """Use `values` (N,), of final observations say, where an episode was truncated at `t`."""
        self._overrides.append((t, values))

    def rollout(self, last_values: Tensor, states: list[Tensors], *, index: int) -> Rollout:
        """Return all T steps; `last_values` (N,) are those of the inputs after the last one."""
        actions, log_probs, values = (
            torch.stack(each) for each in zip(*self._choices, strict=True)
        )
        # The value of the next observation is predicted anyway, one step later. Only where an
        # episode is truncated and the env restarts at once does the final one cost a call.
        next_values = beside(torch.cat([values[1:], last_values[None]]), self._rewards)  # (T, N)
        for t, final_values in self._overrides:
            final = beside(final_values, self._rewards)
            next_values[t] = namespace(final).where(self._truncated[t], final, next_values[t])
        observations, starts, extras = map_nested(lambda rows: rows[:-1], self._inputs)
        return Rollout(
            index=index,
            observations=observations,
            starts=starts,
            extras=extras,
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


def _is_copied(env_device: torch.device | None, device: torch.device) -> bool:
    """Return whether the inputs of a policy on `device` come from the host."""
    return env_device is None and device.type != "cpu"


class _HostRow:
    """The policy's inputs of one step on the host, from where they are copied to a device.

    For a GPU the memory is pinned, so that the host goes on while the copy runs. Nothing may be
    written over it before the copy has ended, which `wait` sees to. Between two steps the actions
    are read back, so that this hardly ever has to wait.
    """

    def __init__(self, row: Any, device: torch.device) -> None:
        pin = device.type == "cuda"
        self._event = torch.cuda.Event() if pin else None  # type: ignore[no-untyped-call]
        self.tensors = map_nested(
            lambda leaf: torch.zeros(leaf.shape, dtype=leaf.dtype, pin_memory=pin), row
        )

    def wait(self) -> None:
        """Return once the last copy has ended."""
        if self._event is not None:
            self._event.synchronize()

    def copy_to(self, row: Any) -> None:
        """Start to copy the inputs to `row` on the device."""
        map_nested(lambda own, leaf: leaf.copy_(own, non_blocking=True), self.tensors, row)
        if self._event is not None:
            self._event.record()


_STEP_SIZE = 1000
"""Bytes of the Python objects that stand for a step, whatever its observations; measured 2,500."""


def _require_memory(rows: int, num_envs: int, inputs: Inputs, device: torch.device) -> None:
    """Refuse a rollout that no memory holds, before anything is allocated for it.

    Raises:
        ConfigError: it needs more than there is.
    """
    row = sum(to_tensor(leaf).nbytes for leaf in leaves(inputs))
    row += num_envs * 4 * 6  # actions, log-probs, values, rewards and flags
    memory = None
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    require_memory(
        rows * (row + _STEP_SIZE),
        f"Rollouts of {rows - 1:,} steps in {num_envs:,} envs",
        fix="Use a smaller train.bptt_horizon, train.batch_size or vec.num_envs.",
        memory=memory,
    )


def _zeros(leaf: Any, rows: int, device: torch.device) -> Tensor:
    example = to_tensor(leaf)
    return torch.zeros((rows, *example.shape), dtype=example.dtype, device=device)


def _write_array(row: np.ndarray, leaf: Any) -> None:
    if np.shape(leaf) != row.shape:  # NumPy and torch would repeat a single row in all of them
        raise _other_shape(row, np.asarray(leaf), "observations")
    try:
        np.copyto(row, leaf)
    except TypeError as error:  # NumPy refuses to round fractions to integers without being asked
        raise _other_kind(row, np.asarray(leaf)) from error


def _write_tensor(row: Tensor, leaf: Tensor) -> None:
    if leaf.shape != row.shape:
        raise _other_shape(row, leaf, "observations")
    if not torch.can_cast(leaf.dtype, row.dtype):
        raise _other_kind(row, leaf)
    row.copy_(leaf)


def _other_shape(row: Array, value: Array, what: str) -> EnvError:
    return EnvError(
        f"The env's step() returned {what} of shape {tuple(value.shape)}, expected "
        f"{tuple(row.shape)}.",
        fix="Return arrays of one shape from every call: a row for each env.",
    )


def _other_kind(row: Array, leaf: Array) -> EnvError:
    return EnvError(
        f"The env's step() returned observations of {leaf.dtype}, its reset() of {row.dtype}.",
        fix="Return the observation space's dtype from both.",
    )
