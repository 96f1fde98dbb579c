"""What the folder of a run holds, by file name, and which of its checkpoints is meant."""

from __future__ import annotations

from pathlib import Path

from puffer_policies.errors import CheckpointError, did_you_mean

LATEST = "latest.safetensors"
"""The policy as it was last saved."""
BEST = "best.safetensors"
"""The policy as it was when it did best."""
TRAINER = "trainer.safetensors"
"""The state of the trainer that belongs to `LATEST`."""
METRICS = "metrics.jsonl"
"""A line of JSON for each update, and one for the final evaluation."""
NO_RUN = "Give a checkpoint, or the folder of a run that holds one."


def checkpoint_of(path: Path | str, *, best: bool = False) -> Path:
    """Return the checkpoint that `path` stands for: itself, or one in the folder of a run.

    Args:
        path: a checkpoint, or the folder of a run.
        best: the checkpoint of the run's best moment instead of its last.

    Raises:
        CheckpointError: no such file or folder, or the folder holds no such checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"There is no run and no checkpoint {path}.", fix=_near(path))
    if not path.is_dir():
        if best:
            raise CheckpointError(
                f"{path} is one checkpoint: there is no best among it.",
                fix="Give the folder of a run, or leave the best one out.",
            )
        return path
    checkpoint = path / (BEST if best else LATEST)
    if not checkpoint.is_file():
        raise CheckpointError(f"{path} holds no {checkpoint.name}.", fix=held(path))
    return checkpoint


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return NO_RUN
    return did_you_mean(path.name, (each.name for each in path.parent.iterdir())) or NO_RUN


def held(folder: Path) -> str:
    """Return a hint at what a folder holds, for whoever looked for something else in it."""
    checkpoints = sorted(each.name for each in folder.glob("*.safetensors") if each.name != TRAINER)
    if checkpoints:
        return f"It holds {', '.join(checkpoints)}."
    runs = sorted(each.parent.name for each in folder.glob("*/config.json"))
    return f"Runs in it: {', '.join(runs[-5:])}." if runs else NO_RUN
