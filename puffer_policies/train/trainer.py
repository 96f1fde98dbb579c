"""The trainer: collect a rollout, estimate advantages, learn from the batch.

`T` steps of a rollout, `N` envs, `L` steps of a segment. Nothing here depends on spaces, policies
or wrappers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError, TrainingError
from puffer_policies.nn.moments import RunningMoments
from puffer_policies.nn.value_heads import ValueHeadWithLoss, value_head_of
from puffer_policies.spaces import action_layout
from puffer_policies.spaces.nested import map_nested
from puffer_policies.train.alarms import Alarm, Reading, Watch, alarms
from puffer_policies.train.arrays import beside, zeros
from puffer_policies.train.batch import Batch, make_batch
from puffer_policies.train.carry import Carry, PolicyCalls, policy_calls
from puffer_policies.train.distributed import ALONE, World, share_of
from puffer_policies.train.episodes import summary_of
from puffer_policies.train.feed import Feed
from puffer_policies.train.graphs import make_graphs
from puffer_policies.train.health import (
    entropy_share,
    inspect,
    require_finite,
    require_finite_losses,
)
from puffer_policies.train.plan import make_plan
from puffer_policies.train.ppo import PPO
from puffer_policies.train.returns import RewardScale, explained_variance, gae, return_variation
from puffer_policies.train.rollout import Collector, Rollout
from puffer_policies.vector.protocol import Array, VecEnv, device_of
from puffer_policies.vector.seeds import Stream, spawn_seeds


class Trainer:
    """Trains `policy` in `vecenv` by PPO, in three steps that a caller can look between.

    ::

        while not trainer.finished:
            rollout = trainer.collect()
            batch = trainer.estimate(rollout)
            logs = trainer.learn(batch)

    `config` counts the steps of all the processes in `world`; `vecenv` holds this one's envs.

    Raises:
        ConfigError: sizes that do not divide, or envs on another device than the policy.
        ContractError: the policy's state or values have a form that can't be trained.
    """

    def __init__(
        self, config: TrainConfig, vecenv: VecEnv, policy: nn.Module, *, world: World = ALONE
    ) -> None:
        config = share_of(config, world)
        self.config, self.vecenv, self.policy, self.world = config, vecenv, policy, world
        self.device = _common_device(policy, vecenv)
        _require_normalizer(config, policy)
        self._value_head = value_head_of(policy)
        _require_no_clip(config, self._value_head)
        # Each process may have built its policy from other random numbers.
        world.broadcast_(policy)
        self.epoch = 0
        """Updates so far."""
        self.global_step = 0
        """Env steps so far, over all processes."""
        self.generator = torch.Generator(self.device).manual_seed(self._seed(Stream.ACTIONS))
        carry = Carry(
            policy,
            vecenv.num_agents,
            device=self.device,
            use_rnn=config.use_rnn,
            calls=_calls(config, policy, self.device),
        )
        self.plan = make_plan(
            config, vecenv.num_agents, recurrent=carry.recurrent, num_envs=vecenv.num_envs
        )
        graphs = make_graphs(config, self.device, [self.generator])
        self.ppo = PPO(
            config,
            policy,
            carry,
            self.plan,
            generator=self.generator,
            world=world,
            graphs=graphs,
        )
        self.reward_scale = RewardScale(zeros(vecenv.num_agents, "float64", device_of(vecenv)))
        feed = Feed(vecenv, policy)
        self.collector = Collector(
            vecenv,
            carry,
            feed,
            num_steps=self.plan.num_steps,
            segment=self.plan.segment,
            device=self.device,
            generator=self.generator,
            seed=self._seed(Stream.ENVS),
            graphs=graphs,
        )
        feed.warn_if_masks_are_unread()
        self.alarms: list[Alarm] = []
        """The alarms of the last update that no earlier update of the run had."""
        self._watch, self._layout = Watch(), action_layout(vecenv.single_action_space)
        self._clock = time.perf_counter()
        self._collect_seconds = self._estimate_seconds = 0.0

    @property
    def total_steps(self) -> int:
        """Env steps of the whole run, over all processes: whole updates."""
        return self.plan.total_steps * self.world.size

    @property
    def finished(self) -> bool:
        """Whether the run has made all its updates."""
        return self.epoch >= self.plan.num_updates

    def collect(self) -> Rollout:
        """Step the policy through the envs, T steps in each.

        The rollout is valid until the next call, which overwrites it.

        Raises:
            TrainingError: an observation, a reward or the policy's output is not finite.
        """
        start = time.perf_counter()
        # A caller that evaluates between two updates may have left dropout and the like off.
        self.policy.train()
        rollout = self.collector.collect()
        require_finite(rollout)
        self._collect_seconds = time.perf_counter() - start
        self.global_step += self.plan.batch_size * self.world.size
        return rollout

    def estimate(self, rollout: Rollout) -> Batch:
        """Add advantages and returns to a rollout and cut it into segments.

        The rollout becomes part of the running scale of rewards, so estimate each one once.
        """
        start, config = time.perf_counter(), self.config
        if config.scale_rewards:
            self.reward_scale.update(
                rollout.rewards, done=rollout.done, valid=~rollout.ghost, gamma=config.gamma
            )
        factor = self.reward_scale.factor if config.scale_rewards else 1.0
        rewards = rollout.rewards * factor
        values = beside(rollout.values, rewards)
        advantages = gae(
            rewards,
            values,
            rollout.next_values,
            terminated=rollout.terminated,
            done=rollout.done,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
        )
        batch = make_batch(
            rollout,
            rewards=rewards,
            advantages=advantages,
            returns=advantages + values,
            segment=self.plan.segment,
        )
        self._estimate_seconds = time.perf_counter() - start
        return batch

    def learn(self, batch: Batch) -> dict[str, float]:
        """Improve the policy on a batch and return the measurements of this update.

        Raises:
            TrainingError: the batch is not of the latest rollout, or the loss is not finite.
        """
        start, rollout = time.perf_counter(), batch.rollout
        if rollout.index != self.collector.num_rollouts - 1:
            raise TrainingError(
                "The batch is of an earlier rollout, which a later collect() has overwritten.",
                fix="Learn from each rollout before collecting the next one.",
            )
        valid = ~rollout.ghost
        returns, advantages = batch.returns[valid], batch.advantages[valid]
        if self._value_head is not None:
            self._value_head.update_statistics(torch.as_tensor(returns, device=self.device))
        reading = self._inspect(batch)
        # A caller's own loop may go on beyond the plan. Negative rates would climb the loss.
        remaining = max(1.0 - self.epoch / self.plan.num_updates, 0.0)
        losses = self.ppo.update(batch, remaining=remaining)
        require_finite_losses(losses, self.policy, update=self.epoch + 1)
        # Not before: the update scores actions by the observations as the rollout normalized them.
        _update_statistics(self.policy, rollout)
        # Of the values predicted during the rollout, which advantages were estimated with.
        explained = explained_variance(returns - advantages, returns)
        reading = replace(
            reading,
            explained_variance=explained,
            return_variation=return_variation(returns),
            returns_outside=_share_outside(returns, self._value_head),
        )
        self._set_alarms(reading, losses)
        self.epoch += 1
        logs = self._logs(losses, explained)
        return {**logs, **self._times(time.perf_counter() - start)}

    def state_dict(self) -> dict[str, Any]:
        """Return what the trainer goes on with: nested dicts of numbers, lists, arrays and tensors.

        Three things are left to the caller: the policy's weights, the envs, and the random
        generators of the process. The tensors are not copies. Call it between two updates.
        """
        return {
            "epoch": self.epoch,
            "global_step": self.global_step,
            "generator": self.generator.get_state(),
            "optimizer": self.ppo.optimizer.state_dict(),
            "collector": self.collector.state_dict(),
            "reward_scale": self.reward_scale.state_dict(),
            "alarms": self._watch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned for the same plan, policy and kind of device.

        Envs that are not brought to the same step need `restart_episodes` afterwards.

        Raises:
            ValueError: the optimizer's state belongs to other parameters.
        """
        # First, as it is the one part that checks what it gets.
        self.ppo.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.global_step = state["epoch"], state["global_step"]
        self.generator.set_state(state["generator"].cpu())
        self.collector.load_state_dict(state["collector"])
        self.reward_scale.load_state_dict(state["reward_scale"])
        self._watch.load_state_dict(state["alarms"])

    def reseed(self) -> None:
        """Seed the trainer's generator by its process and update, so that no two draw the same."""
        self.generator.manual_seed(self._seed(Stream.ACTIONS))

    def restart_episodes(self) -> None:
        """Start new episodes in every env."""
        self.collector.restart(seed=self._seed(Stream.ENVS))
        self.reward_scale.restart()

    def close(self) -> None:
        """Close the envs."""
        self.vecenv.close()

    def _seed(self, stream: Stream) -> int:
        """Return the seed of a stream in this process, from this update on."""
        # By the update as well, else a resumed run would play its first episodes again.
        return spawn_seeds(self.config.seed, 1, stream, self.world.rank, self.epoch)[0]

    def _inspect(self, batch: Batch) -> Reading:
        """Return the reading before an update; an empty one unless an inspection is due."""
        interval = self.config.alarm_interval
        if not interval or self.epoch % interval:
            return Reading(epoch=self.epoch)
        # The first piece holds the first segments of many envs, which is sample enough.
        piece = next(batch.segments.split(self.plan.segments_per_piece))
        return inspect(
            self.policy,
            piece,
            self.ppo.predict(piece),
            config=self.config,
            layout=self._layout,
            epoch=self.epoch,
        )

    def _set_alarms(self, reading: Reading, losses: dict[str, float]) -> None:
        """Set `alarms` by the reading of an update and its losses."""
        reading = replace(reading, entropy_share=entropy_share(losses["entropy"], self._layout))
        self.alarms = self._watch.new(alarms(reading)) if self.config.alarm_interval else []

    def _logs(self, losses: dict[str, float], explained: float) -> dict[str, float]:
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        # Sums, and not means: the processes may have finished different numbers of episodes.
        totals = torch.tensor(self.collector.episodes.totals(), dtype=torch.float64)
        return {
            "SPS": self.plan.batch_size * self.world.size / seconds,
            "agent_steps": self.global_step,
            "epoch": self.epoch,
            "learning_rate": self.ppo.optimizer.param_groups[0]["lr"],
            **summary_of(self.world.sum_(totals).tolist()),
            **{f"losses/{name}": value for name, value in losses.items()},
            "losses/explained_variance": explained,
        }

    def _times(self, learn_seconds: float) -> dict[str, float]:
        """Return the seconds of the update spent in the envs, in choosing actions, in learning."""
        env_seconds, self.collector.env_seconds = self.collector.env_seconds, 0.0
        return {
            "time/env": env_seconds,
            "time/act": self._collect_seconds - env_seconds,
            "time/learn": self._estimate_seconds + learn_seconds,
        }


def _common_device(policy: nn.Module, vecenv: VecEnv) -> torch.device:
    """Return the device of the policy, which envs on a device have to share."""
    parameter, env_device = next(policy.parameters(), None), device_of(vecenv)
    if parameter is None:
        return env_device or torch.device("cpu")
    device: torch.device = parameter.device
    # Copies would hide that each step waits for two devices.
    if env_device is not None and env_device != device:
        raise ConfigError(
            f"The envs give tensors on {str(env_device)!r}, and the policy is on {str(device)!r}.",
            fix=f"Make the envs on {str(device)!r}, or set train.device to {str(env_device)!r}. "
            "puffer_policies.vector.tensor.host.on_host copies each step, for any policy.",
        )
    return device


def _calls(config: TrainConfig, policy: nn.Module, device: torch.device) -> PolicyCalls:
    mode = config.compile_mode if config.compile else None
    return policy_calls(policy, device=device, precision=config.precision, compile_mode=mode)


def _require_normalizer(config: TrainConfig, policy: nn.Module) -> None:
    """Raise a `ConfigError` if observations shall be normalized and nothing in `policy` does so."""
    normalizes = any(isinstance(module, RunningMoments) for module in policy.modules())
    if config.normalize_observations and not normalizes:
        raise ConfigError(
            f"train.normalize_observations is set, but {type(policy).__name__} normalizes nothing.",
            fix="Put a NormalizeObservationWrapper around it, or build it with load_policy.",
        )


def _require_no_clip(config: TrainConfig, head: ValueHeadWithLoss | None) -> None:
    """Raise a `ConfigError` if the loss of values shall be clipped and their head has its own."""
    if config.clip_vloss and head is not None:
        raise ConfigError(
            f"train.clip_vloss is set, but the policy's {type(head).__name__} has a loss of its "
            "own, which is not clipped.",
            fix="Leave train.clip_vloss out.",
        )


def _share_outside(returns: Array, head: ValueHeadWithLoss | None) -> float | None:
    """Return the share of returns that the value head can't give; None of a plain head."""
    if head is None or not len(returns):
        return None
    low, high = head.bounds
    return float(((returns < low) | (returns > high)).sum()) / len(returns)


@torch.no_grad()
def _update_statistics(policy: nn.Module, rollout: Rollout) -> None:
    """Call ``update_statistics`` of a policy that has it with the observations of a rollout.

    Ghosts are left out: with them, statistics would depend on how the env restarts episodes.
    """
    update = getattr(policy, "update_statistics", None)
    if update is None:
        return
    valid = torch.as_tensor(~rollout.ghost, device=rollout.values.device)
    update(map_nested(lambda leaf: leaf[valid], rollout.observations))  # (M, *obs)
