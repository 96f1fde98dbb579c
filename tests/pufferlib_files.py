"""The files in tests/pufferlib_configs: our own, in the forms that PufferLib's files have."""

from __future__ import annotations

import warnings
from pathlib import Path

from puffer_policies.config.config import Config
from puffer_policies.config.load import ConfigWarning, load_config

FOLDER = Path(__file__).parent / "pufferlib_configs"
FILES = sorted(FOLDER.glob("*.ini"))

CHOSEN = {
    "contradiction": "atari_pong",
    "default": "CartPole-v1",
    "four": "CartPole-v1",
    "many_envs": "Ant-v4",
    "old_train_keys": "CartPole-v1",
}
"""The env to take, for files that name none or several."""


def load(stem: str) -> Config:
    """Return the config of a file, its warnings left out."""
    flags = ["--env-name", CHOSEN[stem]] if stem in CHOSEN else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        return load_config(str(FOLDER / f"{stem}.ini"), flags)
