"""Our memories in sb3-contrib's RecurrentPPO, and our policies in its MaskablePPO.

``RecurrentPPO("PufferRecurrentPolicy", env, policy_kwargs={"policy": "GRUWrapper(Default)"})``;
importing this module makes the names known. https://sb3-contrib.readthedocs.io

RecurrentPPO carries the two tensors of an LSTM, (layers, B, H) each. The first holds the whole
state of a policy as one layer, (1, B, S); the second is empty of meaning. `N` rows of a batch, `B`
envs or sequences, `T` steps, `S` numbers of a state, `A` options of all choices.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.foreign import optional_imports
from puffer_policies.interop.stable_baselines3 import Adapter
from puffer_policies.spaces.nested import leaves

with optional_imports(extra="sb3", purpose="sb3-contrib"):
    from sb3_contrib import MaskablePPO, RecurrentPPO
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

RECURRENT, MASKABLE = "PufferRecurrentPolicy", "PufferMaskablePolicy"
"""By which the algorithms find the policies."""

Pair = tuple[Tensor, Tensor]


class PufferRecurrentPolicy(Adapter, RecurrentActorCriticPolicy):
    """A policy with any memory, or none, for RecurrentPPO. Arguments are those of `Adapter`.

    Masks come in a Dict observation, for ``ActionMaskWrapper(key=...)``: the algorithm sends none.

    Raises:
        PolicyError: as of `get_policy`.
        BuildError: the algorithm does not send what the policy reads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The algorithm sizes what it carries by an LSTM of this name. It can't carry nothing.
        width = max(self.guest.packed.size, 1)
        self.lstm_actor = SimpleNamespace(num_layers=1, hidden_size=width)
        self.lstm_hidden_state_shape = (1, 1, width)

    def _require_served(self) -> None:
        self.guest.require_no_previous()
        self.guest.require_mask_observed()

    # -- the contract of RecurrentPPO --------------------------------------------------------------

    def forward(
        self,
        obs: Any,
        lstm_states: RNNStates,
        episode_starts: Tensor,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Take a step of B envs -> actions, values (B, 1), log-probabilities (B,), next state."""
        self.guest.see(self.guest.rows(obs))
        logits, values, pair = self._step(obs, lstm_states.pi, episode_starts)
        actions, log_prob = self.guest.choose(logits, deterministic=deterministic)
        # Values are asked for with the state of the critic, which is that of the whole policy.
        return actions, values, log_prob, RNNStates(pair, pair)

    def evaluate_actions(
        self, obs: Any, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return values (N, 1), log-probabilities (N,) and entropies (N,) of B sequences.

        Rows are padded to sequences of one length, and the algorithm leaves the padding out of its
        loss.
        """
        packed = lstm_states.pi[0][0]
        obs, starts = (
            self.guest.allowing(self.guest.rows(obs)),
            episode_starts.reshape(len(packed), -1),
        )
        logits, values = self.guest.sequences(obs, packed, starts)
        return values, *self.guest.judge(logits, actions)

    def predict_values(self, obs: Any, lstm_states: Pair, episode_starts: Tensor) -> Tensor:
        """Return the values (B, 1) of the next step."""
        return self._step(obs, lstm_states, episode_starts)[1]

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return actions and the next state; without a state, an episode starts in every row."""
        if state is None:
            # The library would begin with zeros, which is no beginning for every memory.
            tensors, _ = self.obs_to_tensor(observation)
            episode_start = np.ones(len(next(leaves(tensors))), dtype=bool)
        actions, after = super().predict(observation, state, episode_start, deterministic)
        return actions, after

    def _predict(
        self,
        observation: Any,
        lstm_states: Pair,
        episode_starts: Tensor,
        deterministic: bool = False,
    ) -> tuple[Tensor, Pair]:
        logits, _, pair = self._step(observation, lstm_states, episode_starts)
        return self.guest.choose(logits, deterministic=deterministic)[0], pair

    # -- inside ------------------------------------------------------------------------------------

    def _step(self, obs: Any, pair: Pair, episode_starts: Tensor) -> tuple[Any, Tensor, Pair]:
        """Return logits, values (B, 1) and the next pair."""
        logits, values, packed = self.guest.step(self.guest.rows(obs), pair[0][0], episode_starts)
        return logits, values, (packed.unsqueeze(0), pair[1])


class PufferMaskablePolicy(Adapter, MaskableActorCriticPolicy):
    """A policy without memory, for MaskablePPO. Arguments and errors are those of `Adapter`.

    A policy that reads masks gets them in its state. Of any other they are applied to its logits.
    """

    def _require_served(self) -> None:
        self.guest.require_no_memory(
            "MaskablePPO",
            fix='Use RecurrentPPO("PufferRecurrentPolicy", ...) with the mask in a Dict '
            "observation, and ActionMaskWrapper(key='action_mask') around the policy.",
        )
        self.guest.require_no_previous()

    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, *obs) -> actions (B, *shape), values (B, 1) and log-probabilities (B,)."""
        self.guest.see(self.guest.rows(obs))
        logits, values = self._masked(obs, action_masks)
        actions, log_prob = self.guest.choose(logits, deterministic=deterministic)
        return actions, values, log_prob

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, *obs), (N, *shape) -> values (N, 1), log-probabilities (N,) and entropies (N,)."""
        logits, values = self._masked(obs, action_masks)
        return values, *self.guest.judge(logits, actions)

    def predict_values(self, obs: Any) -> Tensor:
        """(N, *obs) -> values (N, 1), on which masks have no influence."""
        rows = len(next(leaves(obs)))
        every = torch.ones(rows, sum(self.guest.layout.nvec), dtype=torch.bool)
        return self._masked(obs, every)[1]

    def _predict(
        self, observation: Any, deterministic: bool = False, action_masks: Any = None
    ) -> Tensor:
        logits, _ = self._masked(observation, action_masks)
        return self.guest.choose(logits, deterministic=deterministic)[0]

    def _masked(self, obs: Any, action_masks: Any) -> tuple[Any, Tensor]:
        """Return logits that allow what masks (N, A) of any kind allow, and values (N, 1)."""
        rows, mask = self.guest.rows(obs), None
        if action_masks is not None:
            mask = torch.as_tensor(action_masks, device=self.device) > 0
            mask = mask.reshape(-1, sum(self.guest.layout.nvec))
        nothing = torch.empty(0)  # a policy without memory begins nowhere
        return self.guest.sequences(rows, nothing, nothing, mask)


RecurrentPPO.policy_aliases[RECURRENT] = PufferRecurrentPolicy
MaskablePPO.policy_aliases[MASKABLE] = PufferMaskablePolicy
