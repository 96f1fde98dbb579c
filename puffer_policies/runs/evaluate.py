"""Evaluation: a policy plays whole episodes, the same number in each env."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from puffer_policies.assembly.checkpoint import read_checkpoint
from puffer_policies.config.config import Config
from puffer_policies.config.schema import EvalConfig
from puffer_policies.envs.families import evaluation_kwargs
from puffer_policies.errors import CheckpointError, TrainingError
from puffer_policies.hub.location import Location, checkpoint_of
from puffer_policies.nn.distributions import distribution, sample_with_log_prob
from puffer_policies.nn.observations import to_tensor
from puffer_policies.registry import Registry
from puffer_policies.runs.setup import device_of, naming_imports, single_vecenv_of
from puffer_policies.runs.statistics import interval_kind, mean_interval, mean_text
from puffer_policies.spaces import Spaces, spaces_of
from puffer_policies.spaces.nested import map_nested
from puffer_policies.train.carry import Carry
from puffer_policies.train.episodes import EpisodeTracker
from puffer_policies.train.feed import Feed, on_device
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.vector.faults import closing
from puffer_policies.vector.protocol import VecEnv
from puffer_policies.vector.tensor.host import on_host
from puffer_policies.wrappers.base import actor_of

Watch = Callable[[int], object]
"""Receives the number of episodes that have ended."""

NUM_ENVS = 20
"""Envs stepped together in an evaluation.

A fixed number, because the result depends on it: the envs share one seed.
"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Returns and lengths of whole episodes, in the order of envs."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    episodes: int
    """How many were to be played; fewer ended only if the step limit was reached."""
    seed: int
    deterministic: bool
    max_steps: int
    """Steps of each env after which the evaluation stops."""

    @property
    def complete(self) -> bool:
        """Whether every episode was played to its end."""
        return len(self.returns) == self.episodes

    @property
    def interval(self) -> tuple[float, float] | None:
        """The mean's interval, of the kind that `mean_interval` gives; None of one episode."""
        return mean_interval(self.returns)

    @property
    def mean(self) -> float:
        """Mean return; NaN if no episode ended."""
        return float(np.mean(self.returns)) if self.returns else float("nan")

    @property
    def std(self) -> float:
        """Standard deviation of the returns; NaN if no episode ended."""
        return float(np.std(self.returns)) if self.returns else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with None, as JSON has no NaN, if no episode ended."""
        return {
            "mean": self.mean if self.returns else None,
            "interval": self.interval,
            "interval_kind": interval_kind(len(self.returns)),
            "std": self.std if self.returns else None,
            "min": min(self.returns, default=None),
            "max": max(self.returns, default=None),
            "length": float(np.mean(self.lengths)) if self.lengths else None,
            "length_min": min(self.lengths, default=None),
            "length_max": max(self.lengths, default=None),
            "episodes": len(self.returns),
            "episodes_asked": self.episodes,
            "seed": self.seed,
            "deterministic": self.deterministic,
        }

    def fields(self) -> dict[str, str]:
        """Return the rows of a table: return, spread, length and episodes, as texts."""
        kind = "deterministic" if self.deterministic else "sampled"
        rows = {}
        if self.returns:
            rows["return"] = mean_text(self.mean, self.interval, len(self.returns))
        if len(self.returns) > 1:
            low, high = min(self.returns), max(self.returns)
            rows["spread"] = f"std {self.std:,.2f}, {low:,.2f} to {high:,.2f}"
        if self.lengths:
            low, high = min(self.lengths), max(self.lengths)
            mean = f"mean {np.mean(self.lengths):,.1f}, {low:,} to " if low < high else ""
            rows["length"] = f"{mean}{high:,} steps"
        rows["episodes"] = f"{self._count_text()}, {kind}, seed {self.seed}"
        return rows

    def _count_text(self) -> str:
        if self.complete:
            return f"{self.episodes:,}"
        text = (
            f"{len(self.returns):,} of {self.episodes:,} ended within {self.max_steps:,} steps of "
            "each env (eval.max_steps)"
        )
        return f"{text}, which favors short ones" if self.returns else text


@torch.no_grad()
def evaluate(
    policy: nn.Module,
    vecenv: VecEnv,
    config: EvalConfig,
    *,
    use_rnn: bool | None = None,
    stopped: Callable[[], bool] = lambda: False,
    watch: Watch = lambda finished: None,
) -> Evaluation:
    """Play ``config.episodes`` episodes and return their returns and lengths.

    The number of episodes in each env is fixed beforehand: to take the first that end would favor
    short ones. Memory is reset when an episode starts. The policy's training mode is restored
    afterwards. A critic that sees more than the actor is left out: `vecenv` may lack what it sees.
    No further step is taken when `stopped` returns True. `watch` is called after each
    step of the envs, and after their reset, with the number of episodes that have ended.

    Raises:
        TrainingError: an action's probability or a reward is not finite.
    """
    with evaluation_mode(policy):
        return _Player(policy, vecenv, config, use_rnn).play(stopped, watch)


@contextmanager
def evaluation_mode(policy: nn.Module) -> Iterator[None]:
    """Put `policy` into evaluation mode, and afterwards each module back into its own mode."""
    # Each module by itself: a part that its owner keeps in evaluation mode must stay there.
    training = [module for module in policy.modules() if module.training]
    if training:
        policy.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def choose_actions(logits: Any, generator: torch.Generator, *, deterministic: bool) -> torch.Tensor:
    """Return the most likely action of each row, or a sample: (N,), (N, K) or (N, *shape).

    Raises:
        TrainingError: an action's probability is not finite.
    """
    if deterministic:
        choices = distribution(logits)
        actions = choices.mode()
        log_probs = choices.log_prob(actions)
    else:
        actions, log_probs = sample_with_log_prob(logits, generator)
    if not torch.isfinite(log_probs).all():
        raise TrainingError(
            "The policy chose an action whose probability is not a finite number.",
            fix="Look for NaN in its weights and in the observations of the env.",
        )
    return actions


class _Player:
    def __init__(
        self, policy: nn.Module, vecenv: VecEnv, config: EvalConfig, use_rnn: bool | None
    ) -> None:
        self.actor = actor_of(policy, spaces_of(vecenv))
        policy, use_rnn = self.actor.policy, None if self.actor.is_part else use_rnn
        # A policy without parameters, such as a random one, runs on the CPU.
        parameter = next(policy.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        # Every step of an evaluation is counted on the host, so that nothing is won on a device.
        self.vecenv, self.config = on_host(vecenv), config
        self.carry = Carry(policy, vecenv.num_agents, device=self.device, use_rnn=use_rnn)
        self.feed = Feed(self.vecenv, policy)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        rows = np.arange(vecenv.num_agents)
        self.episodes_left = config.episodes // len(rows) + (rows < config.episodes % len(rows))
        self.tracker = EpisodeTracker(len(rows), window=None)
        self.counted: list[tuple[int, int]] = []  # (row, index in the tracker)

    def play(self, stopped: Callable[[], bool], watch: Watch) -> Evaluation:
        with self.carry.fixed(may_wait=True):
            return self._play(stopped, watch)

    def _play(self, stopped: Callable[[], bool], watch: Watch) -> Evaluation:
        observations = self.vecenv.reset(seed=self.config.seed)
        starts = np.ones(self.vecenv.num_agents, dtype=bool)
        watch(0)
        for _ in range(self.config.max_steps):
            actions = self._act(observations, starts)
            step = self.vecenv.step(actions)
            self.feed.update(actions, step.rewards)
            observations, starts = step.observations, step.starts
            self._count(self.tracker.update(step))
            watch(len(self.counted))
            if not self.episodes_left.any() or stopped():
                break
        return self._result()

    def _act(self, observations: Any, starts: np.ndarray) -> np.ndarray:
        # Copied: a policy may keep observations in its state, and envs reuse their arrays.
        seen = self.actor.see(observations)
        inputs = map_nested(lambda leaf: to_tensor(leaf).to(self.device, copy=True), seen)
        extras = on_device(self.feed.extras(), self.device)
        episode_start = torch.from_numpy(starts).to(self.device)
        logits, _ = self.carry.step(inputs, episode_start, extras=extras)
        actions = choose_actions(logits, self.generator, deterministic=self.config.deterministic)
        return actions.cpu().numpy()

    def _count(self, rows: np.ndarray) -> None:
        """Count the episodes that ended in `rows`, unless a row has played its share already."""
        first = len(self.tracker.returns) - len(rows)
        for place, row in enumerate(rows.tolist(), start=first):
            if self.episodes_left[row]:
                self.episodes_left[row] -= 1
                self.counted.append((row, place))

    def _result(self) -> Evaluation:
        # In the order of envs, and not of time, so that vectorization does not change the order.
        places = [place for _, place in sorted(self.counted)]
        if not np.isfinite([self.tracker.returns[place] for place in places]).all():
            raise TrainingError("The env returned a non-finite reward.")
        return Evaluation(
            returns=tuple(self.tracker.returns[place] for place in places),
            lengths=tuple(self.tracker.lengths[place] for place in places),
            episodes=self.config.episodes,
            seed=self.config.seed,
            deterministic=self.config.deterministic,
            max_steps=self.config.max_steps,
        )


def evaluate_config(
    policy: nn.Module,
    config: Config,
    *,
    stopped: Callable[[], bool] = lambda: False,
    watch: Watch = lambda finished: None,
    failures: list[str] | None = None,
) -> Evaluation:
    """Evaluate `policy` in new envs of a run's config, by its [eval] section.

    Envs that fail to close take nothing away: a warning says so, and `failures` receives its text.
    """
    # With fewer episodes than envs, some envs would play for nothing.
    num_envs = min(config.eval.episodes, NUM_ENVS)
    vecenv = make_vecenv(
        config.base.env_name,
        num_envs,
        vectorization=config.vec.vectorization,
        env_kwargs=evaluation_kwargs(config.base.env_name, config.env),
        timeout=config.vec.timeout,
        device=device_of(config.train),
    )
    with closing(vecenv, failures):
        use_rnn = config.train.use_rnn
        return evaluate(policy, vecenv, config.eval, use_rnn=use_rnn, stopped=stopped, watch=watch)


def evaluate_checkpoint(
    path: Location,
    *,
    overrides: Mapping[str, Any] | None = None,
    best: bool = False,
    registry: Registry | None = None,
) -> Evaluation:
    """Rebuild env and policy from a checkpoint alone and repeat the run's final evaluation.

    Arguments and errors are those of `load_trained_policy`.
    """
    trained = load_trained_policy(path, overrides=overrides, best=best, registry=registry)
    return evaluate_config(trained.policy, trained.config)


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """A policy from a checkpoint of a run, with the config and the spaces of its training."""

    policy: nn.Module
    config: Config
    spaces: Spaces


def load_trained_policy(
    path: Location,
    *,
    overrides: Mapping[str, Any] | None = None,
    best: bool = False,
    registry: Registry | None = None,
) -> TrainedPolicy:
    """Rebuild the policy of a run with its weights, from the checkpoint alone.

    Args:
        path: a checkpoint of a run, the run's folder, ``hf://org/name@revision`` or
            ``pretrained://name``.
        overrides: values of the [eval] section to change, such as ``{"episodes": 10}``.
        best: the run's best checkpoint instead of its last.
        registry: where the policy's names are looked up; the default registry if None.

    Raises:
        CheckpointError: the file can't be read, or does not name the env of its training.
        ConfigError: wrong `overrides`.
        EnvError: the env can't be made.
    """
    path = checkpoint_of(path, best=best, registry=registry)
    checkpoint = read_checkpoint(path)
    if "env_name" not in checkpoint.header.config:
        raise CheckpointError(
            f"{path} does not name the env in which it was trained.",
            fix="Make the env, and call evaluate(load_policy(path), vecenv, EvalConfig()).",
        )
    config = Config.from_args(checkpoint.header.config)
    if overrides:
        config = replace(config, eval=EvalConfig.from_dict({**asdict(config.eval), **overrides}))
    # A single env is enough, as only the spaces are needed.
    with naming_imports(path):
        env = single_vecenv_of(config)
    with closing(env):
        policy = checkpoint.build_policy(env, registry=registry)
        return TrainedPolicy(policy, config, spaces_of(env))
