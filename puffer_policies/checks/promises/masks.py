"""A: forbidden options never happen, in the rollout as in the update.

A policy says that it takes a mask by ``needs_mask`` in its record, by ``declared["action_mask"]``,
or by doing so: its answer changes with ``state["action_mask"]``, bool (B, A) or (B, T, A), true
where allowed, A the sum of all options. `N` rows. `actions.CHECKS` lists these checks with the
others of the family.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, check
from puffer_policies.checks.probes.outputs import draw, sum_of_outputs
from puffer_policies.checks.probes.parts import choices_of, label, options_of
from puffer_policies.checks.probes.rollouts import each_step, select
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.checks.probes.tolerances import ENTROPY, PROBABILITY, difference
from puffer_policies.checks.probes.weights import flat_gradients
from puffer_policies.contract import ACTION_MASK, NEEDS_MASK, any_module_has
from puffer_policies.nn.distributions import Distribution
from puffer_policies.spaces import ActionLayout

ROWS, DRAWS = 50, 2000
"""1e5 draws together."""

READS_NO_MASK = 'it does not read state["action_mask"]'


def needs_options(subject: Subject) -> str:
    """Return why a check of masks does not apply, or ''."""
    if not subject.layout.nvec:
        return "real numbers have no options to forbid"
    return "" if max(subject.layout.nvec) > 1 else "there is only one action"


@check(
    "A4",
    "masked-actions-never-happen",
    promise="A forbidden option is never drawn and has probability exactly 0; entropy ignores it, "
    "gradients stay finite, and a row without any allowed option raises.",
    why="A forbidden action is illegal in the environment; a small number in place of minus "
    "infinity is drawn sooner or later.",
    fix="Use logits.masked_fill(~mask, -inf), and raise where a choice has no option left.",
    applies=needs_options,
    needs=("S8", "R6"),
)
def masked_actions_never_happen(subject: Subject) -> None:
    """Draw 1e5 actions under a random mask, then look at probabilities, entropy, gradients."""
    policy = subject.copy_policy()
    observations, mask = subject.observations(ROWS), random_mask(subject.layout, (ROWS,))
    if not _heeds(subject, policy, observations, mask):
        if not _claims_masks(subject):
            raise CheckSkipped(READS_NO_MASK)
        raise CheckFailed(
            'an answer that heeds state["action_mask"]',
            "the answers with and without are the same",
            example=_mask_example(),
        )
    _require_mask(subject, policy)
    dist = _masked(subject, policy, observations, mask)
    _require_zero(dist, subject.layout, mask)
    _require_never_drawn(dist, subject.layout, mask)
    if not isinstance(dist, _ChoicesAtMode):
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
    applies=needs_options,
    needs=("S2", "S8", "R6"),
)
def mask_in_rollout_and_update(subject: Subject) -> None:
    """Compare probabilities of stepping with those of the sequence, each under the same masks."""
    policy, observations = subject.copy_policy(), subject.observations(steps=STEPS)
    mask = random_mask(subject.layout, (BATCH, STEPS))
    by_step = torch.stack(
        [
            _probabilities(_choices(subject, logits), subject.layout, mask[:, t])
            for t, (logits, _, _) in enumerate(each_step(subject, policy, observations, mask=mask))
        ],
        1,
    ).flatten(0, 1)  # (B*T, A)
    sequence, unmasked = (
        _of_sequence(subject, policy, observations, each, allowed=mask)
        for each in (mask, torch.ones_like(mask))
    )
    first = select(observations, (slice(None), 0))
    if (
        not _heeds(subject, policy, first, mask[:, 0])
        and difference(sequence, unmasked) < PROBABILITY
    ):
        raise CheckSkipped(READS_NO_MASK)  # A4 says who has to
    gap = difference(by_step, sequence)
    if gap > PROBABILITY:
        raise CheckFailed(
            "the same probabilities from forward as from forward_eval under the same masks",
            f"they differ by {gap:.3g}",
        )


# -- probabilities under a mask --------------------------------------------------------------------


def random_mask(layout: ActionLayout, lead: tuple[int, ...]) -> Tensor:
    """Return bool (*lead, A) with an option left in each choice; in every third row only one."""
    choices = []
    with seeded(3):
        for options in layout.nvec:
            allowed = torch.rand(*lead, options) < 0.5
            allowed[::3] = False
            at_least = torch.randint(options, (*lead, 1))
            choices.append(allowed.scatter(-1, at_least, True))
    return torch.cat(choices, -1)


def _masked(subject: Subject, policy: nn.Module, observations: Any, mask: Tensor) -> Distribution:
    logits, _, _ = subject.step(observations, mask=mask, policy=policy)
    return _choices(subject, logits)


def _choices(subject: Subject, logits: Any) -> Distribution:
    """Return the distribution of all choices, without the real numbers of a Dict or Tuple."""
    choices = choices_of(subject.layout, logits)
    if choices is None:
        return _ChoicesAtMode(subject.distribution(logits), subject.layout)
    return subject.distribution(choices)


class _ChoicesAtMode:
    """The choices (N, K) of a type that holds real numbers as well, where these are at their mode.

    Probabilities are off by one factor a row, the density there, and that of nothing is still 0.
    """

    def __init__(self, dist: Distribution, layout: ActionLayout) -> None:
        self.dist, self.event_shape = dist, (len(layout.nvec),)
        self.are_choices = torch.tensor(options_of(layout)) > 0

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.dist.sample(generator)[:, self.are_choices].long()

    def mode(self) -> Tensor:
        return self.dist.mode()[:, self.are_choices].long()

    def log_prob(self, action: Tensor) -> Tensor:
        whole = self.dist.mode().detach().clone()
        whole[:, self.are_choices] = action.to(whole.dtype)
        return self.dist.log_prob(whole)

    def entropy(self) -> Tensor:
        raise NotImplementedError("the entropy of both kinds together has no share of the choices")


def _heeds(subject: Subject, policy: nn.Module, observations: Any, mask: Tensor) -> bool:
    """Whether forward_eval answers differently under `mask` than when all is allowed."""
    free, bound = (
        _probabilities(_masked(subject, policy, observations, each), subject.layout, mask)
        for each in (torch.ones_like(mask), mask)
    )
    return difference(free, bound) > PROBABILITY


def _require_mask(subject: Subject, policy: nn.Module) -> None:
    """Fail if a policy that needs a mask acts without one, as if everything were allowed."""
    if not _needs_mask(subject):
        return
    observations = subject.observations()
    state = {**subject.state(BATCH, policy), **subject.add_required({}, observations)}
    state.pop(ACTION_MASK, None)
    try:
        with torch.no_grad():
            policy.forward_eval(observations, state)  # type: ignore[operator]
    except Exception:
        return
    raise CheckFailed(
        "an error where no action_mask comes, as the policy says that it needs one",
        "it acts as if all options were allowed",
        fix='Raise where state.get("action_mask") is None, or do not declare needs_mask.',
        example=example("policy.forward_eval(observations, state)  # state has no action_mask"),
    )


def _claims_masks(subject: Subject) -> bool:
    return _needs_mask(subject) or bool(subject.declared.get(ACTION_MASK))


def _needs_mask(subject: Subject) -> bool:
    """Whether its record says that it needs a mask, or an attribute of a module."""
    if subject.capabilities is not None and subject.capabilities.needs_mask:
        return True
    return any_module_has(subject.policy, NEEDS_MASK)


def _probabilities(dist: Distribution, layout: ActionLayout, mask: Tensor) -> Tensor:
    """Return (N, A): the probability of each option of a choice, the others at an allowed one."""
    choices = torch.split(mask, list(layout.nvec), -1)
    allowed = torch.stack([choice.int().argmax(-1) for choice in choices], 1)  # (N, K)
    columns = []
    for choice, options in enumerate(layout.nvec):
        for option in range(options):
            action = allowed.clone()
            action[:, choice] = option
            columns.append(dist.log_prob(action[:, 0] if layout.kind == "discrete" else action))
    return torch.stack(columns, 1).detach().exp()


def _of_sequence(
    subject: Subject, policy: nn.Module, observations: Any, mask: Tensor, *, allowed: Tensor
) -> Tensor:
    """Run ``forward`` under a mask (B, T, A) -> probabilities at allowed actions, (B*T, A).

    It runs with gradients, as in an update.
    """
    logits, _ = subject.sequence(observations, mask=mask, policy=policy, grad=True)
    return _probabilities(_choices(subject, logits), subject.layout, allowed.flatten(0, 1))


# -- what a mask promises --------------------------------------------------------------------------


def _require_zero(dist: Distribution, layout: ActionLayout, mask: Tensor) -> None:
    most = _probabilities(dist, layout, mask).masked_fill(mask, 0).amax(0)  # (A,)
    largest = float(most.max())
    if largest != 0:
        expected = f"probability 0 of what is forbidden{_part_of(layout, int(most.argmax()))}"
        raise CheckFailed(expected, f"{largest:.3g}", example=_mask_example())


def _part_of(layout: ActionLayout, option: int) -> str:
    """Return words for the part of a Dict or Tuple that has an option; '' for other spaces."""
    paths = [path for path, leaf, _ in layout.leaves() for _ in range(sum(leaf.nvec))]
    return label((paths[option],), "in") if layout.parts else ""


def _require_never_drawn(dist: Distribution, layout: ActionLayout, mask: Tensor) -> None:
    first = torch.tensor([0, *accumulate(layout.nvec)][:-1])  # of each choice, in the mask
    actions = draw(dist, DRAWS, seed=4)  # (draws, N) or (draws, N, K)
    index = (actions.reshape(DRAWS, ROWS, -1) + first).long()
    allowed = mask.expand(DRAWS, ROWS, -1).gather(-1, index)
    if not allowed.all():
        actual = f"{int((~allowed).sum())} of {allowed.numel()} draws are forbidden"
        raise CheckFailed("no forbidden action", actual, example=_mask_example())


def _require_entropy(dist: Distribution, layout: ActionLayout, mask: Tensor) -> None:
    entropy = torch.zeros(ROWS)
    for probabilities in torch.split(_probabilities(dist, layout, mask), list(layout.nvec), -1):
        share = probabilities / probabilities.sum(-1, keepdim=True)
        entropy += torch.special.entr(share).sum(-1)
    gap = difference(dist.entropy().detach(), entropy)
    if gap > ENTROPY:
        expected = "the entropy of the allowed options alone"
        raise CheckFailed(expected, f"it differs by {gap:.3g}", example=_mask_example())


def _require_gradients(subject: Subject, mask: Tensor) -> None:
    """Differentiate a step: minus infinity in the logits easily makes 0 * inf, which is NaN."""
    policy = subject.copy_policy()
    observations = subject.observations()
    state = {**subject.state(BATCH, policy), ACTION_MASK: mask[:BATCH]}
    subject.add_required(state, observations)
    with torch.enable_grad():
        logits, values = policy.forward_eval(observations, state)  # type: ignore[operator]
        torch.autograd.backward(sum_of_outputs(subject.distribution(logits), values))
    if not torch.isfinite(flat_gradients(policy)).all():
        raise CheckFailed("finite gradients", "some are not", example=_mask_example())


def _require_refusal(subject: Subject, policy: nn.Module) -> None:
    mask = torch.ones(BATCH, sum(subject.layout.nvec), dtype=torch.bool)
    mask[1, : subject.layout.nvec[0]] = False
    try:
        _masked(subject, policy, subject.observations(), mask).sample()
    except Exception:
        return
    raise CheckFailed(
        "an error where a row allows nothing",
        "an action was drawn",
        example=_mask_example(),
        level=Level.ADVICE,  # no env that keeps its own rules sends such a row
    )


def _mask_example() -> str:
    return example(
        f"mask = torch.ones({BATCH}, sum(subject.layout.nvec), dtype=torch.bool)",
        "mask[:, 0] = False",
        "logits, values, _ = subject.step(observations, mask=mask); print(logits, mask)",
    )
