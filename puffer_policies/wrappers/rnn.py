"""Elman's memory around any structured policy, https://doi.org/10.1207/s15516709cog1402_1.

The plain tanh network: a quarter of an LSTM's weights, and gradients that fade sooner. Sizes are
inferred, weights orthogonal, resets exact.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.nn.cores.rnn import RNNCore
from puffer_policies.wrappers.base import RecurrentWrapper
from puffer_policies.wrappers.sizes import core_sizes


class RNNWrapper(RecurrentWrapper):
    """A policy with a plain recurrent network between its encoder and its heads.

    Args:
        env: what the policy was built for.
        policy: has encode_observations and decode_actions, and best ``hidden_size``.
        input_size: width of the policy's encoding; inferred from its ``hidden_size``.
        hidden_size: width of the memory, which is what decode_actions reads; inferred likewise.
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
        super().__init__(env, policy, RNNCore(*sizes, num_layers=num_layers))
