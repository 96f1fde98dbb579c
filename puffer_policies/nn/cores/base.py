"""The interface of recurrent cores: a step, a sequence with episode starts, and explicit state.

`B` batch, `T` time, `I` input size, `H` hidden size, `L` layers. State is a dict of tensors with
the batch first. It is passed in and handed out, never kept on the module, never written in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.errors import BuildError
from puffer_policies.nn.encoders import require_count
from puffer_policies.nn.trace import zeroed

State = Mapping[str, Tensor]
"""The carry between steps; the batch is the first axis of every tensor."""
After = tuple[Tensor, dict[str, Tensor]]
"""The hidden features of a step or of a sequence, with the state after it."""


class Core(nn.Module):
    """A recurrent core, whose sequences agree with its steps wherever episodes start.

    A subclass writes `step` and `state_shapes`, and `sequence` where a whole sequence costs less
    than its steps.
    """

    most_starts: int | None = None
    """Most episode starts within a row, if `bounded_starts` tells; else they are counted."""
    idle: Tensor | None = None
    """(B, T) bool, if `idle_steps` tells: the steps of a sequence whose output nobody reads."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size

    def step(self, x: Tensor, state: State) -> After:
        """(B, I) -> (B, H), with the state after it."""
        raise NotImplementedError

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return the key and shape of every tensor of the state."""
        raise NotImplementedError

    def sequence(self, x: Tensor, state: State, episode_start: Tensor | None) -> After:
        """(B, T, I) -> (B, T, H) from a state that is reset already where step 0 is a start.

        A NaN may cross an episode start here; `forward` catches it.
        """
        return self.step_through(x, state, episode_start)

    def forward(self, x: Tensor, state: State, episode_start: Tensor | None = None) -> After:
        """(B, T, I) -> (B, T, H), with the state after the last step.

        `episode_start` is bool (B, T), true where the state is reset before the step.
        """
        if episode_start is None:
            return self.sequence(x, state, None)
        output, after = self.sequence(x, self.reset(state, episode_start[:, 0]), episode_start)
        if torch.compiler.is_compiling() or self.most_starts is not None:
            return output, after
        # A sum is finite only if each number is, and costs a thirtieth of looking at each.
        if bool(output.detach().sum().isfinite()):
            return output, after
        # Fast sequences reset by arithmetic, which leaves a NaN alive, as 0 * NaN is NaN. Single
        # steps fill the rows, so a NaN of one episode cannot reach the next. The branch is left out
        # where it would break a compiled graph, or make the host wait for a recorded one.
        return self.step_through(x, state, episode_start)

    def step_through(self, x: Tensor, state: State, episode_start: Tensor | None) -> After:
        """Return the result of `forward` by one `step` after another."""
        outputs, carried = [], dict(state)
        for t, features in enumerate(x.unbind(1)):
            if episode_start is not None:
                carried = self.reset(carried, episode_start[:, t])
            output, carried = self.step(features, carried)
            outputs.append(output)
        return torch.stack(outputs, 1), carried

    def initial_state(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        """Return zeros in the dtype of the weights, on their device unless another is given."""
        weight = next(self.parameters())
        device = weight.device if device is None else device
        return {
            key: torch.zeros(shape, dtype=weight.dtype, device=device)
            for key, shape in self.state_shapes(batch_size).items()
        }

    def reset(self, state: State, episode_start: Tensor) -> dict[str, Tensor]:
        """Return the state with the rows reset where `episode_start` (B,) is true.

        Rows are filled, not multiplied by zero: a NaN of the last episode must not survive.
        """
        return {
            key: zeroed(value, episode_start.reshape(-1, *[1] * (value.ndim - 1)))
            for key, value in state.items()
        }


def bounded_starts(policy: nn.Module, most: int) -> AbstractContextManager[None]:
    """Let the memories in `policy` rely on it that no row has more than `most` starts after step 0.

    Then a sequence reads nothing back to the host, and takes the same steps whatever the data are.
    More starts than that would be an index out of its range.
    """
    return _hint(policy, "most_starts", most)


def idle_steps(policy: nn.Module, idle: Tensor) -> AbstractContextManager[None]:
    """Tell the memories in `policy` which steps (B, T) of their sequences nobody reads.

    What a memory gives there may be anything finite. The step in which an env only restarts an
    episode is one, just before the episode starts: a memory may empty its state in it.
    """
    return _hint(policy, "idle", idle)


@contextmanager
def _hint(policy: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Give the memories in `policy` an attribute for a while, whose default is None."""
    cores = [each for each in policy.modules() if isinstance(each, Core)]
    for core in cores:
        setattr(core, name, value)
    try:
        yield
    finally:
        for core in cores:
            setattr(core, name, None)


HEAD_SIZE = 32
"""Default width of an attention head, as in the small model of GTrXL's paper."""


def require_heads(hidden_size: int, num_heads: int | None) -> int:
    """Return the number of heads, by default those of `HEAD_SIZE`; refuse an unequal share."""
    if num_heads is None:
        num_heads = max(hidden_size // HEAD_SIZE, 1)
    if hidden_size % require_count("num_heads", num_heads):
        raise BuildError(
            f"hidden_size={hidden_size} is not a multiple of num_heads={num_heads}.",
            fix="Each head takes an equal part of the width.",
        )
    return num_heads
