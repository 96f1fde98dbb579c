"""Attention as memory around any structured policy: Parisotto et al. 2020, arXiv:1910.06764.

https://arxiv.org/abs/1910.06764. Each step looks at the last steps of its own episode. Costs more
than a recurrent layer, and carries a window instead of a vector, which PufferLib's trainer can't.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.nn.cores.gtrxl import GTrXLCore
from puffer_policies.wrappers.base import RecurrentWrapper
from puffer_policies.wrappers.sizes import core_sizes


class GTrXLWrapper(RecurrentWrapper):
    """A policy with gated transformer layers between its encoder and its heads.

    Args:
        env: what the policy was built for.
        policy: has encode_observations and decode_actions, and best ``hidden_size``.
        input_size: width of the policy's encoding; inferred from its ``hidden_size``.
        hidden_size: width of the layers, which is what decode_actions reads; inferred likewise.
        num_layers: layers on top of each other.
        num_heads: parts of the width that look separately; by default each is 32 wide.
        memory: steps before this one that each layer sees.
    """

    def __init__(
        self,
        env: Any,
        policy: nn.Module,
        input_size: int | None = None,
        hidden_size: int | None = None,
        *,
        num_layers: int = 2,
        num_heads: int | None = None,
        memory: int = 64,
    ) -> None:
        sizes = core_sizes(policy, input_size, hidden_size)
        core = GTrXLCore(*sizes, num_layers=num_layers, num_heads=num_heads, memory=memory)
        super().__init__(env, policy, core)
