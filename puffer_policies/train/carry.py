"""The recurrent state of a batch of envs from step to step, in the form that a policy wants."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.contract import EPISODE_START, LSTM_STATE
from puffer_policies.errors import ContractError
from puffer_policies.nested import map_nested
from puffer_policies.train.calls import PolicyCalls, policy_calls

Tensors = dict[str, Tensor]
"""Named tensors with the batch first."""

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class Carry:
    """Steps a policy, holding the state of `batch_size` rows; empty for one without memory.

    A policy with ``initial_state`` says what it carries, and honours ``episode_start``. One without
    it that is said to be recurrent is of PufferLib's form: ``lstm_h`` and ``lstm_c`` of
    `hidden_size`, never reset, and (1, B, H) instead of (B, H) in training. `use_rnn` None asks the
    policy. `calls` says how it is run, by default as it is.

    Raises:
        ContractError: `use_rnn` contradicts the policy, or the state's form can't be known.
    """

    def __init__(
        self,
        policy: nn.Module,
        batch_size: int,
        *,
        device: torch.device,
        use_rnn: bool | None,
        calls: PolicyCalls | None = None,
    ) -> None:
        self._policy = policy
        self._calls = policy_calls(policy, device=device) if calls is None else calls
        self._initial, self._has_layers = _initial(policy, batch_size, device, use_rnn)
        self.tensors = self._initial
        if use_rnn is False and self.tensors:
            raise ContractError(
                f"train.use_rnn is False, but {type(policy).__name__} carries "
                f"{', '.join(self.tensors)} from step to step.",
                fix="Leave use_rnn out: the policy is asked.",
            )

    @property
    def recurrent(self) -> bool:
        """Whether anything is carried."""
        return bool(self.tensors)

    def restart(self) -> None:
        """Go back to the state before the first step."""
        self.tensors = self._initial

    def step(
        self, observations: Any, starts: Tensor, *, sent: Mapping[str, Tensor] = NOTHING
    ) -> tuple[Any, Tensor]:
        """(B, *obs), (B,) bool -> logits of B rows, values (B,); the state goes on.

        `sent` (B, ...) is what else the policy reads there, by state key, such as ``action_mask``.
        """
        state = {**self.tensors, EPISODE_START: starts, **sent}
        try:
            logits, values = self._calls.forward_eval(observations, state)
        except KeyError as error:
            if error.args[:1] and error.args[0] in LSTM_STATE:
                raise _unannounced(self._policy, error.args[0]) from error
            raise
        if self.tensors:
            self.tensors = {key: state[key] for key in self.tensors}
        return logits, self._flat(values, starts)

    def peek(
        self, observations: Any, starts: Tensor, *, sent: Mapping[str, Tensor] = NOTHING
    ) -> Tensor:
        """(B, *obs), (B,) bool, (B, ...) each -> values (B,); the state stays."""
        state = {**self.tensors, EPISODE_START: starts, **sent}
        _, values = self._calls.forward_eval(observations, state)
        return self._flat(values, starts)

    def sequence(
        self,
        observations: Any,
        starts: Tensor,
        stored: Tensors,
        *,
        sent: Mapping[str, Tensor] = NOTHING,
    ) -> tuple[Any, Tensor]:
        """(B, T, *obs), (B, T) bool -> logits of B*T rows, values (B*T,), with gradient.

        `stored` (B, ...) is the state before the first step, `sent` is (B, T, ...). A policy
        without memory is given (B*T, *obs), as those written for PufferLib take nothing else.
        """
        if not self.recurrent:
            observations = map_nested(lambda leaf: leaf.flatten(0, 1), observations)
            starts = starts.flatten()
            sent = {key: each.flatten(0, 1) for key, each in sent.items()}
        if self._has_layers:
            stored = {key: value.unsqueeze(0) for key, value in stored.items()}  # (1, B, H)
        state = {**stored, EPISODE_START: starts, **sent}
        logits, values = self._calls.forward(observations, state)
        return logits, self._flat(values, starts)

    def _flat(self, values: Tensor, starts: Tensor) -> Tensor:
        # Broadcasting would hide a wrong number of values in the loss.
        if values.numel() != starts.numel():
            raise ContractError(
                f"{type(self._policy).__name__} returned values of shape {tuple(values.shape)} for "
                f"{starts.numel()} observations.",
                fix="A policy gives one value for each observation: (N, 1).",
            )
        return values.reshape(-1)


def _initial(
    policy: nn.Module, batch_size: int, device: torch.device, use_rnn: bool | None
) -> tuple[Tensors, bool]:
    initial_state = getattr(policy, "initial_state", None)
    if callable(initial_state):
        return dict(initial_state(batch_size, device)), False
    if not use_rnn:
        return {}, False
    hidden_size = getattr(policy, "hidden_size", None)
    if not isinstance(hidden_size, int):
        raise ContractError(
            f"train.use_rnn is True, but {type(policy).__name__} has neither 'initial_state' nor "
            "an integer 'hidden_size': the form of its state is unknown.",
            fix="Give it initial_state(batch_size, device), or wrap it with LSTMWrapper.",
        )
    zeros = torch.zeros(batch_size, hidden_size, device=device)
    return dict.fromkeys(LSTM_STATE, zeros), True


def _unannounced(policy: nn.Module, key: str) -> ContractError:
    return ContractError(
        f"{type(policy).__name__} reads state[{key!r}], which nobody gives it: it has no "
        "'initial_state', and train.use_rnn is not set.",
        fix="Set args['train']['use_rnn'] = True for a memory of PufferLib's form.",
    )
