"""A video of a policy that plays in one env, as .mp4 or .gif."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from torch import nn

from puffer_policies.config.config import Config
from puffer_policies.envs.families import evaluation_kwargs
from puffer_policies.errors import ConfigError, EnvError
from puffer_policies.files import user_path
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.runs.optional import import_optional
from puffer_policies.vector.factory import make_vecenv

SUFFIXES = (".mp4", ".gif")
DEFAULT_FPS = 30
"""Frames per second if the env's metadata have no ``render_fps``."""
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
        EnvError: the env can't render itself.
    """
    path = require_video(path)
    env = _rendering_env(config)
    try:
        fps = float(_single(env).metadata.get("render_fps") or DEFAULT_FPS)
        film = _Film(path, fps, env)
        try:
            evaluation = evaluate(
                policy,
                env,
                replace(config.eval, episodes=episodes),
                use_rnn=config.train.use_rnn,
                watch=lambda finished: film.shoot(),
            )
        finally:
            film.close()
    finally:
        env.close()
    return Video(str(path), film.frames, fps, evaluation.returns)


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
    # Asked for below, once the env is known to have it.
    kwargs.pop("render_mode", None)
    # Made once without rendering, as gymnasium raises on an unknown mode before one can ask.
    plain = make_vecenv(name, vectorization="sync", env_kwargs=kwargs)
    try:
        modes = _single(plain).metadata.get("render_modes") or ()
    finally:
        plain.close()
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
        self._env = _single(vecenv)
        self._writer = _writer(path, fps)
        self.frames = 0

    def shoot(self) -> None:
        self._writer.append_data(_even(_picture(self._env)))
        self.frames += 1

    def close(self) -> None:
        self._writer.close()


def _picture(env: Any) -> np.ndarray:
    try:
        picture = env.render()
    except gymnasium.error.Error as error:  # a package for drawing is missing, say
        raise EnvError(f"The env can't render itself: {error}") from error
    if np.ndim(picture) != 3:
        raise EnvError(
            f"The env's render() must return an array (height, width, 3), found {type(picture)!r}."
        )
    return np.asarray(picture, dtype=np.uint8)


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
