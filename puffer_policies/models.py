"""PufferLib's module of policies, by its names: ``from puffer_policies.models import Default``."""

from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies.zoo.conv import Convolutional
from puffer_policies.zoo.mlp import Continuous, Default, MultiDiscrete, Structured

__all__ = [
    "Continuous",
    "Convolutional",
    "Default",
    "LSTMWrapper",
    "MultiDiscrete",
    "Structured",
]
