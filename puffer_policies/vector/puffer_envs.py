"""PufferLib's vector envs (https://github.com/PufferAI/PufferLib, 3.0) as a `VecEnv`.

They restart episodes in two ways:

=========  ================================================================================
emulated   envs of gymnasium and PettingZoo: the next ``send`` after an end ignores its
           actions and restarts the env, a ghost; rows of agents that are gone are masked out
native     `PufferEnv`: the ending step returns the first observation, and the final one is lost
=========  ================================================================================

Without the final observation, a truncated episode of a native env can't be bootstrapped from its
value. It counts as terminated, as it does in PufferLib's own trainer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from puffer_policies.errors import EnvError
from puffer_policies.spaces import action_layout
from puffer_policies.vector.faults import FAULTS, first_line, frames_of, place_of
from puffer_policies.vector.protocol import Step
from puffer_policies.vector.seeds import base_seed
from puffer_policies.vector.state import get_state, set_state


def is_pufferlib(env: Any) -> bool:
    """Return whether `env` has the methods of PufferLib's vector envs."""
    return all(callable(getattr(env, name, None)) for name in ("async_reset", "send", "recv"))


class PufferVecEnv:
    """A vector env of PufferLib whose batches hold all of its agents.

    Raises:
        EnvError: it returns a part of its agents at a time.
        IncompatibleSpace: no head serves its action space.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.num_agents = int(env.num_agents)
        self.num_envs = self.num_agents // _agents_per_env(env)
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space
        self._layout = action_layout(env.single_action_space)
        self._is_native = not getattr(env, "emulated", False)
        self._playing = np.ones(self.num_agents, dtype=bool)
        self._num_steps = 0
        batch = getattr(env, "agents_per_batch", self.num_agents)
        if batch != self.num_agents:
            raise EnvError(
                f"{type(env).__name__} returns {batch} of its {self.num_agents} agents at a time.",
                fix="Make it with batch_size=num_envs: a rollout needs every agent in every step.",
            )

    @property
    def driver_env(self) -> Any:
        """PufferLib's object of this name: an env with the single-agent spaces."""
        return self.env.driver_env

    @property
    def action_masks(self) -> None:
        """None: PufferLib's vector envs hand out no masks of actions."""
        return

    def reset(self, *, seed: int | None = None) -> Any:
        """Start every row anew and return observations (N, *obs)."""
        # Some of PufferLib's backends can't do without a seed.
        seed = base_seed(int(np.random.randint(2**31)) if seed is None else seed)
        try:
            self.env.async_reset(seed)
            observations, *_, agents, masks = self.env.recv()
        except FAULTS as error:
            raise self._fault(error) from error
        if not np.array_equal(np.ravel(agents), np.arange(self.num_agents)):
            raise EnvError(f"{type(self.env).__name__} returns its agents in another order.")
        self._playing = np.array(masks, dtype=bool)
        return observations

    def step(self, actions: np.ndarray) -> Step:
        """Take the policy's actions, (N, ...); Box actions are clipped to the space."""
        self._num_steps += 1
        try:
            self.env.send(np.ascontiguousarray(self._layout.to_env(actions)))
            observations, rewards, *flags, _, _, masks = self.env.recv()
        except FAULTS as error:
            raise self._fault(error) from error
        terminals, truncations, present = (np.asarray(each, dtype=bool) for each in (*flags, masks))
        played = present if self._is_native else present & self._playing
        terminated, truncated = played & terminals, played & truncations
        done = terminated | truncated
        if self._is_native:
            terminated, starts = done, done
        else:
            self._playing = present & ~(terminals | truncations)
            starts = self._playing & ~played
        # Ghosts pay nothing, whatever the rows of agents that are gone hold.
        rewards = np.where(played, rewards, 0)
        return Step(observations, rewards, terminated, truncated, starts, ~played)

    def get_state(self) -> dict[str, Any]:
        """Return the state of the vector env, which must offer it, and who plays, as plain data.

        Raises:
            EnvError: it does not offer its state.
        """
        return {
            "env": get_state(self.env),
            "playing": self._playing.copy(),
            "num_steps": self._num_steps,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned.

        Raises:
            EnvError: it belongs to another env.
        """
        set_state(self.env, state["env"])
        self._playing, self._num_steps = state["playing"], state["num_steps"]

    def close(self) -> None:
        """Close the envs."""
        self.env.close()

    def _fault(self, error: BaseException) -> EnvError:
        where = f"step {self._num_steps}" if self._num_steps else "reset()"
        place = place_of(frames_of(error))
        return EnvError(
            f"{type(self.env).__name__} failed in {where}: {first_line(error)}.",
            fix=f"Its own code raised that, at {place}." if place else "",
        )


def _agents_per_env(env: Any) -> int:
    return max(int(getattr(env.driver_env, "num_agents", 1)), 1)
