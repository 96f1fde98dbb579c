"""PPO: collect a rollout, estimate advantages, and improve the policy on shuffled segments.

`T` steps of a rollout, `N` envs, `L` steps of a segment, `B` segments. Nothing here depends on
spaces, policies or wrappers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import TrainingError
from puffer_policies.nn.distributions import distribution
from puffer_policies.train.advantage import RewardScale, explained_variance, gae
from puffer_policies.train.batch import Batch, to_batch
from puffer_policies.train.calls import PolicyCalls, policy_calls
from puffer_policies.train.carry import Carry
from puffer_policies.train.gradients import Gradients
from puffer_policies.train.masking import MaskFeed
from puffer_policies.train.optimizers import lr_fraction, make_optimizer
from puffer_policies.train.plan import make_plan
from puffer_policies.train.ppo import LOSS_PARTS, Prediction, Transitions, piece_loss, prepared
from puffer_policies.train.priorities import Minibatch, minibatches
from puffer_policies.train.revision import Revision
from puffer_policies.train.rollout import Collector, Rollout, require_finite
from puffer_policies.train.statistics import require_statistics, show_what_was_seen
from puffer_policies.train.vtrace import Clips
from puffer_policies.vector.protocol import VecEnv


class Trainer:
    """Trains `policy` in `vecenv`: ``evaluate()`` collects a rollout, ``train()`` learns from it.

    Raises:
        ConfigError: sizes that do not divide.
        ContractError: the policy's state or values have no form that can be trained.
    """

    def __init__(self, config: TrainConfig, vecenv: VecEnv, policy: nn.Module) -> None:
        self.config, self.vecenv, self.policy = config, vecenv, policy
        self.device = _device_of(policy)
        require_statistics(config, policy)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        carry = Carry(
            policy,
            vecenv.num_agents,
            device=self.device,
            use_rnn=config.use_rnn,
            calls=_calls(config, policy, self.device),
        )
        self._carry = carry
        self.plan = make_plan(
            config, vecenv.num_agents, recurrent=carry.recurrent, num_envs=vecenv.num_envs
        )
        self.optimizer = make_optimizer(config, policy)
        self._gradients = Gradients(policy.parameters())
        self.reward_scale = RewardScale(np.zeros(vecenv.num_agents))
        masks = MaskFeed(vecenv, policy)
        self.collector = Collector(
            vecenv,
            carry,
            masks,
            num_steps=self.plan.num_steps,
            segment=self.plan.segment,
            device=self.device,
            generator=self.generator,
            seed=config.seed,
        )
        masks.warn_if_unread()
        self.epoch = 0
        self.global_step = 0
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
        self.global_step += self.plan.batch_size
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
        valid = ~rollout.ghost
        batch = to_batch(rollout, advantages, returns, segment=self.plan.segment)
        # A loop of the caller's own may go on beyond the plan: never below 0, which would climb.
        remaining = max(1.0 - self.epoch / self.plan.num_updates, 0.0)
        self._set_learning_rate(lr_fraction(self.config, remaining))
        losses = self._update(batch, remaining, self._revision(rollout, batch))
        show_what_was_seen(self.policy, rollout)
        self.epoch += 1
        values = returns - advantages
        explained = explained_variance(values[valid], returns[valid])
        return {**self._logs(losses, explained), **self._times(time.perf_counter() - begun)}

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

    def _set_learning_rate(self, fraction: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * fraction

    def _update(
        self, batch: Batch, remaining: float, revision: Revision | None
    ) -> dict[str, float]:
        clip_coef = self.config.clip_coef * (remaining if self.config.anneal_clip else 1.0)
        totals, count = torch.zeros(len(LOSS_PARTS), device=self.device), 0
        for epoch in range(self.config.update_epochs):
            if epoch and revision is not None:
                batch = revision.revised()
            start = totals
            for chosen in self._minibatches(batch, 1.0 - remaining):
                totals = totals + self._step(batch, chosen, clip_coef, revision)
                count += 1
            if self._moved_too_far(totals - start):
                break
        means = dict(zip(LOSS_PARTS, (totals / count).tolist(), strict=True))
        self._require_finite(means)
        return means

    def _moved_too_far(self, epoch_totals: Tensor) -> bool:
        if self.config.target_kl is None:
            return False
        num_minibatches = self.plan.batch_size // self.plan.minibatch_size
        kl = epoch_totals[LOSS_PARTS.index("approx_kl")] / num_minibatches
        return bool(kl > self.config.target_kl)

    def _minibatches(self, batch: Batch, progress: float) -> Iterator[Minibatch]:
        known = Transitions(*batch.numbers)  # (B, L) each
        return minibatches(
            self.config,
            known.advantages,
            known.weights,
            size=self.plan.segments_per_minibatch,
            progress=progress,
            generator=self.generator,
        )

    def _step(
        self, batch: Batch, chosen: Minibatch, clip_coef: float, revision: Revision | None
    ) -> Tensor:
        """Take a gradient step and return the parts of its loss."""
        self._gradients.clear()
        parts = []
        for rows, piece, old in self._pieces(batch, chosen):
            new = self.predict(piece)
            loss = piece_loss(old, new, self.config, clip_coef=clip_coef)
            loss.total.backward()  # type: ignore[no-untyped-call]
            parts.append(loss.parts)
            if revision is not None:
                revision.see(rows, new)
        self._descend()
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def _pieces(
        self, batch: Batch, chosen: Minibatch
    ) -> Iterator[tuple[Tensor, Batch, Transitions]]:
        """Yield what of a minibatch goes through the policy at once: rows, segments, numbers."""
        size, length = self.plan.segments_per_piece, self.plan.segment
        minibatch, importance = batch.select(chosen.rows), chosen.importance
        if importance is not None:
            importance = importance.repeat_interleave(length)  # (M*L,)
        whole = prepared(minibatch.transitions, self.config, importance=importance)
        if size >= len(chosen.rows):
            yield chosen.rows, minibatch, whole
            return
        numbers = zip(*(torch.split(each, size * length) for each in whole), strict=True)
        pieces = zip(torch.split(chosen.rows, size), minibatch.split(size), numbers, strict=True)
        yield from ((rows, piece, Transitions(*each)) for rows, piece, each in pieces)

    def predict(self, batch: Batch) -> Prediction:
        """Return what the policy now says about the steps of `batch`; (B*L,) each."""
        logits, values = self._carry.sequence(
            batch.observations, batch.starts, batch.states, mask=batch.masks
        )
        current = distribution(logits)
        actions = batch.actions.flatten(0, 1)  # (B*L, ...)
        log_probs, entropy = current.log_prob(actions), current.entropy()
        return Prediction(log_probs.float(), entropy.float(), values.float())

    def _descend(self) -> None:
        """Take a step of the optimiser: the one place where parameters change."""
        self._gradients.clip(self.config.max_grad_norm)
        self.optimizer.step()

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
        return {
            "SPS": self.plan.batch_size / seconds,
            "agent_steps": self.global_step,
            "epoch": self.epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **self.collector.episodes.summary(),
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
