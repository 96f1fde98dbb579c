"""The optimisers of a run, Adam or Muon for hidden matrices beside Adam, and their schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import MissingDependency

HEADS = frozenset({"actor", "critic"})
"""Names of the modules, anywhere in a policy, whose matrices give its outputs."""


def make_optimizer(config: TrainConfig, policy: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser that `config` names, over the parameters of `policy` that are trained.

    Raises:
        MissingDependency: Muon with a torch older than 2.9.
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    matrices = list(hidden_matrices(policy))
    if config.optimizer == "adam" or not matrices:
        return _adam(config, trained)
    # Compared by identity: == on tensors compares their elements.
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in trained if id(parameter) not in chosen]
    parts = [_muon(config, matrices)]
    return JoinedOptimizer([*parts, _adam(config, others)] if others else parts)


def lr_fraction(config: TrainConfig, remaining: float) -> float:
    """Return what the learning rate is multiplied by while a share `remaining` of the run is left.

    The cosine is that of Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, unrestarted.
    """
    if not config.anneal_lr:
        return 1.0
    if config.lr_schedule == "linear":
        return remaining
    return 0.5 * (1.0 - math.cos(math.pi * remaining))


def hidden_matrices(policy: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the matrices that Muon is meant for: no embedding, no head, no bias, no kernel.

    A head is what stands in a module named ``actor`` or ``critic``, our names for them. Advice of
    https://kellerjordan.github.io/posts/muon/, except that convolution kernels, which
    `torch.optim.Muon` does not take, are left to Adam too.
    """
    seen: set[int] = set()
    for path, module in policy.named_modules():
        if HEADS.intersection(path.split(".")) or isinstance(module, nn.Embedding):
            continue
        for parameter in module.parameters(recurse=False):
            is_matrix = parameter.ndim == 2 and min(parameter.shape) > 1
            if is_matrix and parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter


class JoinedOptimizer(torch.optim.Optimizer):
    """Several optimisers that step as one: one state, one list of groups, one state dict.

    Args:
        parts: optimisers without a parameter in common, none of which has stepped yet.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self._parts = parts
        groups = [group for part in parts for group in part.param_groups]
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        """Let every part work on the groups and the state of the whole."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step every part. `closure` is there for the signature only."""
        for part in self._parts:
            part.step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of another one of the same make, in every part."""
        super().load_state_dict(state_dict)
        self._share()


def _adam(config: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )


def _muon(config: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    muon = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise MissingDependency(
            f"train.optimizer is 'muon', which torch has since 2.9; this is {torch.__version__}.",
            fix='Install "torch>=2.9", or set train.optimizer to adam.',
        )
    made: torch.optim.Optimizer = muon(
        parameters,
        lr=config.learning_rate,
        momentum=config.adam_beta1,
        weight_decay=0.0,
        # Steps as long as Adam's (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that one
        # learning rate serves both parts, and changing the optimiser does not mean tuning it anew.
        adjust_lr_fn="match_rms_adamw",
    )
    return made
