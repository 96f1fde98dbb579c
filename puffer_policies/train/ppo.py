"""Proximal policy optimization from top to bottom: the update, its minibatches, its loss.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347; the details are those of CleanRL's ppo.py
(https://docs.cleanrl.dev/rl-algorithms/ppo/). Nothing here knows an env: a batch is all there is.

`B` segments of `L` steps in a batch, `M` of them in a minibatch, which are `N` = M*L transitions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ContractError
from puffer_policies.nn.cores.base import bounded_starts, idle_steps
from puffer_policies.nn.cores.flush import count_starts
from puffer_policies.nn.distributions import Distribution, distribution
from puffer_policies.nn.value_heads import giving_outputs, value_head_of
from puffer_policies.train.arrays import beside
from puffer_policies.train.batch import (
    Batch,
    Segments,
    Transitions,
    cut_in_segments,
    join_segments,
)
from puffer_policies.train.carry import Carry
from puffer_policies.train.distributed import World
from puffer_policies.train.graphs import Graphed, Graphs
from puffer_policies.train.loss import LOSS_PARTS, Prediction, fused_loss, piece_loss, prepared
from puffer_policies.train.optim import (
    Gradients,
    lay_out_moments,
    learning_rate_on_device,
    lr_fraction,
    make_optimizer,
)
from puffer_policies.train.plan import Plan
from puffer_policies.train.returns import Clips, updated_next_values, vtrace
from puffer_policies.vector.protocol import Array

SMALLEST_PRIORITY = 1e-6
"""Added to every priority, so that each segment can be chosen: the paper's epsilon."""


class Minibatch(NamedTuple):
    """The segments of one gradient step."""

    rows: Tensor
    """(M,) int64."""
    importance: Tensor | None
    """(M,): weight of each segment; None if all have the same."""
    numbers: Tensor | None = None
    """(5, M, L): those of the segments, if they were selected before."""
    old: Transitions | None = None
    """The same `prepared`, (M*L,) each, if they were before."""


class PPO:
    """Improves a policy on one batch after another.

    Args:
        config: the trainer's options.
        policy: the policy whose parameters change.
        carry: runs the policy over segments.
        plan: sizes of minibatches, and of the pieces that go through the policy at once.
        generator: shuffles segments.
        world: the processes whose gradients are averaged.
        graphs: replays gradient steps whose shapes stay the same; None launches kernel by kernel.
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
        graphs: Graphs | None = None,
    ) -> None:
        self.config, self.policy, self.plan = config, policy, plan
        self._carry, self._generator, self._world = carry, generator, world
        self._value_head = value_head_of(policy)
        self.optimizer = make_optimizer(config, policy)
        self._gradients = Gradients(policy.parameters())
        self._graphs = graphs if graphs is not None and self._is_static() else None
        self._step_graphs: dict[int, Graphed] = {}
        self._graph: Graphed | None = None

    def update(self, batch: Batch, *, remaining: float) -> dict[str, float]:
        """Pass over a batch `update_epochs` times and return the means of the loss's parts.

        `remaining` is the part of the run that is left, by which rates are annealed.
        """
        config, segments = self.config, batch.segments
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * lr_fraction(config, remaining)
        if self._gradients.follow_layouts():
            lay_out_moments(self.optimizer.state)
        self._graph = self._graph_for(segments)
        clip_coef = config.clip_coef * (remaining if config.anneal_clip else 1.0)
        clips = Clips.of(config)
        latest = None if clips is None else LatestPredictions(batch, config, clips)
        # Sums stay on the device: reading a loss after every step would wait for the GPU.
        totals, num_steps = torch.zeros(len(LOSS_PARTS), device=segments.numbers.device), 0
        for epoch in range(config.update_epochs):
            if epoch and latest is not None:
                segments = latest.reestimate()
            before = totals
            for minibatch in self._minibatches(segments, progress=1.0 - remaining):
                totals = totals + self.step(segments, minibatch, clip_coef, latest)
                num_steps += 1
            if self._diverged(totals - before):
                break
        self._graph = None  # it is made for these segments
        means = self._world.mean_(totals / num_steps).tolist()
        return dict(zip(LOSS_PARTS, means, strict=True))

    def step(
        self,
        segments: Segments,
        minibatch: Minibatch,
        clip_coef: float,
        latest: LatestPredictions | None = None,
    ) -> Tensor:
        """Take a gradient step and return the parts of its loss."""
        if self._graph is not None and not self._graph.is_refused:
            return self._replayed_step(self._graph, segments, minibatch, latest)
        parts = self.backward(segments, minibatch, clip_coef, latest)
        self._gradients.average(self._world)
        self._gradients.clip(self.config.max_grad_norm)
        self.optimizer.step()
        return parts

    def _is_static(self) -> bool:
        """Return whether the gradient steps of a run launch the same kernels.

        The clip range is a number inside kernels, Muon computes with its learning rate on the host,
        a compiled memory counts its episode starts there, and messages between processes and pieces
        of a minibatch are left to the plain road.
        """
        config, plan = self.config, self.plan
        return (
            not (self._carry.recurrent and config.compile)
            and not config.anneal_clip
            and isinstance(self.optimizer, torch.optim.Adam)
            and self._world.size == 1
            and plan.segments_per_piece >= plan.segments_per_minibatch
        )

    def _graph_for(self, segments: Segments) -> Graphed | None:
        """Return what replays the gradient steps on these segments, or None if nothing may.

        A memory takes a step more for each episode start in the fullest row. So there is a graph
        for each power of 2 of them, up to which shorter rows are padded.
        """
        if self._graphs is None or any(each.is_refused for each in self._step_graphs.values()):
            return None
        most = 0
        if self._carry.recurrent and self.plan.segment > 1:
            starts = count_starts(segments.starts)  # read back once an update
            most = min(1 << (starts - 1).bit_length(), self.plan.segment - 1) if starts else 0
        if most not in self._step_graphs:
            self._step_graphs[most] = self._graphs.of(
                functools.partial(self._recorded_step, most),
                name="The gradient step",
                memory=self._memory,
            )
        graph = self._step_graphs[most]
        graph.refresh()
        return graph

    def _memory(self) -> list[Tensor]:
        """Return the tensors that a gradient step reads or changes beside a minibatch."""
        states = self.optimizer.state.values()
        moments = [each for state in states for each in state.values()]
        return [*self._carry.policy_tensors(), *self._gradients.tensors, *moments]

    def _replayed_step(
        self,
        graph: Graphed,
        segments: Segments,
        minibatch: Minibatch,
        latest: LatestPredictions | None,
    ) -> Tensor:
        chosen, old = self._chosen(segments, minibatch)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        parts, new = graph(chosen.tensors, tuple(old), learning_rate)
        if latest is not None:
            latest.record(minibatch.rows, *new)
        result: Tensor = parts
        return result

    def _recorded_step(
        self,
        most_starts: int,
        chosen: tuple[Any, ...],
        old: tuple[Tensor, ...],
        learning_rate: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Take a gradient step on a minibatch; return the loss's parts, log-probs and values."""
        segments, config = Segments(*chosen), self.config
        self._gradients.clear()
        with bounded_starts(self.policy, most_starts):
            parts, new = self._backward_piece(segments, Transitions(*old), config.clip_coef)
        self._gradients.clip(config.max_grad_norm, on_host=False)
        with learning_rate_on_device(self.optimizer, learning_rate):
            self.optimizer.step()
        return parts, new

    def backward(
        self,
        segments: Segments,
        minibatch: Minibatch,
        clip_coef: float,
        latest: LatestPredictions | None = None,
    ) -> Tensor:
        """Compute the gradient of a minibatch, piece by piece, and return the parts of its loss.

        The predictions on the way are recorded in `latest`.
        """
        self._gradients.clear()
        parts = []
        for rows, piece, old in self._pieces(segments, minibatch):
            piece_parts, new = self._backward_piece(piece, old, clip_coef)
            parts.append(piece_parts)
            if latest is not None:
                latest.record(rows, *new)
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def _backward_piece(
        self, piece: Segments, old: Transitions, clip_coef: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Add the gradient of a piece, and return its parts, and log-probs and values (N,)."""
        with idle_steps(self.policy, piece.idle) if self._carry.recurrent else nullcontext():
            outputs, fused = self._outputs(piece), None
        if self._value_head is None:
            logits, values = outputs
            actions = piece.actions.flatten(0, 1)  # (N, ...)
            fused = fused_loss(old, logits, values, actions, self.config, clip_coef=clip_coef)
        if fused is not None:
            fused.backward()
            return fused.parts, (fused.log_probs, fused.values)
        _, new = self._prediction(piece, outputs)
        loss = piece_loss(old, new, self.config, clip_coef=clip_coef)
        loss.total.backward()  # type: ignore[no-untyped-call]
        return loss.parts, (new.log_probs.detach(), new.values.detach())

    def predict(self, segments: Segments) -> tuple[Distribution, Prediction]:
        """Return what the current policy says about every step of `segments`, with gradient."""
        return self._prediction(segments, self._outputs(segments))

    def _outputs(self, segments: Segments) -> tuple[Any, Tensor]:
        """Return logits of N rows and values (N,), or the outputs (N, K) of the value head."""
        head = self._value_head
        run = functools.partial(
            self._carry.sequence,
            segments.observations,
            segments.starts,
            segments.states,
            extras=segments.extras,
        )
        if head is None:
            return run()
        with giving_outputs(head):
            return run(num_outputs=head.linear.out_features)

    def _prediction(
        self, segments: Segments, outputs: tuple[Any, Tensor]
    ) -> tuple[Distribution, Prediction]:
        logits, values = outputs
        head, value_loss = self._value_head, None
        if head is not None:
            outputs_of_values, values = values, head.values(values)
            value_loss = head.loss(outputs_of_values, segments.transitions.returns)
            _require_rows(head, value_loss, values)
        current = distribution(logits)
        actions = segments.actions.flatten(0, 1)  # (B*L, ...)
        log_probs, entropy = current.log_prob(actions), current.entropy()
        return current, Prediction(log_probs.float(), entropy.float(), values.float(), value_loss)

    def _minibatches(self, segments: Segments, *, progress: float) -> Iterator[Minibatch]:
        """Yield the minibatches of one epoch, whose numbers are selected and prepared at once."""
        transitions = Transitions(*segments.numbers)  # (B, L) each
        chosen = list(
            minibatches(
                self.config,
                transitions.advantages,
                transitions.weights,
                size=self.plan.segments_per_minibatch,
                progress=progress,
                generator=self._generator,
            )
        )
        shape = len(chosen), self.plan.segments_per_minibatch, self.plan.segment
        rows = torch.cat([each.rows for each in chosen])
        # (5, minibatches, M, L)
        numbers = segments.numbers.index_select(1, rows).reshape(-1, *shape)
        weights = [each.importance for each in chosen if each.importance is not None]
        importance = torch.stack(weights).repeat_interleave(shape[2], 1) if weights else None
        old = prepared(Transitions(*numbers.flatten(2)), self.config, importance=importance)
        columns = zip(*(each.unbind() for each in old), strict=True)
        for each, own, prepared_ones in zip(chosen, numbers.unbind(1), columns, strict=True):
            yield each._replace(numbers=own, old=Transitions(*prepared_ones))

    def _chosen(self, segments: Segments, minibatch: Minibatch) -> tuple[Segments, Transitions]:
        """Return the segments of a minibatch, and its numbers as the loss wants them, (M*L,)."""
        whole = segments.select(minibatch.rows, numbers=minibatch.numbers)
        if minibatch.old is not None:
            return whole, minibatch.old
        importance = minibatch.importance
        if importance is not None:
            importance = importance.repeat_interleave(self.plan.segment)  # (M*L,)
        return whole, prepared(whole.transitions, self.config, importance=importance)

    def _pieces(
        self, segments: Segments, minibatch: Minibatch
    ) -> Iterator[tuple[Tensor, Segments, Transitions]]:
        """Yield the parts of a minibatch that fit into memory: rows, segments, transitions."""
        size, length = self.plan.segments_per_piece, self.plan.segment
        whole, old = self._chosen(segments, minibatch)
        if size >= len(minibatch.rows):
            yield minibatch.rows, whole, old
            return
        rows = torch.split(minibatch.rows, size)
        numbers = zip(*(torch.split(each, size * length) for each in old), strict=True)
        for part, piece, columns in zip(rows, whole.split(size), numbers, strict=True):
            yield part, piece, Transitions(*columns)

    def _diverged(self, epoch_totals: Tensor) -> bool:
        """Return whether the policy has moved beyond `target_kl` in an epoch, in the mean."""
        # Spinning Up's early stopping, https://spinningup.openai.com/en/latest/algorithms/ppo.html.
        if self.config.target_kl is None:
            return False
        num_minibatches = self.plan.batch_size // self.plan.minibatch_size
        kl = epoch_totals[LOSS_PARTS.index("approx_kl")] / num_minibatches
        return bool(self._world.mean_(kl) > self.config.target_kl)


def minibatches(
    config: TrainConfig,
    advantages: Tensor,
    weights: Tensor,
    *,
    size: int,
    progress: float,
    generator: torch.Generator,
) -> Iterator[Minibatch]:
    """Yield the minibatches of one epoch, B / M of M = `size`, over (B, L) advantages and weights.

    With ``prio_alpha`` 0 they hold every segment once, in random order. Otherwise segments with
    large advantages are chosen more often: Schaul et al. 2016, https://arxiv.org/abs/1511.05952, on
    the segments of one rollout as in PufferLib 3.0. `progress` is the part of the run that is over.
    """
    if config.prio_alpha == 0:
        order = torch.randperm(len(weights), generator=generator, device=weights.device)
        yield from (Minibatch(rows, None) for rows in torch.split(order, size))
        return
    chances = probabilities(advantages, weights, alpha=config.prio_alpha)
    beta = annealed_beta(config.prio_beta0, progress)
    for _ in range(len(weights) // size):
        # With replacement: one segment may come up twice.
        rows = torch.multinomial(chances, size, replacement=True, generator=generator)
        yield Minibatch(rows, importance_weights(chances, rows, beta=beta))


def probabilities(advantages: Tensor, weights: Tensor, *, alpha: float) -> Tensor:
    """(B, L) advantages and weights -> (B,) probabilities of being chosen.

    They are proportional to the sum of absolute advantages to the power `alpha`; 0 makes them
    equal. A segment of ghosts alone (weights 0) is never chosen, unless there is nothing else.
    """
    sums = (advantages.abs() * weights).sum(1)
    priorities = (sums + SMALLEST_PRIORITY).pow(alpha) * (weights.sum(1) > 0)
    priorities = torch.where(priorities.sum() > 0, priorities, 1.0)
    return priorities / priorities.sum()


def importance_weights(chances: Tensor, rows: Tensor, *, beta: float) -> Tensor:
    """Return the weights (M,) that correct for the chances of `rows`, fully so with `beta` 1.

    The paper divides them by their maximum; here the loss is divided by their sum anyway.
    """
    num_possible = (chances > 0).sum()
    return (chances[rows] * num_possible).pow(-beta)


def annealed_beta(beta0: float, progress: float) -> float:
    """Return the exponent after a part `progress` of the run: `beta0` at first, 1 at the end.

    This is the paper's line; PufferLib's ends at ``beta0 + (1 - beta0) * prio_alpha``.
    """
    return beta0 + (1.0 - beta0) * min(progress, 1.0)


def _require_rows(head: nn.Module, loss: Tensor, values: Tensor) -> None:
    if not loss.shape == values.shape == values.flatten().shape:
        raise ContractError(
            f"{type(head).__name__!r} gives losses {tuple(loss.shape)} and values "
            f"{tuple(values.shape)}; expected one of each for each of {values.shape[0]} rows.",
            fix="Return (N,) from values and from loss; outputs are (N, K) also where K is 1.",
        )


class LatestPredictions:
    """The policy's latest predictions for each step of a batch, which V-trace estimates from.

    Nothing is computed for it: probabilities and values are those of the gradient steps, as in
    PufferLib, so some are older than others. PufferLib estimates before each minibatch, this before
    each epoch.
    """

    def __init__(self, batch: Batch, config: TrainConfig, clips: Clips) -> None:
        self._batch, self._config, self._clips = batch, config, clips
        self._played = Transitions(*batch.segments.numbers)  # (B, L) each
        self._log_probs = self._played.log_probs.clone()
        self._values = self._played.values.clone()

    def record(self, rows: Tensor, log_probs: Tensor, values: Tensor) -> None:
        """Store the predictions (M*L,) for the segments `rows` (M,)."""
        length = self._values.shape[1]
        self._log_probs[rows] = log_probs.reshape(-1, length)
        self._values[rows] = values.reshape(-1, length)

    def reestimate(self) -> Segments:
        """Return the segments with advantages and returns of the current policy, by V-trace."""
        rollout, values = self._batch.rollout, self._by_time(self._values)
        advantages = vtrace(
            self._batch.rewards,
            values,
            updated_next_values(values, rollout.next_values, rollout.done),
            ratios=self._by_time((self._log_probs - self._played.log_probs).exp()),
            terminated=rollout.terminated,
            done=rollout.done,
            gamma=self._config.gamma,
            gae_lambda=self._config.gae_lambda,
            clips=self._clips,
        )
        returns = advantages + values
        return self._batch.segments.with_estimates(self._cut(advantages), self._cut(returns))

    def _by_time(self, segments: Tensor) -> Array:
        """(B, L) of the policy -> (T, N) beside the rewards."""
        rewards = self._batch.rewards
        return beside(join_segments(segments, num_envs=rewards.shape[1]), rewards)

    def _cut(self, array: Array) -> Tensor:
        """(T, N) beside the rewards -> (B, L) of the policy."""
        tensor = torch.as_tensor(array, device=self._values.device)
        return cut_in_segments(tensor, segment=self._values.shape[1])
