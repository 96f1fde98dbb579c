"""LSTM memory around any structured policy, with the names and the state of PufferLib 3.0.

Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735. It differs from
PufferLib's in this: its own weights are orthogonal and the wrapped policy's stay as they are
(https://github.com/PufferAI/PufferLib/issues/459), sizes are inferred, there may be more layers,
episodes reset the state if their starts are sent, and no tensor is in the state_dict twice.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.errors import BuildError
from puffer_policies.nn.cores import LSTMCore, LSTMLayers
from puffer_policies.wrappers.base import RecurrentWrapper


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
        encoded = _size(policy, input_size, "input_size", "encode_observations gives")
        decoded = _size(policy, hidden_size, "hidden_size", "decode_actions reads")
        super().__init__(env, policy, LSTMCore(encoded, decoded, num_layers=num_layers))

    @property
    def lstm(self) -> LSTMLayers:
        """The layers under PufferLib's name, by which its distributed trainer knows a memory."""
        layers = self.core.lstm
        assert isinstance(layers, LSTMLayers)
        return layers


def _size(policy: nn.Module, given: int | None, argument: str, role: str) -> int:
    """Return the policy's hidden_size, or what was given if it does not say."""
    found: int | None = getattr(policy, "hidden_size", None)
    name = type(policy).__name__
    if found is None and given is None:
        raise BuildError(
            f"{name!r} has no hidden_size, so {argument} can't be inferred.",
            fix=f"Set self.hidden_size in it, or pass {argument}: what {role}.",
        )
    if found is not None and given not in (None, found):
        raise BuildError(
            f"{argument}={given} was given, but {name!r} has hidden_size={found}: its {role} "
            f"{found} features.",
            fix=f"Leave {argument} out, or build {name!r} with hidden_size={given}.",
        )
    return int(found if given is None else given)  # type: ignore[arg-type]
