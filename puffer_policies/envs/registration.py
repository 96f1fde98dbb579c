"""The ids of our own envs. Nothing is imported until one of them is made."""

from __future__ import annotations

import gymnasium

_OWN: dict[str, tuple[str, str, int | None]] = {
    "Breakout-v0": ("breakout:BreakoutEnv", "breakout:BreakoutVectorEnv", 2000),
    "CartPoleNoVel-v0": ("no_velocity:CartPoleNoVel", "no_velocity:CartPoleNoVelVector", 500),
    "MountainCarContinuousNoVel-v0": ("no_velocity:MountainCarContinuousNoVel", "", 999),
    "PendulumNoVel-v0": ("no_velocity:PendulumNoVel", "", 200),
    "RepeatPrevious-v0": ("recall:RepeatPreviousEnv", "recall:RepeatPreviousVectorEnv", None),
    "MaskedRecall-v0": ("recall:MaskedRecallEnv", "recall:MaskedRecallVectorEnv", None),
    "Chain-v0": ("known_values:ChainEnv", "known_values:ChainVectorEnv", 32),
    "Countdown-v0": ("known_values:CountdownEnv", "known_values:CountdownVectorEnv", None),
}
"""By name: the env, its vector env if it has one of its own, and its time limit in steps.

The limits of gymnasium's classic control are those of the ids CartPole-v1, Pendulum-v1 and
MountainCarContinuous-v0.
"""


def register_envs() -> None:
    """Make our ids known to gymnasium. May be called again: the second time does nothing."""
    for name, (env, vector_env, limit) in _OWN.items():
        if f"puffer_policies/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"puffer_policies/{name}",
                entry_point=f"puffer_policies.envs.{env}",
                vector_entry_point=f"puffer_policies.envs.{vector_env}" if vector_env else None,
                max_episode_steps=limit,
            )
