"""A video of a policy that plays in one env, as .mp4 or .gif."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from puffer_policies.config.config import Config
from puffer_policies.envs.factory import lacks_single_env
from puffer_policies.envs.families import evaluation_kwargs
from puffer_policies.errors import ConfigError, EnvError
from puffer_policies.files import user_path
from puffer_policies.foreign import import_optional
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.vector.faults import FAULTS, closing, first_line

SUFFIXES = (".mp4", ".gif")
DEFAULT_FPS = 30
"""Frames per second if the env's metadata have no ``render_fps``."""
MAX_FPS = 1000
"""More frames per second can't be meant, and ffmpeg refuses them."""
MAX_GIF_FPS = 50
"""Viewers slow down a .gif whose frames last less than 0.02 s."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video file, and the returns of the episodes in it."""

    path: str
    frames: int
    fps: float
    returns: tuple[float, ...]
    """Returns of the episodes that are complete in the video."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        seconds = self.frames / self.fps
        returns = ", ".join(f"{each:,.2f}" for each in self.returns) or "of no complete episode"
        return f"{self.path}: {self.frames:,} frames, {seconds:.1f} s, return {returns}"


def record_video(
    policy: nn.Module, config: Config, path: Path | str, *, episodes: int = 1
) -> Video:
    """Play `episodes` in one env as `evaluate` does, by the config's [eval], and record them.

    Args:
        policy: the policy that plays.
        config: the config of its run.
        path: a file that ends in .mp4 or .gif, in a folder that exists.
        episodes: number of episodes, played one after the other.

    Raises:
        ConfigError: `path` can't be written or ends otherwise.
        MissingDependency: imageio is not installed.
        EnvError: the env can't render itself, or returns what is not a picture. Nothing is left at
            `path` then.
    """
    path = require_video(path)
    env = _rendering_env(config)
    with closing(env):
        film = _Film(path, _fps_of(_single(env)), env)
        try:
            evaluation = evaluate(
                policy,
                env,
                replace(config.eval, episodes=episodes),
                use_rnn=config.train.use_rnn,
                watch=lambda finished: film.shoot(),
            )
            film.close()
        except BaseException:
            film.discard()
            raise
    return Video(str(path), film.frames, film.fps, evaluation.returns)


def require_video(path: Path | str) -> Path:
    """Return `path` if a video can be written there, to be asked before minutes of playing.

    Raises:
        ConfigError: it ends in neither .mp4 nor .gif, or its folder does not exist.
        MissingDependency: imageio is not installed.
    """
    path = user_path(path)
    if path.suffix.lower() not in SUFFIXES or path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"No video can be written to {str(path)!r}.",
            fix=f"Give a file that ends in {' or '.join(SUFFIXES)}, in a folder that exists.",
        )
    _import_writers(path.suffix.lower())
    return path


def _import_writers(suffix: str) -> Any:
    """Return imageio, after making sure that the package with which it writes is installed."""
    for module in ("imageio", "PIL" if suffix == ".gif" else "imageio_ffmpeg"):
        import_optional(module, extra="video", purpose=f"A {suffix}")
    return import_optional("imageio.v2", extra="video", purpose=f"A {suffix}")


def _rendering_env(config: Config) -> Any:
    """Make one env that renders frames, in this process."""
    name = config.base.env_name
    kwargs = dict(evaluation_kwargs(name, config.env))
    if lacks_single_env(name):
        raise EnvError(
            f"{name} can't be recorded: it is a vector class alone, which renders nothing.",
            fix="Leave --video out.",
        )
    # Asked for below, once the env is known to have it.
    kwargs.pop("render_mode", None)
    # Made once without rendering, as gymnasium raises on an unknown mode before one can ask.
    plain = make_vecenv(name, vectorization="sync", env_kwargs=kwargs)
    with closing(plain):
        modes = _single(plain).metadata.get("render_modes") or ()
    if "rgb_array" not in modes:
        raise EnvError(
            f"{name} can't be recorded: it has no render mode 'rgb_array', only "
            f"{', '.join(map(repr, modes)) or 'none at all'}.",
            fix="Leave --video out.",
        )
    kwargs["render_mode"] = "rgb_array"
    return make_vecenv(name, vectorization="sync", env_kwargs=kwargs)


def _single(vecenv: Any) -> Any:
    """Return the one env inside a vector env."""
    envs = getattr(getattr(vecenv, "env", None), "envs", None)
    if not envs:
        raise EnvError(
            f"{vecenv!r} can't be recorded: it has no single gymnasium env inside.",
            fix="Leave --video out.",
        )
    return envs[0]


class _Film:
    """Writes each frame at once, as all frames of a long video may not fit into memory."""

    def __init__(self, path: Path, fps: float, vecenv: Any) -> None:
        self.path, self.fps, self.frames = path, fps, 0
        self._env = _single(vecenv)
        self._shape: tuple[int, ...] | None = None
        self._unit: float | None = None
        """What counts as full brightness in frames of floats; None until one is not black."""
        with self._writing():
            self._writer = _writer(path, fps)

    def shoot(self) -> None:
        """Append a frame.

        Raises:
            EnvError: render() fails, or returns what is not a picture, or not of the first's size.
            ConfigError: the file can't be written.
        """
        picture = self._colors(_picture(self._env))
        shape = self._shape = self._shape or picture.shape
        if picture.shape != shape:
            raise EnvError(
                f"Frame {self.frames} has {picture.shape[0]} x {picture.shape[1]} pixels, those "
                f"before it {shape[0]} x {shape[1]}: a video has frames of one size.",
                fix="The env's render() must return arrays of one shape.",
            )
        with self._writing():
            self._writer.append_data(_even(picture))
        self.frames += 1

    def close(self) -> None:
        """Finish the file.

        Raises:
            ConfigError: it can't be written.
        """
        with self._writing():
            self._writer.close()

    def discard(self) -> None:
        """Remove the file."""
        with suppress(Exception):
            self._writer.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _colors(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) numbers -> uint8. Floats and bools reach from 0 to 1, or floats to 255."""
        if picture.dtype == np.uint8:
            return picture
        if picture.dtype.kind == "f":
            picture = np.nan_to_num(picture, nan=0.0)
            # Decided once: a dark frame of a film up to 255 must not be brightened.
            if self._unit is None and picture.max() > 0:
                self._unit = 255.0 if picture.max() > 1 else 1.0
            picture = np.rint(picture * (255.0 / (self._unit or 1.0)))
        elif picture.dtype.kind == "b":
            picture = picture * 255
        colors: np.ndarray = np.clip(picture, 0, 255).astype(np.uint8)
        return colors

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, TypeError, ValueError) as error:  # imageio has no own class
            raise ConfigError(
                f"The video {str(self.path)!r} can't be written: {first_line(error)}.",
                fix="Check the free space there, or use the other of .mp4 and .gif.",
            ) from error


def _fps_of(env: Any) -> float:
    """Return the frames per second of an env's metadata, or the default if they have none."""
    try:
        fps = float(env.metadata.get("render_fps") or DEFAULT_FPS)
    except (TypeError, ValueError):
        return DEFAULT_FPS
    return fps if 0 < fps < MAX_FPS else DEFAULT_FPS


def _picture(env: Any) -> np.ndarray:
    """Return a frame of the env, (H, W, 3) of any kind of real numbers."""
    try:
        picture = env.render()
    except FAULTS as error:  # a package for drawing is missing, say
        raise EnvError(f"The env can't render itself: {first_line(error)}.") from error
    array = np.asarray(picture)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype.kind not in "buif":
        kind = f"{array.dtype} {array.shape}" if array.ndim else type(picture).__name__
        raise EnvError(
            "The env's render() must return an array (height, width), or (height, width, channels) "
            f"with 1, 3 or 4 channels, found {kind}."
        )
    if not array.size:
        raise EnvError(f"The env's render() returned a picture without pixels, {array.shape}.")
    # Gray becomes three equal colors; transparency is left out.
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]


def _writer(path: Path, fps: float) -> Any:
    suffix = path.suffix.lower()
    imageio = _import_writers(suffix)
    if suffix == ".gif":
        # Pillow takes the duration of a frame in milliseconds.
        return imageio.get_writer(path, mode="I", duration=1000 / min(fps, MAX_GIF_FPS), loop=0)
    # macro_block_size=1: imageio would scale the frames to multiples of 16 otherwise.
    return imageio.get_writer(path, fps=fps, macro_block_size=1)


def _even(picture: np.ndarray) -> np.ndarray:
    """Repeat the last row or column of an odd frame: H.264 in its common form needs even sizes."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
