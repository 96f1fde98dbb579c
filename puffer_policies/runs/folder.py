"""The folder of a run: a new one, and the checkpoints in it."""

from __future__ import annotations

import time
from pathlib import Path

from puffer_policies.config.config import Config
from puffer_policies.errors import CheckpointError, ConfigError, did_you_mean
from puffer_policies.files import BEST, LATEST, METRICS, TRAINER, user_path

NO_RUN = "Give a checkpoint, or the folder of a run."


def new_folder(config: Config) -> Path:
    """Create ``<data_dir>/<env>-<time>``, with a number after it if that exists.

    Raises:
        ConfigError: the folder can't be created.
    """
    name = (config.train.env or config.base.env_name).replace("/", "_").replace(":", "_")
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    parent = user_path(config.train.data_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                # To ask first whether it exists would race with another run of this second.
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise ConfigError(
            f"No folder for the run can be created in {str(parent)!r}: {error}.",
            fix="Set train.data_dir to a folder that can be written.",
        ) from error
    raise ConfigError(f"{parent} holds 999 runs named {stem}.")


def runs_in(folder: Path | str) -> list[Path]:
    """Return `folder` if it is a run, else the runs up to three folders below it, by name.

    A comparison or a sweep keeps its runs there. A folder without any stands for itself.
    """
    folder = user_path(folder)
    if (folder / METRICS).exists():
        return [folder]
    patterns = (f"{'*/' * depth}{METRICS}" for depth in (1, 2, 3))
    return sorted(file.parent for each in patterns for file in folder.glob(each)) or [folder]


def checkpoint_of(path: Path | str, *, best: bool = False) -> Path:
    """Return the checkpoint at `path`: a file itself, or the last one in the folder of a run.

    Args:
        path: a checkpoint, or the folder of a run.
        best: the run's best checkpoint instead of its last.

    Raises:
        CheckpointError: no such file or folder, or the folder holds no such checkpoint.
    """
    path = user_path(path)
    if not path.exists():
        raise CheckpointError(f"There is neither a run nor a checkpoint {path}.", fix=_near(path))
    if not path.is_dir():
        if best:
            raise CheckpointError(
                f"{path} is a single checkpoint, not a run with a best one.",
                fix="Give the folder of the run, or leave --best out.",
            )
        return path
    checkpoint = path / (BEST if best else LATEST)
    if not checkpoint.is_file():
        raise CheckpointError(f"{path} holds no {checkpoint.name}.", fix=contents_hint(path))
    return checkpoint


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return NO_RUN
    return did_you_mean(path.name, (each.name for each in path.parent.iterdir())) or NO_RUN


def contents_hint(folder: Path) -> str:
    """Return a hint at the checkpoints or runs in a folder that lacks a required file."""
    checkpoints = sorted(each.name for each in folder.glob("*.safetensors") if each.name != TRAINER)
    if checkpoints:
        return f"It holds {', '.join(checkpoints)}."
    runs = sorted(each.parent.name for each in folder.glob("*/config.json"))
    return f"Runs in it: {', '.join(runs[-5:])}." if runs else NO_RUN
