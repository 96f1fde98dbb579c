"""Sharing: a checkpoint with its card, its results and its video, as one repo of the Hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from puffer_policies.assembly.header import METADATA_KEY, Header
from puffer_policies.assembly.tensortable import (
    entries_of,
    explained,
    line_of,
    regular_file,
    with_line,
)
from puffer_policies.config.command import without_places
from puffer_policies.config.load import CONFIG_FILE
from puffer_policies.errors import CheckpointError, ConfigError
from puffer_policies.export.targets import READER, TARGETS
from puffer_policies.files import replace_file, user_path
from puffer_policies.hub.location import Location, checkpoint_of
from puffer_policies.hub.repository import MODEL, SCHEME, HubLocation, require_repo, upload
from puffer_policies.registry import Registry
from puffer_policies.runs.model_card import EVALUATION, ModelCard, is_model_card, read_card
from puffer_policies.streams import json_text

if TYPE_CHECKING:
    from puffer_policies.runs.evaluate import Evaluation

CARD, RESULTS = "README.md", "results.json"

EXPORTS = {target.suffix: target.summary for target in TARGETS.values()}
"""Endings of files beside a checkpoint that are shared with it -> what they are."""
HEADER = TARGETS["c"].suffix
VIDEOS = ("replay.mp4", "replay.gif")

_EXPORT = "puffer_policies.export.api:export_policy"
_MODEL = Path(MODEL)
OURS = (
    *(MODEL, CARD, RESULTS, CONFIG_FILE, *VIDEOS),
    *(_MODEL.with_suffix(suffix).name for suffix in EXPORTS),
    READER,
)
"""Files of a repo that a push replaces: an export of earlier weights must not stay beside new ones.
"""


def push_to_hub(
    run: Location,
    repo: str,
    *,
    best: bool = False,
    private: bool | None = None,
    evaluation: Evaluation | None = None,
    message: str = "",
    token: str | None = None,
    registry: Registry | None = None,
) -> str:
    """Share a checkpoint with its card on the Hugging Face Hub, and return its location there.

    Beside it go the config, the results, and what of `EXPORTS` and `VIDEOS` is in its folder.
    Nothing else of the folder is sent: neither the trainer's state nor metrics or logs.

    Args:
        run: the folder of a run, or a checkpoint, as `checkpoint_of` takes it.
        repo: ``org/name``, which is created if it is missing.
        best: the run's best checkpoint instead of its last.
        private: whether a repo that is created is private; by the rule of its owner if None.
        evaluation: the results to state; those that are recorded for the checkpoint if None.
        message: that of the commit.
        token: of an account that may write there; the one that is logged in if None.
        registry: where pretrained policies are looked up; the default registry if None.

    Returns:
        ``hf://org/name@commit``, which will always be this checkpoint.

    Raises:
        MissingDependency: huggingface_hub is not installed.
        CheckpointError: there is no such checkpoint, an export or a video is older than it, `repo`
            is not the name of a repo, there is no token, or the Hub refuses.
    """
    require_repo(repo)
    path = checkpoint_of(run, best=best, registry=registry)
    _require_later(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        card = card_of(path, location=str(HubLocation(repo)), evaluation=evaluation)
        companions = dict(_companions(path))
        header = companions.pop(path.with_suffix(HEADER), None)
        if header is not None:
            # Written anew, as its constants have the file's name. It is imported by name, as torch
            # comes with it.
            resolve_name(_EXPORT)(path, folder / header, to="c", registry=registry)
        for source, target in companions.items():
            shutil.copyfile(source, folder / target)
        write_checkpoint(path, folder / MODEL, card)
        _write_json(folder / RESULTS, card.evaluation)
        _write_json(folder / CONFIG_FILE, without_places(card.header.config))
        (folder / CARD).write_text(card.text(), encoding="utf-8")
        title = message or f"{card.policy}{f' on {card.env}' if card.env else ''}"
        place = upload(folder, repo, message=title, private=private, token=token, replaced=OURS)
    return str(place)


def card_of(path: Path, *, location: str, evaluation: Evaluation | None = None) -> ModelCard:
    """Return the card of a checkpoint, with the files that a push puts beside it.

    Args:
        path: the file, of `checkpoint_of`.
        location: where others load it from.
        evaluation: the results to state; those that are recorded for the checkpoint if None.
    """
    card = read_card(path, location=location)
    if evaluation is not None and evaluation.returns:
        # As a file of JSON has it: the interval becomes a list.
        results: dict[str, Any] = json.loads(json_text(evaluation.to_dict()))
        card = replace(card, evaluation=results)
    in_repo = location.startswith(SCHEME)
    model = MODEL if in_repo else path.name
    files = {model: "the policy: weights, what rebuilds it, and a sample of its answers"}
    # A push writes it, and `train` has written it into its folder.
    if card.header.config and (in_repo or (path.parent / CONFIG_FILE).is_file()):
        files[CONFIG_FILE] = "the config of its training"
    if card.evaluation and in_repo:
        files[RESULTS] = "the results above"
    for _, target in _companions(path):
        files[target] = EXPORTS.get(Path(target).suffix, "the policy at work")
    if in_repo and _MODEL.with_suffix(HEADER).name in files:
        files[READER] = "the reader in C"
    return replace(card, files=files)


def write_checkpoint(
    path: Path, target: Path, card: ModelCard, training: Mapping[str, Any] | None = None
) -> None:
    """Copy a checkpoint as others get it: with the results of its card, without places of its run.

    Args:
        path: the file, of `checkpoint_of`.
        target: where the copy goes.
        card: its card.
        training: more facts for `Header.training`.
    """
    with explained(path):
        data = regular_file(path).read_bytes()
        line = line_of(entries_of(data).get("__metadata__"), path, METADATA_KEY)
    # From the same bytes as the tensors: a run that is training replaces its checkpoints.
    header = Header.from_json(line, path)
    results = {EVALUATION: card.evaluation} if card.evaluation else {}
    public = replace(
        header,
        config=without_places(header.config),
        training={**header.training, **(training or {}), **results},
    )
    replace_file(target, with_line(data, public.to_json(), key=METADATA_KEY))


def write_card(path: Path | str, card: ModelCard) -> Path:
    """Write a card, in place of an earlier card alone.

    Raises:
        ConfigError: another file is there, or it can't be written.
    """
    path = user_path(path)
    try:
        if path.exists() and not is_model_card(path.read_text(encoding="utf-8", errors="replace")):
            raise ConfigError(
                f"{path} is there, and not a card that this wrote.", fix="Give another file by -o."
            )
        replace_file(path, card.text().encode())
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error}.") from error
    return path


def _companions(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files that are shared with a checkpoint, each with its name in the repo.

    Exports have its name, as `export` gives it to them; so has the video, but in a run.
    """
    pairs = [(path.with_suffix(suffix), _MODEL.with_suffix(suffix).name) for suffix in EXPORTS]
    in_run = (path.parent / CONFIG_FILE).is_file()
    for name in VIDEOS:
        film = path.parent / name if in_run else path.with_suffix(Path(name).suffix)
        pairs.append((film, name))
    yield from ((source, target) for source, target in pairs if source.is_file())


def _require_later(path: Path) -> None:
    """Refuse files that were made before the checkpoint, as before a run was resumed."""
    saved = path.stat().st_mtime_ns
    older = [each.name for each, _ in _companions(path) if each.stat().st_mtime_ns < saved]
    if older:
        raise CheckpointError(
            f"{', '.join(older)} in {path.parent} was made before {path.name}, and may be of other "
            "weights.",
            fix="Make it again, or move it away.",
        )


def _write_json(path: Path, data: Mapping[str, Any] | None) -> None:
    if data:
        path.write_text(f"{json_text(data, indent=2)}\n", encoding="utf-8")
