"""A run of several processes: what those after the first do, and when all of them stop."""

from __future__ import annotations

import time
from pathlib import Path

from puffer_policies.runs.folder import TRAINER
from puffer_policies.runs.interrupts import Stop, interruptible
from puffer_policies.runs.result import RunResult
from puffer_policies.runs.resume import go_on, read_trainer
from puffer_policies.train.trainer import Trainer


def take_part(trainer: Trainer, saved: Path | None) -> RunResult:
    """Train along with the first process, which does everything else."""
    if saved is not None:
        path = saved / TRAINER
        go_on(trainer, read_trainer(path), path=path)
        # The file holds the envs and the random numbers of the first process.
        trainer.begin_anew()
    begun_at, start = trainer.global_step, time.perf_counter()
    with interruptible() as stop:
        while not trainer.finished and not stopped(trainer, stop):
            trainer.evaluate()
            trainer.train()
        return RunResult(
            folder=Path(),
            checkpoint=Path(),
            steps=trainer.global_step,
            new_steps=trainer.global_step - begun_at,
            seconds=time.perf_counter() - start,
            interrupted=not trainer.finished,
            evaluation=None,
            is_main=False,
        )


def stopped(trainer: Trainer, stop: Stop) -> bool:
    """Return whether any process wants to stop: all leave after the same update."""
    if not trainer.world.any(stop(), device=trainer.device):
        return False
    stop.signal = stop.signal or "another process"
    return True


def shares(trainer: Trainer) -> str:
    """Say how the processes share a run, and that its sizes stay those of one."""
    world, plan = trainer.world, trainer.plan
    return (
        f"{world.size} processes with {plan.num_agents} of {world.size * plan.num_agents} agents "
        f"each: updates of {world.size * plan.batch_size:,} steps and gradient steps of "
        f"{world.size * plan.minibatch_size:,}, as one process would make with all of them."
    )
