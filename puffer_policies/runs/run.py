"""A whole run from a config: folder, training, checkpoints, final evaluation, summary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from puffer_policies.assembly.tensorfile import write_at_once
from puffer_policies.config.config import Config
from puffer_policies.config.load import CONFIG_FILE
from puffer_policies.errors import EnvError, PolicyError, TrainingError
from puffer_policies.files import LATEST, METRICS, TRAINER, file_of_run, user_path
from puffer_policies.foreign import error_text
from puffer_policies.registry import Registry
from puffer_policies.runs.checkpoints import Saver
from puffer_policies.runs.display import Display, DisplayKind, Guarded, make_display
from puffer_policies.runs.evaluate import Evaluation, evaluate_config
from puffer_policies.runs.folder import new_folder
from puffer_policies.runs.interrupts import Stop, interruptible
from puffer_policies.runs.metrics import Loggers, MetricsLog, open_loggers
from puffer_policies.runs.setup import (
    device_of,
    naming_imports,
    naming_packages,
    policy_of,
    prepare_process,
    vecenv_of,
)
from puffer_policies.runs.snapshot_file import resume_trainer
from puffer_policies.train.alarms import Alarm
from puffer_policies.train.distributed import joined
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.faults import FAULTS, closing, report_failure

StopWhen = Callable[[Mapping[str, float]], bool]
"""Looks at the metrics of an update, and answers whether the run should stop there."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run: its folder, its final evaluation, and what it took."""

    folder: Path
    checkpoint: Path
    steps: int
    """Env steps, including those before a resume."""
    new_steps: int
    """Env steps since the run was started or resumed."""
    seconds: float
    interrupted: bool
    evaluation: Evaluation | None
    """The final evaluation; None if the run was interrupted, and where `is_main` is False."""
    signal: str = ""
    """What interrupted the run: the name of a signal, or ``stop_when``; empty if nothing did."""
    failures: tuple[str, ...] = ()
    """What failed beside the result, such as a logger, or an env that can't be closed."""
    is_main: bool = True
    """Whether this process wrote the run; False in the others that ``torchrun`` started."""


def train_from_config(
    config: Config,
    *,
    display: DisplayKind | Display = "auto",
    registry: Registry | None = None,
    resume: Path | str | None = None,
    stop_when: StopWhen = lambda logs: False,
) -> RunResult:
    """Train, evaluate and save by `config`. Ctrl-C ends the run cleanly, with a checkpoint.

    A second Ctrl-C leaves at once, with the last finished update in the checkpoint.

    Under ``torchrun`` the processes share the envs and the batches of `config`, as if they were
    one. Only the first writes files, prints and evaluates.

    Args:
        config: the run's config.
        display: how progress is displayed: a display of your own, or a kind of `make_display`.
        registry: where the policy's names are looked up; the default registry if None.
        resume: the folder of an earlier run, which continues there.
        stop_when: receives the metrics of each update; True ends the run as Ctrl-C does.

    Raises:
        ConfigError: sizes that do not divide, a device that this machine does not have, or a folder
            that can't be written.
        CheckpointError: `resume` holds no run, or one of another policy, env or batch size; or a
            checkpoint can't be written.
        EnvError: the env can't be made, or fails.
        TrainingError: a number that is not finite, or any failure that is not a `PolicyError`.
    """
    folder = None if resume is None else user_path(resume)
    with joined(device_of(config.train).type) as world:
        # Before anything draws random numbers: envs and weights depend on the seed.
        prepare_process(config.train, world)
        checkpoint = None if folder is None else folder / LATEST
        with naming_imports(checkpoint):
            vecenv = vecenv_of(config, world)
        failures: list[str] = []
        with closing(vecenv, failures):
            with naming_packages(checkpoint):
                policy = policy_of(config, vecenv, registry=registry)
            trainer = Trainer(config.train, vecenv, policy, world=world)
            # One process prints; two panels on one terminal would overwrite each other.
            kind = display if world.is_main else "quiet"
            display = make_display(kind, total_steps=trainer.total_steps)
            with Guarded(display) as screen:
                result = _run(config, trainer, screen, registry, folder, stop_when)
            screen.summary(config.base.env_name, summary(result, policy))
        return replace(result, failures=(*result.failures, *failures))


def _run(
    config: Config,
    trainer: Trainer,
    display: Display,
    registry: Registry | None,
    resume: Path | None,
    stop_when: StopWhen,
) -> RunResult:
    if not trainer.world.is_main:
        return _follow(trainer, resume, registry)
    if trainer.world.size > 1:
        display.note(_shares_text(trainer))
    if (asked := config.train.total_timesteps) < trainer.total_steps:
        display.note(
            f"The run makes {trainer.total_steps:,} steps, not {asked:,}: updates of "
            f"{trainer.total_steps // trainer.plan.num_updates:,} steps are always whole."
        )
    # What a folder lacks is said before the lock, which would make a file in it.
    folder = new_folder(config) if resume is None else file_of_run(resume, TRAINER).parent
    # Before the folder is read, or anything in it is touched: another process may be at work there.
    with MetricsLog(folder / METRICS) as log:
        if resume is not None and (
            reason := resume_trainer(trainer, folder / TRAINER, registry=registry)
        ):
            display.note(f"The envs start new episodes; all else continues: {reason}")
        log.keep(trainer.epoch)
        run = _Run(config, trainer, folder, registry=registry, display=display)
        return run.go(log, stop_when)


class _Run:
    """The loop of a run, and what it writes to the run's folder."""

    def __init__(
        self,
        config: Config,
        trainer: Trainer,
        folder: Path,
        *,
        registry: Registry | None,
        display: Display,
    ) -> None:
        self.config, self.trainer, self.folder, self.display = config, trainer, folder, display
        self.start_step, self.start_time = trainer.global_step, time.perf_counter()
        self.saver = Saver(folder, trainer, config=config.to_args(), registry=registry)
        self.failures: list[str] = []
        """What failed and did not end the run."""

    def go(self, log: MetricsLog, stop_when: StopWhen) -> RunResult:
        """Train until the end, or until the run is interrupted."""
        with interruptible() as stop:
            text = json.dumps(self.config.to_args(), indent=2) + "\n"
            # Also when resumed: from then on the folder is described by the new config.
            write_at_once(self.folder / CONFIG_FILE, text.encode())
            step = self.trainer.global_step
            with open_loggers(self.config, log, step=step, failures=self.failures) as loggers:
                try:
                    result = self._train(loggers, stop, stop_when)
                except FAULTS as error:
                    if isinstance(error, EnvError) and (number := stop.number):
                        # The envs may have received the signal, too, and ended by it.
                        interrupt = KeyboardInterrupt(number)
                        interrupt.add_note(error.problem)
                        raise self._left(interrupt, stop, loggers) from error
                    raise self._failure(error, loggers) from error
                except KeyboardInterrupt as error:
                    raise self._left(error, stop, loggers) from None
        return replace(result, failures=tuple(self.failures))

    def _train(self, loggers: Loggers, stop: Stop, stop_when: StopWhen) -> RunResult:
        self._loop(loggers, stop, stop_when)
        seconds = time.perf_counter() - self.start_time
        self._save(loggers)
        evaluation = self._evaluate(stop)
        try:
            if evaluation is None:
                loggers.write({"interrupted": stop.signal, "agent_steps": self.trainer.global_step})
            else:
                loggers.write({"evaluation": evaluation.to_dict()})
        except TrainingError as error:  # a full disk; the result is there
            report_failure(str(error), self.failures)
        return self._result(seconds, evaluation, stop)

    def _loop(self, loggers: Loggers, stop: Stop, stop_when: StopWhen) -> None:
        trainer, interval = self.trainer, self.config.train.checkpoint_interval
        while not trainer.finished and not _any_stops(trainer, stop):
            rollout = trainer.collect()
            self.saver.update_best()
            logs = trainer.learn(trainer.estimate(rollout))
            self.saver.remember()
            loggers.write({**logs, **_alarm_fields(trainer.alarms)})
            self.display.update(logs)
            for alarm in trainer.alarms:
                self.display.note(f"alarm at {trainer.global_step:,} steps: {alarm.text}")
            if interval and trainer.epoch % interval == 0:
                self._save(loggers)
            # After the checkpoint, so that what stopped the run is saved.
            if stop_when(logs):
                stop.signal = "stop_when"

    def _save(self, loggers: Loggers) -> None:
        # Lines first: a checkpoint must not be newer than the metrics that lead to it.
        loggers.sync()
        self.saver.save()

    def _evaluate(self, stop: Stop) -> Evaluation | None:
        """Play the final evaluation, or print how to resume and return None if interrupted."""
        if not stop():
            # It stops between two steps: envs in processes can't be closed in the middle of one.
            evaluation = evaluate_config(
                self.trainer.policy,
                self.config,
                stopped=stop,
                watch=partial(self.display.evaluation, total=self.config.eval.episodes),
                failures=self.failures,
            )
            if not stop():
                return evaluation
        steps = self.trainer.global_step
        self.display.note(
            f"Interrupted after {steps:,} steps ({stop.signal}). "
            f"Continue with: --resume {self.folder}"
        )
        return None

    def _left(
        self, interrupt: KeyboardInterrupt, stop: Stop, loggers: Loggers
    ) -> KeyboardInterrupt:
        """Save what can be saved in the midst of an update, and note where it is."""
        interrupt.add_note(self.saver.rescue())
        with suppress(PolicyError, OSError):
            loggers.write({"interrupted": stop.signal, "agent_steps": self.trainer.global_step})
        return interrupt

    def _failure(self, error: BaseException, loggers: Loggers) -> PolicyError:
        """Save what can be saved, and return the error with the place of the checkpoint."""
        checkpoint = self.saver.rescue()
        if isinstance(error, PolicyError):
            problem = error.problem
        else:
            problem = error_text(error).rstrip(": ")
        # The disk may be full, which may be the error itself.
        with suppress(PolicyError, OSError):
            loggers.write({"error": problem, "agent_steps": self.trainer.global_step})
        if isinstance(error, PolicyError):
            return type(error)(f"{problem}\n{checkpoint}", fix=error.fix)
        return TrainingError(
            f"The run failed with {problem}\n{checkpoint}",
            fix="--traceback shows where it happened.",
        )

    def _result(self, seconds: float, evaluation: Evaluation | None, stop: Stop) -> RunResult:
        return RunResult(
            folder=self.folder,
            checkpoint=self.folder / LATEST,
            steps=self.trainer.global_step,
            new_steps=self.trainer.global_step - self.start_step,
            seconds=seconds,
            interrupted=evaluation is None,
            evaluation=evaluation,
            signal=stop.signal,
        )


def _alarm_fields(alarms: list[Alarm]) -> dict[str, dict[str, str]]:
    return {"alarms": {each.name: each.text for each in alarms}} if alarms else {}


def _follow(trainer: Trainer, resume: Path | None, registry: Registry | None) -> RunResult:
    """Train in step with the first process, which writes, prints and evaluates for all."""
    if resume is not None:
        resume_trainer(trainer, resume / TRAINER, registry=registry)
        # The file holds the envs and the random numbers of the first process.
        trainer.reseed()
        trainer.restart_episodes()
    start_step, start_time = trainer.global_step, time.perf_counter()
    with interruptible() as stop:
        while not trainer.finished and not _any_stops(trainer, stop):
            trainer.learn(trainer.estimate(trainer.collect()))
        return RunResult(
            folder=Path(),
            checkpoint=Path(),
            steps=trainer.global_step,
            new_steps=trainer.global_step - start_step,
            seconds=time.perf_counter() - start_time,
            interrupted=not trainer.finished,
            evaluation=None,
            signal=stop.signal,
            is_main=False,
        )


def _any_stops(trainer: Trainer, stop: Stop) -> bool:
    """Return whether any process was interrupted.

    All of them ask after the same update: one that left alone would keep the others waiting.
    """
    if not trainer.world.any(stop(), device=trainer.device):
        return False
    stop.signal = stop.signal or "another process"
    return True


def _shares_text(trainer: Trainer) -> str:
    """Describe how the processes share a run, whose sizes stay those of one process."""
    world, plan = trainer.world, trainer.plan
    return (
        f"{world.size} processes with {plan.num_agents} of {world.size * plan.num_agents} agents "
        f"each: updates of {world.size * plan.batch_size:,} steps and gradient steps of "
        f"{world.size * plan.minibatch_size:,}, as one process would make with all of them."
    )


def summary(result: RunResult, policy: nn.Module) -> dict[str, str]:
    """Return the rows of a table: policy, parameters, steps, return, checkpoint."""
    rows = {
        "policy": str(getattr(policy, "spec", type(policy).__name__)),
        "parameters": f"{sum(p.numel() for p in policy.parameters()):,}",
        "steps": f"{result.new_steps:,} in {result.seconds:.1f} s "
        f"({result.new_steps / result.seconds:,.0f} steps/s)",
    }
    if result.new_steps != result.steps:
        rows["all steps"] = f"{result.steps:,}, including those before the resume"
    if result.evaluation is not None:
        rows |= result.evaluation.fields()
    rows["checkpoint"] = str(result.checkpoint)
    return rows
