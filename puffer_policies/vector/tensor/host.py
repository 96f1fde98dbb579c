"""A vector env of a device as one on the host, for whoever steps it in NumPy."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.spaces.nested import map_nested
from puffer_policies.vector.protocol import Step, VecEnv, device_of
from puffer_policies.vector.state import get_state, set_state


class HostVecEnv:
    """A `VecEnv` with a device, which takes and gives NumPy's arrays.

    Every step waits for the device and copies: it serves evaluations, and policies elsewhere.

    Args:
        vecenv: what it steps and closes.
    """

    def __init__(self, vecenv: VecEnv) -> None:
        self.vecenv = vecenv
        self.num_envs = vecenv.num_envs
        self.single_observation_space = vecenv.single_observation_space
        self.single_action_space = vecenv.single_action_space
        self._device = device_of(vecenv)

    @property
    def num_agents(self) -> int:
        """Number of rows."""
        return self.vecenv.num_agents

    @property
    def driver_env(self) -> Any:
        """That of the vector env."""
        return self.vecenv.driver_env

    @property
    def action_masks(self) -> np.ndarray | None:
        """(N, A) bool: the actions that are allowed next; None if the envs give no masks."""
        masks: np.ndarray | None = _on_host(self.vecenv.action_masks)
        return masks

    def reset(self, *, seed: int | None = None) -> Any:
        """Start every row anew and return observations (N, *obs)."""
        return map_nested(_on_host, self.vecenv.reset(seed=seed))

    def step(self, actions: np.ndarray) -> Step:
        """Take the policy's actions, (N, ...)."""
        step = self.vecenv.step(torch.as_tensor(actions, device=self._device))
        names = (each.name for each in fields(Step))
        return replace(step, **{name: map_nested(_on_host, getattr(step, name)) for name in names})

    def get_state(self) -> Any:
        """Return the state of the vector env, if it offers it.

        Raises:
            EnvError: it does not.
        """
        return get_state(self.vecenv)

    def set_state(self, state: Any) -> None:
        """Put back what `get_state` returned.

        Raises:
            EnvError: it belongs to another env.
        """
        set_state(self.vecenv, state)

    def close(self) -> None:
        """Close the vector env."""
        self.vecenv.close()


def on_host(vecenv: VecEnv) -> VecEnv:
    """Return a `VecEnv` that takes and gives NumPy's arrays, which most do by themselves."""
    return vecenv if device_of(vecenv) is None else HostVecEnv(vecenv)


def _on_host(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
