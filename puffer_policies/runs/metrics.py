"""The metrics of a run: lines of JSON, and optionally TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, Self, TextIO

from puffer_policies.config.config import Config
from puffer_policies.errors import CheckpointError, ConfigError, MissingDependency, TrainingError
from puffer_policies.files import METRICS, contents_hint
from puffer_policies.foreign import import_optional
from puffer_policies.streams import json_text
from puffer_policies.structure import (
    Integer,
    MapOf,
    Number,
    Plain,
    StructureError,
    Table,
    read_json,
)
from puffer_policies.vector.faults import FAULTS, first_line, report_failure

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


_LINE = MapOf(Plain(depth=5))
_UPDATE = Table({"SPS": Number(1e-6, 1e15), "agent_steps": Integer(0)}, others=Plain(depth=5))
"""What a run writes of an update, besides its metrics."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics: one for each update, and others for how it ended.

    Raises:
        CheckpointError: there are none, or a line is damaged; one that a kill has torn is left out.
    """
    path = folder / METRICS
    try:
        *whole, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise CheckpointError(f"{folder} holds no {METRICS}.", fix=contents_hint(folder)) from error
    lines = []
    for number, line in enumerate([*whole, last], start=1):
        try:
            # Bytes that are not UTF-8 are not JSON either, wherever text may not stand.
            data = read_json(line.decode(errors="replace"), _LINE) if line else {}
            if "SPS" in data:
                _UPDATE.check(data, "")
        except StructureError as error:
            if number > len(whole):
                break  # a kill has torn the line, whose end is missing
            raise CheckpointError(
                f"{path} is damaged: line {number}: {error}.",
                fix="Remove the line, or use another copy of the run.",
            ) from error
        if data:
            lines.append(data)
    return lines


class MetricsLog:
    """Appends JSON objects to a file, one on each line, flushed so that a crash loses none.

    As long as the file is open, it also locks the run's folder against other processes.

    Args:
        path: the file, which is created if it is missing.

    Raises:
        ConfigError: the file can't be opened, or another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # "a+": a lock needs the file open, and opening must not empty another run's file.
            self._file = path.open("a+", encoding="utf-8", newline="\n")
        except OSError as error:
            raise ConfigError(
                f"{path} can't be written: {error}.",
                fix="Set train.data_dir to a folder that can be written.",
            ) from error
        try:
            _lock(self._file, path.parent)
        except ConfigError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """Return the log, which is locked already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and unlock the folder."""
        self.close()

    def keep(self, epoch: int) -> None:
        """Remove the lines after an update, from which the run continues."""
        if self.path.is_file():  # /dev/null and the like can't be truncated
            self._file.truncate(_length_up_to(self.path, epoch))

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            TrainingError: the line can't be written: a full disk, say.
        """
        try:
            self._file.write(f"{json_text(metrics)}\n")
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self.path} can't be written: {error}.",
                fix="Make room, then continue from the last checkpoint with --resume.",
            ) from error

    def sync(self) -> None:
        """Force the lines to the disk, so that a power cut loses none before a checkpoint."""
        with suppress(OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; `write` has already reported what it could not write."""
        with suppress(OSError):
            self._file.close()


def _lock(file: TextIO, folder: Path) -> None:
    """Lock the file for as long as this process lives."""
    if fcntl is None:
        return
    try:
        # The lock goes with the process, so that a killed run blocks nobody.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"{folder} belongs to a run that another process continues.",
            fix="Wait for its end, or copy the folder and resume the copy.",
        ) from error
    except OSError:
        return  # some network disks have no locks


def _length_up_to(path: Path, epoch: int) -> int:
    """Return the length in bytes of the lines up to an update, without one cut off by a kill."""
    length = 0
    for line in path.read_bytes().splitlines(keepends=True):
        # Lines after it belong to updates that the checkpoint does not know.
        if not line.endswith(b"\n") or not _is_update(line, epoch):
            break
        length += len(line)
    return length


def _is_update(line: bytes, epoch: int) -> bool:
    try:
        return bool(json.loads(line)["epoch"] <= epoch)
    except (ValueError, KeyError, TypeError):
        return False


class Logger(Protocol):
    """A place to which the metrics of a run are written."""

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of an update, of the evaluation, or of the end of the run."""
        ...

    def sync(self) -> None:
        """Force what was written to its place."""
        ...

    def close(self) -> None:
        """Write the rest, and close."""
        ...


class TensorBoard:
    """Writes event files for ``tensorboard --logdir``.

    Args:
        folder: the folder of the files.
        step: env steps from which the run continues; later points of an earlier process are hidden.

    Raises:
        MissingDependency: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        import_optional("tensorboard", extra="tensorboard", purpose="log.tensorboard")
        # Imported here, as it costs a second even where no TensorBoard is wanted.
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)
        self._step = step

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Add every number at the run's count of env steps."""
        self._step = int(metrics.get("agent_steps", self._step))
        for name, value in numbers(metrics).items():
            self._writer.add_scalar(name, value, self._step)

    def sync(self) -> None:
        """Flush the event file."""
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """Sends metrics to a project of https://wandb.ai, where a resumed run continues, too.

    Args:
        project: the name of the project.
        config: the run's config as plain data.
        folder: the run's folder, whose name is the run's name and id.

    Raises:
        MissingDependency: wandb is not installed.
    """

    def __init__(self, project: str, *, config: Mapping[str, Any], folder: Path) -> None:
        wandb: Any = import_optional("wandb", extra="wandb", purpose="log.wandb")
        name = folder.name
        self._run = wandb.init(
            # The folder's name is still known when the run resumes, which an id of wandb's is not.
            project=project,
            name=name,
            id=name,
            resume="allow",
            config=config,
            dir=str(folder),
        )

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Send every number, including ``agent_steps``, which serves as the x-axis."""
        self._run.log(numbers(metrics))

    def sync(self) -> None:
        """Do nothing, as wandb sends in the background."""

    def close(self) -> None:
        """Wait until everything has been sent."""
        self._run.finish()


class Loggers:
    """The log of a run and the loggers beside it, of which a failing one is left out from then on.

    Args:
        log: what the run needs; its errors are raised.
        failures: receives what the others fail with, which is also a warning.
    """

    def __init__(self, log: MetricsLog, failures: list[str]) -> None:
        self._log, self._failures = log, failures
        self._others: list[Logger] = []

    def add(self, name: str, make: Callable[[], Logger]) -> None:
        """Start one more logger.

        Raises:
            MissingDependency: its package is not installed.
        """
        try:
            self._others.append(make())
        except MissingDependency:
            raise
        except FAULTS as error:
            self._report(f"{name} can't be started", error)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics` to each.

        Raises:
            TrainingError: the run's own log can't be written.
        """
        self._log.write(metrics)
        self._call("write", metrics)

    def sync(self) -> None:
        """Sync each."""
        self._log.sync()
        self._call("sync")

    def close(self) -> None:
        """Close all but the run's own log."""
        self._call("close")

    def _call(self, method: str, *arguments: Any) -> None:
        for each in list(self._others):
            try:
                getattr(each, method)(*arguments)
            except FAULTS as error:
                self._others.remove(each)
                self._report(f"{type(each).__name__} failed in {method}()", error)

    def _report(self, what: str, error: BaseException) -> None:
        report_failure(
            f"{what}: {first_line(error)}. The run's own {METRICS} is complete.", self._failures
        )


@contextmanager
def open_loggers(
    config: Config, log: MetricsLog, *, step: int, failures: list[str]
) -> Iterator[Loggers]:
    """Open the loggers of `config` beside `log`, for a run that continues after `step` steps.

    Raises:
        MissingDependency: a package is not installed.
    """
    together, folder = Loggers(log, failures), log.path.parent
    try:
        if config.log.tensorboard:
            together.add("TensorBoard", lambda: TensorBoard(folder, step=step))
        if (project := config.log.wandb) is not None:
            args = config.to_args()
            together.add("wandb", lambda: WeightsAndBiases(project, config=args, folder=folder))
        yield together
    finally:
        together.close()


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of nested metrics under flat names: ``evaluation/mean``."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = value
    return flat
