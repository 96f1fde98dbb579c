"""Files: those of a run, those that ship, reading text, and writing at once."""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

from puffer_policies.errors import CheckpointError, ConfigError, short

LATEST = "latest.safetensors"
"""The policy at the last checkpoint."""
BEST = "best.safetensors"
"""The policy with the best mean return so far."""
TRAINER = "trainer.safetensors"
"""Everything from which the run continues, at the same moment as `LATEST`."""
METRICS = "metrics.jsonl"
"""A JSON object on each line: one for each update, and one for the final evaluation."""

NO_RUN = "Give a checkpoint, or the folder of a run."

MAX_TEXT = 1_000_000
"""Bytes of a text file that is read; the longest of ours has less than a hundredth of it."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with a leading ``~`` expanded.

    A shell expands it in a word of its own, but not in ``--train.data-dir=~/runs``, a file or
    Python. Where there is no such home, the path stays as it is, and is then reported as missing.

    Raises:
        ConfigError: it is not a path.
    """
    return Path(os.path.expanduser(path_text(path)))


def path_text(path: object) -> str:
    """Return the text of a path, of which a program may have made anything.

    Raises:
        ConfigError: it is not a path.
    """
    try:
        return os.fsdecode(path)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(
            f"Expected a path or a name, found {short(path)}.",
            fix="Give a string or a pathlib.Path.",
        ) from error


def read_text(path: Path) -> str:
    """Return the text of a config or a registry file, which people write and strangers send.

    Raises:
        ConfigError: there is no such file, it can't be read, it is a device or a pipe, it is longer
            than `MAX_TEXT`, or it is not UTF-8.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path} is a device or a pipe, not a file.")
            data = file.read(MAX_TEXT + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except (OSError, ValueError) as error:  # a ValueError if the path holds the character NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path} can't be read: {reason}.") from error
    if len(data) > MAX_TEXT:
        raise ConfigError(f"{path} is longer than {MAX_TEXT:,} bytes, which no config needs.")
    try:
        # Editors on Windows write a byte-order mark, which neither TOML nor JSON knows.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}.",
            fix="Save the file as UTF-8.",
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _open_at_once(path: str, flags: int) -> int:
    """Open a file for `open`; a pipe, too, to which nobody writes and which would wait forever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def is_in_run(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is that of a run, or lies inside one; its checkpoints tell."""
    path = Path(folder).absolute()
    # `os.path.exists` takes a folder that may not be read for one without files.
    return any(
        os.path.exists(parent / name)
        for parent in (path, *path.parents)
        for name in (LATEST, BEST, TRAINER)
    )


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside `path` and move it there: a crash at any moment leaves a whole one.

    Raises:
        OSError: the file can't be written; an older one is as it was.
    """
    # The name is this thread's own; `tempfile` would make a file that only its owner may read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            # Without it, a power cut after the move could leave a file of zeros under the name.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def shipped_file(name: str) -> Path | None:
    """Return the path of a file of the repository, such as ``docs/cards.json``, or None."""
    # A wheel carries them inside the package (see pyproject.toml), a checkout has them beside it.
    inside = Path(__file__).parent
    paths = (folder / name for folder in (inside, inside.parent))
    return next((path for path in paths if path.is_file()), None)


def file_of_run(folder: Path, name: str) -> Path:
    """Return the path of a file in the folder of a run.

    Raises:
        CheckpointError: the folder does not hold it.
    """
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder} holds no {name}.", fix=contents_hint(folder))
    return folder / name


def contents_hint(folder: Path) -> str:
    """Return a hint at the checkpoints or runs in a folder that lacks a required file."""
    checkpoints = sorted(each.name for each in folder.glob("*.safetensors") if each.name != TRAINER)
    if checkpoints:
        return f"It holds {', '.join(checkpoints)}."
    if (folder / METRICS).is_file():
        return (
            "The run has saved nothing so far. It saves every train.checkpoint_interval updates, "
            "when it is interrupted, and at its end."
        )
    runs = sorted(each.parent.name for each in folder.glob("*/config.json"))
    return f"Runs in it: {', '.join(runs[-5:])}." if runs else NO_RUN
