"""The policy without memory, from an encoder to an actor and a critic.

Classes of the zoo are constructors that only choose the parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.contract import State
from puffer_policies.nn.fixed import Decode, Encode, Eval, fixed_call, overrides
from puffer_policies.nn.heads import (
    ValueHead,
    are_joinable,
    decode_jointly,
    fixed_heads,
    make_head,
)
from puffer_policies.nn.observations import batch_layout, require_readable
from puffer_policies.spaces import Spaces


class ActorCritic(nn.Module):
    """An encoder shared by an action head and a value head. `N` rows are B, or B*T.

    Args:
        encoder: (N, *obs) -> (N, H), with the attribute ``hidden_size``.
        spaces: the spaces that encoder and heads serve.
        actor: (N, H) -> logits, with the attribute ``is_continuous``; by default `make_head`'s.
        critic: (N, H) -> (N, 1); by default a `ValueHead`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        spaces: Spaces,
        *,
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__()
        require_readable(spaces.observation)
        self.spaces = spaces
        self._layout = batch_layout(spaces.observation)
        self.hidden_size = int(encoder.hidden_size)  # type: ignore[arg-type]
        self.encoder = encoder
        self.actor = make_head(spaces.action, self.hidden_size) if actor is None else actor
        self.critic = ValueHead(self.hidden_size) if critic is None else critic
        self.is_continuous = bool(self.actor.is_continuous)

    def encode_observations(self, observations: Any, state: State | None = None) -> Tensor:
        """(N, *obs) in any dtype of the space -> hidden (N, H) float32. `state` is not read."""
        hidden: Tensor = self.encoder(observations)
        return hidden

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        """(N, H) -> logits of N rows, values (N, 1)."""
        actor, critic = self.actor, self.critic
        # One product for both heads saves a call and a reading of `hidden` in each direction. It is
        # done with gradients only, as concatenating the weights costs more than it saves in a step.
        if torch.is_grad_enabled() and are_joinable(actor, critic):
            return decode_jointly(actor, critic, hidden)
        return actor(hidden), critic(hidden)

    def forward_eval(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """One step: (B, *obs) -> logits of B rows, values (B, 1)."""
        return self.decode_actions(self.encode_observations(observations, state))

    def fixed_eval(self, *, may_wait: bool = False) -> Eval:
        """Return `forward_eval` without gradient and at less cost, see `nn.fixed`."""
        if overrides(self, ActorCritic, "forward_eval"):
            return self.forward_eval
        encode, decode = self.fixed_parts()
        return lambda observations, state=None: decode(encode(observations, state))

    def fixed_parts(self) -> tuple[Encode, Decode]:
        """Return `encode_observations` and `decode_actions` likewise."""
        encode: Encode = self.encode_observations
        if not overrides(self, ActorCritic, "encode_observations"):
            encoder = fixed_call(self.encoder)
            encode = lambda observations, state=None: encoder(observations)  # noqa: E731
        if overrides(self, ActorCritic, "decode_actions"):
            return encode, self.decode_actions
        return encode, fixed_heads(self.actor, self.critic)

    def forward(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """Training: (B, *obs) or (B, T, *obs) -> logits of N rows, values (N, 1); row b*T + t.

        Raises:
            IncompatibleSpace: the observations have another shape than the space.
        """
        rows, _ = self._layout.flatten(observations)  # (N, *obs)
        return self.forward_eval(rows, state)
