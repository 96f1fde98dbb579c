"""R: what forward promises of the segments that a trainer gives it.

`B` rows, `T` steps. `recurrence.CHECKS` lists these checks with the others of the family.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Scope, check
from puffer_policies.checks.probes.edges import EDGES, with_edges
from puffer_policies.checks.probes.outputs import describe, draw
from puffer_policies.checks.probes.parts import tensors_of
from puffer_policies.checks.probes.rollouts import (
    FLAG,
    State,
    copy_state,
    differs,
    each_step,
    from_step,
    in_sequence,
    needs_memory,
    sequence_state,
    step_through,
    two_pasts,
    warm_state,
)
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject
from puffer_policies.checks.probes.tolerances import difference, is_same, require_same
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.spaces.nested import map_nested

PADDING = 8
EXTRA_ROWS = 3


@check(
    "R7",
    "memory-is-used",
    promise="Outputs depend on earlier steps, and gradients reach those steps.",
    why="A memory that nothing reads, or that is detached at every step, costs time and learns "
    "nothing.",
    fix="Decode from the memory's output, and detach the state between sequences only.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S2", "R6"),
)
def memory_is_used(subject: Subject) -> None:
    """Change the past and compare the last step; then differentiate the last step by the past."""
    policy, pasts = perturbed_copy(subject), two_pasts(subject, until=STEPS - 1)
    if not differs(*pasts):
        raise CheckSkipped("its observations are always the same: there is nothing to remember")
    runs = {
        "forward": [in_sequence(subject, policy, each) for each in pasts],
        "forward_eval": [step_through(subject, policy, each)[0] for each in pasts],
    }
    for method, (one, two) in runs.items():
        if difference(one[:, -1], two[:, -1]) == 0:
            if method == "forward" and counts_steps(subject, policy):
                raise CheckSkipped("its state counts steps, and remembers no observation")
            raise CheckFailed(
                f"the last outputs of {method} to depend on earlier observations",
                "they are equal for different pasts",
            )
    _require_gradient(subject, policy, pasts[0])


def counts_steps(subject: Subject, policy: nn.Module) -> bool:
    """Whether both paths read the state, and what they read does not depend on observations."""
    past, other = two_pasts(subject, until=STEPS - 1)
    last = from_step(past, STEPS - 1)
    for run in (in_sequence, lambda *arguments: step_through(*arguments)[0]):
        whole, elsewhere, alone = (
            run(subject, policy, each)[:, -1] for each in (past, other, last)
        )
        if difference(whole, elsewhere) > 0 or difference(whole, alone) == 0:
            return False
    return True


def _require_gradient(subject: Subject, policy: nn.Module, observations: Any) -> None:
    """Fail if the last step is differentiable by its own observation, but not by earlier ones."""
    inputs: list[Tensor] = []

    def differentiable(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        inputs.append(leaf.clone().requires_grad_())
        return inputs[-1]

    sequences = subject.map(differentiable, observations)
    with _noting_outputs(policy) as calls:
        logits, values = subject.sequence(sequences, policy=policy, grad=True)
    # The entropy of a Normal does not show a mean that remembers.
    outputs = describe(subject, logits).sum(1) + values.reshape(-1)
    last = outputs.reshape(BATCH, STEPS)[:, -1].sum()
    if not last.requires_grad:
        return
    if not inputs:  # codes have no gradient, but what is made of them has
        _require_gradient_between(last, calls)
        return
    grads = torch.autograd.grad(last, inputs, allow_unused=True)
    by_step = sum(grad.abs().flatten(2).sum((0, 2)) for grad in grads if grad is not None)
    if isinstance(by_step, Tensor) and bool(by_step[-1] > 0) and not bool((by_step[:-1] > 0).any()):
        raise CheckFailed(
            "the gradient of the last step to reach observations before it",
            "it reaches its own observation only: the state is detached at every step",
        )


Calls = dict[nn.Module, list[list[Tensor]]]
"""What modules returned in each of their calls: the tensors that have a gradient."""


@contextmanager
def _noting_outputs(policy: nn.Module) -> Iterator[Calls]:
    """Note what the modules with weights of their own return in a block."""
    calls: Calls = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        tensors = tensors_of(output) or []
        calls.setdefault(module, []).append([each for each in tensors if each.requires_grad])

    modules = [each for each in policy.modules() if vars(each).get("_parameters")]
    hooks = [
        each.register_forward_hook(note)
        for each in modules
        if not isinstance(each, torch.jit.ScriptModule)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _require_gradient_between(last: Tensor, calls: Calls) -> None:
    """Fail if a policy steps through a sequence, and its last step reaches nothing before it.

    Of a kernel that runs a whole sequence nothing can be seen from outside.
    """
    if not any(len(each) >= STEPS for each in calls.values()):
        return
    outputs = [
        (each, len(of) >= STEPS)
        for of in calls.values()
        for call in (of[:-1] if len(of) >= STEPS else of)
        for each in call
    ]
    grads = torch.autograd.grad(last, [each for each, _ in outputs], allow_unused=True)
    if not any(
        bool(_before_last_step(grad, is_step=is_step).any())
        for (_, is_step), grad in zip(outputs, grads, strict=True)
        if grad is not None
    ):
        raise CheckFailed(
            "the gradient of the last step to reach the steps before it",
            "it ends at the last step: the state is detached at every step",
        )


def _before_last_step(grad: Tensor, *, is_step: bool) -> Tensor:
    """Return what belongs to earlier steps, of the gradient of one of them or of a sequence."""
    if is_step:
        return grad
    if grad.shape[0] == BATCH * STEPS:
        return grad.reshape(BATCH, STEPS, *grad.shape[1:])[:, :-1]
    return grad[:, :-1] if grad.shape[:2] == (BATCH, STEPS) else grad[:-1]


@check(
    "R8",
    "no-look-across-episodes",
    promise="In a sequence, no step after a start depends on steps before it or on the old state.",
    why="Attention and windows that look across the boundary mix episodes in training only.",
    fix="Mask every pair of steps with a start between them, and drop the carried memory there.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S4", "S5", "R6", "R2", "R3", "R4"),
)
def no_look_across_episodes(subject: Subject) -> None:
    """Change everything before a start in the sequence; compare the steps after it."""
    policy, (observations, other) = perturbed_copy(subject), two_pasts(subject)
    state = warm_state(subject, policy, BATCH)
    for rows in (range(BATCH), range(0, BATCH, 2)):
        starts = subject.starts(at=[(row, FLAG) for row in rows])
        one = in_sequence(subject, policy, observations, state=state, starts=starts)
        two = in_sequence(subject, policy, other, starts=starts)
        reset = list(rows)
        # The step of the start itself is left to R4.
        require_forgotten(one[reset, FLAG + 1 :], two[reset, FLAG + 1 :], "forward")


def require_forgotten(one: Tensor, two: Tensor, path: str) -> None:
    """Raise `CheckFailed` unless steps after a start are equal for two pasts."""
    if is_same(one, two):
        return
    raise CheckFailed(
        f"the steps after a start to be the same whatever came before it, when {path}",
        f"a difference of {difference(one, two):.2g}: the last episode leaks into the next",
        example=example(
            "# step with state['episode_start'] true: the outputs still depend on the past",
            steps=STEPS,
        ),
    )


@check(
    "R10",
    "padding-is-inert",
    promise="Steps appended after the real ones, and rows beside them, change no real output, and "
    "no observation of the space, such as zeros, is taken for padding by one pass alone.",
    why="Batches of episodes of different length are padded; padding that counts changes losses "
    "and statistics.",
    fix="Let a step see its past only, mask padding in norms and attention, and undo any sorting "
    "of rows.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S4", "S5", "R6", "R1"),
)
def padding_is_inert(subject: Subject) -> None:
    """Append steps and rows, and cut rows short; compare the real steps of the real rows."""
    policy, observations = perturbed_copy(subject), subject.observations(steps=STEPS)
    expected = in_sequence(subject, policy, observations)
    lengths = torch.tensor([3, STEPS, 2, 5, 4])
    is_real = torch.arange(STEPS) < lengths.unsqueeze(1)  # (B, T)
    for name, padding in _paddings(subject).items():
        padded = map_nested(lambda real, pad: _pad(real, pad, lengths), observations, padding)
        outputs = in_sequence(subject, policy, padded)[:BATCH, :STEPS]
        if not is_same(outputs[is_real], expected[is_real]):
            raise CheckFailed(
                f"real steps to be unchanged by {PADDING} padded steps and {EXTRA_ROWS} padded "
                "rows",
                f"a difference of {difference(outputs[is_real], expected[is_real]):.2g} with "
                f"{name}",
            )
    _require_no_padding(subject, policy, observations, expected)


def _require_no_padding(
    subject: Subject, policy: nn.Module, observations: Any, plain: Tensor
) -> None:
    """Put zeros and bounds among the real steps: steps and the sequence must still agree."""
    if not is_same(plain, step_through(subject, policy, observations)[0]):
        return  # R1's matter
    edges = with_edges(subject, observations)
    is_edge = torch.arange(STEPS) % 2 == 1
    mixed = map_nested(
        lambda leaf, edge: torch.where(is_edge.reshape(1, -1, *[1] * (leaf.ndim - 2)), edge, leaf),
        observations,
        edges,
    )
    steps, _ = step_through(subject, policy, mixed)
    outputs = in_sequence(subject, policy, mixed)
    for row, edge in enumerate(EDGES):
        if not is_same(outputs[row].nan_to_num(), steps[row].nan_to_num()):
            raise CheckFailed(
                f"observations of {edge} to be real ones, in forward as in forward_eval",
                f"a difference of {difference(outputs[row], steps[row]):.2g}",
                example=example(
                    "observations[:, 1::2] = 0",
                    "print(policy(observations, dict(state)))",
                    f"for t in range({STEPS}):",
                    "    print(policy.forward_eval(observations[:, t], state))",
                    steps=STEPS,
                ),
            )


def _paddings(subject: Subject) -> dict[str, Any]:
    """Return more steps and rows to write the real ones into; zeros only if the space has them."""
    others = subject.observations(BATCH + EXTRA_ROWS, steps=STEPS + PADDING, seed=5)
    paddings = {"random observations": others}
    zeros = subject.map(torch.zeros_like, others)
    single = subject.map(lambda leaf: np.asarray(leaf[0, 0].numpy()), zeros)
    if subject.spaces.observation.contains(single):
        paddings["zeros"] = zeros
    return paddings


def _pad(real: Tensor, padding: Tensor, lengths: Tensor) -> Tensor:
    """Return `padding` with the first steps of each real row in its first rows."""
    padded = padding.clone()
    for row, length in enumerate(lengths.tolist()):
        padded[row, :length] = real[row, :length]
    return padded


@check(
    "R11",
    "first-ratio-is-one",
    promise="Log-probabilities recomputed by forward equal those of the rollout, across dones.",
    why="PPO's ratio must be 1 before the first update: else clipping acts on noise.",
    fix="See R1, R2 and R5; and let nothing that outputs depend on change during a rollout, "
    "such as running statistics or dropout.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S2", "S4", "S5", "R6", "R1", "R2", "R4", "R5"),
)
def first_ratio_is_one(subject: Subject) -> None:
    """Collect two segments as a trainer does, in train mode, and recompute them with gradients."""
    policy = perturbed_copy(subject, training="train_differs" not in subject.declared)
    state = subject.state(BATCH, policy)
    segments = []
    for number in range(2):
        observations = subject.observations(steps=STEPS, seed=number)
        starts = subject.starts(at=[(0, 0), (1, 2), (2, 5), (3, number)])
        before = copy_state(state)
        actions, log_probs, state = _collect(subject, policy, observations, state, starts)
        segments.append((observations, starts, before, actions, log_probs))
    # Only after the whole rollout, as a trainer does: the first segment must not have changed.
    for number, (observations, starts, before, actions, log_probs) in enumerate(segments):
        logits, _ = subject.sequence(
            observations, sequence_state(policy, before), starts=starts, policy=policy, grad=True
        )
        again = subject.distribution(logits).log_prob(actions.flatten(0, 1))
        require_same(
            again.detach().reshape(BATCH, STEPS, 1),
            log_probs.unsqueeze(-1),
            "log-probabilities recomputed before any update equal those of the rollout",
            where=f"in segment {number}",
        )


def _collect(
    subject: Subject, policy: nn.Module, observations: Any, state: State, starts: Tensor
) -> tuple[Tensor, Tensor, State]:
    """Step and sample -> actions (B, T, ...), log-probabilities (B, T), the state after."""
    actions, log_probs = [], []
    steps = each_step(subject, policy, observations, state=state, starts=starts)
    for t, (logits, _, after) in enumerate(steps):
        dist, state = subject.distribution(logits), after
        actions.append(draw(dist, 1, seed=t)[0])
        log_probs.append(dist.log_prob(actions[-1]))
    return torch.stack(actions, 1), torch.stack(log_probs, 1), state
