"""The one file from which a run goes on: weights, optimiser, envs and all, written at once.

A resumed run equals the uninterrupted one bit for bit on a CPU, where the envs' state can be
captured; elsewhere the envs start new episodes, and the run says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puffer_policies.assembly.checkpoint import Header, require_same_spaces
from puffer_policies.assembly.tensorfile import read_tensors, write_tensors
from puffer_policies.errors import CheckpointError
from puffer_policies.runs.state import TrainerState, put_state
from puffer_policies.spaces import spaces_of
from puffer_policies.train.trainer import Trainer

METADATA_KEY = "puffer_policies_trainer"
FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class SavedTrainer:
    """A trainer's state with what is said about it."""

    state: TrainerState
    header: Header
    """What a checkpoint of the policy says."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """What the run itself remembers, as plain data."""


def save_trainer(path: Path | str, saved: SavedTrainer) -> Path:
    """Write `saved` to `path`, at once or not at all."""
    told = {
        "format_version": FORMAT_VERSION,
        "header": saved.header.to_json(),
        "trainer": dict(saved.state.data),
        "run": dict(saved.run),
    }
    return write_tensors(path, saved.state.tensors, header=json.dumps(told), key=METADATA_KEY)


def read_trainer(path: Path | str) -> SavedTrainer:
    """Read a file of `save_trainer`.

    Raises:
        CheckpointError: no such file, a damaged one, or one of another version.
    """
    tensors, text = read_tensors(path, key=METADATA_KEY)
    try:
        told = json.loads(text)
        if told.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} was written by another version of puffer-policies.",
                fix="Go on with the version that wrote it, or load the weights with load_policy.",
            )
        header = Header.from_json(told["header"], Path(path))
        return SavedTrainer(TrainerState(tensors, told["trainer"]), header, told["run"])
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"The header of {path} can't be read: {error!r}.") from error


def go_on(trainer: Trainer, saved: SavedTrainer, *, path: Path | str) -> str:
    """Put `saved` into a new trainer; `path` is for errors.

    Returns:
        Why the envs start new episodes; empty if they go on with those under way.

    Raises:
        CheckpointError: it is of another env, policy, optimiser, kind of device or batch.
    """
    require_same_spaces(saved.header, spaces_of(trainer.vecenv), path)
    return put_state(trainer, saved.state, path=path, owner=saved.header.spec)
