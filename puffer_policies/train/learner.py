"""Improving a policy on a batch: minibatches, their losses and gradients, the optimiser's steps.

`B` segments of `L` steps are in a batch, `M` of them in a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.nn.distributions import Distribution, distribution
from puffer_policies.spaces import ActionLayout
from puffer_policies.train.alarms import Reading
from puffer_policies.train.batch import Batch
from puffer_policies.train.carry import Carry
from puffer_policies.train.distributed import World
from puffer_policies.train.gradients import Gradients
from puffer_policies.train.health import inspect
from puffer_policies.train.optimizers import lr_fraction, make_optimizer
from puffer_policies.train.plan import Plan
from puffer_policies.train.ppo import LOSS_PARTS, Prediction, Transitions, piece_loss, prepared
from puffer_policies.train.priorities import Minibatch, minibatches
from puffer_policies.train.revision import Revision


class Learner:
    """Takes PPO's gradient steps. It knows no env: a batch is all that it is given.

    Args:
        config: the trainer's options.
        policy: whose parameters change.
        carry: runs the policy over segments.
        plan: sizes of minibatches, and of the pieces that go through the policy at once.
        generator: shuffles segments.
        world: the processes whose gradients are averaged.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: nn.Module,
        carry: Carry,
        plan: Plan,
        *,
        generator: torch.Generator,
        world: World,
    ) -> None:
        self.config, self.policy, self.plan = config, policy, plan
        self._carry, self._generator, self._world = carry, generator, world
        self.optimizer = make_optimizer(config, policy)
        self._gradients = Gradients(policy.parameters())

    def update(
        self, batch: Batch, remaining: float, revision: Revision | None = None
    ) -> dict[str, float]:
        """Pass over a batch `update_epochs` times and return the means of the loss's parts.

        Args:
            batch: what to learn from.
            remaining: the part of the run that is left, by which rates are annealed.
            revision: estimates advantages anew between the passes.
        """
        self._set_learning_rate(lr_fraction(self.config, remaining))
        clip_coef = self.config.clip_coef * (remaining if self.config.anneal_clip else 1.0)
        totals, count = torch.zeros(len(LOSS_PARTS), device=batch.numbers.device), 0
        for epoch in range(self.config.update_epochs):
            if epoch and revision is not None:
                batch = revision.revised()
            start = totals
            for chosen in self._minibatches(batch, 1.0 - remaining):
                totals = totals + self.step(batch, chosen, clip_coef, revision)
                count += 1
            if self._moved_too_far(totals - start):
                break
        means = self._world.mean_(totals / count).tolist()
        return dict(zip(LOSS_PARTS, means, strict=True))

    def step(
        self,
        batch: Batch,
        chosen: Minibatch,
        clip_coef: float,
        revision: Revision | None = None,
    ) -> Tensor:
        """Take a gradient step and return the parts of its loss."""
        self._gradients.clear()
        parts = []
        for rows, piece, old in self._pieces(batch, chosen):
            _, new = self.answer(piece)
            loss = piece_loss(old, new, self.config, clip_coef=clip_coef)
            loss.total.backward()  # type: ignore[no-untyped-call]
            parts.append(loss.parts)
            if revision is not None:
                revision.see(rows, new)
        self.descend()
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def descend(self) -> None:
        """Take a step of the optimiser: the one place where parameters change."""
        self._gradients.average(self._world)
        self._gradients.clip(self.config.max_grad_norm)
        self.optimizer.step()

    def answer(self, batch: Batch) -> tuple[Distribution, Prediction]:
        """Return what the policy now says about the steps of `batch`; (B*L,) each."""
        logits, values = self._carry.sequence(
            batch.observations, batch.starts, batch.states, sent=batch.sent
        )
        current = distribution(logits)
        actions = batch.actions.flatten(0, 1)  # (B*L, ...)
        log_probs, entropy = current.log_prob(actions), current.entropy()
        return current, Prediction(log_probs.float(), entropy.float(), values.float())

    def inspect(self, batch: Batch, layout: ActionLayout, *, epoch: int) -> Reading:
        """Measure the health of training on the first segments of a batch; nothing changes."""
        piece = next(batch.split(self.plan.segments_per_piece))
        answer = self.answer(piece)
        return inspect(self.policy, piece, answer, config=self.config, layout=layout, epoch=epoch)

    def _set_learning_rate(self, fraction: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * fraction

    def _moved_too_far(self, epoch_totals: Tensor) -> bool:
        if self.config.target_kl is None:
            return False
        num_minibatches = self.plan.batch_size // self.plan.minibatch_size
        kl = epoch_totals[LOSS_PARTS.index("approx_kl")] / num_minibatches
        return bool(self._world.mean_(kl) > self.config.target_kl)

    def _minibatches(self, batch: Batch, progress: float) -> Iterator[Minibatch]:
        known = Transitions(*batch.numbers)  # (B, L) each
        return minibatches(
            self.config,
            known.advantages,
            known.weights,
            size=self.plan.segments_per_minibatch,
            progress=progress,
            generator=self._generator,
        )

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
