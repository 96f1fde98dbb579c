"""stable-baselines3's PPO and sb3-contrib's RecurrentPPO as candidates, on their own vector env.

Network: one Linear layer with GELU as the extractor that both heads share (``net_arch=[]``), and
for the recurrent one a shared LSTM after it. What else differs from our settings is theirs.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
import turns
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn


class Trunk(BaseFeaturesExtractor):
    """(N, *obs) -> (N, H)."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, turns.HIDDEN_SIZE)
        first = nn.Linear(math.prod(observation_space.shape), turns.HIDDEN_SIZE)
        self.layers = nn.Sequential(nn.Flatten(), first, nn.GELU())

    def forward(self, observations: Tensor) -> Tensor:
        """(N, *obs) -> (N, H)."""
        hidden: Tensor = self.layers(observations)
        return hidden


def model() -> BaseAlgorithm:
    """Build the algorithm with the settings of everybody."""
    torch.set_num_threads(1)
    num_envs, memory = turns.num_envs(), turns.wants_memory()
    network: dict[str, Any] = {"net_arch": []}
    env_id = turns.option("env", turns.ENV_ID)
    if env_id.startswith("MinAtar/"):
        importlib.import_module("minatar.gym").register_envs()
    policy = turns.option("policy", "MlpLstmPolicy" if memory else "MlpPolicy")
    if policy != "CnnPolicy":  # which brings NatureCNN and 512 features, as ours has them
        network["features_extractor_class"] = Trunk
    if memory:
        from sb3_contrib import RecurrentPPO

        size = {"lstm_hidden_size": turns.HIDDEN_SIZE}
        network |= size | {"shared_lstm": True, "enable_critic_lstm": False}
    trainer: BaseAlgorithm = (RecurrentPPO if memory else PPO)(
        policy,
        make_vec_env(env_id, num_envs, seed=turns.SEED),
        n_steps=turns.NUM_STEPS,
        batch_size=num_envs * turns.NUM_STEPS // turns.NUM_MINIBATCHES,
        n_epochs=turns.NUM_EPOCHS,
        learning_rate=turns.LEARNING_RATE,
        gamma=turns.GAMMA,
        gae_lambda=turns.GAE_LAMBDA,
        clip_range=turns.CLIP_COEF,
        ent_coef=turns.ENT_COEF,
        vf_coef=turns.VF_COEF,
        max_grad_norm=turns.MAX_GRAD_NORM,
        policy_kwargs=network,
        seed=turns.SEED,
        device="cpu",
    )
    return trainer


def main() -> None:
    """Build the model and take turns."""
    trainer = model()

    def train(num_updates: int) -> None:
        steps = num_updates * turns.num_envs() * turns.NUM_STEPS
        trainer.learn(steps, reset_num_timesteps=False, log_interval=10**9)

    turns.take_turns(train)


if __name__ == "__main__":
    main()
