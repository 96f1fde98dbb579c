"""Compare first layers: zero biases, torch's default layer, biases drawn from -0.5 to 0.5.

Each line is one short run of a shipped config: ``last`` is the mean return of its last five
updates, ``all`` that of all its updates.

    python benchmarks/bench_first_biases.py             three configs, seeds 1 2 3: 6 minutes
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from puffer_policies.config.load import load_config
from puffer_policies.runs.setup import policy_of, prepare_process, vecenv_of
from puffer_policies.train.trainer import Trainer

STEPS = {"cartpole": 65_536, "acrobot": 98_304, "pendulum": 32_768}
"""The first steps of runs whose schedules stay those of their configs."""

LAYERS: dict[str, Callable[[nn.Linear], object]] = {
    "zero": lambda layer: None,
    "torch": nn.Linear.reset_parameters,
    "uniform": lambda layer: nn.init.uniform_(layer.bias, -0.5, 0.5),
}


def measure(name: str, seed: int, layer: str) -> dict[str, float]:
    """Train for a while and return the mean returns."""
    config = load_config(name, ["--train.seed", str(seed)])
    prepare_process(config.train)
    env = vecenv_of(config)
    policy = policy_of(config, env)
    with torch.no_grad():
        LAYERS[layer](next(each for each in policy.modules() if isinstance(each, nn.Linear)))
    trainer, returns = Trainer(config.train, env, policy), []
    while trainer.global_step < STEPS[name]:
        logs = trainer.learn(trainer.estimate(trainer.collect()))
        returns.append(logs.get("environment/episode_return", np.nan))
    trainer.close()
    return {"last": float(np.nanmean(returns[-5:])), "all": float(np.nanmean(returns))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", default=list(STEPS), choices=STEPS)
    options = parser.parse_args()
    for name, seed, layer in itertools.product(options.only, options.seeds, LAYERS):
        run = {"config": name, "seed": seed, "layer": layer, **measure(name, seed, layer)}
        print(json.dumps(run), flush=True)


if __name__ == "__main__":
    main()
