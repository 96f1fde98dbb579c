"""LSTM memory around any structured policy, with the names and the state of PufferLib 3.0.

Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735. It differs from
PufferLib's in this: its own weights are orthogonal and the wrapped policy's stay as they are
(https://github.com/PufferAI/PufferLib/issues/459), sizes are inferred, there may be more layers,
episodes reset the state if their starts are sent, and no tensor is in the state_dict twice.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.nn.cores.lstm import LSTMCore, LSTMLayers
from puffer_policies.wrappers.base import RecurrentWrapper
from puffer_policies.wrappers.sizes import core_sizes


class LSTMWrapper(RecurrentWrapper):
    """A policy with an LSTM between its encoder and its heads.

    Args:
        env: what the policy was built for.
        policy: has encode_observations and decode_actions, and best ``hidden_size``.
        input_size: width of the policy's encoding; inferred from its ``hidden_size``.
        hidden_size: width of the LSTM, which is what decode_actions reads; inferred likewise.
        num_layers: PufferLib's trainer carries the state of one.
    """

    def __init__(
        self,
        env: Any,
        policy: nn.Module,
        input_size: int | None = None,
        hidden_size: int | None = None,
        *,
        num_layers: int = 1,
    ) -> None:
        sizes = core_sizes(policy, input_size, hidden_size)
        super().__init__(env, policy, LSTMCore(*sizes, num_layers=num_layers))

    @property
    def lstm(self) -> LSTMLayers:
        """The layers under PufferLib's name, by which its distributed trainer knows a memory."""
        layers = self.core.layers
        assert isinstance(layers, LSTMLayers)
        return layers
