"""Comparisons: several policies on one env, with equal steps and seeds, in one table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from puffer_policies.assembly.tensorfile import write_at_once
from puffer_policies.config.config import Config
from puffer_policies.errors import ConfigError, PolicyError
from puffer_policies.files import user_path
from puffer_policies.registry import Registry
from puffer_policies.registry.specs import MAX_LENGTH, PolicySpec
from puffer_policies.runs.display import Progress
from puffer_policies.runs.interrupts import INTERRUPT, signal_of
from puffer_policies.runs.run import RunResult, train_from_config
from puffer_policies.runs.setup import policy_of, single_vecenv_of
from puffer_policies.runs.statistics import interval_kind, mean_interval, mean_text
from puffer_policies.streams import json_text
from puffer_policies.structure import (
    Anything,
    Integer,
    Items,
    ListOf,
    MapOf,
    Number,
    Optional,
    Plain,
    Table,
    Text,
    read_json,
)
from puffer_policies.studies.curves import flat_options
from puffer_policies.studies.plot import plot_runs
from puffer_policies.train.plan import total_steps

TABLE = "comparison.json"
OWN_OPTIONS = ("seed", "data_dir")
"""Options of [train] in which the runs of one comparison differ."""
PICTURE = "learning_curves.png"

_PATH = Text(10_000)
_RUN = Table(
    {
        "seed": Integer(0),
        "folder": _PATH,
        "mean": Optional(Number()),
        "seconds": Number(0),
        "steps": Integer(0),
    }
)
_ENTRY = Table(
    {
        "policy": Text(MAX_LENGTH),
        "parameters": Integer(0),
        "runs": ListOf(_RUN),
        "unfinished": Optional(Items((Integer(0), _PATH))),
    },
    others=Anything(),
)
_STRUCTURE = Table({"config": MapOf(Plain()), "policies": ListOf(_ENTRY)}, others=Anything())
"""What a comparison reads of its own table; the rest of the file is for people and programs."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a comparison that finished."""

    seed: int
    folder: Path
    mean: float | None
    """Mean return of its final evaluation; None if no episode ended."""
    seconds: float
    """Seconds of training; of a run that was interrupted, of its last part."""
    steps: int
    """Env steps in these seconds."""

    @classmethod
    def of(cls, result: RunResult, seed: int) -> Run:
        """Return what a comparison keeps of a run."""
        evaluation = result.evaluation
        mean = evaluation.mean if evaluation is not None and evaluation.returns else None
        return cls(seed, result.folder, mean, result.seconds, result.new_steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "folder": str(self.folder)}


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy in a comparison, and its finished runs."""

    policy: str
    """A name or an expression."""
    parameters: int
    """Number of parameters, including wrappers."""
    runs: tuple[Run, ...] = ()
    """One for each seed whose run finished."""
    error: str = ""
    """Why its next run failed, if one did; it is not tried again, and earlier runs count."""
    unfinished: tuple[int, Path] | None = None
    """The seed and the folder of the run that was interrupted, from which it goes on."""

    @property
    def returns(self) -> tuple[float, ...]:
        """Mean return of each run's final evaluation, without runs in which no episode ended."""
        return tuple(run.mean for run in self.runs if run.mean is not None)

    @property
    def mean(self) -> float:
        """Mean of `returns`; NaN without any."""
        return float(np.mean(self.returns)) if self.returns else float("nan")

    @property
    def return_text(self) -> str:
        """The mean of `returns` with its interval; empty without any."""
        if not self.returns:
            return ""
        return mean_text(self.mean, mean_interval(self.returns), len(self.returns))

    @property
    def seconds(self) -> float:
        """Seconds of training, in all runs."""
        return sum(run.seconds for run in self.runs)

    @property
    def speed(self) -> float | None:
        """Env steps per second; None without a run."""
        return sum(run.steps for run in self.runs) / self.seconds if self.runs else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "policy": self.policy,
            "mean": self.mean if self.returns else None,
            "interval": mean_interval(self.returns),
            "interval_kind": interval_kind(len(self.returns)),
            "returns": self.returns,
            "parameters": self.parameters,
            "steps_per_second": self.speed,
            "seconds": self.seconds,
            "runs": [run.to_dict() for run in self.runs],
            "unfinished": self.unfinished and [self.unfinished[0], str(self.unfinished[1])],
            "error": self.error or None,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The entries of a comparison, as far as it got."""

    env: str
    steps: int
    """Env steps of each run: whole updates, so maybe more than the config asks for."""
    seeds: tuple[int, ...]
    folder: Path
    entries: tuple[Entry, ...]
    """Best mean return first."""
    config: Mapping[str, Any]
    """The config of all runs, as plain data."""
    signal: str = ""
    """The name of the signal that interrupted it; empty if none did."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal interrupted it."""
        return bool(self.signal)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "env": self.env,
            "steps": self.steps,
            "steps_asked": self.config["train"]["total_timesteps"],
            "seeds": self.seeds,
            "folder": str(self.folder),
            "interrupted": self.interrupted,
            "policies": [each.to_dict() for each in self.entries],
            "config": self.config,
        }


def compare(
    config: Config,
    policies: Sequence[str],
    *,
    seeds: int = 3,
    folder: Path | str,
    registry: Registry | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Comparison:
    """Train each policy with each seed by `config`, and compare their final evaluations.

    All policies run with one seed before any runs with the next, so that an interrupted comparison
    is fair, too. The table is written to ``comparison.json`` in `folder` after each run. A folder
    with such a table of the same config goes on: finished runs count, the run that was interrupted
    is resumed, a policy that failed is tried again, and there may be more policies or seeds.

    Args:
        config: the env, steps and options of all; ``train.seed`` is the first seed. Its own wrapper
            is left out. Its [policy] arguments go to the policy that it names, and those from the
            command line go to all.
        policies: names or expressions.
        seeds: the number of seeds.
        folder: a new or empty folder for the table and the runs, or that of a comparison.
        registry: where names are looked up; the default registry if None.
        tell: called with a line after each run.

    Raises:
        ConfigError: policies can't be built for the env, which is checked before anything runs; a
            policy is repeated; or `folder` holds something else, or another config's comparison.
        EnvError: the env can't be made.
    """
    # Everything is checked before the first of many minutes of training.
    configs = {policy: config_for(config, policy) for policy in _distinct(policies)}
    sizes, steps = _parameters(configs, registry)
    folder = user_path(folder)
    entries = {policy: Entry(policy, size) for policy, size in sizes.items()}
    entries |= _earlier_entries(folder, config, sizes)
    tournament = _Tournament(config, steps, configs, entries, _folder(folder), registry, tell)
    return tournament.run(tuple(range(config.train.seed, config.train.seed + seeds)))


def config_for(config: Config, policy: str) -> Config:
    """Return `config` with another policy, and with the [policy] arguments that still apply."""
    own_name = PolicySpec.parse(config.base.policy_name).name
    spec = PolicySpec.parse(policy)
    kwargs = {
        key: value
        for key, value in config.policy.items()
        if key not in spec.kwargs
        and (spec.name == own_name or config.origin("policy", key) == "command line")
    }
    base = replace(config.base, policy_name=policy, rnn_name=None)
    return replace(config, base=base, policy=kwargs, rnn={})


def draw_comparison(comparison: Comparison) -> Path | None:
    """Draw the learning curves of a comparison into its folder; None if no run finished.

    Raises:
        ConfigError, MissingDependency: as `plot_runs`.
    """
    pairs = [(run.folder, each.policy) for each in comparison.entries for run in each.runs]
    if not pairs:
        return None
    path = comparison.folder / PICTURE
    plot_runs([folder for folder, _ in pairs], path, labels=[policy for _, policy in pairs])
    return path


class _Tournament:
    """Runs every policy with every seed, and keeps their results."""

    def __init__(
        self,
        config: Config,
        steps: int,
        configs: dict[str, Config],
        entries: dict[str, Entry],
        folder: Path,
        registry: Registry | None,
        tell: Callable[[str], object],
    ) -> None:
        self.config, self.steps = config, steps
        self.configs, self.entries = configs, entries
        self.folder, self.registry, self.tell = folder, registry, tell
        self.signal: str = ""

    def run(self, seeds: tuple[int, ...]) -> Comparison:
        try:
            for seed in seeds:
                for policy in self.configs:
                    entry = self.entries[policy]
                    is_finished = seed in {run.seed for run in entry.runs}
                    if not (is_finished or entry.error or self.signal):
                        self._run_one(policy, seed)
                        self._comparison(seeds)
        except KeyboardInterrupt as interrupt:  # between two runs, or a second one during a run
            self.signal = signal_of(interrupt)
        return self._comparison(seeds)

    def _run_one(self, policy: str, seed: int) -> None:
        config, entry = self.configs[policy], self.entries[policy]
        data_dir = str(self.folder / _slug(policy))
        train = replace(config.train, seed=seed, data_dir=data_dir)
        label = f"{policy}, seed {seed}"
        resume = None
        if entry.unfinished is not None and entry.unfinished[0] == seed:
            resume = entry.unfinished[1]
        try:
            result = train_from_config(
                replace(config, train=train),
                display=Progress(self.steps, label, self.tell),
                registry=self.registry,
                resume=resume,
            )
        except Exception as error:  # a policy's own code may raise anything; the others go on
            self.entries[policy] = replace(entry, error=_error_text(error))
            self.tell(f"{label}: {_error_text(error)}")
            return
        # Half a run is not comparable with whole ones.
        if result.interrupted:
            self.signal = result.signal or INTERRUPT
            self.entries[policy] = replace(entry, unfinished=(seed, result.folder))
            return
        run = Run.of(result, seed)
        self.entries[policy] = replace(entry, runs=(*entry.runs, run), unfinished=None)
        text = "no episode ended" if run.mean is None else f"return {run.mean:,.2f}"
        self.tell(f"{label}: {text} in {run.seconds:.1f} s")

    def _comparison(self, seeds: tuple[int, ...]) -> Comparison:
        """Return the comparison so far, after writing it to the table."""
        comparison = Comparison(
            env=self.config.base.env_name,
            steps=self.steps,
            seeds=seeds,
            folder=self.folder,
            entries=tuple(sorted(self.entries.values(), key=_rank)),
            signal=self.signal,
            config=_shared_options(self.config),
        )
        text = json_text(comparison.to_dict(), indent=2)
        # At once or not at all: the comparison goes on from this file.
        write_at_once(self.folder / TABLE, f"{text}\n".encode())
        return comparison


def _rank(entry: Entry) -> tuple[bool, float]:
    # Policies without any return go last, and NaN would not sort at all.
    return (not entry.returns, -entry.mean if entry.returns else 0.0)


def _distinct(policies: Sequence[str]) -> list[str]:
    repeats = [policy for policy in dict.fromkeys(policies) if policies.count(policy) > 1]
    if repeats:
        raise ConfigError(f"{repeats[0]!r} is given twice.", fix="Name each policy once.")
    return list(policies)


def _parameters(
    configs: dict[str, Config], registry: Registry | None
) -> tuple[dict[str, int], int]:
    """Build every policy once, and return their numbers of parameters and the steps of each run.

    All that can't be built are reported at once.
    """
    config = next(iter(configs.values()))
    env = single_vecenv_of(config)
    sizes, problems = {}, []
    steps = total_steps(config.train, env.num_agents * config.vec.num_envs)
    try:
        for policy, own in configs.items():
            try:
                module = policy_of(own, env, registry=registry)
                sizes[policy] = sum(each.numel() for each in module.parameters())
            except PolicyError as error:
                problems.append(f"{policy}: {error}")
    finally:
        env.close()
    if problems:
        raise ConfigError(
            "\n".join(problems),
            fix=f"List those that fit with: puffer-policies list --fits {config.base.env_name}",
        )
    return sizes, steps


def _shared_options(config: Config) -> dict[str, Any]:
    """Return the options that all runs of a comparison share, as plain data."""
    args = config.to_args()
    train = {key: value for key, value in args["train"].items() if key not in OWN_OPTIONS}
    return {**args, "train": train}


def _earlier_entries(folder: Path, config: Config, sizes: Mapping[str, int]) -> dict[str, Entry]:
    """Return the entries of the comparison in `folder`, without errors, which are tried again.

    Raises:
        ConfigError: its config is another one, or its table is damaged.
    """
    path = folder / TABLE
    if not path.exists():
        return {}
    try:
        table = read_json(path.read_text(encoding="utf-8"), _STRUCTURE)
    except (OSError, ValueError) as error:  # a StructureError is a ValueError
        raise ConfigError(f"{path} is not the table of a comparison: {error}.") from error
    # As JSON, in which a tuple is a list.
    options = json.loads(json.dumps(_shared_options(config)))
    if (earlier := table["config"]) != options:
        raise ConfigError(
            f"{folder} holds a comparison with another config: {_difference(earlier, options)}.",
            fix="Repeat its command to go on with it, or give a new folder.",
        )
    return {
        entry.policy: replace(entry, parameters=sizes.get(entry.policy, entry.parameters))
        for entry in map(_entry, table["policies"])
    }


def _entry(data: Mapping[str, Any]) -> Entry:
    """Return an entry from data whose structure has been checked."""
    runs = tuple(Run(**{**run, "folder": Path(run["folder"])}) for run in data["runs"])
    unfinished = data["unfinished"]
    return Entry(
        policy=data["policy"],
        parameters=data["parameters"],
        runs=runs,
        unfinished=None if unfinished is None else (unfinished[0], Path(unfinished[1])),
    )


def _difference(earlier: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Describe the options in which two configs differ, as ``train.gamma (was 0.9, is 0.99)``."""
    flat, other = flat_options(earlier), flat_options(options)
    return ", ".join(
        f"{key} (was {flat.get(key)!r}, is {other.get(key)!r})"
        for key in dict.fromkeys((*flat, *other))
        if flat.get(key) != other.get(key)
    )


def _folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / TABLE).exists():
            raise ConfigError(
                f"{folder} is not empty, but a comparison needs a folder of its own.",
                fix="Give a new folder, or leave -o out.",
            )
    except OSError as error:
        raise ConfigError(f"No comparison can be written to {folder}: {error}.") from error
    return folder


def _slug(policy: str) -> str:
    """Return a folder name for an expression."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", policy).strip("_")


def _error_text(error: Exception) -> str:
    problem = error.problem if isinstance(error, PolicyError) else str(error)
    return f"{type(error).__name__}: {problem}".strip()
