"""PufferLib's module of PyTorch helpers, by its names: ``import puffer_policies.pytorch``."""

from puffer_policies.nn.distributions import sample_logits
from puffer_policies.nn.init import layer_init

__all__ = ["layer_init", "sample_logits"]
