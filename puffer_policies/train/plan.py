"""The plan of a run: sizes of rollouts, segments and minibatches, checked before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError

MAX_BATCH = 2**32
"""Steps of a rollout; more fill the memory of every machine, and take minutes to divide."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes that follow from a config, the number of agents, and whether the policy has memory."""

    num_agents: int
    batch_size: int
    """Steps of a rollout, over all agents."""
    minibatch_size: int
    """Steps that one gradient step learns from."""
    segment: int
    """Steps of a training segment; 1 without memory, so that single transitions are shuffled."""
    num_updates: int
    """Rollouts, and so updates, of the whole run."""
    max_minibatch_size: int
    """Steps that go through the policy at once in training."""

    @property
    def num_steps(self) -> int:
        """Steps of each agent in a rollout."""
        return self.batch_size // self.num_agents

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, which makes whole updates."""
        return self.num_updates * self.batch_size

    @property
    def segments_per_minibatch(self) -> int:
        """Segments of a gradient step."""
        return self.minibatch_size // self.segment

    @property
    def segments_per_piece(self) -> int:
        """Segments that go through the policy at once, at most."""
        return self.max_minibatch_size // self.segment


def make_plan(
    config: TrainConfig, num_agents: int, *, recurrent: bool, num_envs: int | None = None
) -> Plan:
    """Compute the sizes of a run.

    Args:
        config: the trainer's options.
        num_agents: rows of the vector env.
        recurrent: whether the policy has memory, so that segments must stay whole.
        num_envs: number of envs, for messages; one for each agent if None.

    Raises:
        ConfigError: sizes that do not divide, all with their arithmetic, and the nearest that do.
    """
    # Without memory no step needs the one before it, and single steps shuffle best.
    segment = config.bptt_horizon if recurrent else 1
    batch = _batch_size(config, num_agents)
    if batch > MAX_BATCH:
        raise ConfigError(
            f"train.batch_size {batch:,} is more than {MAX_BATCH:,} steps.",
            fix="Use a smaller train.bptt_horizon, train.batch_size or vec.num_envs.",
        )
    minibatch = config.minibatch_size
    if minibatch == "auto":
        minibatch = _auto_minibatch(batch, segment)
    piece = min(config.max_minibatch_size or minibatch, minibatch)
    agents = _agents(num_agents, num_envs)
    # All problems are collected first, so that one error reports them together.
    problems = _problems(batch, minibatch, num_agents, segment, agents)
    if piece < segment <= minibatch:
        problems.append(
            f"train.max_minibatch_size {piece} holds no whole segment of {segment} steps "
            "(train.bptt_horizon)."
        )
    if problems:
        raise ConfigError(
            "\n".join(problems),
            fix=_nearest_sizes(batch, minibatch, num_agents, segment),
        )
    num_updates = total_steps(config, num_agents) // batch
    return Plan(num_agents, batch, minibatch, segment, num_updates, piece)


def total_steps(config: TrainConfig, num_agents: int) -> int:
    """Return the steps of a whole run: at least ``total_timesteps``, in whole updates."""
    batch = _batch_size(config, num_agents)
    return -(-config.total_timesteps // batch) * batch


def _batch_size(config: TrainConfig, num_agents: int) -> int:
    return num_agents * config.bptt_horizon if config.batch_size == "auto" else config.batch_size


def _auto_minibatch(batch: int, segment: int) -> int:
    """A quarter of the batch, as in CleanRL, rounded so that it holds whole segments."""
    segments = max(batch // segment, 1)
    quarter = max(segments // 4, 1)
    return segment * next(k for k in _divisors(segments) if k >= quarter)


def _divisors(number: int) -> list[int]:
    """Return the divisors of a number, sorted."""
    small = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return sorted({*small, *(number // k for k in small)})


def _agents(num_agents: int, num_envs: int | None) -> str:
    if num_envs in (None, num_agents):
        return f"{num_agents} agents"
    return f"{num_agents} agents (vec.num_envs {num_envs} x {num_agents / num_envs:g})"


def _nearest_sizes(batch: int, minibatch: int, num_agents: int, segment: int) -> str:
    """Return the sizes nearest to the configured ones with which a run can start."""
    unit = num_agents * segment
    batches = _nearest(batch, [unit * k for k in (batch // unit, batch // unit + 1) if k])
    # The minibatch must divide the batch that the message proposes, not the one that failed.
    best = min(batches, key=lambda size: abs(size - batch))
    minibatches = _nearest(minibatch, [segment * k for k in _divisors(best // segment)])
    unit_text = f"{num_agents} agents" + f" x train.bptt_horizon {segment}" * (segment > 1)
    return (
        f"Nearest that fit: train.batch_size {_or(batches)}, whole multiples of {unit_text}; with "
        f"{best}, train.minibatch_size {_or(minibatches)}. 'auto' always fits."
    )


def _nearest(size: int, candidates: list[int]) -> list[int]:
    """Return `size` if it is among the `candidates`, else those next below and above it."""
    below = [each for each in candidates if each <= size][-1:]
    above = [each for each in candidates if each >= size][:1]
    return sorted({*below, *above}) if below != [size] else below


def _or(sizes: list[int]) -> str:
    return " or ".join(map(str, sizes))


def _problems(batch: int, minibatch: int, num_agents: int, segment: int, agents: str) -> list[str]:
    rows = f"train.batch_size {batch} / {agents}"
    checks = [
        (batch % num_agents, f"{rows} = {batch / num_agents:g} steps each: not a whole number."),
        (
            batch // num_agents % segment,
            f"{rows} = {batch // num_agents} steps each, which train.bptt_horizon {segment} does "
            "not divide.",
        ),
        (
            batch % minibatch,
            f"train.batch_size {batch} / train.minibatch_size {minibatch} = {batch / minibatch:g} "
            "minibatches: not a whole number.",
        ),
        (
            minibatch % segment,
            f"train.minibatch_size {minibatch} / train.bptt_horizon {segment} = "
            f"{minibatch / segment:g} segments: not a whole number.",
        ),
    ]
    return [text for remainder, text in checks if remainder]
