"""Our trainer as a candidate: `Default` or `LSTMWrapper(Default)`, by default on CartPole.

``python ours.py [lstm] [ENVS] [--env=ID] [--policy=NAME]``, started by benchmarks/bench.py.
"""

from __future__ import annotations

import torch
import turns

from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.train.distributed import ALONE, World
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import make_vecenv


def trainer(world: World = ALONE) -> Trainer:
    """Build the trainer with the settings of everybody, or what one of several processes has."""
    torch.set_num_threads(1)
    torch.manual_seed(turns.SEED)
    num_envs = turns.num_envs()
    env = make_vecenv(turns.option("env", turns.ENV_ID), num_envs // world.size)
    name = turns.option("policy", "LSTMWrapper(Default)" if turns.wants_memory() else "Default")
    config = TrainConfig(
        seed=turns.SEED,
        total_timesteps=10**9,
        bptt_horizon=turns.NUM_STEPS,
        minibatch_size=num_envs * turns.NUM_STEPS // turns.NUM_MINIBATCHES,
        update_epochs=turns.NUM_EPOCHS,
        learning_rate=turns.LEARNING_RATE,
        anneal_lr=False,
        gamma=turns.GAMMA,
        gae_lambda=turns.GAE_LAMBDA,
        clip_coef=turns.CLIP_COEF,
        ent_coef=turns.ENT_COEF,
        vf_coef=turns.VF_COEF,
        max_grad_norm=turns.MAX_GRAD_NORM,
    )
    size = int(turns.option("hidden", str(turns.HIDDEN_SIZE)))
    return Trainer(config, env, get_policy(name, env, hidden_size=size), world=world)


def main() -> None:
    """Build the trainer and take turns."""
    candidate = trainer()

    def train(num_updates: int) -> None:
        for _ in range(num_updates):
            candidate.learn(candidate.estimate(candidate.collect()))

    turns.take_turns(train)


if __name__ == "__main__":
    main()
