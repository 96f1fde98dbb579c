"""A run's checkpoints: its last policy, its best policy, and the one file from which it resumes.

Each file is written at once or not at all, and none needs another. So whenever the process is
killed, each file in the folder is whole, and the run can be resumed and evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from puffer_policies.assembly.checkpoint import header_of, save_checkpoint, weights_of
from puffer_policies.assembly.header import read_header
from puffer_policies.errors import CheckpointError
from puffer_policies.files import BEST, LATEST, TRAINER
from puffer_policies.registry import Registry
from puffer_policies.runs.snapshot import Snapshot, take_snapshot, with_envs
from puffer_policies.runs.snapshot_file import write_snapshot
from puffer_policies.structure import Integer, Number, Plain, StructureError, Table
from puffer_policies.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Best:
    """The policy whose last episodes went best."""

    training: Mapping[str, Any]
    """``mean_return`` over the last ``episodes``, ``global_step`` and ``epoch``."""
    settled: bool
    """Whether the mean is over as many episodes as count; over fewer, it is a matter of luck."""
    weights: Mapping[str, Tensor]

    def beats(self, other: Best | None) -> bool:
        """Whether this is better than `other`. Until the means are settled, the later one is."""
        if other is None or not other.settled:
            return True
        means = (each.training["mean_return"] for each in (self, other))
        return self.settled and next(means) > next(means)


class Saver:
    """Writes the checkpoints of a run into its folder."""

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        *,
        config: Mapping[str, Any],
        registry: Registry | None,
    ) -> None:
        self.folder, self.trainer = folder, trainer
        self.config, self.registry = config, registry
        self.saved_epoch = trainer.epoch
        """The number of updates in the file to resume from; 0 if there is none."""
        self._snapshot = take_snapshot(trainer)
        window = trainer.collector.episodes.returns.maxlen or 1
        self._best, self._best_is_saved = _best_in(folder / BEST, window), True
        for torn in folder.glob(".*.safetensors.*"):
            torn.unlink(missing_ok=True)  # an earlier process was killed while it wrote this file

    def update_best(self) -> None:
        """Copy the policy if its last episodes are the best ones; call it between the two phases.

        After the rollout and before the update, the policy still has the weights that it played
        with: at the end of the rollout at least, as older episodes began before earlier updates.
        """
        episodes, trainer = self.trainer.collector.episodes, self.trainer
        if not episodes.returns:
            return
        candidate = Best(
            {
                "mean_return": float(np.mean(episodes.returns)),
                "episodes": len(episodes.returns),
                "global_step": trainer.global_step,
                "epoch": trainer.epoch,
            },
            settled=len(episodes.returns) == episodes.returns.maxlen,
            weights=weights_of(trainer.policy),
        )
        if candidate.beats(self._best):
            # Copied only here: a copy in each update would cost time for nothing.
            copies = {name: each.detach().clone() for name, each in candidate.weights.items()}
            self._best = Best(candidate.training, candidate.settled, copies)
            self._best_is_saved = False

    def remember(self) -> None:
        """Take a snapshot of the update that was just made, in case the next one fails."""
        self._snapshot = take_snapshot(self.trainer)

    def save(self) -> None:
        """Write all checkpoints as they are now; call it between two updates.

        Raises:
            CheckpointError: a file can't be written; the files from before are whole.
        """
        self._write(with_envs(self._snapshot, self.trainer))

    def rescue(self) -> str:
        """Write the last update if it is newer than the file and finite; return a text about it."""
        problem = ""
        if self._snapshot.epoch > self.saved_epoch:
            if self._snapshot.is_finite:
                try:
                    self._write(self._snapshot)
                except CheckpointError as error:
                    problem = f" Update {self._snapshot.epoch} can't be saved: {error.problem}"
            else:
                problem = f" The weights after update {self._snapshot.epoch} are not finite."
        # The folder may have been deleted since, which may be the error itself.
        if not self.saved_epoch or not (self.folder / TRAINER).is_file():
            return f"There is no checkpoint in {self.folder}.{problem}"
        return (
            f"The last checkpoint, of update {self.saved_epoch}, is in {self.folder}: go on with "
            f"--resume.{problem}"
        )

    def _write(self, snapshot: Snapshot) -> None:
        if self._best is not None and not self._best_is_saved:
            self._write_policy(BEST, self._best.weights, self._best.training)
            self._best_is_saved = True
        training = {"global_step": snapshot.global_step, "epoch": snapshot.epoch}
        # Before the policy: if a kill comes between, the run still resumes from this update.
        header = header_of(
            self.trainer.policy,
            env=self.trainer.vecenv,
            config=self.config,
            training=training,
            registry=self.registry,
        )
        write_snapshot(self.folder / TRAINER, snapshot, header)
        self.saved_epoch = snapshot.epoch
        self._write_policy(LATEST, snapshot.policy, training)

    def _write_policy(
        self, name: str, weights: Mapping[str, Tensor], training: Mapping[str, Any]
    ) -> None:
        save_checkpoint(
            self.folder / name,
            self.trainer.policy,
            env=self.trainer.vecenv,
            config=self.config,
            training={**training, "reward_factor": self._reward_factor()},
            weights=weights,
            registry=self.registry,
        )

    def _reward_factor(self) -> float:
        """Return the factor by which rewards were multiplied for the update."""
        trainer = self.trainer
        return trainer.reward_scale.factor if trainer.config.scale_rewards else 1.0


def _best_in(path: Path, window: int) -> Best | None:
    """Return the best policy of the run so far; None if there is none that can be read."""
    if not path.exists():
        return None
    try:
        training = read_header(path).training
        _BEST.check(training, "training")
    except (CheckpointError, StructureError):
        return None
    return Best(training, training["episodes"] >= window, {})


_BEST = Table({"mean_return": Number(), "episodes": Integer(0)}, others=Plain())
"""What the header of a best policy says, as `Best.training`."""
