"""What the wrappers around torch's recurrent layers share: one constructor."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from puffer_policies.nn.cores.base import LayeredCore
from puffer_policies.wrappers.base import RecurrentWrapper
from puffer_policies.wrappers.sizes import core_sizes


class LayeredWrapper(RecurrentWrapper):
    """A policy with a stack of like layers between its encoder and its heads.

    Args:
        env: what the policy was built for.
        policy: has encode_observations and decode_actions, and best ``hidden_size``.
        input_size: width of the policy's encoding; inferred from its ``hidden_size``.
        hidden_size: width of the memory, which is what decode_actions reads; inferred likewise.
        num_layers: PufferLib's trainer carries the state of one.
    """

    core_class: ClassVar[LayeredCore]

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
        super().__init__(env, policy, self.core_class(*sizes, num_layers=num_layers))
