"""PPO: collect a rollout, estimate advantages, and improve the policy on shuffled segments.

`T` steps of a rollout, `N` envs, `L` steps of a segment, `B` segments. Nothing here depends on
spaces, policies or wrappers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import TrainingError
from puffer_policies.spaces import action_layout
from puffer_policies.train.advantage import RewardScale, explained_variance, gae
from puffer_policies.train.alarms import Alarm, Reading, Watch, alarms
from puffer_policies.train.batch import Batch, to_batch
from puffer_policies.train.calls import PolicyCalls, policy_calls
from puffer_policies.train.carry import Carry
from puffer_policies.train.distributed import ALONE, World, share_of
from puffer_policies.train.episodes import summary_of
from puffer_policies.train.feed import Feed
from puffer_policies.train.finite import require_finite
from puffer_policies.train.health import entropy_share
from puffer_policies.train.learner import Learner
from puffer_policies.train.plan import make_plan
from puffer_policies.train.revision import Revision
from puffer_policies.train.rollout import Collector, Rollout
from puffer_policies.train.statistics import require_statistics, show_what_was_seen
from puffer_policies.train.vtrace import Clips
from puffer_policies.vector.protocol import VecEnv


class Trainer:
    """Trains `policy` in `vecenv`: ``evaluate()`` collects a rollout, ``train()`` learns from it.

    `config` counts the steps of all the processes in `world`; `vecenv` holds this one's envs.

    Raises:
        ConfigError: sizes that do not divide.
        ContractError: the policy's state or values have no form that can be trained.
    """

    def __init__(
        self, config: TrainConfig, vecenv: VecEnv, policy: nn.Module, *, world: World = ALONE
    ) -> None:
        config = share_of(config, world)
        self.config, self.vecenv, self.policy, self.world = config, vecenv, policy, world
        self.device = _device_of(policy)
        require_statistics(config, policy)
        world.broadcast_(policy)
        self.generator = torch.Generator(self.device).manual_seed(config.seed + world.rank)
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
        self.learner = Learner(
            config, policy, carry, self.plan, generator=self.generator, world=world
        )
        self.reward_scale = RewardScale(np.zeros(vecenv.num_agents))
        feed = Feed(vecenv, policy)
        self.collector = Collector(
            vecenv,
            carry,
            feed,
            num_steps=self.plan.num_steps,
            segment=self.plan.segment,
            device=self.device,
            generator=self.generator,
            # As if all envs were one batch: gymnasium seeds the i-th of a batch by seed + i.
            seed=config.seed + world.rank * vecenv.num_envs,
        )
        feed.masks.warn_if_unread()
        self.epoch = 0
        self.global_step = 0
        self.alarms: list[Alarm] = []
        """What the last update showed to be wrong, each alarm once in a run."""
        self._watch, self._layout = Watch(), action_layout(vecenv.single_action_space)
        self._rollout: Rollout | None = None
        self._clock = time.perf_counter()
        self._collecting = 0.0

    @property
    def total_epochs(self) -> int:
        """Updates of the whole run."""
        return self.plan.num_updates

    @property
    def finished(self) -> bool:
        """Whether every update has been made."""
        return self.epoch >= self.plan.num_updates

    def evaluate(self) -> dict[str, float]:
        """Collect a rollout and return what its episodes gave.

        Raises:
            TrainingError: an observation, a reward or the policy's answer is not finite.
        """
        begun = time.perf_counter()
        self.policy.train()
        self._rollout = self.collector.collect()
        require_finite(self._rollout)
        self._collecting = time.perf_counter() - begun
        self.global_step += self.plan.batch_size * self.world.size
        return self.collector.episodes.summary()

    def train(self) -> dict[str, float]:
        """Improve the policy on the last rollout and return what was measured.

        Raises:
            TrainingError: there is no rollout to learn from, or the loss is not finite.
        """
        if self._rollout is None:
            raise TrainingError("There is no rollout to learn from.", fix="Call evaluate() first.")
        rollout, self._rollout = self._rollout, None
        begun = time.perf_counter()
        advantages, returns = self._estimate(rollout)
        batch = to_batch(rollout, advantages, returns, segment=self.plan.segment)
        # A loop of the caller's own may go on beyond the plan: never below 0, which would climb.
        remaining = max(1.0 - self.epoch / self.plan.num_updates, 0.0)
        reading = self._inspected(batch)
        losses = self.learner.update(batch, remaining, self._revision(rollout, batch))
        self._require_finite(losses)
        show_what_was_seen(self.policy, rollout)
        valid = ~rollout.ghost
        explained = explained_variance((returns - advantages)[valid], returns[valid])
        self._look_out(reading, losses, explained)
        self.epoch += 1
        return {**self._logs(losses, explained), **self._times(time.perf_counter() - begun)}

    def state_dict(self) -> dict[str, Any]:
        """Return what the trainer goes on with: nested dicts of numbers, lists, arrays and tensors.

        Three things are left to the caller: the policy's weights, the envs, and the random
        generators of the process. The tensors are not copies.
        """
        return {
            "epoch": self.epoch,
            "global_step": self.global_step,
            "generator": self.generator.get_state(),
            "optimizer": self.learner.optimizer.state_dict(),
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
        self.learner.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.global_step = state["epoch"], state["global_step"]
        self.generator.set_state(state["generator"].cpu())
        self.collector.load_state_dict(state["collector"])
        self.reward_scale.load_state_dict(state["reward_scale"])
        self._watch.load_state_dict(state["alarms"])

    def reseed(self) -> None:
        """Draw from here on what no other process of the run draws, and no earlier update."""
        self.generator.manual_seed(self.config.seed + self.epoch + self.world.rank)

    def restart_episodes(self) -> None:
        """Start new episodes in every env."""
        seed = self.config.seed + self.epoch + self.world.rank * self.vecenv.num_envs
        self.collector.restart(seed=seed)
        self.reward_scale.restart()

    def begin_anew(self) -> None:
        """Start new episodes, with random numbers that no other process of the run has."""
        self.reseed()
        self.restart_episodes()

    def close(self) -> None:
        """Close the envs."""
        self.vecenv.close()

    def _scaled(self, rewards: np.ndarray) -> np.ndarray:
        factor = self.reward_scale.factor if self.config.scale_rewards else 1.0
        return rewards * np.float32(factor)

    def _estimate(self, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
        config = self.config
        if config.scale_rewards:
            self.reward_scale.update(
                rollout.rewards, done=rollout.done, valid=~rollout.ghost, gamma=config.gamma
            )
        values = rollout.values.cpu().numpy()
        advantages = gae(
            self._scaled(rollout.rewards),
            values,
            rollout.next_values,
            terminated=rollout.terminated,
            done=rollout.done,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
        )
        return advantages, advantages + values

    def _revision(self, rollout: Rollout, batch: Batch) -> Revision | None:
        clips = Clips.of(self.config)
        if clips is None:
            return None
        rewards = self._scaled(rollout.rewards)
        return Revision(self.config, rollout, batch, rewards=rewards, clips=clips)

    def _inspected(self, batch: Batch) -> Reading:
        """Return what shows before an update, if it is time to look."""
        interval = self.config.alarm_interval
        if not interval or self.epoch % interval:
            return Reading(epoch=self.epoch)
        return self.learner.inspect(batch, self._layout, epoch=self.epoch)

    def _look_out(self, before: Reading, losses: dict[str, float], explained: float) -> None:
        """Set `alarms` by what showed before and after an update."""
        share = entropy_share(losses["entropy"], self._layout)
        reading = replace(before, entropy_share=share, explained_variance=explained)
        self.alarms = self._watch.new(alarms(reading)) if self.config.alarm_interval else []

    def _require_finite(self, means: dict[str, float]) -> None:
        bad = [name for name, value in means.items() if not np.isfinite(value)]
        if bad:
            broken = [n for n, p in self.policy.named_parameters() if not p.isfinite().all()]
            raise TrainingError(
                f"The loss is not finite in update {self.epoch + 1}: {', '.join(bad)}; parameters "
                f"that are not finite: {', '.join(broken) or 'none'}.",
                fix="Try a lower learning_rate or max_grad_norm.",
            )

    def _logs(self, losses: dict[str, float], explained: float) -> dict[str, float]:
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        totals = torch.tensor(self.collector.episodes.totals(), dtype=torch.float64)
        return {
            "SPS": self.plan.batch_size * self.world.size / seconds,
            "agent_steps": self.global_step,
            "epoch": self.epoch,
            "learning_rate": self.learner.optimizer.param_groups[0]["lr"],
            **summary_of(self.world.sum_(totals).tolist()),
            **{f"losses/{name}": value for name, value in losses.items()},
            "losses/explained_variance": explained,
        }

    def _times(self, learning: float) -> dict[str, float]:
        """Return the seconds of the update in the envs, in the policy's choices, in learning."""
        env, self.collector.env_seconds = self.collector.env_seconds, 0.0
        return {"time/env": env, "time/act": self._collecting - env, "time/learn": learning}


def _device_of(policy: nn.Module) -> torch.device:
    parameter = next(policy.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _calls(config: TrainConfig, policy: nn.Module, device: torch.device) -> PolicyCalls:
    mode = config.compile_mode if config.compile else None
    return policy_calls(policy, device=device, precision=config.precision, compile_mode=mode)
