"""PettingZoo's parallel envs as a `VecEnv`: every agent that can play is a row.

A row whose agent does not play is padding. Its action is ignored, its reward is 0, it repeats its
last observation, and it is a ghost, which is never trained on. A row is padding from the end of its
agent until the env restarts, and from the start of the env until its agent enters. An env restarts
in the very step in which its last agent ends.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import EnvError, MissingDependency, did_you_mean
from puffer_policies.spaces import action_layout, described
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.vector.faults import FAULTS, first_line, frames_of, place_of
from puffer_policies.vector.limit import limit_of
from puffer_policies.vector.masks import ActionMasks
from puffer_policies.vector.protocol import Step
from puffer_policies.vector.seeds import spawn_seeds
from puffer_policies.vector.state import get_state, set_state

PREFIX = "pettingzoo/"
"""The names of PettingZoo's envs begin with it; gymnasium does not know them."""

_RETURNS = {
    "reset": "reset(seed=None, options=None) must return (observations, infos), dicts by agent",
    "step": "step(actions) must return (observations, rewards, terminated, truncated, infos), "
    "dicts by agent",
}


def is_parallel(env: Any) -> bool:
    """Return whether `env` has the methods of a PettingZoo `ParallelEnv`."""
    has = (callable(getattr(env, name, None)) for name in ("reset", "step", "observation_space"))
    return all(has) and not hasattr(env, "agent_iter")


class ParallelVecEnv:
    """Copies of a PettingZoo `ParallelEnv`; the rows of copy i follow those of copy i - 1.

    Args:
        envs: the copies.
        timeout: seconds that a call of a copy may take; 0 is no limit.

    Raises:
        EnvError: agents or copies of different spaces or agents.
        IncompatibleSpace: no head serves the action space.
        ConfigError: calls can't be limited outside of the main thread, nor on Windows.
    """

    def __init__(self, envs: Sequence[Any], *, timeout: float = 0.0) -> None:
        self.limit = limit_of(timeout)
        self.agents = _agents(envs)
        first = self.agents[0]
        self.num_envs = len(envs)
        self.single_observation_space = envs[0].observation_space(first)
        self.single_action_space = envs[0].action_space(first)
        self._layout = action_layout(self.single_action_space)
        member = _member(self.single_observation_space)
        rows = self.num_agents
        self._masks = ActionMasks(rows, self._layout)
        self._observations = map_nested(lambda leaf: np.stack([leaf] * rows), member)
        size = len(self.agents)
        self._copies = [_Copy(env, i, self, i * size) for i, env in enumerate(envs)]

    @property
    def num_agents(self) -> int:
        """Number of rows: envs times the agents that can play."""
        return self.num_envs * len(self.agents)

    @property
    def driver_env(self) -> ParallelVecEnv:
        """This object: it has the single-agent spaces."""
        return self

    def reset(self, *, seed: int | None = None) -> Any:
        """Start every env anew, each copy by a seed of its own; return observations (N, *obs)."""
        seeds = [None] * self.num_envs if seed is None else spawn_seeds(seed, self.num_envs)
        for each, own_seed in zip(self._copies, seeds, strict=True):
            each.reset(own_seed)
        self._masks.start(self._observations, self._infos(), idle=self._idle())
        return self._observations

    @property
    def action_masks(self) -> np.ndarray | None:
        """(N, A) bool: what may be done next; None if the envs give no masks. Padding may all."""
        return self._masks.current

    def step(self, actions: np.ndarray) -> Step:
        """Take the actions of all rows, (N, ...); those of padding are ignored."""
        members, step = self._layout.to_env(actions), self._padding()
        for each in self._copies:
            each.step(members, step)
        if step.done.any():
            # A copy, as restarts write first observations into the same rows.
            step = dataclasses.replace(
                step, final_observations=map_nested(np.copy, self._observations)
            )
            for each in self._copies:
                each.restart_if_over(step)
        self._masks.advance(self._observations, self._infos(), idle=self._idle())
        return step

    def get_state(self) -> dict[str, Any]:
        """Return the state of the envs, their agents and their last observations, as plain data.

        Raises:
            EnvError: the envs do not offer their state.
        """
        return {
            "copies": [each.get_state() for each in self._copies],
            "observations": [leaf.copy() for leaf in leaves(self._observations)],
            "masks": self._masks.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned.

        Raises:
            EnvError: it belongs to another env.
        """
        for each, saved in zip(self._copies, state["copies"], strict=True):
            each.set_state(saved)
        for leaf, saved in zip(leaves(self._observations), state["observations"], strict=True):
            np.copyto(leaf, saved)
        self._masks.set_state(state["masks"])

    def _idle(self) -> np.ndarray:
        """Return which rows are padding in the next step, (N,) bool."""
        idle = np.ones(self.num_agents, dtype=bool)
        idle[[row for each in self._copies for row in each.playing_rows()]] = False
        return idle

    def _infos(self) -> dict[str, np.ndarray]:
        """Return the masks in the agents' infos, as gymnasium's vector envs put them together."""
        by_row = {row: mask for each in self._copies for row, mask in each.masks.items()}
        if not by_row:
            return {}
        # Of objects, as agents without a mask leave gaps, which gymnasium marks by a second array.
        masks = np.empty(self.num_agents, dtype=object)
        present = np.zeros(self.num_agents, dtype=bool)
        for row, mask in by_row.items():
            masks[row], present[row] = mask, True
        return {ACTION_MASK: masks, f"_{ACTION_MASK}": present}

    def _padding(self) -> Step:
        """Return a step in which nobody played; copies write their agents' rows into it."""
        rows = self.num_agents
        terminated, truncated, starts = (np.zeros(rows, dtype=bool) for _ in range(3))
        ghost = np.ones(rows, dtype=bool)
        return Step(self._observations, np.zeros(rows), terminated, truncated, starts, ghost)

    def show(self, row: int, observation: Any) -> None:
        """Write an agent's observation into its row."""
        map_nested(
            lambda rows, leaf: np.copyto(rows[row, ...], leaf, casting="same_kind"),
            self._observations,
            observation,
        )

    def close(self) -> None:
        """Close the envs.

        Raises:
            EnvError: an env fails to close.
        """
        for each in self._copies:
            each.close()


class _Copy:
    """One env, and the agents of it that play."""

    def __init__(self, env: Any, index: int, batch: ParallelVecEnv, first_row: int) -> None:
        self.env, self.index, self._batch = env, index, batch
        self._rows = {agent: first_row + i for i, agent in enumerate(batch.agents)}
        self._playing: list[Any] = []
        self._num_steps = 0
        self.masks: dict[int, Any] = {}
        """By row, of the agents that play and have one in their info."""

    def playing_rows(self) -> list[int]:
        """Return the rows of the agents that play."""
        return [self._rows[agent] for agent in self._playing]

    def reset(self, seed: int | None = None) -> None:
        options = {} if seed is None else {"seed": seed}
        try:
            with self._batch.limit:
                observations, infos = self.env.reset(**options)
        except FAULTS as error:
            raise self._fault("reset", error) from error
        self._playing = list(self.env.agents)
        if not self._playing:
            raise self._wrong("its reset() left no agent in 'agents'")
        for agent in self._playing:
            self._show(agent, observations, "reset")
        self._read_masks(infos)

    def get_state(self) -> dict[str, Any]:
        """Return the env's state, and which of its agents play, in their order."""
        playing = [self._batch.agents.index(agent) for agent in self._playing]
        return {"env": get_state(self.env), "playing": playing, "num_steps": self._num_steps}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned; masks are read anew in the next step."""
        set_state(self.env, state["env"])
        self._playing = [self._batch.agents[index] for index in state["playing"]]
        self._num_steps = state["num_steps"]

    def step(self, members: Any, batch: Step) -> None:
        """Step the agents that play and write what became of them into their rows of `batch`."""
        self._num_steps += 1
        actions = {
            agent: map_nested(operator.itemgetter(self._rows[agent]), members)
            for agent in self._playing
        }
        try:
            with self._batch.limit:
                observations, rewards, terminated, truncated, infos = self.env.step(actions)
        except FAULTS as error:
            raise self._fault("step", error) from error
        for agent in self._playing:
            row = self._rows[agent]
            batch.ghost[row] = False
            batch.rewards[row] = self._entry(rewards, agent, "rewards")
            batch.terminated[row] = self._entry(terminated, agent, "terminated")
            batch.truncated[row] = self._entry(truncated, agent, "truncated")
            # Some envs leave out the last observation of a dead agent. That of one that was cut
            # off is needed: the value of what would have come is taken from it.
            if agent in observations or not batch.terminated[row]:
                self._show(agent, observations, "step")
        self._go_on(batch, observations)
        self._read_masks(infos)

    def close(self) -> None:
        try:
            with self._batch.limit:
                self.env.close()
        except FAULTS as error:
            name = f"Env {self.index} of {self._batch.num_envs}"
            raise EnvError(f"{name} failed in close(): {first_line(error)}.") from error

    def restart_if_over(self, batch: Step) -> None:
        """Restart the env if nobody plays any more."""
        if not self._playing:
            self.reset()
            batch.starts[self.playing_rows()] = True

    def _go_on(self, batch: Step, observations: Mapping[Any, Any]) -> None:
        """Take over the env's list of agents, which must agree with the ends of their episodes."""
        finished = {agent for agent in self._playing if batch.done[self._rows[agent]]}
        agents = list(self.env.agents)
        if finished.issuperset(agents):
            agents = []  # the episode is over: some envs do not clear their list
        for agent in finished.intersection(agents):
            raise self._wrong(f"agent {agent!r} ended, but is still in 'agents'")
        for agent in set(self._playing) - finished - set(agents):
            raise self._wrong(f"agent {agent!r} left 'agents' without an end")
        for agent in agents:
            if agent not in self._playing:
                self._show(agent, observations, "step")
                batch.starts[self._rows[agent]] = True
        self._playing = agents

    def _read_masks(self, infos: Any) -> None:
        infos = infos if isinstance(infos, Mapping) else {}
        by_row = {self._rows[agent]: infos.get(agent) or {} for agent in self._playing}
        self.masks = {row: info[ACTION_MASK] for row, info in by_row.items() if ACTION_MASK in info}

    def _show(self, agent: Any, observations: Mapping[Any, Any], call: str) -> None:
        if agent not in self._rows:
            raise self._wrong(f"agent {agent!r} plays, but is not in 'possible_agents'")
        observation = self._entry(observations, agent, "observations")
        try:
            self._batch.show(self._rows[agent], observation)
        except (KeyError, TypeError, ValueError) as error:
            space = described(self._batch.single_observation_space)
            raise self._wrong(
                f"{call}() gave agent {agent!r} an observation that is not in {space}: "
                f"{first_line(error)}"
            ) from error

    def _entry(self, answers: Any, agent: Any, name: str) -> Any:
        if not isinstance(answers, Mapping):
            raise self._wrong(f"{name} is not a dict by agent, but a {type(answers).__name__}")
        if agent not in answers:
            raise self._wrong(f"agent {agent!r} plays, but is not in {name}")
        return answers[agent]

    @property
    def _place(self) -> str:
        where = f"step {self._num_steps}" if self._num_steps else "reset()"
        return f"Env {self.index} of {self._batch.num_envs} failed in {where}"

    def _wrong(self, what: str) -> EnvError:
        return EnvError(
            f"{self._place}: {what}.",
            fix="pettingzoo.test.parallel_api_test(env) checks what PettingZoo requires of an env.",
        )

    def _fault(self, call: str, error: BaseException) -> EnvError:
        place = place_of(frames_of(error))
        fix = f"Its own code raised that, at {place}." if place else f"{_RETURNS[call]}."
        return EnvError(f"{self._place}: {first_line(error)}.", fix=fix)


def _agents(envs: Sequence[Any]) -> list[Any]:
    """Return the agents of all copies, which one policy must be able to play."""
    first = getattr(envs[0], "possible_agents", None)
    if not first:
        raise EnvError(
            f"{envs[0]} does not say in 'possible_agents' who can play in it.",
            fix="Every agent that ever plays needs a row of the batch, from the start.",
        )
    agents = list(first)
    for kind in ("observation", "action"):
        spaces = [getattr(env, f"{kind}_space") for env in envs]
        expected = spaces[0](agents[0])
        for i, (env, space) in enumerate(zip(envs, spaces, strict=True)):
            if list(env.possible_agents) != agents:
                raise EnvError(
                    f"Env 0 and env {i} have different agents: {agents}, {env.possible_agents}."
                )
            for agent in agents:
                if space(agent) != expected:
                    raise _different(kind, agents[0], agent, (expected, space(agent)), copy=i)
    return agents


def _different(
    kind: str, first: Any, agent: Any, spaces: tuple[Any, Any], *, copy: int
) -> EnvError:
    whom = f"Agent {first!r} of env 0 and agent {agent!r} of env {copy}"
    return EnvError(
        f"{whom} have different {kind} spaces: {spaces[0]} and {spaces[1]}.",
        fix="One policy plays all agents here: pad their spaces to one in a wrapper of the env.",
    )


def _member(space: Any) -> Any:
    """Return the same member of `space` each time."""
    # Zeros need not be a member, and encoders index by observations, those of padding included.
    # A copy, as drawing from the env's own space would change what it draws later.
    own = copy.deepcopy(space)
    own.seed(0)
    return own.sample()


def make_parallel_env(name: str, env_kwargs: Mapping[str, Any]) -> Any:
    """Make a parallel env of PettingZoo.

    Args:
        name: ``pettingzoo/NAME_vN`` or ``pettingzoo/FAMILY/NAME_vN``.
        env_kwargs: arguments of its ``parallel_env()``.

    Raises:
        MissingDependency: PettingZoo, or what the env's family needs, is not installed.
        EnvError: no such env, one in which agents take turns, or wrong arguments.
    """
    pettingzoo = _import_pettingzoo()
    family, env_id = _look_up(pettingzoo, name)
    try:
        return pettingzoo.make("parallel", f"{family}/{env_id}", **env_kwargs)
    except (ImportError, pettingzoo.env_registry.exceptions.FailedToImport) as error:
        raise MissingDependency(
            f"{name!r} needs a package that is not installed: {error.__cause__ or error}.",
            fix=f"pip install 'pettingzoo[{family}]'",
        ) from error
    except FAULTS as error:
        raise EnvError(
            f"Making {name!r} with {dict(env_kwargs)} failed: {type(error).__name__}: {error}.",
            fix="The [env] section holds the arguments of its parallel_env().",
        ) from error


def _import_pettingzoo() -> Any:
    try:
        import_module("pettingzoo.env_registry.exceptions")
        return import_module("pettingzoo")
    except ImportError as error:
        raise MissingDependency(
            f"PettingZoo 1.27 or newer is needed: {error}.",
            fix='pip install "puffer-policies[pettingzoo]"',
        ) from error


def _look_up(pettingzoo: Any, name: str) -> tuple[str, str]:
    """Return the family and the id of an env in PettingZoo's registry."""
    env_name = name.removeprefix(PREFIX)
    parallel, by_turns = (
        _by_name(registry) for registry in (pettingzoo.parallel_registry, pettingzoo.aec_registry)
    )
    if env_name in parallel:
        return parallel[env_name]
    if env_name in by_turns:
        raise EnvError(
            f"In {name!r} the agents take turns; here they all act in every step.",
            fix="Train a parallel env, or turn it into one: pettingzoo.utils.aec_to_parallel.",
        )
    short = sorted(each for each in parallel if "/" not in each)
    raise EnvError(
        f"PettingZoo has no env {env_name!r}. {did_you_mean(env_name, short)}".rstrip(),
        fix=f"It has {', '.join(short)}.",
    )


def _by_name(registry: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return (family, id) by the names that one may use: ``pong_v3`` and ``atari/pong_v3``."""
    names = {}
    for spec in registry.values():
        name, env_id = f"{spec.name}_v{spec.version}", f"{spec.name}-v{spec.version}"
        for each in (name, f"{spec.namespace}/{name}"):
            names[each] = (spec.namespace, env_id)
    return names
