"""The folders of runs: a new one, and those inside a folder."""

from __future__ import annotations

import time
from pathlib import Path

from puffer_policies.config.config import Config
from puffer_policies.errors import ConfigError
from puffer_policies.files import METRICS, user_path


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
