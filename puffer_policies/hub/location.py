"""The door through which every checkpoint comes: a path, the Hub or an installed package.

Whoever takes a checkpoint takes each of these, and gets a file:

- the path of a file, or of the folder of a run, for its last checkpoint;
- ``hf://org/name@revision``, on the Hugging Face Hub;
- ``pretrained://name``, among those that installed packages bring.
"""

from __future__ import annotations

import re
from pathlib import Path

from puffer_policies.errors import CheckpointError, did_you_mean
from puffer_policies.files import BEST, LATEST, NO_RUN, file_of_run, path_text, user_path
from puffer_policies.hub.repository import FORM, SCHEME, HubLocation, download
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.packages import pretrained_path

PRETRAINED = "pretrained://"

Location = Path | str
"""What stands for a checkpoint wherever one is taken."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def checkpoint_of(
    location: Location, *, best: bool = False, registry: Registry | None = None
) -> Path:
    """Return the file of a checkpoint, which is downloaded from the Hub if it is there.

    Args:
        location: a checkpoint, the folder of a run, ``hf://...`` or ``pretrained://...``.
        best: the run's best checkpoint instead of its last.
        registry: where pretrained policies are looked up; the default registry if None.

    Raises:
        CheckpointError: there is no such file, folder or repo, or the folder holds no such
            checkpoint.
        PolicyNotFound, AmbiguousName: no installed package brings it, or several do.
    """
    text = path_text(location)
    if match := _SCHEME.match(text):
        return _fetched(text, match[1].lower(), best=best, registry=registry)
    path = user_path(text)
    if not path.exists():
        raise CheckpointError(
            f"There is neither a run nor a checkpoint {path}.", fix=_near(path, registry)
        )
    if path.is_dir():
        return file_of_run(path, BEST if best else LATEST)
    if best:
        raise _single(str(path))
    return path


def _fetched(text: str, scheme: str, *, best: bool, registry: Registry | None) -> Path:
    """Return the file of a location that is not a path."""
    if scheme not in ("hf", "pretrained"):
        raise CheckpointError(
            f"A checkpoint can't be read from {text}.",
            fix=f"Give a path, {FORM} or pretrained://NAME.",
        )
    # A Path makes one slash of two.
    if not text.startswith((SCHEME, PRETRAINED)):
        raise CheckpointError(
            f"{text} has one slash after its colon, as a pathlib.Path makes it.",
            fix=f"Give it as text: {scheme}://{text.partition(':')[2].lstrip('/')}",
        )
    if best:
        raise _single(text)
    if text.startswith(SCHEME):
        return download(HubLocation.parse(text))
    registry = default_registry() if registry is None else registry
    return pretrained_path(registry.pretrained_policy(text.removeprefix(PRETRAINED)))


def _single(text: str) -> CheckpointError:
    return CheckpointError(
        f"{text} is a single checkpoint, not a run with a best one.",
        fix="Give the folder of the run, or leave --best out.",
    )


def _near(path: Path, registry: Registry | None) -> str:
    registry = default_registry() if registry is None else registry
    if str(path) in registry.pretrained:
        return f"A pretrained policy has this name: {PRETRAINED}{path}, or --pretrained {path}."
    if not path.parent.is_dir():
        return NO_RUN
    return did_you_mean(path.name, (each.name for each in path.parent.iterdir())) or NO_RUN
