"""MinGRU memory around any structured policy: Feng et al. 2024, https://arxiv.org/abs/2410.01201.

Its gates look at the input alone, so that a training sequence costs one matrix product and a scan.
With a highway and four layers it is PufferLib 4.0's default core. One layer can only fade, at rates
that the input sets: it recalls a cue, but learns badly how many steps ago something was.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.nn.cores.mingru import MinGRUCore
from puffer_policies.wrappers.base import RecurrentWrapper
from puffer_policies.wrappers.sizes import core_sizes


class MinGRUWrapper(RecurrentWrapper):
    """A policy with MinGRU layers between its encoder and its heads.

    Args:
        env: what the policy was built for.
        policy: has encode_observations and decode_actions, and best ``hidden_size``.
        input_size: width of the policy's encoding; inferred from its ``hidden_size``.
        hidden_size: width of the memory, which is what decode_actions reads; inferred likewise.
        num_layers: PufferLib's trainer carries the state of one.
        highway: whether a gate mixes a layer's input into its output; needs equal sizes.
    """

    def __init__(
        self,
        env: Any,
        policy: nn.Module,
        input_size: int | None = None,
        hidden_size: int | None = None,
        *,
        num_layers: int = 1,
        highway: bool = False,
    ) -> None:
        sizes = core_sizes(policy, input_size, hidden_size)
        super().__init__(env, policy, MinGRUCore(*sizes, num_layers=num_layers, highway=highway))
