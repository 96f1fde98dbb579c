"""Elman's memory around any structured policy, https://doi.org/10.1207/s15516709cog1402_1.

The plain tanh network: a quarter of an LSTM's weights, and gradients that fade sooner. Sizes are
inferred, weights orthogonal, resets exact.
"""

from __future__ import annotations

from puffer_policies.nn.cores.rnn import RNNCore
from puffer_policies.wrappers.layered import LayeredWrapper


class RNNWrapper(LayeredWrapper):
    """A policy with a plain recurrent network between its encoder and its heads."""

    core_class = RNNCore
