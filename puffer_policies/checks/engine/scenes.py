"""What a policy is built for and meets in its checks: its spaces, its env, what that sends."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from puffer_policies.checks.probes.play import play
from puffer_policies.envs.factory import make_for_spaces
from puffer_policies.spaces import Spaces, spaces_of


@dataclass(frozen=True, slots=True)
class Scene:
    """What a policy is built for and meets in its checks."""

    spaces: Spaces
    env: Any
    """The first argument of constructors: the env where one was given, else the spaces."""
    played: Any = None
    """Observations that the env sent; see `play`."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A spawned worker gets no env that can't be pickled.
        try:
            pickle.dumps(self.env)
        except Exception:
            return Scene, (self.spaces, self.spaces, self.played)
        return Scene, (self.spaces, self.env, self.played)


def scene_of(env: Any) -> Scene:
    """Return the scene of an env, which is reset and stepped, of an env id, or of `Spaces`."""
    if isinstance(env, str):
        return _scene_of_id(env)
    spaces = spaces_of(env)
    return Scene(spaces, env, play(env, spaces))


@lru_cache(maxsize=4)
def _scene_of_id(env_id: str) -> Scene:
    """Make and play an env once for the many policies that a run may check on it."""
    env = make_for_spaces(env_id)
    try:
        spaces = spaces_of(env)
        return Scene(spaces, spaces, play(env, spaces))
    finally:
        env.close()
