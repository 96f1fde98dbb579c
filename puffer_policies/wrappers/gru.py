"""GRU memory around any structured policy: Cho et al. 2014, https://arxiv.org/abs/1406.1078.

Three quarters of an LSTM's weights and half of its state. Sizes are inferred, weights orthogonal
for each gate, resets exact.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.nn.cores.gru import GRUCore
from puffer_policies.wrappers.base import RecurrentWrapper
from puffer_policies.wrappers.sizes import core_sizes


class GRUWrapper(RecurrentWrapper):
    """A policy with a GRU between its encoder and its heads.

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
        super().__init__(env, policy, GRUCore(*sizes, num_layers=num_layers))
