"""A vector env of CartPole as a candidate: ours on a device, or gymnasium's in NumPy.

``python cartpole_env.py ours|gymnasium [ENVS] [--compiled=true]``, started by benchmarks/bench.py.
A call is a step of all envs, under actions that were drawn beforehand.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import turns
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from puffer_policies.vector.tensor.cartpole import TorchCartPole

NUM_DRAWS = 64


def main() -> None:
    """Make the env and take turns."""
    torch.set_num_threads(1)
    num_envs = turns.num_envs()
    draws = np.random.default_rng(turns.SEED).integers(2, size=(NUM_DRAWS, num_envs))
    if "ours" in sys.argv[1:]:
        compiled = turns.option("compiled", "false") == "true"
        env, actions = TorchCartPole(num_envs, compiled=compiled), torch.from_numpy(draws)
    else:
        env, actions = CartPoleVectorEnv(num_envs), draws
    env.reset(seed=turns.SEED)
    env.step(actions[0])  # compiles, before the first turn says how many calls fill one

    def step(number: int) -> None:
        for i in range(number):
            env.step(actions[i % NUM_DRAWS])

    turns.take_turns(step)


if __name__ == "__main__":
    main()
