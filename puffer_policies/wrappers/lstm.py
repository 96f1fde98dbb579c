"""LSTM memory around any structured policy, with the names and the state of PufferLib 3.0.

Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735. It differs from
PufferLib's in this: its own weights are orthogonal and the wrapped policy's stay as they are
(https://github.com/PufferAI/PufferLib/issues/459), sizes are inferred, there may be more layers,
episodes reset the state if their starts are sent, and no tensor is in the state_dict twice.
"""

from __future__ import annotations

from puffer_policies.nn.cores.lstm import LSTMCore, LSTMLayers
from puffer_policies.wrappers.layered import LayeredWrapper


class LSTMWrapper(LayeredWrapper):
    """A policy with an LSTM between its encoder and its heads."""

    core_class = LSTMCore

    @property
    def lstm(self) -> LSTMLayers:
        """The layers under PufferLib's name, by which its distributed trainer knows a memory."""
        layers = self.core.layers
        assert isinstance(layers, LSTMLayers)
        return layers
