"""A whole run from a config: folder, training, checkpoints, final evaluation, summary."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from puffer_policies.checkpoint import (
    load_weights,
    read_header,
    require_same_spaces,
    save_checkpoint,
)
from puffer_policies.config.load import CONFIG_FILE
from puffer_policies.config.resolved import Config
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import CheckpointError, ConfigError
from puffer_policies.factory import get_policy
from puffer_policies.registry import Registry
from puffer_policies.runs.display import Display, DisplayKind, make_display
from puffer_policies.runs.evaluate import evaluate_config
from puffer_policies.runs.evaluation import Evaluation
from puffer_policies.runs.metrics import MetricsLog
from puffer_policies.runs.resume import load_trainer, save_trainer
from puffer_policies.spaces import spaces_of
from puffer_policies.specs import WrapperSpec
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.making import make_vecenv

MODEL = "model.safetensors"
TRAINER = "trainer.safetensors"


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind."""

    folder: Path
    checkpoint: Path
    steps: int
    """Env steps, those before a resume among them."""
    new_steps: int
    """Env steps of this run alone."""
    seconds: float
    interrupted: bool
    evaluation: Evaluation | None
    """The final evaluation; None if the run was interrupted."""


def train_from_config(
    config: Config,
    *,
    display: DisplayKind = "auto",
    registry: Registry | None = None,
    resume: Path | str | None = None,
) -> RunResult:
    """Train, evaluate and save by `config`. Ctrl-C ends the run cleanly, with a checkpoint.

    Args:
        config: the run's config.
        display: what is shown; see `make_display`.
        registry: where the policy's names are looked up; the default registry if None.
        resume: the folder of an earlier run to go on from; a new folder is made nevertheless.

    Raises:
        ConfigError: sizes that do not divide, or a device that this machine does not have.
        CheckpointError: `resume` holds no run, or one of another policy, env or batch size.
        EnvError: the env can't be made.
        TrainingError: a number that is not finite.
    """
    prepare_process(config.train)
    vecenv = vecenv_of(config)
    try:
        policy = policy_of(config, vecenv, registry=registry)
        trainer = Trainer(config.train, vecenv, policy)
        if resume is not None:
            _go_on_from(Path(resume), trainer)
        run = _Run(config, trainer, registry)
        with make_display(display, total_steps=config.train.total_timesteps) as shown:
            result = run.go(shown)
        shown.summary(f"{config.base.env_name}", _summary(result, policy))
        return result
    finally:
        vecenv.close()


def _go_on_from(folder: Path, trainer: Trainer) -> None:
    """Put an earlier run's weights and state of the trainer into `trainer`."""
    header = read_header(folder / MODEL)
    require_same_spaces(header, spaces_of(trainer.vecenv), folder / MODEL)
    load_weights(folder / MODEL, trainer.policy)
    load_trainer(folder / TRAINER, trainer)
    saved = header.training.get("epoch")
    if saved != trainer.epoch:
        raise CheckpointError(
            f"{folder / MODEL} is of update {saved}, {TRAINER} of update {trainer.epoch}: the run "
            "was killed between the two.",
            fix="Start anew, or load the weights with load_policy.",
        )


def prepare_process(config: TrainConfig) -> None:
    """Seed Python, NumPy and torch, and set torch's threads: the one place where this is done."""
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.num_threads)
    torch.backends.cudnn.deterministic = config.torch_deterministic
    torch.backends.cudnn.benchmark = not config.torch_deterministic


def device_of(config: TrainConfig) -> torch.device:
    """Return the device to train on.

    Raises:
        ConfigError: no such device here.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"train.device is {config.device!r}, which this machine can't use: {reason}",
            fix="Use auto or cpu.",
        ) from error
    return torch.device(name)


def vecenv_of(config: Config) -> GymVecEnv:
    """Make the envs of a config."""
    return make_vecenv(
        config.base.env_name,
        config.vec.num_envs,
        vectorization=config.vec.vectorization,
        env_kwargs=config.env,
    )


def policy_of(config: Config, env: Any, *, registry: Registry | None = None) -> nn.Module:
    """Build the policy of a config for `env`, on the config's device."""
    rnn = config.base.rnn_name
    policy = get_policy(
        config.base.policy_name,
        env,
        wrappers=[WrapperSpec(rnn, config.rnn)] if rnn else [],
        registry=registry,
        **config.policy,
    )
    return policy.to(device_of(config.train))


class _Run:
    """One run's folder and loop."""

    def __init__(self, config: Config, trainer: Trainer, registry: Registry | None) -> None:
        self.config, self.trainer, self.registry = config, trainer, registry
        self.folder = new_folder(config)
        self.begun_at = trainer.global_step
        self.args = config.to_args()
        (self.folder / CONFIG_FILE).write_text(json.dumps(self.args, indent=2) + "\n")

    def go(self, display: Display) -> RunResult:
        start = time.perf_counter()
        metrics = MetricsLog(self.folder / "metrics.jsonl")
        try:
            with _interruptible() as stop:
                self._loop(stop, metrics, display)
                seconds = time.perf_counter() - start
                self._save()
                evaluation = self._evaluate(stop, display)
            if evaluation is not None:
                metrics.write({"evaluation": evaluation.to_dict()})
            return self._result(seconds, evaluation)
        finally:
            metrics.close()

    def _loop(self, stop: threading.Event, metrics: MetricsLog, display: Display) -> None:
        trainer, interval = self.trainer, self.config.train.checkpoint_interval
        while not trainer.finished and not stop.is_set():
            trainer.evaluate()
            logs = trainer.train()
            metrics.write(logs)
            display.update(logs)
            if interval and trainer.epoch % interval == 0:
                self._save()

    def _evaluate(self, stop: threading.Event, display: Display) -> Evaluation | None:
        """Play the final evaluation; None, and a word about it, if the run is interrupted."""
        if not stop.is_set():
            # Stopped between two steps: envs in processes can't be closed in the midst of one.
            evaluation = evaluate_config(self.trainer.policy, self.config, stopped=stop.is_set)
            if not stop.is_set():
                return evaluation
        steps = self.trainer.global_step
        display.note(f"Interrupted after {steps:,} steps; checkpoint: {self.folder / MODEL}")
        return None

    def _save(self) -> Path:
        trainer = self.trainer
        save_trainer(self.folder / TRAINER, trainer)
        return save_checkpoint(
            self.folder / MODEL,
            trainer.policy,
            env=trainer.vecenv,
            config=self.args,
            training={"global_step": trainer.global_step, "epoch": trainer.epoch},
            registry=self.registry,
        )

    def _result(self, seconds: float, evaluation: Evaluation | None) -> RunResult:
        return RunResult(
            folder=self.folder,
            checkpoint=self.folder / MODEL,
            steps=self.trainer.global_step,
            new_steps=self.trainer.global_step - self.begun_at,
            seconds=seconds,
            interrupted=evaluation is None,
            evaluation=evaluation,
        )


def new_folder(config: Config) -> Path:
    """Make ``<data_dir>/<env>-<time>``, with a number behind it if that exists."""
    name = (config.train.env or config.base.env_name).replace("/", "_").replace(":", "_")
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    parent = Path(config.train.data_dir).expanduser()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise ConfigError(
            f"No folder for the run can be made in {str(parent)!r}: {error}.",
            fix="Set train.data_dir to a folder that can be written.",
        ) from error
    raise ConfigError(f"{parent} is full of runs named {stem}.")


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no update is cut in two; a later one raises."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    previous = signal.getsignal(signal.SIGINT)
    deadline = float("inf")

    def on_interrupt(number: int, frame: Any) -> None:
        nonlocal deadline
        if time.monotonic() > deadline:
            raise KeyboardInterrupt
        if not stop.is_set():
            # Launchers such as `timeout` pass one Ctrl-C on a second time, at once.
            deadline = time.monotonic() + 1.0
        stop.set()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _summary(result: RunResult, policy: nn.Module) -> dict[str, str]:
    rows = {
        "policy": str(getattr(policy, "spec", type(policy).__name__)),
        "parameters": f"{sum(p.numel() for p in policy.parameters()):,}",
        "steps": f"{result.steps:,} in {result.seconds:.1f} s "
        f"({result.new_steps / result.seconds:,.0f} steps/s)",
    }
    if result.evaluation is not None:
        told = result.evaluation
        kind = "deterministic" if told.deterministic else "sampled"
        rows["return"] = f"{told.mean:.2f} ± {told.std:.2f} ({len(told.returns)} {kind} episodes)"
    rows["checkpoint"] = str(result.checkpoint)
    return rows
