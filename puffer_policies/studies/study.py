"""What a sweep remembers: Optuna's study in a journal file, and its trials as plain data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from puffer_policies.errors import ConfigError

Sampler = Literal["tpe", "random"]
Outcome = Literal["finished", "pruned", "failed", "interrupted"]

JOURNAL = "journal.log"
STARTUP = 5
"""Trials that must have finished before one is pruned."""
WARMUP = 2
"""Reports that each trial is given, whatever they say."""
_NAME, _SETUP = "sweep", "setup"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep."""

    number: int
    values: Mapping[str, Any]
    """Of the options that are searched, by ``section.name``."""
    outcome: Outcome
    objective: float | None
    """Where it finished."""
    folder: str = ""
    """Of the run; empty where there is none."""
    error: str = ""

    @property
    def objective_text(self) -> str:
        """The objective in a few digits, or the outcome of a trial without one."""
        return self.outcome if self.objective is None else short(self.objective)

    @property
    def values_text(self) -> str:
        """The values of the options in one line."""
        return values_text(self.values)


def values_text(values: Mapping[str, Any]) -> str:
    """Return values of options in one line: ``train.gamma=0.98, train.ent_coef=0.00123``."""
    return ", ".join(f"{key}={short(value)}" for key, value in values.items())


def short(value: Any) -> str:
    """Return a number in a few digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def open_study(folder: Path, setup: Mapping[str, Any], *, minimize: bool) -> Any:
    """Return the Optuna study of a folder, a new one if there is none.

    Args:
        folder: made if it does not exist.
        setup: plain data that must be the same for a sweep to go on.
        minimize: whether less is better.

    Raises:
        ConfigError: the folder can't be written, or holds a sweep with another `setup`.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"No sweep can be written to {folder}: {error}.") from error
    with _quiet():
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name=_NAME,
            direction="minimize" if minimize else "maximize",
            pruner=optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=WARMUP),
            load_if_exists=True,
        )
    _require_same(folder, study, json.loads(json.dumps(setup)))
    return study


def make_sampler(sampler: Sampler, seed: int) -> Any:
    """Return Optuna's sampler of that name."""
    import optuna

    if sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    return optuna.samplers.TPESampler(seed=seed)


def state_of(outcome: Outcome) -> Any:
    """Return what Optuna calls an outcome."""
    from optuna.trial import TrialState

    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    return states.get(outcome, TrialState.FAIL)


def trial_of(frozen: Any) -> Trial:
    """Return a trial of Optuna's as plain data. One that was killed has no outcome: interrupted."""
    known = frozen.user_attrs
    outcome = known.get("outcome", "interrupted")
    return Trial(
        number=frozen.number,
        values=dict(frozen.params),
        outcome=outcome,
        objective=frozen.value if outcome == "finished" else None,
        folder=known.get("folder", ""),
        error=known.get("error", ""),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from telling that it made a study."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _require_same(folder: Path, study: Any, setup: Mapping[str, Any]) -> None:
    known = study.user_attrs.get(_SETUP)
    if known is None:
        study.set_user_attr(_SETUP, setup)
        return
    then, now = _flat(known), _flat(setup)
    # An option that one of two versions does not know is no difference.
    differing = [key for key in then.keys() & now.keys() if then[key] != now[key]]
    differing += [key for key in then.keys() ^ now.keys() if key.startswith("ranges.")]
    if differing:
        lines = (f"  {key}: {then.get(key)} then, {now.get(key)} now" for key in sorted(differing))
        raise ConfigError(
            f"{folder} holds a sweep of something else:\n" + "\n".join(lines),
            fix="Give the same options as then, or another folder.",
        )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
