"""GRU memory around any structured policy: Cho et al. 2014, https://arxiv.org/abs/1406.1078.

Three quarters of an LSTM's weights and half of its state. Sizes are inferred, weights orthogonal
for each gate, resets exact.
"""

from __future__ import annotations

from puffer_policies.nn.cores.gru import GRUCore
from puffer_policies.wrappers.layered import LayeredWrapper


class GRUWrapper(LayeredWrapper):
    """A policy with a GRU between its encoder and its heads."""

    core_class = GRUCore
