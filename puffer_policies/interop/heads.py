"""The parts of an actor-critic of another library as parts of `ActorCritic`.

`N` rows, `H` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.errors import BuildError
from puffer_policies.nn.samples import random_observations
from puffer_policies.spaces import ActionLayout, action_layout
from puffer_policies.spaces.nested import map_nested

WHOLE = slice(None)


def device_of(module: nn.Module) -> torch.device:
    """Return where the weights of a module are."""
    return next((each.device for each in module.parameters()), torch.device("cpu"))


def one_action(space: Any, library: str) -> ActionLayout:
    """Return the layout of an action space.

    Raises:
        BuildError: it is a Dict or a Tuple, which the actions of `library` can't be.
        IncompatibleSpace: no head serves it.
    """
    layout = action_layout(space)
    # Buffers of such libraries hold one array of one dtype, in which choices would be lost.
    if layout.parts:
        names = ", ".join(path for path, _, _ in layout.leaves())
        raise BuildError(
            f"The actions are a {layout.kind.title()} of {names}, and {library} gets actions of "
            "one kind here.",
            fix="Train the policy by `puffer-policies train`, or make one Box, Discrete or "
            "MultiDiscrete of the parts in a wrapper of the env.",
        )
    return layout


def samples(space: Any, rows: int, device: torch.device) -> Any:
    """Return random observations (rows, *obs) of a space, the same ones each time."""
    return map_nested(lambda leaf: leaf.to(device), random_observations(space, (rows,), seed=0))


def logits_of(layout: ActionLayout, numbers: Tensor, log_std: Tensor | None = None) -> Any:
    """Return numbers (N, n), as the actors of most libraries give them, as logits of ours.

    Args:
        layout: of the action space.
        numbers: a mean for each real number, the options of all choices side by side, or one number
            for each bit of a MultiBinary.
        log_std: of a continuous actor, for all rows or for each.
    """
    if log_std is not None:
        mean = numbers.reshape(-1, *layout.shape)
        return Normal(mean, log_std.exp().reshape(-1, *layout.shape).expand_as(mean))
    if layout.kind == "multibinary":
        # The number is that of "yes", against 0 of "no".
        yes = numbers.unbind(-1)
        return tuple(torch.stack([torch.zeros_like(each), each], -1) for each in yes)
    if layout.kind == "discrete":
        return numbers
    return torch.split(numbers, list(layout.nvec), -1)


class ActorHead(nn.Module):
    """(N, H) -> logits.

    Args:
        net: columns of the hidden features -> numbers of `logits_of`.
        layout: of the action space.
        columns: of the hidden features, which `net` reads.
        log_std: as in `logits_of`.
    """

    def __init__(
        self,
        net: nn.Module,
        layout: ActionLayout,
        *,
        columns: slice = WHOLE,
        log_std: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.net, self.layout, self.columns, self.log_std = net, layout, columns, log_std
        self.is_continuous = layout.is_continuous

    def forward(self, hidden: Tensor) -> Any:
        """(N, H) -> logits."""
        return logits_of(self.layout, self.net(hidden[..., self.columns]), self.log_std)


class CriticHead(nn.Module):
    """(N, H) -> (N, 1). Arguments are those of `ActorHead`."""

    def __init__(self, net: nn.Module, *, columns: slice = WHOLE) -> None:
        super().__init__()
        self.net, self.columns = net, columns

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, 1)."""
        values: Tensor = self.net(hidden[..., self.columns])
        return values


class Trunks(nn.Module):
    """(N, *obs) -> (N, H): what one network or several make of observations, side by side.

    Args:
        read: observations in any dtype of the space -> what the networks read.
        networks: in the order of their columns.
        space: of the observations; one is read to learn the widths.
    """

    def __init__(self, read: Callable[[Any], Tensor], *networks: nn.Module, space: Any) -> None:
        super().__init__()
        self.read, self.networks = read, nn.ModuleList(networks)
        with torch.no_grad():
            inputs = read(samples(space, 1, device_of(self)))
            self.widths = [int(network(inputs).shape[-1]) for network in networks]
        self.hidden_size = sum(self.widths)

    def forward(self, observations: Any) -> Tensor:
        """(N, *obs) -> (N, H)."""
        inputs = self.read(observations)
        return torch.cat([network(inputs) for network in self.networks], -1)
