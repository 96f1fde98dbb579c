"""Checks of action masks: forbidden options never happen, in the rollout as in the update.

A policy says that it takes a mask by ``needs_mask`` in its record, by ``declared["action_mask"]``,
or by doing so: its answer changes with ``state["action_mask"]``, bool (B, A) or (B, T, A), true
where allowed, A the sum of all options. `N` rows.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, check
from puffer_policies.checks.probes.outputs import example, flat_grads, still
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, difference, seeded
from puffer_policies.contract import ACTION_MASK
from puffer_policies.nn.distributions import Distribution
from puffer_policies.spaces import ActionLayout

ROWS, DRAWS = 50, 2000
"""1e5 draws together."""

TOLERANCE = 1e-4


def _no_options(subject: Subject) -> str:
    if subject.layout.is_continuous:
        return "a Box has no options to forbid"
    return "" if max(subject.layout.nvec) > 1 else "there is only one action"


def _claims(subject: Subject) -> bool:
    needs = subject.capabilities is not None and subject.capabilities.needs_mask
    return needs or bool(subject.declared.get(ACTION_MASK))


@check(
    "A4",
    "masked-actions-never-happen",
    promise="A forbidden option is never drawn and has probability exactly 0; entropy ignores it, "
    "gradients stay finite, and a row without any allowed option raises.",
    why="A forbidden action is illegal in the environment; a small number in place of minus "
    "infinity is drawn sooner or later.",
    fix="Use logits.masked_fill(~mask, -inf), and raise where a choice has no option left.",
    applies=_no_options,
)
def masked_actions_never_happen(subject: Subject) -> None:
    """Draw 1e5 actions under a random mask, then look at probabilities, entropy, gradients."""
    policy = still(subject)
    observations, mask = subject.observations(ROWS), _random_mask(subject.layout, (ROWS,))
    if not _listens(subject, policy, observations, mask):
        if not _claims(subject):
            raise CheckSkipped('it does not read state["action_mask"]')
        found = "the answers with and without are the same"
        raise CheckFailed('an answer that heeds state["action_mask"]', found, example=_shown())
    dist = _masked(subject, policy, observations, mask)
    _require_zero(dist, subject.layout, mask)
    _require_never_drawn(dist, subject.layout, mask)
    _require_entropy(dist, subject.layout, mask)
    _require_gradients(subject, mask)
    _require_refusal(subject, policy)


@check(
    "A5",
    "mask-in-rollout-and-update",
    promise="A mask (B, T, A) does in forward what (B, A) does in forward_eval, row by row and "
    "step by step, through wrappers and memory.",
    why="A mask in the rollout only makes the update score actions of another policy: the ratio "
    "is not 1 in the first epoch.",
    fix="Read the mask in both, flatten it as b*T + t, and hand `state` on in wrappers.",
    applies=_no_options,
)
def mask_in_rollout_and_update(subject: Subject) -> None:
    """Compare probabilities of stepping with those of the sequence, each under the same masks."""
    policy, observations = still(subject), subject.observations(steps=STEPS)
    mask = _random_mask(subject.layout, (BATCH, STEPS))
    stepped = _stepped(subject, policy, observations, mask)
    whole = _sequence(subject, policy, observations, mask, actions=mask)
    plain = _sequence(subject, policy, observations, torch.ones_like(mask), actions=mask)
    heard = _listens(
        subject, policy, subject.map(lambda leaf: leaf[:, 0], observations), mask[:, 0]
    )
    if not heard and difference(whole, plain) < TOLERANCE:
        raise CheckSkipped('it does not read state["action_mask"]')
    gap = difference(stepped, whole)
    if gap > TOLERANCE:
        raise CheckFailed(
            "the same probabilities from forward as from forward_eval under the same masks",
            f"they differ by {gap:.3g}",
        )


# -- masks and what they do ------------------------------------------------------------------------


def _random_mask(layout: ActionLayout, lead: tuple[int, ...]) -> Tensor:
    """Return bool (*lead, A) with an option left in each choice; in every third row only one."""
    parts = []
    with seeded(3):
        for options in layout.nvec:
            part = torch.rand(*lead, options) < 0.5
            part[::3] = False
            kept = torch.randint(options, (*lead, 1))
            parts.append(part.scatter(-1, kept, True))
    return torch.cat(parts, -1)


def _carried(subject: Subject, policy: nn.Module, rows: int, mask: Tensor) -> dict[str, Any]:
    return {**subject.state(rows, policy), ACTION_MASK: mask}


def _masked(subject: Subject, policy: nn.Module, observations: Any, mask: Tensor) -> Distribution:
    carried = _carried(subject, policy, len(mask), mask)
    logits, _, _ = subject.step(observations, carried, policy=policy)
    return subject.distribution(logits)


def _listens(subject: Subject, policy: nn.Module, observations: Any, mask: Tensor) -> bool:
    """Whether forward_eval answers differently under `mask` than when all is allowed."""
    layout = subject.layout
    free = _masked(subject, policy, observations, torch.ones_like(mask))
    bound = _masked(subject, policy, observations, mask)
    return difference(_table(free, layout, mask), _table(bound, layout, mask)) > TOLERANCE


def _table(dist: Distribution, layout: ActionLayout, mask: Tensor) -> Tensor:
    """Return (N, A): the probability of each option of a choice, the others at an allowed one."""
    choices = torch.split(mask, list(layout.nvec), -1)
    base = torch.stack([choice.int().argmax(-1) for choice in choices], 1)  # (N, K)
    columns = []
    for choice, options in enumerate(layout.nvec):
        for option in range(options):
            action = base.clone()
            action[:, choice] = option
            given = action[:, 0] if layout.kind == "discrete" else action
            columns.append(dist.log_prob(given))
    return torch.stack(columns, 1).detach().exp()


def _stepped(subject: Subject, policy: nn.Module, observations: Any, mask: Tensor) -> Tensor:
    """(B, T, A) mask -> the table of each step, (B*T, A)."""
    carried, tables = subject.state(BATCH, policy), []
    for t in range(STEPS):
        now = subject.map(lambda leaf, t=t: leaf[:, t], observations)  # type: ignore[misc]
        given = {**carried, ACTION_MASK: mask[:, t]}
        logits, _, after = subject.step(now, given, policy=policy)
        carried = {key: after[key] for key in carried}
        tables.append(_table(subject.distribution(logits), subject.layout, mask[:, t]))
    return torch.stack(tables, 1).flatten(0, 1)


def _sequence(
    subject: Subject, policy: nn.Module, observations: Any, mask: Tensor, *, actions: Tensor
) -> Tensor:
    """(B, T, A) mask -> the table of the whole, at actions that `actions` allows, (B*T, A)."""
    carried = _carried(subject, policy, BATCH, mask)
    if not callable(getattr(policy, "initial_state", None)):
        # PufferLib's policies take another shape here than in a step, or None.
        carried = {**dict.fromkeys(carried), ACTION_MASK: mask}
    logits, _ = subject.sequence(observations, carried, policy=policy)
    return _table(subject.distribution(logits), subject.layout, actions.flatten(0, 1))


# -- what a mask promises --------------------------------------------------------------------------


def _require_zero(dist: Distribution, layout: ActionLayout, mask: Tensor) -> None:
    largest = float(_table(dist, layout, mask)[~mask].max())
    if largest != 0:
        raise CheckFailed("probability 0 of what is forbidden", f"{largest:.3g}", example=_shown())


def _require_never_drawn(dist: Distribution, layout: ActionLayout, mask: Tensor) -> None:
    first = torch.tensor([0, *accumulate(layout.nvec)][:-1])
    with seeded(4):
        drawn = torch.stack([dist.sample() for _ in range(DRAWS)])  # (draws, N) or (draws, N, K)
    index = (drawn.reshape(DRAWS, ROWS, -1) + first).long()
    allowed = mask.expand(DRAWS, ROWS, -1).gather(-1, index)
    if not allowed.all():
        found = f"{int((~allowed).sum())} of {allowed.numel()} draws are forbidden"
        raise CheckFailed("no forbidden action", found, example=_shown())


def _require_entropy(dist: Distribution, layout: ActionLayout, mask: Tensor) -> None:
    entropy = torch.zeros(ROWS)
    for table in torch.split(_table(dist, layout, mask), list(layout.nvec), -1):
        share = table / table.sum(-1, keepdim=True)
        entropy += torch.special.entr(share).sum(-1)
    gap = difference(dist.entropy().detach(), entropy)
    if gap > 1e-3:
        expected = "the entropy of the allowed options alone"
        raise CheckFailed(expected, f"it differs by {gap:.3g}", example=_shown())


def _require_gradients(subject: Subject, mask: Tensor) -> None:
    policy = still(subject)
    carried = _carried(subject, policy, BATCH, mask[:BATCH])
    with torch.enable_grad():
        logits, values = policy.forward_eval(subject.observations(), carried)  # type: ignore[operator]
        dist = subject.distribution(logits)
        loss = dist.log_prob(dist.sample()).sum() + dist.entropy().sum() + values.sum()
        torch.autograd.backward(loss)
    if not torch.isfinite(flat_grads(policy)).all():
        raise CheckFailed("finite gradients", "some are not", example=_shown())


def _require_refusal(subject: Subject, policy: nn.Module) -> None:
    mask = torch.ones(BATCH, sum(subject.layout.nvec), dtype=torch.bool)
    mask[1, : subject.layout.nvec[0]] = False
    try:
        _masked(subject, policy, subject.observations(), mask).sample()
    except Exception:
        return
    found = "an action was drawn"
    raise CheckFailed("an error where a row allows nothing", found, example=_shown())


def _shown() -> str:
    return example(
        f"mask = torch.ones({BATCH}, sum(subject.layout.nvec), dtype=torch.bool)",
        "mask[:, 0] = False",
        'state = {**subject.state(len(mask)), "action_mask": mask}',
        "logits, values, _ = subject.step(observations, state); print(logits, mask)",
    )


CHECKS = (masked_actions_never_happen, mask_in_rollout_and_update)
