"""What a run measured: lines of JSON, and if asked TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from puffer_policies.config.config import Config
from puffer_policies.errors import ConfigError, TrainingError
from puffer_policies.runs.folder import METRICS
from puffer_policies.runs.optional import import_optional

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


class MetricsLog:
    """Appends one JSON object a line to a file, and flushes each so that a crash loses nothing.

    Args:
        path: the file; made if it is missing.
        epoch: lines after this update are cut away; those of a run that goes on from there.

    Raises:
        ConfigError: the file can't be opened, or another process is writing it.
    """

    def __init__(self, path: Path, *, epoch: int = 0) -> None:
        self.path = path
        try:
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
        if path.is_file():  # a device has no end to cut at
            self._file.truncate(_length_up_to(path, epoch))

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            TrainingError: the line can't be written: a full disk, say.
        """
        try:
            self._file.write(json_line(metrics))
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self.path} can't be written: {error}.",
                fix="Make room, then go on from the last checkpoint with --resume.",
            ) from error

    def sync(self) -> None:
        """Bring the lines to the disk, so that none before a checkpoint is lost with the power."""
        with suppress(OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what could not be written was told by `write`."""
        with suppress(OSError):
            self._file.close()


def json_line(metrics: Mapping[str, Any]) -> str:
    """Return one line of JSON; numbers that are not finite, which JSON lacks, become null."""
    return json.dumps(_finite(dict(metrics)), allow_nan=False) + "\n"


def _lock(file: TextIO, folder: Path) -> None:
    """Keep the file for this process, as long as it lives."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"{folder} belongs to a run that another process is going on with.",
            fix="Wait for its end, or copy the folder and go on from the copy.",
        ) from error
    except OSError:
        return  # some network disks have no locks


def _length_up_to(path: Path, epoch: int) -> int:
    """Return the bytes of the lines up to an update; one torn by a kill is none of them."""
    length = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or not _is_update(line, epoch):
            break
        length += len(line)
    return length


def _is_update(line: bytes, epoch: int) -> bool:
    try:
        return bool(json.loads(line)["epoch"] <= epoch)
    except (ValueError, KeyError, TypeError):
        return False


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Logger(Protocol):
    """Takes in what a run measures."""

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Take in what an update, an evaluation or the end of the run has to say."""
        ...

    def sync(self) -> None:
        """Bring everything to its place."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


class TensorBoard:
    """Writes event files into a folder, for ``tensorboard --logdir``.

    Args:
        folder: where to.
        step: env steps from which a run goes on; what an earlier process said after it is hidden.

    Raises:
        MissingDependency: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        import_optional("tensorboard", extra="tensorboard", purpose="log.tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)
        self._step = step

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Add every number at the run's count of env steps."""
        self._step = int(metrics.get("agent_steps", self._step))
        for name, value in numbers(metrics).items():
            self._writer.add_scalar(name, value, self._step)

    def sync(self) -> None:
        """Write what is waiting."""
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """Sends to a project of https://wandb.ai; a run that goes on goes on there, too.

    Args:
        project: its name.
        config: what the run is trained by, plain data.
        folder: the run's; its name is the run's name and id.

    Raises:
        MissingDependency: wandb is not installed.
    """

    def __init__(self, project: str, *, config: Mapping[str, Any], folder: Path) -> None:
        wandb: Any = import_optional("wandb", extra="wandb", purpose="log.wandb")
        name = folder.name
        self._run = wandb.init(
            project=project, name=name, id=name, resume="allow", config=config, dir=str(folder)
        )

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Send every number; ``agent_steps`` among them serves as the axis."""
        self._run.log(numbers(metrics))

    def sync(self) -> None:
        """Wandb sends by itself."""

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()


class Loggers:
    """Several loggers as one."""

    def __init__(self, loggers: list[Logger]) -> None:
        self._loggers = loggers

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Hand `metrics` to each."""
        for each in self._loggers:
            each.write(metrics)

    def sync(self) -> None:
        """Let each bring everything to its place."""
        for each in self._loggers:
            each.sync()

    def close(self) -> None:
        """Finish each, whatever the others do."""
        while self._loggers:
            try:
                self._loggers.pop().close()
            except Exception:
                self.close()
                raise


@contextmanager
def open_loggers(config: Config, folder: Path, *, epoch: int, step: int) -> Iterator[Loggers]:
    """Open the loggers that `config` asks for; a run goes on after `epoch` updates of `step` steps.

    Raises:
        ConfigError: the folder can't be written, or belongs to a run of another process.
        MissingDependency: a package is not installed.
    """
    loggers: list[Logger] = [MetricsLog(folder / METRICS, epoch=epoch)]
    opened = Loggers(loggers)
    try:
        if config.log.tensorboard:
            loggers.append(TensorBoard(folder, step=step))
        if config.log.wandb is not None:
            args = config.to_args()
            loggers.append(WeightsAndBiases(config.log.wandb, config=args, folder=folder))
        yield opened
    finally:
        opened.close()


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of nested metrics under flat names: ``evaluation/mean``."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found
