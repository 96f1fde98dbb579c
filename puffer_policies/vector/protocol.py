"""The interface of N copies of an env: `VecEnv`, and the `Step` that it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import torch

Array = Any
"""An `np.ndarray` of a vector env on the host, a `torch.Tensor` of one on a device."""


@dataclass(frozen=True, slots=True)
class Step:
    """The answer of N envs to one step. Arrays are valid until the next step.

    All of them are NumPy's, or all are tensors on the env's device: see `device_of`.
    """

    observations: Any
    """(N, *obs), nested as the space is: the policy acts on them next."""
    rewards: Array
    """(N,) float, as the env gave them, float32 on a device; 0 in ghosts."""
    terminated: Array
    """(N,) bool: the episode ended for a reason of its own."""
    truncated: Array
    """(N,) bool: the episode was cut, by a time limit say."""
    starts: Array
    """(N,) bool: `observations` is the first of an episode."""
    ghost: Array
    """(N,) bool: the action was ignored, the row only restarted."""
    final_observations: Any = None
    """(N, *obs), valid where an episode ended in this step.

    None if a ghost step will show them, if the env knows without waiting that none ended, or if it
    never shows them. On a device they come as often as the env gives them: nobody asks where an
    episode ended, as that would wait for the device.
    """
    lacks_final: bool = False
    """Whether the env restarted at once where an episode ended, without final observations.

    Then, where an episode was truncated, the value before the step stands in for that of the final
    observation, as in rsl_rl.
    """

    @property
    def done(self) -> Array:
        """(N,) bool: an episode ended in this step."""
        return self.terminated | self.truncated


class VecEnv(Protocol):
    """N copies of an env that restart by themselves. Rows are agents.

    It may offer its state, too, by ``get_state()`` and ``set_state()``: see `vector.state`.

    One with a ``device`` lives there: it takes and gives tensors on that device in place of NumPy's
    arrays, waits for none of them, and clips actions to the space by itself. See `device_of`.
    """

    num_envs: int
    single_observation_space: gymnasium.Space[Any]
    single_action_space: gymnasium.Space[Any]

    @property
    def num_agents(self) -> int:
        """Number of rows; PufferLib's name."""
        ...

    @property
    def driver_env(self) -> Any:
        """An object with the single-agent spaces, for building policies; PufferLib's name."""
        ...

    @property
    def action_masks(self) -> Array | None:
        """(N, A) bool for the last observations, true where an option is allowed; None: no masks.

        A is n for Discrete, else the sum of nvec; rows whose next action is ignored may all.
        """
        ...

    def reset(self, *, seed: int | None = None) -> Any:
        """Start every row anew and return observations (N, *obs).

        Copies draw from streams of their own, which those of another `seed` do not share.
        """
        ...

    def step(self, actions: Array) -> Step:
        """Take the policy's actions: (N,), (N, K) int64 or (N, *shape) float32, not clipped."""
        ...

    def close(self) -> None:
        """Release what the envs hold."""
        ...


def device_of(vecenv: Any) -> torch.device | None:
    """Return the device on which a `VecEnv` takes and gives tensors; None: NumPy on the host.

    It has the index that tensors there have, ``cuda:0`` for ``cuda``, so that it can be compared.
    """
    device = getattr(vecenv, "device", None)
    return None if device is None else torch.empty(0, device=device).device
