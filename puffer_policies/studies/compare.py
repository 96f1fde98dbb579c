"""Comparisons: several policies on one env, with equal steps and seeds, in one table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from puffer_policies.config.config import Config
from puffer_policies.errors import ConfigError, PolicyError
from puffer_policies.registry import Registry
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.runs.run import RunResult, train_from_config
from puffer_policies.runs.setup import policy_of, single_vecenv_of
from puffer_policies.runs.statistics import interval_kind, mean_interval, mean_text
from puffer_policies.studies.plot import plot_runs

TABLE = "comparison.json"
PICTURE = "learning_curves.png"


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy in a comparison, and its finished runs."""

    policy: str
    """A name or an expression."""
    parameters: int
    """Number of parameters, including wrappers."""
    results: tuple[RunResult, ...] = ()
    """One for each seed whose run finished."""
    error: str = ""
    """Why its next run failed, if one did; it is not tried again, and earlier runs count."""

    @property
    def returns(self) -> tuple[float, ...]:
        """Mean return of each run's final evaluation, without runs in which no episode ended."""
        evaluations = [result.evaluation for result in self.results]
        return tuple(each.mean for each in evaluations if each is not None and each.returns)

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
        return sum(result.seconds for result in self.results)

    @property
    def speed(self) -> float | None:
        """Env steps per second; None without a run."""
        steps = sum(result.new_steps for result in self.results)
        return steps / self.seconds if self.results else None

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
            "runs": [str(result.folder) for result in self.results],
            "error": self.error or None,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The entries of a comparison, as far as it got."""

    env: str
    steps: int
    """Env steps of each run."""
    seeds: tuple[int, ...]
    folder: Path
    entries: tuple[Entry, ...]
    """Best mean return first."""
    interrupted: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "env": self.env,
            "steps": self.steps,
            "seeds": self.seeds,
            "folder": str(self.folder),
            "interrupted": self.interrupted,
            "policies": [each.to_dict() for each in self.entries],
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
    is fair, too. The table is written to ``comparison.json`` in `folder` after each run.

    Args:
        config: the env, steps and options of all; ``train.seed`` is the first seed. Its own wrapper
            is left out. Its [policy] arguments go to the policy that it names, and those from the
            command line go to all.
        policies: names or expressions.
        seeds: the number of seeds.
        folder: a new or empty folder for the table and the runs.
        registry: where names are looked up; the default registry if None.
        tell: called with a line after each run.

    Raises:
        ConfigError: policies can't be built for the env, which is checked before anything runs; a
            policy is repeated; or `folder` is not empty.
        EnvError: the env can't be made.
    """
    # Everything is checked before the first of many minutes of training.
    configs = {policy: config_for(config, policy) for policy in _distinct(policies)}
    sizes = _parameters(configs, registry)
    tournament = _Tournament(configs, sizes, _new_folder(Path(folder)), registry, tell)
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
    pairs = [(run.folder, each.policy) for each in comparison.entries for run in each.results]
    if not pairs:
        return None
    path = comparison.folder / PICTURE
    plot_runs([folder for folder, _ in pairs], path, labels=[policy for _, policy in pairs])
    return path


class _Tournament:
    """Runs every policy with every seed, and keeps their results."""

    def __init__(
        self,
        configs: dict[str, Config],
        sizes: dict[str, int],
        folder: Path,
        registry: Registry | None,
        tell: Callable[[str], object],
    ) -> None:
        self.configs, self.folder, self.registry, self.tell = configs, folder, registry, tell
        self.entries = {policy: Entry(policy, sizes[policy]) for policy in configs}
        self.interrupted = False

    def run(self, seeds: tuple[int, ...]) -> Comparison:
        try:
            for seed in seeds:
                for policy in self.configs:
                    if not self.entries[policy].error and not self.interrupted:
                        self._run_one(policy, seed)
                        self._comparison(seeds)
        except KeyboardInterrupt:  # between two runs; during a run, the run handles it
            self.interrupted = True
        return self._comparison(seeds)

    def _run_one(self, policy: str, seed: int) -> None:
        config, entry = self.configs[policy], self.entries[policy]
        data_dir = str(self.folder / _slug(policy))
        train = replace(config.train, seed=seed, data_dir=data_dir)
        try:
            result = train_from_config(
                replace(config, train=train), display="quiet", registry=self.registry
            )
        except Exception as error:  # a policy's own code may raise anything; the others go on
            self.entries[policy] = replace(entry, error=_error_text(error))
            self.tell(f"{policy}, seed {seed}: {_error_text(error)}")
            return
        # Half a run is not comparable with whole ones.
        if result.interrupted:
            self.interrupted = True
            return
        self.entries[policy] = replace(entry, results=(*entry.results, result))
        assert result.evaluation is not None
        self.tell(
            f"{policy}, seed {seed}: return {result.evaluation.mean:,.2f} in {result.seconds:.1f} s"
        )

    def _comparison(self, seeds: tuple[int, ...]) -> Comparison:
        """Return the comparison so far, after writing it to the table."""
        config = next(iter(self.configs.values()))
        comparison = Comparison(
            env=config.base.env_name,
            steps=config.train.total_timesteps,
            seeds=seeds,
            folder=self.folder,
            entries=tuple(sorted(self.entries.values(), key=_rank)),
            interrupted=self.interrupted,
        )
        text = json.dumps(comparison.to_dict(), indent=2)
        (self.folder / TABLE).write_text(f"{text}\n", encoding="utf-8")
        return comparison


def _rank(entry: Entry) -> tuple[bool, float]:
    # Policies without any return go last, and NaN would not sort at all.
    return (not entry.returns, -entry.mean if entry.returns else 0.0)


def _distinct(policies: Sequence[str]) -> list[str]:
    repeats = [policy for policy in dict.fromkeys(policies) if policies.count(policy) > 1]
    if repeats:
        raise ConfigError(f"{repeats[0]!r} is given twice.", fix="Name each policy once.")
    return list(policies)


def _parameters(configs: dict[str, Config], registry: Registry | None) -> dict[str, int]:
    """Build every policy once and count its parameters; report all that can't be built at once."""
    config = next(iter(configs.values()))
    env = single_vecenv_of(config)
    sizes, problems = {}, []
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
    return sizes


def _new_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
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
