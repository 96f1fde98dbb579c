"""PufferLib 3.0's trainer and policies as a candidate, in its environment: ``make test-pufferlib``.

Its envs in Python run in one process, which is its fastest backend for CartPole here. Its LSTM is
never reset within a rollout, and priorities and the second clipping of V-trace are off.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import gymnasium
import torch
import turns
from pufferlib import emulation, models, pufferl, vector


def make(buf: Any = None, seed: int = 0) -> Any:
    """Return one env."""
    return emulation.GymnasiumPufferEnv(env=gymnasium.make(turns.ENV_ID), buf=buf)


def config(num_envs: int, *, memory: bool) -> dict[str, Any]:
    """Return the settings of everybody under PufferLib's names."""
    batch_size = num_envs * turns.NUM_STEPS
    return {
        "env": turns.ENV_ID,
        "seed": turns.SEED,
        "torch_deterministic": True,
        "cpu_offload": False,
        "device": "cpu",
        "optimizer": "adam",
        "anneal_lr": False,
        "precision": "float32",
        "compile": False,
        "total_timesteps": 10**9,
        "learning_rate": turns.LEARNING_RATE,
        "gamma": turns.GAMMA,
        "gae_lambda": turns.GAE_LAMBDA,
        "update_epochs": turns.NUM_EPOCHS,
        "clip_coef": turns.CLIP_COEF,
        "vf_coef": turns.VF_COEF,
        "vf_clip_coef": turns.CLIP_COEF,
        "max_grad_norm": turns.MAX_GRAD_NORM,
        "ent_coef": turns.ENT_COEF,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_eps": 1e-5,
        "data_dir": tempfile.gettempdir(),
        "checkpoint_interval": 10**9,
        "batch_size": batch_size,
        "minibatch_size": batch_size // turns.NUM_MINIBATCHES,
        "max_minibatch_size": batch_size,
        "bptt_horizon": turns.NUM_STEPS,
        "vtrace_rho_clip": 1.0,
        "vtrace_c_clip": 1.0,
        "prio_alpha": 0.0,
        "prio_beta0": 1.0,
        "use_rnn": memory,
    }


def trainer() -> Any:
    """Build the trainer."""
    torch.set_num_threads(1)
    torch.manual_seed(turns.SEED)
    num_envs, memory = turns.num_envs(), turns.wants_memory()
    vecenv = vector.make(make, num_envs=num_envs, backend=vector.Serial, seed=turns.SEED)
    policy = models.Default(vecenv.driver_env, hidden_size=turns.HIDDEN_SIZE)
    if memory:
        size = turns.HIDDEN_SIZE
        policy = models.LSTMWrapper(vecenv.driver_env, policy, input_size=size, hidden_size=size)
    # Its kernel for advantages in C++ is built for CUDA or the CPU; here it is the CPU.
    pufferl.ADVANTAGE_CUDA = False
    pufferl.PuffeRL.print_dashboard = lambda *_, **__: None
    candidate = pufferl.PuffeRL(config(num_envs, memory=memory), vecenv, policy)
    candidate.utilization.stop()  # a thread that watches the machine
    return candidate


def main() -> None:
    """Build the trainer and take turns."""
    os.chdir(tempfile.mkdtemp())  # PufferLib leaves a link in the working folder
    candidate = trainer()

    def train(num_updates: int) -> None:
        for _ in range(num_updates):
            candidate.evaluate()
            candidate.train()

    turns.take_turns(train)


if __name__ == "__main__":
    main()
