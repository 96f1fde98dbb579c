"""The base of our own envs on a device: N games in tensors, stepped together.

A new env is a class with its spaces and four pure functions of tensors: `begin`, `advance`, `over`
and `observe`. So a step of N games is one pure function, `TorchVectorEnv.transition`: it asks
nothing of the device, takes its random numbers as an argument, and compiles without a graph break.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import gymnasium
import torch
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from puffer_policies.envs.autoreset import AutoresetMode
from puffer_policies.errors import EnvError
from puffer_policies.spaces import action_layout

Tensors = dict[str, Tensor]
"""All that N games remember, by name: tensors (N, ...)."""


class Progress(NamedTuple):
    """N games between two steps."""

    game: Tensors
    steps: Tensor
    """(N,) int64: steps of the episode so far."""
    finished: Tensor
    """(N,) bool: the episode has ended, and the next step begins another one."""


class Outcome(NamedTuple):
    """What a step of N games gives."""

    observations: Any
    """(N, *obs)."""
    rewards: Tensor
    """(N,) float32."""
    terminated: Tensor
    """(N,) bool."""
    truncated: Tensor
    """(N,) bool."""


class TorchVectorEnv(VectorEnv[Any, Any, Tensor]):
    """N games on a device. A finished row restarts in its next step, whose action it ignores.

    The step that ends an episode shows its final observation, as in gymnasium's own vector envs, so
    that values beyond a time limit cost nothing. First states are drawn for all rows in each step,
    because to ask whether one is needed would cost more: it would wait for the device.

    Args:
        num_envs: N.
        device: where all tensors are.
        max_episode_steps: steps after which an episode is truncated; None: those of the class.
        compiled: whether a step is compiled by `torch.compile`, which costs seconds at the start
            and makes one or two kernels of some thirty.

    Raises:
        EnvError: fewer than one game or one step, or an argument of another kind.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - so does gymnasium declare it
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    single_observation_space: gymnasium.Space[Any]
    single_action_space: gymnasium.Space[Any]
    num_draws: ClassVar[int]
    """Random numbers that a row gets in a step."""
    episode_steps: ClassVar[int | None] = None
    """The time limit; None: the rules end every episode."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        compiled: bool = False,
    ) -> None:
        limit = self.episode_steps if max_episode_steps is None else max_episode_steps
        if num_envs < 1 or (limit is not None and not _is_count(limit)):
            raise EnvError(
                f"{type(self).__name__} can't have {num_envs} rows of {limit} steps.",
                fix="Use at least one of each, and whole numbers.",
            )
        if not isinstance(compiled, bool):  # any text would be true
            raise EnvError(
                f"{type(self).__name__}'s compiled is {compiled!r}.", fix="Use true or false."
            )
        self.num_envs, self.max_episode_steps = num_envs, limit
        self.device = torch.empty(0, device=device).device  # cuda -> cuda:0, as tensors have it
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        layout = action_layout(self.single_action_space)
        self._action_shape = (num_envs, *layout.policy_shape)
        self._has_choices = not layout.is_continuous
        self._generator = torch.Generator(self.device)
        self._generator.seed()
        self._transition = (
            torch.compile(self.transition, fullgraph=True) if compiled else self.transition
        )
        self._progress: Progress | None = None

    @abstractmethod
    def begin(self, draws: Tensor) -> Tensors:
        """Return N games at their start. `draws` (N, num_draws) float32 are uniform in [0, 1)."""

    @abstractmethod
    def advance(self, game: Tensors, actions: Tensor, draws: Tensor) -> tuple[Tensors, Tensor]:
        """Return the games after `actions`, and rewards (N,) float32.

        Finished games are advanced, too, and the result is left out: it may be anything.
        """

    @abstractmethod
    def over(self, game: Tensors) -> Tensor:
        """Return (N,) bool: the game has ended by its own rules."""

    @abstractmethod
    def observe(self, game: Tensors) -> Any:
        """Return the observations (N, *obs) of N games."""

    def transition(
        self, progress: Progress, actions: Tensor, draws: Tensor
    ) -> tuple[Progress, Outcome]:
        """Step N games: a pure function, which reads nothing of the device."""
        game, steps, restarted = progress
        following, rewards = self.advance(game, actions, draws)
        first = self.begin(draws)
        game = {
            name: torch.where(_beside(restarted, tensor), first[name], tensor)
            for name, tensor in following.items()
        }
        steps = (steps + 1).masked_fill(restarted, 0)
        rewards = rewards.masked_fill(restarted, 0.0)
        terminated = self.over(game)
        limit = self.max_episode_steps
        truncated = torch.zeros_like(terminated) if limit is None else steps >= limit
        outcome = Outcome(self.observe(game), rewards, terminated, truncated)
        return Progress(game, steps, terminated | truncated), outcome

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start every game anew; a seed makes all that follows on this device repeatable."""
        if seed is not None:
            self._generator.manual_seed(seed)
        game = self.begin(self._draws())
        finished = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._progress = Progress(game, torch.zeros_like(finished, dtype=torch.int64), finished)
        return self.observe(game), {}

    @torch.no_grad()
    def step(self, actions: Tensor) -> tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take actions; return observations, rewards, terminated, truncated (N, ...) and infos.

        Raises:
            EnvError: the actions have another shape or kind of numbers, or there was no reset.
                Their values are not looked at, which would wait for the device.
        """
        if actions.shape != self._action_shape or actions.is_floating_point() is self._has_choices:
            raise EnvError(
                f"{type(self).__name__} takes {'integer' if self._has_choices else 'float'} "
                f"actions of shape {self._action_shape}, got {actions.dtype} of shape "
                f"{tuple(actions.shape)}."
            )
        self._progress, outcome = self._transition(self._started(), actions, self._draws())
        return *outcome, {}

    def get_state(self) -> dict[str, Any]:
        """Return all that decides how the games go on, as plain data; see `vector.state`."""
        game, steps, finished = self._started()
        return {
            "random": self._generator.get_state().numpy(),
            "game": {name: tensor.cpu().numpy() for name, tensor in game.items()},
            "steps": steps.cpu().numpy(),
            "finished": finished.cpu().numpy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned, on this device or another of its kind."""
        self._generator.set_state(torch.tensor(state["random"]))
        game = {name: self._tensor(array) for name, array in state["game"].items()}
        rest = (self._tensor(state[name]) for name in ("steps", "finished"))
        self._progress = Progress(game, *rest)

    def _tensor(self, array: Any) -> Tensor:
        return torch.tensor(array, device=self.device)

    def _draws(self) -> Tensor:
        shape = (self.num_envs, self.num_draws)
        return torch.rand(shape, generator=self._generator, device=self.device)

    def _started(self) -> Progress:
        if self._progress is None:
            raise EnvError(f"{type(self).__name__} was used before its first reset().")
        return self._progress


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _beside(rows: Tensor, tensor: Tensor) -> Tensor:
    """Return `rows` (N,) with as many axes as `tensor` (N, ...)."""
    return rows.reshape(-1, *(1,) * (tensor.ndim - 1))
