"""What is checked: a way to build one policy for one pair of spaces, and the probes that run it.

`B` rows, `T` steps. Checks use only this interface, so that one suite serves registered policies,
plain classes, policies of PufferLib 3.0 and those that a test makes on the spot.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.checks.model import CheckFailed
from puffer_policies.contract import (
    ACTION_MASK,
    EPISODE_START,
    LSTM_STATE,
    NEEDS_PREVIOUS,
    PREV_ACTION,
    PREV_REWARD,
)
from puffer_policies.nested import leaves, map_nested
from puffer_policies.nn.distributions import Distribution, distribution
from puffer_policies.nn.observations import batch_layout
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import ActionLayout, Spaces, action_layout

BATCH = 5
STEPS = 6
TOLERANCE = 1e-5
LARGE = 1e6
"""Samples above this are brought to size; how extremes are borne is N2's question."""


@dataclass
class Subject:
    """One policy on one pair of spaces.

    Args:
        name: what reports call it.
        spaces: what it is built for.
        build: makes a fresh policy; the caller seeds torch.
        source: lines of Python that make the same policy as ``policy``, for examples.
        cls: its class, where it is one that can be looked at.
        capabilities: what its record declares; None where there is no record.
        declared: further declarations, such as ``{"frozen": ["encoder.0.weight"]}``.
    """

    name: str
    spaces: Spaces
    build: Callable[[], nn.Module]
    source: str = ""
    cls: type | None = None
    capabilities: Capabilities | None = None
    declared: dict[str, Any] = field(default_factory=dict)

    # -- build -----------------------------------------------------------------------------------

    def fresh(self, seed: int = 0) -> nn.Module:
        """Build a new policy under a seed, and leave the global generators as they were."""
        with seeded(seed):
            return self.build()

    @cached_property
    def policy(self) -> nn.Module:
        """The policy that checks share; one that changes it works on `copied`."""
        return self.fresh()

    def copied(self) -> nn.Module:
        """Return a fresh policy with the weights of `policy`."""
        other = self.fresh()
        other.load_state_dict(self.policy.state_dict())
        return other

    @cached_property
    def layout(self) -> ActionLayout:
        """How the action space is parametrised."""
        return action_layout(self.spaces.action)

    @cached_property
    def recurrent(self) -> bool:
        """Whether the policy carries state: it says so, or a step changes ``lstm_h``."""
        return bool(self.state(1))

    @cached_property
    def knows_no_time(self) -> bool:
        """Whether it has no memory, and reads (B, *obs) but raises at (B, T, *obs)."""
        if self.recurrent:
            return False
        policy = self.fresh()
        with torch.no_grad(), seeded(0):
            rows, sequence = self.observations(2), self.observations(2, steps=2)
            policy(rows, self.unmasked({}, rows))
            try:
                policy(sequence, self.unmasked({}, sequence))
            except Exception:
                return True
        return False

    # -- inputs ----------------------------------------------------------------------------------

    def observations(self, batch: int = BATCH, *, steps: int | None = None, seed: int = 0) -> Any:
        """Return random observations in the space's dtypes, (B, *obs) or (B, T, *obs)."""
        space = copy.deepcopy(self.spaces.observation)
        space.seed(seed)
        rows = [space.sample() for _ in range(batch * (steps or 1))]
        lead = (batch,) if steps is None else (batch, steps)
        return _stacked(rows, lead)

    def unmasked(self, state: dict[str, Any], observations: Any) -> dict[str, Any]:
        """Put into `state` what the policy asks for: a mask that allows all, and a last step.

        The last action and reward are 1 everywhere, so that steps and sequences agree.
        """
        wanted = {key: form for key, form in self._asked.items() if key not in state}
        if wanted:
            _, lead = batch_layout(self.spaces.observation).flatten(observations)
            device = next(leaves(observations)).device
            for key, (shape, dtype) in wanted.items():
                state[key] = torch.ones((*lead, *shape), dtype=dtype, device=device)
        return state

    @property
    def reads_previous(self) -> bool:
        """Whether the policy asks for the last action and reward."""
        return PREV_ACTION in self._asked

    @cached_property
    def _asked(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of a row of each state key that the policy asks for."""
        layout, asked = self.layout, dict[str, tuple[tuple[int, ...], torch.dtype]]()
        if layout.nvec and self.capabilities is not None and self.capabilities.needs_mask:
            asked[ACTION_MASK] = (sum(layout.nvec),), torch.bool
        if any(getattr(module, NEEDS_PREVIOUS, False) for module in self.policy.modules()):
            number = torch.float32 if layout.is_continuous else torch.int64
            asked[PREV_ACTION] = layout.policy_shape, number
            asked[PREV_REWARD] = (), torch.float32
        return asked

    def map(self, function: Callable[[Tensor], Any], observations: Any) -> Any:
        """Apply `function` to every tensor of nested observations."""
        return map_nested(function, observations)

    def starts(self, batch: int = BATCH, *, steps: int = STEPS, at: Any = ()) -> Tensor:
        """Return bool (B, T), true at the (row, step) pairs of `at`."""
        starts = torch.zeros(batch, steps, dtype=torch.bool)
        for row, step in at:
            starts[row, step] = True
        return starts

    # -- runs ------------------------------------------------------------------------------------

    def state(self, batch: int, policy: nn.Module | None = None) -> dict[str, Tensor]:
        """Return the recurrent state before the first step; empty for a policy without memory."""
        policy = self.policy if policy is None else policy
        initial_state = getattr(policy, "initial_state", None)
        if callable(initial_state):
            return dict(initial_state(batch, torch.device("cpu")))
        return self._lstm_state(policy, batch) if self._is_pufferlib_recurrent else {}

    def step(
        self,
        observations: Any,
        state: dict[str, Any] | None = None,
        *,
        starts: Tensor | None = None,
        policy: nn.Module | None = None,
    ) -> tuple[Any, Tensor, dict[str, Tensor]]:
        """Run ``forward_eval`` without gradient -> logits, values, the state after it.

        `state` is not mutated: the policy is given a copy.
        """
        policy = self.policy if policy is None else policy
        carried = dict(state) if state is not None else self._initial_for(observations, policy)
        keys = list(carried)
        if starts is not None:
            carried[EPISODE_START] = starts
        self.unmasked(carried, observations)
        with torch.no_grad():
            logits, values = policy.forward_eval(observations, carried)  # type: ignore[operator]
        return logits, values, {key: carried[key] for key in keys}

    def sequence(
        self,
        observations: Any,
        state: dict[str, Any] | None = None,
        *,
        starts: Tensor | None = None,
        policy: nn.Module | None = None,
        grad: bool = False,
    ) -> tuple[Any, Tensor]:
        """Run ``forward`` on (B, T, *obs), or (B, *obs) -> logits of B*T rows, values.

        Policies of PufferLib without memory know no time, and trainers merge it with the batch for
        them: so does this.
        """
        policy = self.policy if policy is None else policy
        if self.knows_no_time:
            observations, lead = batch_layout(self.spaces.observation).flatten(observations)
            starts = starts.flatten() if starts is not None and len(lead) == 2 else starts
        carried = dict(state) if state is not None else self._initial_for(observations, policy)
        if state is None and not callable(getattr(policy, "initial_state", None)):
            carried = dict.fromkeys(carried)  # PufferLib's trainer starts every segment from None
        if starts is not None:
            carried[EPISODE_START] = starts
        self.unmasked(carried, observations)
        with torch.set_grad_enabled(grad):
            logits, values = policy(observations, carried)
        return logits, values

    def distribution(self, logits: Any) -> Distribution:
        """Return the distribution of the policy's logits."""
        return distribution(logits)

    # -- inside ----------------------------------------------------------------------------------

    @cached_property
    def _is_pufferlib_recurrent(self) -> bool:
        """Whether a step changes zeroed ``lstm_h`` and ``lstm_c``."""
        if not isinstance(getattr(self.policy, "hidden_size", None), int):
            return False
        policy = self.fresh()  # a step may move statistics, and checks compare copies of `policy`
        state = self._lstm_state(policy, 1)
        before = {key: state[key].clone() for key in LSTM_STATE}
        with torch.no_grad(), seeded(0):  # once only, so it must draw nothing from the caller's
            observations = self.observations(1)
            policy.forward_eval(observations, self.unmasked(state, observations))  # type: ignore[operator]
        return any(not torch.equal(state[key], before[key]) for key in before)

    def _lstm_state(self, policy: nn.Module, batch: int) -> dict[str, Tensor]:
        return {key: torch.zeros(batch, int(policy.hidden_size)) for key in LSTM_STATE}  # type: ignore[arg-type]

    def _initial_for(self, observations: Any, policy: nn.Module) -> dict[str, Tensor]:
        return self.state(len(next(leaves(observations))), policy)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under a seed of torch and NumPy; afterwards the generators are as before."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


def numbers(logits: Any) -> Tensor:
    """Return all parameters of logits as one Tensor with a row a decision, (N, n).

    Raises:
        CheckFailed: the logits are of no type that the contract names.
    """
    if isinstance(logits, Tensor):
        return logits.flatten(1) if logits.ndim > 1 else logits.unsqueeze(1)
    if isinstance(logits, tuple | list):
        return torch.cat([numbers(each) for each in logits], 1)
    if isinstance(logits, Normal):
        return torch.cat([numbers(logits.loc), numbers(logits.scale)], 1)
    raise CheckFailed(
        "logits that are a Tensor, a tuple of Tensors or torch.distributions.Normal",
        f"logits of type {type(logits).__name__}",
    )


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference; infinite where shapes or NaNs differ."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    gap = (a.double() - b.double()).abs().max()
    return float("inf") if torch.isnan(gap) else float(gap)


def _stacked(rows: list[Any], lead: tuple[int, ...]) -> Any:
    first = rows[0]
    if isinstance(first, dict):
        return {key: _stacked([row[key] for row in rows], lead) for key in first}
    if isinstance(first, tuple):
        return tuple(_stacked([row[i] for row in rows], lead) for i in range(len(first)))
    array = _tamed(np.stack([np.asarray(row) for row in rows]))
    return torch.from_numpy(array).reshape(*lead, *array.shape[1:])


def _tamed(array: np.ndarray) -> np.ndarray:
    """Bring to size what no env sends: bounds such as the largest float are sampled evenly."""
    if not np.issubdtype(array.dtype, np.floating):
        return array
    size = np.abs(array)
    return np.where(size > LARGE, np.sign(array) * np.log10(np.maximum(size, 1)), array)
