"""Sweeps: Optuna proposes values of options, a run evaluates them, and a folder keeps them all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from puffer_policies.config.config import Config, config_to_toml
from puffer_policies.errors import ConfigError, PolicyError
from puffer_policies.files import user_path
from puffer_policies.foreign import import_optional
from puffer_policies.registry import Registry
from puffer_policies.runs.interrupts import INTERRUPT, signal_of
from puffer_policies.runs.run import RunResult, train_from_config
from puffer_policies.runs.setup import policy_of, single_vecenv_of
from puffer_policies.studies.curves import RETURN
from puffer_policies.studies.ranges import SearchRange, with_values
from puffer_policies.vector.seeds import Stream, spawn_seeds

Sampler = Literal["tpe", "random"]
Outcome = Literal["finished", "pruned", "failed", "interrupted"]

JOURNAL = "journal.log"
STARTUP = 5
"""Number of finished trials before one may be pruned."""
WARMUP = 2
"""Number of reports for which a trial is not pruned."""
_NAME, _SETUP = "sweep", "setup"
_FREE = ("ranges.", "config.env.", "config.policy.", "config.rnn.")

EVALUATION = "evaluation"
"""The objective that is not a metric: the mean return of the final evaluation."""
BEST_CONFIG = "best.toml"
REPORTS = 10
"""Number of evenly spaced moments of a run at which it may be pruned."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep."""

    number: int
    values: Mapping[str, Any]
    """Values of the searched options, by ``section.name``."""
    outcome: Outcome
    objective: float | None
    """None unless the trial finished."""
    folder: str = ""
    """Folder of the run; empty if there is none."""
    error: str = ""

    @property
    def objective_text(self) -> str:
        """The objective in a few digits, or the outcome of a trial without one."""
        return self.outcome if self.objective is None else short(self.objective)

    @property
    def values_text(self) -> str:
        """The values of the options in one line."""
        return values_text(self.values)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The trials of a sweep, as far as it got."""

    env: str
    folder: Path
    objective: str
    trials: tuple[Trial, ...]
    """Best first, those without an objective last."""
    signal: str = ""
    """The name of the signal that interrupted it; empty if none did."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal interrupted it."""
        return bool(self.signal)

    @property
    def best(self) -> Trial | None:
        """The best finished trial."""
        return self.trials[0] if self.trials and self.trials[0].objective is not None else None

    @property
    def best_config(self) -> Path | None:
        """The config of the best finished trial, as a file."""
        return None if self.best is None else self.folder / BEST_CONFIG

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        best = self.best
        return {
            "env": self.env,
            "folder": str(self.folder),
            "objective": self.objective,
            "interrupted": self.interrupted,
            "best": None if best is None else asdict(best),
            "best_config": None if best is None else str(self.best_config),
            "trials": [asdict(each) for each in self.trials],
        }


def sweep(
    config: Config,
    ranges: Sequence[SearchRange],
    *,
    trials: int,
    folder: Path | str,
    sampler: Sampler = "tpe",
    objective: str = EVALUATION,
    minimize: bool = False,
    registry: Registry | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Sweep:
    """Train `trials` times with options from `ranges`, and write the best ones to ``best.toml``.

    From the sixth trial on, a trial is pruned if its training return is below the median of the
    others at the same share of its steps. If the folder holds a sweep, it continues.

    Args:
        config: the config of all trials, but for the searched options.
        ranges: the options to search, with their ranges.
        trials: total number of trials, counting those already in the folder.
        folder: the folder of the journal, the runs and the best config.
        sampler: Optuna's TPE, or random values.
        objective: ``evaluation``, or a metric of the runs, whose last value counts.
        minimize: whether smaller objectives are better.
        registry: where names are looked up; the default registry if None.
        tell: called with a line after each trial.

    Raises:
        MissingDependency: Optuna is not installed.
        ConfigError: there are no ranges, or the folder holds a sweep with other options.
        PolicyError: the env or the policy can't be made with values of the ranges.
    """
    import_optional("optuna", extra="sweep", purpose="A sweep")
    if not ranges:
        raise ConfigError(
            "There is nothing to search.",
            fix="Give --param train.learning-rate=log:1e-4:1e-2, or a [sweep] section in the file.",
        )
    # Most mistakes show with any values, and here they cost no trial.
    _try_out(with_values(config, {each.key: each.example for each in ranges}), registry)
    runner = _Sweeper(config, ranges, user_path(folder), objective, minimize, registry, tell)
    return runner.run(trials, sampler)


class _Sweeper:
    """Runs the trials of a sweep, and keeps the best config up to date."""

    def __init__(
        self,
        config: Config,
        ranges: Sequence[SearchRange],
        folder: Path,
        objective: str,
        minimize: bool,
        registry: Registry | None,
        tell: Callable[[str], object],
    ) -> None:
        self.config, self.ranges, self.folder = config, ranges, folder
        self.objective, self.minimize = objective, minimize
        self.registry, self.tell = registry, tell
        self.study = open_study(folder, self._setup(), minimize=minimize)

    def run(self, trials: int, sampler: Sampler) -> Sweep:
        signal = ""
        finished = sum(each.outcome != "interrupted" for each in self._trials())
        # With the seed of the first start, a resumed sweep would propose the same values again.
        (seed,) = spawn_seeds(self.config.train.seed, 1, Stream.SAMPLER, finished)
        self.study.sampler = make_sampler(sampler, seed)
        try:
            for _ in range(finished, trials):
                if signal := self._try_once():
                    break
        except KeyboardInterrupt as interrupt:  # between two runs, or a second one during a run
            signal = signal_of(interrupt)
        return self._result(signal)

    def _try_once(self) -> str:
        """Run one trial, and return the signal that interrupted it, or ''."""
        trial = self.study.ask()
        values = {each.key: each.suggest(trial) for each in self.ranges}
        try:
            outcome, value, signal = self._train(trial, values)
        except PolicyError as error:  # other values may work
            trial.set_user_attr("error", f"{type(error).__name__}: {error.problem}")
            outcome, value, signal = "failed", None, ""
        trial.set_user_attr("outcome", outcome)
        self.study.tell(trial, value, state=optuna_state(outcome))
        self._keep_best()
        result = outcome if value is None else short(value)
        self.tell(f"trial {trial.number}: {result} ({values_text(values)})")
        return signal

    def _train(self, trial: Any, values: Mapping[str, Any]) -> tuple[Outcome, float | None, str]:
        """Return the outcome, the objective, and the signal that interrupted the run, or ''."""
        config = with_values(self.config, values)
        train = replace(config.train, data_dir=str(self.folder / "runs"))
        watch = _Watch(trial, config.train.total_timesteps, self.objective)
        result = train_from_config(
            replace(config, train=train), display="quiet", registry=self.registry, stop_when=watch
        )
        trial.set_user_attr("folder", str(result.folder))
        if result.interrupted:
            if watch.pruned:
                return "pruned", None, ""
            return "interrupted", None, result.signal or INTERRUPT
        return "finished", self._objective_of(result, watch.last), ""

    def _objective_of(self, result: RunResult, last: Mapping[str, float]) -> float:
        if self.objective in last:
            return last[self.objective]
        if self.objective != EVALUATION:
            raise ConfigError(
                f"The run has no metric {self.objective!r}.", fix=f"It has {', '.join(last)}."
            )
        assert result.evaluation is not None
        if not result.evaluation.returns:
            raise ConfigError("No episode of the evaluation ended.", fix="Raise eval.max_steps.")
        return result.evaluation.mean

    def _keep_best(self) -> None:
        best = self._result().best
        if best is not None:
            # Written after each trial, so that a killed sweep leaves its best config, too.
            text = config_to_toml(with_values(self.config, best.values))
            (self.folder / BEST_CONFIG).write_text(text, encoding="utf-8")

    def _trials(self) -> list[Trial]:
        return [trial_of(each) for each in self.study.get_trials(deepcopy=False)]

    def _result(self, signal: str = "") -> Sweep:
        sign = 1 if self.minimize else -1
        ranked = sorted(
            self._trials(),
            key=lambda each: (each.objective is None, sign * (each.objective or 0.0)),
        )
        name = self.config.base.env_name
        return Sweep(name, self.folder, self.objective, tuple(ranked), signal)

    def _setup(self) -> dict[str, Any]:
        """Return what must be the same for a sweep to continue."""
        args = self.config.to_args()
        # The folder may be moved, or named by another path.
        del args["train"]["data_dir"]
        ranges = {each.key: str(each) for each in self.ranges}
        return {
            "ranges": ranges,
            "objective": self.objective,
            "minimize": self.minimize,
            "config": args,
        }


class _Watch:
    """Reports a run's training return to Optuna, and stops the run when Optuna prunes it."""

    def __init__(self, trial: Any, total_steps: int, objective: str) -> None:
        self.trial, self.total_steps = trial, total_steps
        self.metric = RETURN if objective == EVALUATION else objective
        self.pruned = False
        self.last: dict[str, float] = {}
        self._reported = 0

    def __call__(self, logs: Mapping[str, float]) -> bool:
        self.last |= logs
        place = int(REPORTS * logs["agent_steps"] / self.total_steps)
        if place <= self._reported or self.metric not in logs:
            return False
        self._reported = place
        self.trial.report(logs[self.metric], place)
        # At the end, pruning would save nothing: only the evaluation remains.
        self.pruned = place < REPORTS and self.trial.should_prune()
        return self.pruned


def _try_out(config: Config, registry: Registry | None) -> None:
    """Make the env and the policy once, as a wrong argument would let every trial fail."""
    if config.rnn and config.base.rnn_name is None:
        raise ConfigError(
            f"rnn.{next(iter(config.rnn))} is searched, but the config has no wrapper.",
            fix="Set --rnn-name, for example to LSTMWrapper.",
        )
    env = single_vecenv_of(config)
    try:
        policy_of(config, env, registry=registry)
    finally:
        env.close()


def values_text(values: Mapping[str, Any]) -> str:
    """Return values of options in one line: ``train.gamma=0.98, train.ent_coef=0.00123``."""
    return ", ".join(f"{key}={short(value)}" for key, value in values.items())


def short(value: Any) -> str:
    """Return a number in a few digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def open_study(folder: Path, setup: Mapping[str, Any], *, minimize: bool) -> Any:
    """Return the Optuna study of a folder, or a new one.

    Args:
        folder: the folder of the sweep, which is created if it does not exist.
        setup: plain data that must be the same for a sweep to continue.
        minimize: whether smaller objectives are better.

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


def optuna_state(outcome: Outcome) -> Any:
    """Return Optuna's name of an outcome."""
    from optuna.trial import TrialState

    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    return states.get(outcome, TrialState.FAIL)


def trial_of(frozen: Any) -> Trial:
    """Return a trial of Optuna's as plain data."""
    attributes = frozen.user_attrs
    # A process that was killed left no outcome.
    outcome = attributes.get("outcome", "interrupted")
    return Trial(
        number=frozen.number,
        values=dict(frozen.params),
        outcome=outcome,
        objective=frozen.value if outcome == "finished" else None,
        folder=attributes.get("folder", ""),
        error=attributes.get("error", ""),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's message that a study was created."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _require_same(folder: Path, study: Any, setup: Mapping[str, Any]) -> None:
    earlier = study.user_attrs.get(_SETUP)
    if earlier is None:
        study.set_user_attr(_SETUP, setup)
        return
    then, now = _flat(earlier), _flat(setup)
    differing = [key for key in then.keys() & now.keys() if then[key] != now[key]]
    # Our own options may be of one version of the package only; what these hold the user named.
    differing += [key for key in then.keys() ^ now.keys() if key.startswith(_FREE)]
    if differing:
        lines = (f"  {key}: {then.get(key)} then, {now.get(key)} now" for key in sorted(differing))
        raise ConfigError(
            f"{folder} holds a sweep with other options:\n" + "\n".join(lines),
            fix="Give the same options, or another folder.",
        )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
