"""PufferLib's trainer: the real one where it is installed (`make test-pufferlib`), else our own."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import pufferlib_toys

IS_REAL = importlib.util.find_spec("pufferlib") is not None

CONFIG = {
    "seed": 0,
    "torch_deterministic": True,
    "cpu_offload": False,
    "device": "cpu",
    "optimizer": "adam",
    "anneal_lr": True,
    "precision": "float32",
    "total_timesteps": 1000,
    "learning_rate": 0.0,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "update_epochs": 1,
    "clip_coef": 0.2,
    "vf_coef": 0.5,
    "vf_clip_coef": 0.2,
    "max_grad_norm": 0.5,
    "ent_coef": 0.01,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_eps": 1e-5,
    "data_dir": "experiments",
    "checkpoint_interval": 1_000_000,
    "batch_size": "auto",
    "minibatch_size": 32,
    "max_minibatch_size": 32768,
    "bptt_horizon": 16,
    "compile": False,
    "vtrace_rho_clip": 1.0,
    "vtrace_c_clip": 1.0,
    "prio_alpha": 0.0,
    "prio_beta0": 1.0,
    "env": "toy",
    "use_rnn": False,
}


class Library:
    """What the tests need of either; `maker(seed)` makes a gymnasium env."""

    def __init__(self, monkeypatch: Any) -> None:
        if IS_REAL:
            interrupt = signal.getsignal(signal.SIGINT)
            self.pufferl = importlib.import_module("pufferlib.pufferl")
            signal.signal(signal.SIGINT, interrupt)  # PufferLib's ends the process at once
            monkeypatch.setattr(self.pufferl, "ADVANTAGE_CUDA", False)
            monkeypatch.setattr(self.pufferl.PuffeRL, "print_dashboard", lambda *_, **__: None)
        else:
            self.pufferl = pufferlib_toys.put_in_place(monkeypatch)
        monkeypatch.setattr(self.pufferl, "load_policy", self.pufferl.load_policy)

    def serial(self, maker: Callable[[int], gymnasium.Env[Any, Any]], num_envs: int = 2) -> Any:
        """Make a vector env of PufferLib's."""
        if not IS_REAL:
            return pufferlib_toys.FakeSerial([partial(maker, seed) for seed in range(num_envs)])
        vector, emulation = (
            importlib.import_module(f"pufferlib.{name}") for name in ("vector", "emulation")
        )

        def creator(buf: Any = None, seed: int = 0) -> Any:
            return emulation.GymnasiumPufferEnv(env=maker(seed), buf=buf)

        return vector.make(creator, num_envs=num_envs, backend=vector.Serial, seed=0)

    def args(self, policy: str, memory: str | None = None, **train: Any) -> dict[str, Any]:
        """Return what PufferLib's ``load_config`` does, apart from what only its verbs read."""
        names = {"package": "ocean", "policy_name": policy, "rnn_name": memory}
        sections = {"policy": {}, "rnn": {}, "load_id": None, "load_model_path": None}
        use_rnn = {"use_rnn": memory is not None}
        return {**names, **sections, "train": {**CONFIG, **use_rnn, **train}}

    def trainer(self, args: dict[str, Any], vecenv: Any, policy: Any) -> Any:
        """Make a trainer, which draws no dashboard."""
        trainer = self.pufferl.PuffeRL(args["train"], vecenv, policy)
        if IS_REAL:
            trainer.utilization.stop()
        return trainer
