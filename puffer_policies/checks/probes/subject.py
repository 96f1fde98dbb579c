"""The policy under check: one policy on one pair of spaces, with what builds and runs it.

`B` rows, `T` steps. Checks see a policy through `Subject` only, so that one suite serves registered
policies, plain classes, policies of PufferLib 3.0 and those that a test makes on the spot.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.checks.probes.copies import Master
from puffer_policies.checks.probes.tolerances import HALF_PRECISION
from puffer_policies.contract import (
    ACTION_MASK,
    EPISODE_START,
    LSTM_STATE,
    NEEDS_MASK,
    NEEDS_PREVIOUS,
    PREV_ACTION,
    PREV_REWARD,
    any_module_has,
)
from puffer_policies.nn.distributions import Distribution, distribution
from puffer_policies.nn.observations import batch_layout, merge_time
from puffer_policies.nn.samples import random_observations
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import ActionLayout, Spaces, action_layout
from puffer_policies.spaces.nested import leaves, map_nested

Value = TypeVar("Value")

# Small, unequal and above 1: an axis that is mistaken for another shows in the shapes.
BATCH = 5
STEPS = 6

_HALF = (torch.bfloat16, torch.float16)


@dataclass
class Subject:
    """One policy on one pair of spaces.

    Args:
        name: what reports call it.
        spaces: what it is built for.
        build: makes a new policy; the caller seeds torch.
        source: lines of Python that make the same policy as ``policy``, for examples.
        cls: its class, where it is one that can be looked at.
        capabilities: what its record declares; None where there is no record.
        declared: further declarations, such as ``{"frozen": ["encoder.0.weight"]}``.
        env: what its class is built with; the spaces if None.
        played: observations that an env sent, (P, *obs) in every leaf; None if there is no env.
    """

    name: str
    spaces: Spaces
    build: Callable[[], nn.Module]
    source: str = ""
    cls: type | None = None
    capabilities: Capabilities | None = None
    declared: dict[str, Any] = field(default_factory=dict)
    env: Any = field(default=None, repr=False)
    played: Any = field(default=None, repr=False)
    _measurements: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    _original: Subject | None = field(default=None, repr=False)
    """Whose policy this subject has a copy of, if it is not its own."""

    # -- the policy ------------------------------------------------------------------------------

    def fresh(self, seed: int = 0) -> nn.Module:
        """Build a new policy under a seed, and leave the global generators as they were."""
        with seeded(seed):
            return self.build()

    @cached_property
    def policy(self) -> nn.Module:
        """The one policy of this subject. A check that changes weights or modes copies it first."""
        return self.fresh() if self._original is None else self._original._master.copy()

    def copy_policy(self, *, training: bool = False) -> nn.Module:
        """Return a copy of `policy` that a check may change, in eval mode unless `training`.

        A copy costs much less than a build, which draws orthogonal weights. Where copying fails, it
        is a new build under the same seed.
        """
        twin = (self._original or self)._master.copy()
        for parameter in twin.parameters():
            parameter.grad = None  # a policy that was built and trained elsewhere may bring some
        return twin.train(training)

    def kept_copy(self, key: Hashable, build: Callable[[], nn.Module]) -> nn.Module:
        """Return a copy of the module that `build` makes, once for this subject and its copies."""
        return self.once(key, lambda: Master(build(), build)).copy()

    def with_policy_copy(self) -> Subject:
        """Return this subject with a copy of its policy, so that a check leaves nothing behind.

        The copy is made when it is asked for: most checks ask for `copy_policy` only. Both share
        what either measures of the policy, such as whether it has memory.
        """
        return replace(self, _original=self._original or self)

    @cached_property
    def _master(self) -> Master:
        return Master(self.policy, self.fresh)

    @cached_property
    def _running(self) -> nn.Module:
        """What runs where a check names no policy: in eval mode, where a row may be alone."""
        return self.copy_policy()

    @cached_property
    def layout(self) -> ActionLayout:
        """The action space as heads and distributions parametrize it."""
        return action_layout(self.spaces.action)

    @property
    def may_refuse(self) -> bool:
        """Whether these spaces are only an attempt: no record says that the policy serves them."""
        return self.capabilities is None or bool(self.declared.get("may_refuse"))

    @property
    def recurrent(self) -> bool:
        """Whether the policy carries state: it says so, or a step changes ``lstm_h``."""
        return self.once("recurrent", lambda: bool(self.state(1)))

    @property
    def reads_rows_only(self) -> bool:
        """Whether it has no memory, and does not turn (B, T, *obs) into logits of B*T rows.

        Trainers merge time with the batch for every policy without memory. One that merges by
        itself can be tried both ways; one that raises at time, or keeps its axis, can't.
        """
        return self.once("reads rows only", self._keeps_time)

    def _keeps_time(self) -> bool:
        if self.recurrent:
            return False
        policy = self.copy_policy()
        batch, steps = 3, 5  # no product of which could be an axis by chance
        with torch.no_grad(), seeded(0):
            rows, sequence = self.observations(2), self.observations(batch, steps=steps)
            policy(rows, self.add_required({}, rows))
            try:
                logits, values = policy(sequence, self.add_required({}, sequence))
                shapes = {values.shape[:1]}
                with suppress(Exception):  # judged by S2
                    shapes.add(self.distribution(logits).entropy().shape[:1])
            except Exception:
                return True
        return (batch * steps,) not in shapes

    @property
    def codes(self) -> int:
        """How many codes its integer observations are declared to have; 0 if it declares none."""
        return int(self.declared.get("codes", 0))

    def tolerance(self, limit: float) -> float:
        """Return a tolerance of float32 for this policy, which may be in half precision."""
        return max(limit, HALF_PRECISION) if self._computes_in_half else limit

    @property
    def _computes_in_half(self) -> bool:
        """Whether it declares half precision, or has weights in it for everybody to see."""
        return self.once(
            "computes in half precision",
            lambda: (
                "half_precision" in self.declared
                or any(each.dtype in _HALF for each in self.policy.parameters())
            ),
        )

    # -- inputs ----------------------------------------------------------------------------------

    def observations(self, batch: int = BATCH, *, steps: int | None = None, seed: int = 0) -> Any:
        """Return random observations in the space's dtypes, (B, *obs) or (B, T, *obs).

        They are of the env where one was given, else of the space.
        """
        lead = (batch,) if steps is None else (batch, steps)

        def sample() -> Any:
            number = batch * (steps or 1)
            if self.played is not None:
                return self.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), pick(number))
            return self.admit(random_observations(self.spaces.observation, lead, seed=seed))

        def pick(number: int) -> Any:
            length = len(next(leaves(self.played)))
            generator = np.random.default_rng(seed)
            chosen = generator.choice(length, number, replace=number > length)
            return self.map(lambda leaf: torch.from_numpy(leaf[chosen]), self.played)

        # Most checks ask for the same few. Each gets a copy, as a policy may write to its input.
        return self.map(Tensor.clone, self.once((batch, steps, seed), sample))

    def admit(self, observations: Any) -> Any:
        """Return observations whose integers are among those that the policy has to read.

        A space of bytes may allow 255 where its env sends a few codes, and the policy embeds these.
        """
        if self.played is not None:
            return map_nested(_within, observations, self.played)
        if not self.codes:
            return observations
        return self.map(lambda leaf: _modulo(leaf, self.codes), observations)

    def starts(self, batch: int = BATCH, *, steps: int = STEPS, at: Any = ()) -> Tensor:
        """Return bool (B, T), true at the (row, step) pairs of `at`, where episodes start."""
        starts = torch.zeros(batch, steps, dtype=torch.bool)
        for row, step in at:
            starts[row, step] = True
        return starts

    def map(self, function: Callable[[Tensor], Any], observations: Any) -> Any:
        """Apply `function` to every tensor of nested observations."""
        return map_nested(function, observations)

    def state(self, batch: int, policy: nn.Module | None = None) -> dict[str, Tensor]:
        """Return the recurrent state before the first step; empty for a policy without memory."""
        policy = self.policy if policy is None else policy
        initial_state = getattr(policy, "initial_state", None)
        if callable(initial_state):
            return dict(initial_state(batch, torch.device("cpu")))
        return _lstm_state(policy, batch) if self._steps_lstm_state else {}

    def add_required(self, state: dict[str, Any], observations: Any) -> dict[str, Any]:
        """Put what the policy requires beside its memory into `state`, and return it.

        That is a mask that allows all options, and a last action and reward, which are 1 everywhere
        so that steps and sequences agree.
        """
        missing = {key: form for key, form in self._required_inputs.items() if key not in state}
        if missing:
            _, lead = batch_layout(self.spaces.observation).flatten(observations)
            device = next(leaves(observations)).device
            for key, (shape, dtype) in missing.items():
                state[key] = torch.ones((*lead, *shape), dtype=dtype, device=device)
        return state

    @property
    def reads_previous(self) -> bool:
        """Whether the policy asks for the last action and reward."""
        return PREV_ACTION in self._required_inputs

    # -- runs ------------------------------------------------------------------------------------

    def step(
        self,
        observations: Any,
        state: dict[str, Any] | None = None,
        *,
        starts: Tensor | None = None,
        mask: Tensor | None = None,
        policy: nn.Module | None = None,
    ) -> tuple[Any, Tensor, dict[str, Tensor]]:
        """Run ``forward_eval`` without gradient -> logits, values, the state after it.

        `state` and `observations` keep their entries, as the policy gets copies of the dicts.
        """
        policy = self._running if policy is None else policy
        carry = dict(state) if state is not None else self._initial_for(observations, policy)
        keys = list(carry)
        self._add_inputs(carry, observations, starts, mask)
        with torch.no_grad():
            logits, values = policy.forward_eval(_same(observations), carry)  # type: ignore[operator]
        return logits, values, {key: carry[key] for key in keys}

    def sequence(
        self,
        observations: Any,
        state: dict[str, Any] | None = None,
        *,
        starts: Tensor | None = None,
        mask: Tensor | None = None,
        policy: nn.Module | None = None,
        grad: bool = False,
    ) -> tuple[Any, Tensor]:
        """Run ``forward`` on (B, T, *obs), or (B, *obs) -> logits of B*T rows, values.

        For a policy without memory trainers merge time with the batch, and so does this where it
        does not do so itself.
        """
        policy = self._running if policy is None else policy
        if self.reads_rows_only:
            _, lead = batch_layout(self.spaces.observation).flatten(observations)
            if len(lead) == 2:
                observations, starts, mask = merge_time(observations, starts, mask)
        carry = dict(state) if state is not None else self._initial_for(observations, policy)
        if state is None and not callable(getattr(policy, "initial_state", None)):
            carry = dict.fromkeys(carry)  # PufferLib's trainer starts every segment from None
        self._add_inputs(carry, observations, starts, mask)
        with torch.set_grad_enabled(grad):
            logits, values = policy(_same(observations), carry)
        return logits, values

    def distribution(self, logits: Any) -> Distribution:
        """Return the distribution of the policy's logits."""
        return distribution(logits)

    def once(self, key: Hashable, measure: Callable[[], Value]) -> Value:
        """Return a measurement, which is made once for this subject and its copies."""
        if key not in self._measurements:
            self._measurements[key] = measure()
        value: Value = self._measurements[key]
        return value

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _required_inputs(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of a row of each state key that the policy requires."""
        return self.once("required inputs", self._find_required_inputs)

    def _find_required_inputs(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        layout, required = self.layout, dict[str, tuple[tuple[int, ...], torch.dtype]]()
        declares = self.capabilities is not None and self.capabilities.needs_mask
        if layout.nvec and (declares or any_module_has(self.policy, NEEDS_MASK)):
            required[ACTION_MASK] = (sum(layout.nvec),), torch.bool
        if any_module_has(self.policy, NEEDS_PREVIOUS):
            dtype = torch.from_numpy(np.zeros(0, layout.policy_dtype)).dtype
            required[PREV_ACTION] = layout.policy_shape, dtype
            required[PREV_REWARD] = (), torch.float32
        return required

    @property
    def _steps_lstm_state(self) -> bool:
        """Whether a step changes zeroed ``lstm_h`` and ``lstm_c``, as PufferLib's memories do."""
        return self.once("steps lstm state", self._changes_lstm_state)

    def _changes_lstm_state(self) -> bool:
        if not isinstance(getattr(self.policy, "hidden_size", None), int):
            return False
        policy = self.copy_policy()  # a step may move statistics
        state = _lstm_state(policy, 1)
        before = {key: state[key].clone() for key in LSTM_STATE}
        with torch.no_grad(), seeded(0):  # runs once only, so it must not move the generators
            observations = self.observations(1)
            policy.forward_eval(observations, self.add_required(state, observations))  # type: ignore[operator]
        return any(not torch.equal(state[key], before[key]) for key in before)

    def _initial_for(self, observations: Any, policy: nn.Module) -> dict[str, Tensor]:
        return self.state(len(next(leaves(observations))), policy)

    def _add_inputs(
        self, carry: dict[str, Any], observations: Any, starts: Tensor | None, mask: Tensor | None
    ) -> None:
        if starts is not None:
            carry[EPISODE_START] = starts
        if mask is not None:
            carry[ACTION_MASK] = mask.clone()  # a policy may write into it, which is S7's matter
        self.add_required(carry, observations)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under a seed of torch and NumPy; afterwards the generators are as before."""
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()
    # torch.manual_seed would seed every device, and formats a traceback each time where CUDA is not
    # in use yet: a tenth of the suite's time. Checks draw on the CPU.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


def _same(observations: Any) -> Any:
    """Return the same tensors in dicts and tuples of their own."""
    return map_nested(lambda leaf: leaf, observations)


def _within(leaf: Tensor, played: np.ndarray) -> Tensor:
    """Clamp integers (..., *obs) to those that were seen in their place, (P, *obs)."""
    if leaf.is_floating_point() or leaf.dtype is torch.bool:
        return leaf
    low, high = (torch.from_numpy(np.asarray(bound)) for bound in (played.min(0), played.max(0)))
    return torch.clamp(leaf, low, high)


def _modulo(leaf: Tensor, codes: int) -> Tensor:
    return leaf if leaf.is_floating_point() or leaf.dtype is torch.bool else leaf % codes


def _lstm_state(policy: nn.Module, batch: int) -> dict[str, Tensor]:
    return {key: torch.zeros(batch, int(policy.hidden_size)) for key in LSTM_STATE}  # type: ignore[arg-type]
