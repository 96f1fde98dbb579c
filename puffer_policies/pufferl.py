"""PufferLib's `pufferl` names over our configs, envs and trainer.

Code written for PufferLib 3.0 works with the import changed::

    from puffer_policies import pufferl
    args = pufferl.load_config("puffer_breakout")
    vecenv = pufferl.load_env("puffer_breakout", args)
    policy = MyPolicy(vecenv.driver_env, hidden_size=512)
    trainer = pufferl.PuffeRL(args["train"], vecenv, policy)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.config import load as config_load
from puffer_policies.config.config import Config
from puffer_policies.config.load import resolve_env_name
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import TrainingError
from puffer_policies.files import LATEST, user_path
from puffer_policies.runs.evaluate import Evaluation, evaluate_checkpoint
from puffer_policies.runs.run import RunResult, train_from_config
from puffer_policies.runs.setup import policy_of, prepare_process, vecenv_of
from puffer_policies.train.rollout import Rollout
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import as_vecenv
from puffer_policies.vector.protocol import VecEnv

_ARGS = "config_args"
"""The attribute of a vector env of `load_env` with the config that it was made by."""


def load_config(env_name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the config of a name as PufferLib's nested dict, to read and to change.

    Unlike PufferLib's, it does not read ``sys.argv``: flags come as `overrides`.
    """
    return config_load.load_config(env_name, overrides).to_args()


def load_env(env_name: str, args: Mapping[str, Any]) -> VecEnv:
    """Make the vector env `env_name` by `args`; its ``driver_env`` has the single-agent spaces.

    Args:
        env_name: a gymnasium id or one of our configs; a config file stands for the env it names.
        args: from `load_config`.
    """
    config = Config.from_args(args)
    if not (Path(env_name).suffix in (".toml", ".ini") and "env_name" in args):
        base = replace(config.base, env_name=resolve_env_name(env_name))
        config = replace(config, base=base)
    vecenv = vecenv_of(config)
    # PufferLib's trainer gets nothing else that says how the env was made.
    setattr(vecenv, _ARGS, config.to_args())
    return vecenv


def load_policy(args: Mapping[str, Any], vecenv: VecEnv, env_name: str = "") -> nn.Module:
    """Build the policy of `args` on the device of `args`."""
    config = Config.from_args(args)
    prepare_process(config.train)
    return policy_of(config, vecenv.driver_env)


class PuffeRL(Trainer):
    """PufferLib's trainer: ``evaluate()`` collects, ``train()`` learns, ``close()`` ends.

    It writes what `save_checkpoint` writes; a whole run folder is the work of `train`.

    Args:
        config: ``args["train"]``, or a `TrainConfig`.
        vecenv: from `load_env`, or a gymnasium vector env.
        policy: a module with ``forward`` and ``forward_eval``; without memory nothing else.
    """

    def __init__(
        self, config: Mapping[str, Any] | TrainConfig, vecenv: Any, policy: nn.Module
    ) -> None:
        options = config if isinstance(config, TrainConfig) else TrainConfig.from_dict(config)
        prepare_process(options)
        super().__init__(options, as_vecenv(vecenv), policy)
        self.logs: dict[str, float] = {}
        self._rollout: Rollout | None = None

    def evaluate(self) -> dict[str, float]:
        """Collect a rollout and return the means over the last episodes.

        Nothing is evaluated here: the name is PufferLib's, for what `collect` does.
        """
        self._rollout = self.collect()
        return self.collector.episodes.summary()

    def train(self) -> dict[str, float]:
        """Learn from the last rollout and return the measurements of this update.

        Raises:
            TrainingError: no rollout was collected since the last update.
        """
        if self._rollout is None:
            raise TrainingError("There is no rollout to learn from.", fix="Call evaluate() first.")
        rollout, self._rollout = self._rollout, None
        self.logs = self.learn(self.estimate(rollout))
        return self.logs

    def mean_and_log(self) -> dict[str, float]:
        """Return the measurements of the last update."""
        return self.logs

    def save_checkpoint(self, path: Path | str | None = None) -> Path:
        """Write the policy to `path`, by default ``<data_dir>/latest.safetensors``.

        `eval` plays with it in the env of `load_env`; another env has to be made again by hand.
        """
        default = user_path(self.config.data_dir) / LATEST
        target = default if path is None else user_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        counters = {"global_step": self.global_step, "epoch": self.epoch}
        # An env of the caller's own has no config, so that only the trainer's can be recorded.
        config = {**getattr(self.vecenv, _ARGS, {}), "train": asdict(self.config)}
        return save_checkpoint(
            target, self.policy, env=self.vecenv, config=config, training=counters
        )


def train(env_name: str, args: Mapping[str, Any] | None = None) -> RunResult:
    """Run the whole training of a config, and leave a run folder to plot, resume and evaluate."""
    return train_from_config(Config.from_args(load_config(env_name) if args is None else args))


def eval(path: Path | str) -> Evaluation:
    """Play with a checkpoint, in the envs that it was trained in."""
    return evaluate_checkpoint(path)
