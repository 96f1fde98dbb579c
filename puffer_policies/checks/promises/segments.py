"""R, the training pass: what forward promises of the segments that a trainer gives it.

`B` rows, `T` steps. `recurrence.CHECKS` lists these checks with the others of the family.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, check
from puffer_policies.checks.probes.rollouts import (
    FLAG,
    in_sequence,
    is_same,
    joined,
    judged,
    kept,
    part,
    require_forgotten,
    require_same,
    sequence_state,
    step_through,
    two_pasts,
    warm_state,
    without_memory,
)
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, difference, seeded
from puffer_policies.nested import leaves

PADDING = 8
EXTRA_ROWS = 3


@check(
    "R7",
    "memory-is-used",
    promise="Outputs depend on earlier steps, and gradients reach those steps.",
    why="A memory that nothing reads, or that is detached at every step, costs time and learns "
    "nothing.",
    fix="Decode from the memory's output, and detach the state between sequences only.",
    applies=without_memory,
)
def memory_is_used(subject: Subject) -> None:
    """Change the past and compare the last step; then differentiate the last step by the past."""
    policy, seen = judged(subject), subject.observations(steps=STEPS)
    other = joined(subject, subject.observations(steps=STEPS, seed=9), seen, cut=STEPS - 1)
    if not difference_of(seen, other):
        raise CheckSkipped("its observations are always the same: there is nothing to remember")
    runs = {
        "forward": [in_sequence(subject, policy, each) for each in (seen, other)],
        "forward_eval": [step_through(subject, policy, each)[0] for each in (seen, other)],
    }
    for method, (one, two) in runs.items():
        if difference(one[:, -1], two[:, -1]) == 0:
            raise CheckFailed(
                f"the last outputs of {method} to depend on earlier observations",
                "they are equal for different pasts",
            )
    _require_gradient(subject, policy, seen)


def difference_of(one: Any, two: Any) -> bool:
    """Whether two nested observations differ anywhere."""
    return any(not torch.equal(a, b) for a, b in zip(leaves(one), leaves(two), strict=True))


def _require_gradient(subject: Subject, policy: nn.Module, observations: Any) -> None:
    """Fail if the last step is differentiable by its own observation, but not by earlier ones."""
    inputs: list[Tensor] = []

    def differentiable(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        inputs.append(leaf.clone().requires_grad_())
        return inputs[-1]

    seen = subject.map(differentiable, observations)
    logits, values = subject.sequence(seen, policy=policy, grad=True)
    found = subject.distribution(logits).entropy() + values.reshape(-1)
    last = found.reshape(BATCH, STEPS)[:, -1].sum()
    if not inputs or not last.requires_grad:
        return  # one-hot and integer observations have no gradient
    grads = torch.autograd.grad(last, inputs, allow_unused=True)
    by_step = sum(grad.abs().flatten(2).sum((0, 2)) for grad in grads if grad is not None)
    if isinstance(by_step, Tensor) and bool(by_step[-1] > 0) and not bool((by_step[:-1] > 0).any()):
        raise CheckFailed(
            "the gradient of the last step to reach observations before it",
            "it reaches its own observation only: the state is detached at every step",
        )


@check(
    "R8",
    "no-look-across-episodes",
    promise="In a sequence, no step after a start depends on steps before it or on the old state.",
    why="Attention and windows that look across the boundary mix episodes in training only.",
    fix="Mask every pair of steps with a start between them, and drop the carried memory there.",
    applies=without_memory,
)
def no_look_across_episodes(subject: Subject) -> None:
    """Change everything before a start in the sequence; compare the steps after it."""
    policy, (seen, other) = judged(subject), two_pasts(subject)
    carry = warm_state(subject, policy, BATCH)
    for rows in (range(BATCH), range(0, BATCH, 2)):
        starts = subject.starts(at=[(row, FLAG) for row in rows])
        one = in_sequence(subject, policy, seen, state=carry, starts=starts)
        two = in_sequence(subject, policy, other, starts=starts)
        reset = list(rows)
        require_forgotten(one[reset, FLAG + 1 :], two[reset, FLAG + 1 :], "forward")


@check(
    "R10",
    "padding-is-inert",
    promise="Steps appended after the real ones, and rows beside them, change no real output.",
    why="Batches of episodes of different length are padded; padding that counts changes losses "
    "and statistics.",
    fix="Let a step see its past only, mask padding in norms and attention, and undo any sorting "
    "of rows.",
    applies=without_memory,
)
def padding_is_inert(subject: Subject) -> None:
    """Append steps and rows, and cut rows short; compare the real steps of the real rows."""
    policy, seen = judged(subject), subject.observations(steps=STEPS)
    expected = in_sequence(subject, policy, seen)
    lengths = torch.tensor([3, STEPS, 2, 5, 4])
    real = torch.arange(STEPS) < lengths.unsqueeze(1)  # (B, T)
    for name, padded in _padded(subject, seen, lengths).items():
        found = in_sequence(subject, policy, padded)[:BATCH, :STEPS]
        if is_same(found[real], expected[real]):
            continue
        raise CheckFailed(
            f"real steps to be unchanged by {PADDING} padded steps and {EXTRA_ROWS} padded rows",
            f"a difference of {difference(found[real], expected[real]):.2g} with {name}",
        )


def _padded(subject: Subject, seen: Any, lengths: Tensor) -> dict[str, Any]:
    """Return `seen` with more steps and rows, ragged: in zeros where the space has them."""
    more = subject.observations(BATCH + EXTRA_ROWS, steps=STEPS + PADDING, seed=5)
    found = {"random observations": _pasted(seen, more, lengths)}
    zeros = subject.map(torch.zeros_like, more)
    one = subject.map(lambda leaf: np.asarray(leaf[0, 0].numpy()), zeros)
    if subject.spaces.observation.contains(one):
        found["zeros"] = _pasted(seen, zeros, lengths)
    return found


def _pasted(seen: Any, padding: Any, lengths: Tensor) -> Any:
    """Return `padding` with the real steps of `seen` in its first rows."""
    if isinstance(seen, dict):
        return {key: _pasted(seen[key], padding[key], lengths) for key in seen}
    if isinstance(seen, tuple):
        return tuple(_pasted(a, b, lengths) for a, b in zip(seen, padding, strict=True))
    found: Tensor = padding.clone()
    for row, length in enumerate(lengths.tolist()):
        found[row, :length] = seen[row, :length]
    return found


@check(
    "R11",
    "first-ratio-is-one",
    promise="Log-probabilities recomputed by forward equal those of the rollout, across dones.",
    why="PPO's ratio must be 1 before the first update: else clipping acts on noise.",
    fix="See R1, R2 and R5; and let nothing that outputs depend on change during a rollout, "
    "such as running statistics or dropout.",
    applies=without_memory,
)
def first_ratio_is_one(subject: Subject) -> None:
    """Collect two segments as a trainer does, in train mode, and recompute them with gradients."""
    policy = judged(subject, training="train_differs" not in subject.declared)
    state = subject.state(BATCH, policy)
    segments = []
    for segment in range(2):
        seen = subject.observations(steps=STEPS, seed=segment)
        starts = subject.starts(at=[(0, 0), (1, 2), (2, 5), (3, segment)])
        before = kept(state)
        actions, old, state = _collect(subject, policy, seen, state, starts)
        segments.append((seen, starts, before, actions, old))
    for segment, (seen, starts, before, actions, old) in enumerate(segments):
        given = sequence_state(policy, kept(before))
        logits, _ = subject.sequence(seen, given, starts=starts, policy=policy, grad=True)
        new = subject.distribution(logits).log_prob(actions.flatten(0, 1))
        require_same(
            new.detach().reshape(BATCH, STEPS, 1),
            old.unsqueeze(-1),
            "log-probabilities recomputed before any update equal those of the rollout",
            where=f"in segment {segment}",
        )


def _collect(
    subject: Subject,
    policy: torch.nn.Module,
    seen: object,
    state: dict[str, Tensor],
    starts: Tensor,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Step and sample -> actions (B, T, ...), log-probabilities (B, T), the state after."""
    actions, log_probs = [], []
    for t in range(STEPS):
        row = part(subject, seen, (slice(None), t))
        logits, _, state = subject.step(row, state, starts=starts[:, t], policy=policy)
        dist = subject.distribution(logits)
        with seeded(t):
            action = dist.sample()
        actions.append(action)
        log_probs.append(dist.log_prob(action))
    return torch.stack(actions, 1), torch.stack(log_probs, 1), kept(state)
