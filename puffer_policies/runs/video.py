"""A film of a policy at play: one env, drawn by itself, written as .mp4 or .gif."""

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
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.runs.optional import import_optional
from puffer_policies.vector.factory import make_vecenv

SUFFIXES = (".mp4", ".gif")
DEFAULT_FPS = 30
"""Pictures a second where the env's metadata have no ``render_fps``."""
MAX_GIF_FPS = 50
"""Viewers slow down a .gif whose pictures stand for less than 0.02 s."""


@dataclass(frozen=True, slots=True)
class Video:
    """What was recorded."""

    path: str
    frames: int
    fps: float
    returns: tuple[float, ...]
    """Of the episodes that are seen whole."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        seconds = self.frames / self.fps
        returns = ", ".join(f"{each:,.2f}" for each in self.returns) or "of no whole episode"
        return f"{self.path}: {self.frames:,} pictures, {seconds:.1f} s, return {returns}"


def record_video(
    policy: nn.Module, config: Config, path: Path | str, *, episodes: int = 1
) -> Video:
    """Play `episodes` in one env as `evaluate` does, by the config's [eval], and film them.

    Args:
        policy: plays.
        config: names the env, and how it is played.
        path: ends in .mp4 or .gif; its folder must exist.
        episodes: how many are played, one after the other.

    Raises:
        ConfigError: `path` can't be written or ends otherwise.
        MissingDependency: imageio is not installed.
        EnvError: the env can't draw itself.
    """
    path = require_video(path)
    env = _drawn_env(config)
    try:
        fps = float(_single(env).metadata.get("render_fps") or DEFAULT_FPS)
        film = _Film(path, fps, env)
        try:
            played = evaluate(
                policy,
                env,
                replace(config.eval, episodes=episodes),
                use_rnn=config.train.use_rnn,
                watch=film.shoot,
            )
        finally:
            film.close()
    finally:
        env.close()
    return Video(str(path), film.frames, fps, played.returns)


def require_video(path: Path | str) -> Path:
    """Return `path` if a video can be written there: told before minutes are spent on playing.

    Raises:
        ConfigError: it ends in neither .mp4 nor .gif, or its folder does not exist.
        MissingDependency: imageio is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES or path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"No video can be written to {str(path)!r}.",
            fix=f"Give a file that ends in {' or '.join(SUFFIXES)}, in a folder that exists.",
        )
    _import_writers(path.suffix.lower())
    return path


def _import_writers(suffix: str) -> Any:
    """Return imageio, once what it writes such files with is there, too."""
    for module in ("imageio", "PIL" if suffix == ".gif" else "imageio_ffmpeg"):
        import_optional(module, extra="video", purpose=f"A {suffix}")
    return import_optional("imageio.v2", extra="video", purpose=f"A {suffix}")


def _drawn_env(config: Config) -> Any:
    """Make one env that draws pictures, in this process."""
    name = config.base.env_name
    kwargs = dict(evaluation_kwargs(name, config.env))
    kwargs.pop("render_mode", None)
    plain = make_vecenv(name, vectorization="sync", env_kwargs=kwargs)
    try:
        modes = _single(plain).metadata.get("render_modes") or ()
    finally:
        plain.close()
    if "rgb_array" not in modes:
        raise EnvError(
            f"{name} can't be filmed: it has no render mode 'rgb_array', only "
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
            f"{vecenv!r} can't be filmed: it has no single gymnasium env inside.",
            fix="Leave --video out.",
        )
    return envs[0]


class _Film:
    """Takes a picture whenever it is told to, and writes it at once: films can be long."""

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
        raise EnvError(f"The env can't draw itself: {error}") from error
    if np.ndim(picture) != 3:
        raise EnvError(
            f"The env's render() returned no picture (height, width, 3), but {type(picture)!r}."
        )
    return np.asarray(picture, dtype=np.uint8)


def _writer(path: Path, fps: float) -> Any:
    suffix = path.suffix.lower()
    imageio = _import_writers(suffix)
    if suffix == ".gif":
        return imageio.get_writer(path, mode="I", duration=1000 / min(fps, MAX_GIF_FPS), loop=0)
    return imageio.get_writer(path, fps=fps, macro_block_size=1)


def _even(picture: np.ndarray) -> np.ndarray:
    """Repeat the last row or column of an odd picture: H.264 in its common form wants even ones."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
