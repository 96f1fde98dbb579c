"""The memories of this package, for any policy with `encode_observations` and `decode_actions`.

Each is declared by its core, whose parameters are its options. Sizes are inferred, weights are
orthogonal, and the state is reset exactly where an episode starts.
"""

from __future__ import annotations

from puffer_policies.nn.cores.gru import GRUCore
from puffer_policies.nn.cores.gtrxl import GTrXLCore
from puffer_policies.nn.cores.lstm import LSTMCore, LSTMLayers
from puffer_policies.nn.cores.mingru import MinGRUCore
from puffer_policies.nn.cores.rnn import RNNCore
from puffer_policies.nn.cores.transformer_xl import TransformerXLCore
from puffer_policies.wrappers.base import MemoryWrapper


class LSTMWrapper(MemoryWrapper, core=LSTMCore):
    """A policy with an LSTM between its encoder and its heads.

    Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735, with the names and
    the state of PufferLib 3.0. It differs from PufferLib's in this: its own weights are orthogonal
    and the wrapped policy's stay as they are (https://github.com/PufferAI/PufferLib/issues/459),
    sizes are inferred, there may be more layers, episodes reset the state if their starts are in
    it, and no tensor is in the state_dict twice.
    """

    @property
    def lstm(self) -> LSTMLayers:
        """The layers under PufferLib's name, by which its distributed trainer knows a memory."""
        layers = self.core.layers
        assert isinstance(layers, LSTMLayers)
        return layers


class GRUWrapper(MemoryWrapper, core=GRUCore):
    """A policy with a GRU between its encoder and its heads.

    Cho et al. 2014, https://arxiv.org/abs/1406.1078. It has three quarters of an LSTM's weights and
    half of its state.
    """


class RNNWrapper(MemoryWrapper, core=RNNCore):
    """A policy with a plain recurrent network between its encoder and its heads.

    Elman 1990, https://doi.org/10.1207/s15516709cog1402_1. The tanh network has a quarter of an
    LSTM's weights, and its gradients fade sooner.
    """


class MinGRUWrapper(MemoryWrapper, core=MinGRUCore):
    """A policy with MinGRU layers between its encoder and its heads.

    Feng et al. 2024, https://arxiv.org/abs/2410.01201. The gates read the input alone, so a
    training sequence costs one matrix product and a scan. With a highway and four layers it is
    PufferLib 4.0's default core. One layer can only fade, at rates that the input sets: it recalls
    a cue, but it is slow to learn how many steps ago something was.
    """


class GTrXLWrapper(MemoryWrapper, core=GTrXLCore):
    """A policy with gated transformer layers between its encoder and its heads.

    Parisotto et al. 2020, https://arxiv.org/abs/1910.06764. Each step attends to the last steps of
    its own episode. This costs more than a recurrent layer, and the state is a window instead of a
    vector.
    """


class TransformerXLWrapper(MemoryWrapper, core=TransformerXLCore):
    """A policy with transformer layers between its encoder and its heads.

    Dai et al. 2019, https://arxiv.org/abs/1901.02860. It attends as a GTrXL does, without gates,
    which are half of the weights in a layer of a GTrXL.
    """
