"""stable-baselines3 until it has solved CartPole, with the settings of rl-zoo3 for it.

https://github.com/DLR-RM/rl-baselines3-zoo, hyperparams/ppo.yml: its published results of CartPole
were trained with these.
"""

from __future__ import annotations

import solving
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

TOTAL_STEPS = 100_000
"""The length that rl-zoo3's schedules are made for."""


def falling(start: float) -> object:
    """Return a schedule from `start` to 0."""
    return lambda remaining: remaining * start


class Stop(BaseCallback):
    """Ends training between two rollouts."""

    def _on_rollout_start(self) -> None:
        self.solved = solving.is_solved([each["r"] for each in self.model.ep_info_buffer or ()])

    def _on_step(self) -> bool:
        return not self.solved


def solve(seed: int) -> tuple[int, bool]:
    """Train; return the steps, and whether it was solved."""
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 8, seed=seed),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=falling(1e-3),
        clip_range=falling(0.2),
        seed=seed,
        device="cpu",
    )
    stop = Stop()
    model.learn(TOTAL_STEPS, callback=stop, log_interval=10**9)
    return model.num_timesteps, stop.solved


if __name__ == "__main__":
    torch.set_num_threads(1)
    solving.take_turns(solve)
