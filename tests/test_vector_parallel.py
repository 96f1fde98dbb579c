"""PettingZoo's parallel envs: rows are agents, absent agents are padding, mistakes have names."""

from __future__ import annotations

import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from agent_toys import Clocks, together
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from plain_policies import Plain
from training_toys import Clock

from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError, EnvError, MissingDependency
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import as_vecenv, make_vecenv
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.seeds import spawn_seeds
from puffer_policies.vector.state import get_state, set_state

SHORT, LONG = [(2, "t")], [(5, "c")]


def steps_of(env, count):
    vecenv = as_vecenv(env)
    vecenv.reset(seed=3)
    steps = []
    for _ in range(count):
        step = vecenv.step(np.zeros(vecenv.num_agents, dtype=np.int64))
        shown = np.copy(step.observations)
        steps.append((step, shown))
    return steps


def row(steps, name, index):
    return [bool(getattr(step, name)[index]) for step, _ in steps]


def test_a_dead_agents_row_is_a_ghost_until_the_env_restarts():
    steps = steps_of(Clocks({"short": SHORT, "long": LONG}), 7)
    assert row(steps, "terminated", 0) == [False, True, *[False] * 4, True]
    assert row(steps, "ghost", 0) == [False, False, True, True, True, False, False]
    assert row(steps, "starts", 0) == [*[False] * 4, True, False, False]
    assert row(steps, "truncated", 1) == [*[False] * 4, True, False, False]
    assert not any(row(steps, "ghost", 1))


def test_padding_goes_on_showing_what_the_agent_saw_last():
    steps = steps_of(Clocks({"short": SHORT, "long": LONG}), 5)
    assert [shown[0].tolist() for _, shown in steps] == [[0, 1], [0, 2], [0, 2], [0, 2], [0, 0]]
    final = steps[-1][0].final_observations
    np.testing.assert_array_equal(final, [[0, 2], [0, 5]])


def test_the_actions_of_the_dead_reach_no_env():
    env = Clocks({"short": SHORT, "long": LONG})
    steps_of(env, 4)
    assert [sorted(each) for each in env.seen] == [["long", "short"]] * 2 + [["long"]] * 2


def test_an_agent_that_enters_later_starts_then():
    steps = steps_of(Clocks({"early": LONG, "late": LONG}, late={"late": 2}), 8)
    assert row(steps, "ghost", 1) == [True, True, *[False] * 5, True]
    assert row(steps, "starts", 1) == [False, True, *[False] * 6]
    assert row(steps, "starts", 0) == [*[False] * 6, True, False]  # both wait for each other
    assert [shown[1, 1] for _, shown in steps][1:7] == [0, 1, 2, 3, 4, 5]


def test_before_it_enters_an_agents_row_shows_a_member_of_its_space():
    class Numbered(Clocks):
        space = spaces.Discrete(3, start=5)

        def observation_space(self, agent):
            return self.space

        def _enter(self):
            return dict.fromkeys(super()._enter(), 6)

    env = as_vecenv(Numbered({"early": LONG, "late": LONG}, late={"late": 2}))
    shown = np.copy(env.reset())
    assert shown[0] == 6
    assert Numbered.space.contains(shown[1])
    np.testing.assert_array_equal(env.reset(), shown)


def test_each_copy_has_a_seed_of_its_own_and_is_closed():
    made = []

    def make():
        made.append(together())
        return made[-1]

    env = as_vecenv(make, 3)
    assert (env.num_envs, env.num_agents) == (3, 6)
    env.reset(seed=10)
    env.reset()
    assert [each.seeds for each in made] == [[seed, None] for seed in spawn_seeds(10, 3)]
    env.close()
    assert all(each.closed for each in made)


def test_nested_observations_keep_their_structure_whatever_their_order():
    class Nested(Clocks):
        space = spaces.Dict(b=spaces.Box(-9, 9, (2,), np.float32), a=spaces.Discrete(99))

        def observation_space(self, agent):
            return self.space

        def step(self, actions):
            shown, *rest = super().step(actions)
            return {a: {"a": int(each[1]), "b": each} for a, each in shown.items()}, *rest

        def reset(self, seed=None, options=None):
            shown, infos = super().reset(seed)
            return {a: {"b": each, "a": 0} for a, each in shown.items()}, infos

    step, _ = steps_of(Nested({"x": SHORT, "y": LONG}), 2)[-1]
    np.testing.assert_array_equal(step.observations["a"], [2, 2])
    np.testing.assert_array_equal(step.final_observations["b"][0], [0, 2])


def test_sizes_that_do_not_divide_are_told_with_the_agents_of_each_env():
    env = as_vecenv(together, 2)
    config = TrainConfig(bptt_horizon=8, batch_size=10)
    with pytest.raises(ConfigError, match=r"4 agents \(vec.num_envs 2 x 2\)(.|\n)*8 or 12"):
        Trainer(config, env, Plain(env))


def test_parallel_envs_that_offer_their_state_go_on_exactly():
    def shown(env, count):
        steps = [env.step(np.zeros(env.num_agents, dtype=np.int64)) for _ in range(count)]
        return [(s.rewards.tolist(), s.ghost.tolist(), s.starts.tolist()) for s in steps]

    first, second = as_vecenv(together, 2), as_vecenv(together, 2)
    first.reset(seed=1)
    second.reset(seed=2)
    shown(first, 7)
    set_state(second, get_state(first))
    assert shown(second, 9) == shown(first, 9)


class Wide(Clocks):
    wide = {"y": spaces.Box(-1, 1, (3,), np.float32)}  # noqa: RUF012

    def observation_space(self, agent):
        return self.wide.get(agent, Clock.observation_space)


class Rich(Clocks):
    def action_space(self, agent):
        return spaces.Discrete(2 + (agent == "y"))


def test_agents_and_copies_that_differ_are_refused_by_name():
    for env_class, kind in ((Wide, "observation"), (Rich, "action")):
        text = f"Agent 'x' of env 0 and agent 'y' of env 0 have different {kind} spaces"
        with pytest.raises(EnvError, match=text):
            as_vecenv(env_class({"x": SHORT, "y": SHORT}))
    several = iter([Clocks({"x": SHORT}), Clocks({"z": SHORT})])
    with pytest.raises(EnvError, match="Env 0 and env 1 have different agents"):
        as_vecenv(lambda: next(several), 2)


def altered(change):
    class Altered(Clocks):
        def step(self, actions):
            answer = [dict(each) for each in super().step(actions)]
            return change(self, answer) or answer

    return Altered({"x": LONG, "y": LONG})


def forget(which):
    def change(env, answer):
        answer[which].pop("y")

    return change


def leave(env, answer):
    env.agents.remove("y")


def stay(env, answer):
    answer[2]["y"] = True


def intrude(env, answer):
    env.agents.append("z")


def fraction(env, answer):
    answer[0]["y"] = np.zeros(3)


def fail(env, answer):
    raise KeyError("no such unit")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (forget(0), "agent 'y' plays, but is not in observations"),
        (forget(1), "agent 'y' plays, but is not in rewards"),
        (leave, "agent 'y' left 'agents' without an end"),
        (stay, "agent 'y' ended, but is still in 'agents'"),
        (intrude, "agent 'z' plays, but is not in 'possible_agents'"),
        (fraction, r"gave agent 'y' an observation that is not in Box\(shape=\(2,\), dtype=float"),
        (fail, "KeyError: 'no such unit'"),
        (lambda env, answer: answer[:4], "not enough values to unpack"),
        (lambda env, answer: [[1.0], *answer[1:]], "observations is not a dict by agent, but a li"),
    ],
)
def test_what_an_env_does_wrong_names_the_agent_and_the_step(change, text):
    with pytest.raises(EnvError, match=f"^Env 0 of 1 failed in step 1: .*{text}"):
        steps_of(altered(change), 1)


def test_a_reset_that_starts_nobody_is_told():
    with pytest.raises(EnvError, match="left no agent in 'agents'"):
        steps_of(Clocks({"x": SHORT}, late={"x": 1}), 1)


def test_an_env_that_ends_without_clearing_its_agents_restarts():
    class Forgetful(Clocks):
        def step(self, actions):
            before = list(self.agents)
            answer = super().step(actions)
            self.agents = self.agents or before
            return answer

    steps = steps_of(Forgetful({"x": SHORT, "y": SHORT}), 4)
    assert row(steps, "starts", 0) == [False, True, False, True]


def test_a_function_that_makes_a_gymnasium_env_serves_too():
    env = as_vecenv(lambda: Clock(SHORT), 3)
    assert isinstance(env, GymVecEnv)
    assert isinstance(env.env, SyncVectorEnv)
    assert env.num_agents == 3
    assert as_vecenv(gymnasium.make("CartPole-v1")).num_agents == 1
    with pytest.raises(ConfigError, match="Pass a function"):
        as_vecenv(Clock(SHORT), 2)


pettingzoo = pytest.importorskip("pettingzoo", reason="the rest is about its own envs")


def test_the_clocks_are_a_parallel_env_to_pettingzoo():
    with warnings.catch_warnings():
        # Of spaces far wider than what is shown, and of PettingZoo's own old names.
        warnings.simplefilter("ignore")
        from pettingzoo.test import parallel_api_test

        parallel_api_test(Clocks({"short": SHORT, "long": LONG}), num_cycles=20)


def test_an_env_of_pettingzoo_trains_by_name():
    name = "pettingzoo/rps_v2"
    env = make_vecenv(name, 2, env_kwargs={"max_cycles": 5, "num_actions": 3})
    assert env.num_agents == 4
    torch.manual_seed(0)
    trainer = Trainer(TrainConfig(bptt_horizon=16, seed=3), env, get_policy("Default", env))
    rollout = trainer.collect()
    assert np.flatnonzero(rollout.done[:, 0]).tolist() == [4, 9, 14]
    assert not rollout.terminated.any()
    assert not rollout.ghost.any()
    # Rock, paper, scissors is a zero-sum game of the two rows of each env.
    assert rollout.rewards.any()
    np.testing.assert_array_equal(rollout.rewards[:, ::2], -rollout.rewards[:, 1::2])
    assert np.isfinite(trainer.learn(trainer.estimate(rollout))["losses/total"])
    trainer.close()


def test_names_of_pettingzoo_may_say_their_family():
    env = make_vecenv("pettingzoo/classic/rps_v2", env_kwargs={"max_cycles": 5})
    assert env.agents == ["player_0", "player_1"]


def test_mistakes_in_names_and_arguments_of_pettingzoo_are_told():
    with pytest.raises(EnvError, match=r"no env 'pistonbal_v6'. Did you mean 'pistonball_v6'"):
        make_vecenv("pettingzoo/pistonbal_v6")
    with pytest.raises(EnvError, match="take turns"):
        make_vecenv("pettingzoo/chess_v6")
    with pytest.raises(EnvError, match=r"rps_v2' with \{'cycles': 5\} failed"):
        make_vecenv("pettingzoo/rps_v2", env_kwargs={"cycles": 5})
    with pytest.raises(ConfigError, match="'async', which can't run 'pettingzoo/rps_v2'"):
        make_vecenv("pettingzoo/rps_v2", vectorization="async")
    with pytest.raises(EnvError, match="its agents take turns"):
        as_vecenv(pettingzoo.make("aec", "classic/rps-v2"))


def test_the_extra_is_named_where_pettingzoo_is_missing(monkeypatch):
    for name in [each for each in sys.modules if each.partition(".")[0] == "pettingzoo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    with pytest.raises(MissingDependency, match=r"puffer-policies\[pettingzoo\]"):
        make_vecenv("pettingzoo/rps_v2")


def test_padding_reaches_no_policy_as_a_start():
    env = as_vecenv(Clocks({"short": SHORT, "long": LONG}))
    torch.manual_seed(0)
    trainer = Trainer(TrainConfig(bptt_horizon=10, seed=3), env, Plain(env))
    rollout = trainer.collect()
    assert np.flatnonzero(rollout.starts[:, 0]).tolist() == [0, 5]
    assert np.flatnonzero(rollout.ghost[:, 0]).tolist() == [2, 3, 4, 7, 8, 9]
