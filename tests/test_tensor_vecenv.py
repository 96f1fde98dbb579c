"""Envs that take and give tensors are one kind of vector env, in the forms of all libraries."""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from device_toys import synchronizations
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from specimens import ACTIONS
from tensor_toys import IsaacForm, ManiSkillForm, TensorClocks
from training_toys import MODES, SCHEDULES, Clock, clocks

from puffer_policies import get_policy
from puffer_policies.config.schema import EvalConfig, TrainConfig
from puffer_policies.errors import ConfigError, EnvError, IncompatibleSpace
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.spaces import action_layout
from puffer_policies.spaces.nested import leaves
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import as_vecenv
from puffer_policies.vector.protocol import device_of
from puffer_policies.vector.state import get_state, set_state
from puffer_policies.vector.tensor.actions import TensorActions
from puffer_policies.vector.tensor.adapter import TensorVecEnv
from puffer_policies.vector.tensor.cartpole import TorchCartPole
from puffer_policies.vector.tensor.host import on_host
from puffer_policies.vector.tensor.pendulum import TorchPendulum
from puffer_policies.vector.tensor.repeat_previous import TorchRepeatPrevious

pytestmark = pytest.mark.trainer
CPU = torch.device("cpu")
NAMES = ("observations", "rewards", "terminated", "truncated", "starts", "ghost")


class Converted(VectorWrapper):
    """As gymnasium's NumpyToTorch."""

    device = "cpu"

    def reset(self, **kwargs):
        observations, _ = self.env.reset(**kwargs)
        return torch.tensor(observations), {}

    def step(self, actions):
        *answer, _ = self.env.step(actions.numpy())
        return *map(torch.tensor, answer), {}

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def converted():
    makers = [partial(Clock, each) for each in SCHEDULES]
    envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    return Converted(envs)


def noughts(vecenv):
    layout = action_layout(vecenv.single_action_space)
    dtype = torch.from_numpy(np.zeros(0, layout.policy_dtype)).dtype
    return torch.zeros((vecenv.num_envs, *layout.policy_shape), dtype=dtype)


def steps_of(vecenv, number=30):
    vecenv.reset(seed=0)
    return [vecenv.step(noughts(vecenv)) for _ in range(number)]


@pytest.mark.parametrize("mode", MODES)
def test_steps_are_those_of_the_same_envs_in_numpy(mode):
    ours, theirs = as_vecenv(TensorClocks(mode)), clocks(mode)
    assert torch.equal(ours.reset(seed=0), torch.from_numpy(theirs.reset(seed=0)))
    for _ in range(40):
        one, other = ours.step(noughts(ours)), theirs.step(np.zeros(2, np.int64))
        for name in NAMES:
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert one.rewards.dtype is torch.float32
        assert one.done.dtype is torch.bool
        assert one.lacks_final is False
        if other.final_observations is not None:
            final, done = one.final_observations.numpy(), other.done
            assert np.array_equal(final[done], other.final_observations[done])


@pytest.mark.parametrize("mode", MODES)
def test_no_step_waits_for_the_device(mode):
    vecenv = as_vecenv(TensorClocks(mode))
    steps_of(vecenv, 1)
    actions = noughts(vecenv)
    with synchronizations() as waits:
        for _ in range(10):
            vecenv.step(actions)
    assert not waits


def test_a_vector_env_of_gymnasiums_in_wrappers_of_it_is_served():
    theirs = clocks(AutoresetMode.NEXT_STEP)
    theirs.reset(seed=0)
    ours = as_vecenv(VectorWrapper(converted()))
    for step in steps_of(ours):
        other = theirs.step(np.zeros(2, np.int64))
        assert all(np.array_equal(getattr(step, name), getattr(other, name)) for name in NAMES)
    one, other = as_vecenv(converted()), as_vecenv(converted())
    steps_of(one, 7)
    other.reset()
    set_state(other, get_state(one))
    assert np.array_equal(*(each.step(noughts(each)).observations for each in (one, other)))


def wrapped_isaac():
    return gymnasium.wrappers.OrderEnforcing(IsaacForm())


@pytest.mark.parametrize("make", [IsaacForm, wrapped_isaac])
def test_isaac_labs_form_shows_its_policy_group_and_lacks_final_observations(make):
    env = make()
    vecenv = as_vecenv(env)
    assert vecenv.single_observation_space == TensorClocks.single_observation_space
    assert device_of(vecenv) == CPU
    expected = steps_of(as_vecenv(TensorClocks(AutoresetMode.SAME_STEP)))
    rewards = []
    vecenv.reset(seed=0)
    for other in expected:
        step = vecenv.step(torch.full((2, 2), 1e9))
        rewards.append(step.rewards.clone())
        for name in NAMES:
            assert torch.equal(getattr(step, name), getattr(other, name))
        assert step.lacks_final
        assert step.final_observations is None
    assert torch.equal(torch.stack(rewards), torch.stack([each.rewards for each in expected]))
    # Bounds without an end clip nothing.
    assert (env.unwrapped.action == 1e9).all()


def test_groups_of_isaac_labs_form_are_chosen():
    one = TensorVecEnv(IsaacForm(), groups="critic")
    assert one.single_observation_space.shape == (3,)
    assert one.reset(seed=0).shape == (2, 3)
    both = TensorVecEnv(IsaacForm(), groups=("policy", "critic"))
    assert {key: each.shape for key, each in both.reset(seed=0).items()} == {
        "policy": (2, 2),
        "critic": (2, 3),
    }
    with pytest.raises(IncompatibleSpace, match="no 'actor'"):
        TensorVecEnv(IsaacForm(), groups="actor")


def test_maniskills_form_shows_final_observations_where_something_ended():
    vecenv = as_vecenv(ManiSkillForm())
    expected = steps_of(as_vecenv(TensorClocks(AutoresetMode.SAME_STEP)))
    for step, other in zip(steps_of(vecenv), expected, strict=True):
        assert torch.equal(step.observations, other.observations)
        assert step.lacks_final is not bool(step.done.any())
        if step.done.any():
            assert torch.equal(step.final_observations, other.final_observations)
    assert vecenv.env._base.seeds[0] is not None


def trainer_of(env, policy="Default", horizon=16, **options):
    vecenv = env if hasattr(env, "driver_env") else as_vecenv(env)
    config = TrainConfig(bptt_horizon=horizon, total_timesteps=10_000, device="cpu", **options)
    return Trainer(config, vecenv, get_policy(policy, vecenv, hidden_size=8))


@pytest.mark.parametrize("make", [IsaacForm, ManiSkillForm])
def test_a_policy_trains_on_each_form(make):
    trainer = trainer_of(make())
    for _ in range(2):
        logs = trainer.learn(trainer.estimate(trainer.collect()))
    assert np.isfinite(list(logs.values())).all()


def test_a_critic_sees_the_group_that_isaac_lab_has_for_it():
    vecenv = TensorVecEnv(IsaacForm(), groups=("policy", "critic"))
    split = 'SeparateCriticWrapper(Default, actor_keys=["policy"], critic_keys=["critic"])'
    trainer = trainer_of(vecenv, split)
    logs = trainer.learn(trainer.estimate(trainer.collect()))
    assert np.isfinite(list(logs.values())).all()


@pytest.mark.parametrize(
    ("make", "policy"),
    [
        (partial(TorchCartPole, 6), "NormalizeObservationWrapper(Default)"),
        (partial(TorchPendulum, 6, max_episode_steps=5), "Continuous"),
        (partial(TorchRepeatPrevious, 6), "PrevActionRewardWrapper(LSTMWrapper(Default))"),
        (partial(TensorClocks, AutoresetMode.SAME_STEP), "Default"),
        (partial(TensorClocks, AutoresetMode.DISABLED), "Default"),
    ],
)
def test_a_rollout_waits_as_often_for_the_device_however_long_it_is(make, policy):
    counts = []
    for horizon in (16, 32):
        trainer = trainer_of(make(), policy, horizon)
        trainer.estimate(trainer.collect())
        with synchronizations() as waits:
            trainer.estimate(trainer.collect())
        counts.append(waits)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("mode", MODES)
def test_an_evaluation_counts_the_episodes_that_it_counts_in_numpy(mode):
    one, other = as_vecenv(TensorClocks(mode)), clocks(mode)
    policy, config = get_policy("Default", one), EvalConfig(episodes=7)
    results = [evaluate(policy, each, config) for each in (one, other)]
    assert results[0] == results[1]
    assert results[0].complete


def test_where_final_observations_lack_the_value_before_the_step_stands_in():
    rollout = trainer_of(IsaacForm()).collect()
    cut = torch.as_tensor(rollout.done) & ~torch.as_tensor(rollout.terminated)
    assert cut.any()
    assert torch.equal(torch.as_tensor(rollout.next_values)[cut], rollout.values[cut])


def test_who_restarts_nothing_or_does_not_say_is_refused():
    with pytest.raises(EnvError, match="auto_reset=True"):
        as_vecenv(ManiSkillForm(auto_reset=False))
    env = TensorClocks(AutoresetMode.SAME_STEP)
    env.metadata = {}
    with pytest.raises(EnvError, match="does not say how it restarts"):
        as_vecenv(env)
    vecenv = TensorVecEnv(env, autoreset_mode=AutoresetMode.SAME_STEP)
    assert steps_of(vecenv, 4)[2].starts.any()


def test_an_env_without_a_device_is_told_that_it_lacks_one():
    with pytest.raises(EnvError, match="lacks device"):
        as_vecenv(broken(device=None))


class Buffered(TensorClocks):
    """Returns the same tensors from every call, and a restart clears their rows."""

    def reset(self, *, seed=None, options=None):
        first, infos = super().reset(seed=seed, options=options)
        if options is None:
            self.buffers = tuple(torch.zeros(self.num_envs, dtype=each) for each in BUFFERED)
            self.shown = first
        for each in self.buffers:
            each.masked_fill_((options or {}).get("reset_mask", torch.tensor(True)), 0)
        return self.shown.copy_(first), infos

    def step(self, actions):
        observations, *outcome, infos = super().step(actions)
        for each, value in zip(self.buffers, outcome, strict=True):
            each.copy_(value)
        return self.shown.copy_(observations), *self.buffers, infos


BUFFERED = torch.float32, torch.bool, torch.bool


@pytest.mark.parametrize("mode", MODES)
def test_a_rollout_is_the_same_where_the_env_uses_its_tensors_again(mode):
    rollouts = []
    for make in (TensorClocks, Buffered):
        torch.manual_seed(0)
        rollouts.append(trainer_of(make(mode)).collect())
    one, other = rollouts
    assert one.done.any()
    for name in ("observations", "starts", "rewards", "terminated", "done", "ghost", "next_values"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_an_env_may_write_over_its_actions(space):
    layout = action_layout(space)
    dtype = torch.from_numpy(np.zeros(0, layout.policy_dtype)).dtype
    actions = torch.zeros((20, *layout.policy_shape), dtype=dtype)
    for each in leaves(TensorActions(layout, CPU).to_env(actions)):
        each.fill_(1)
    assert not actions.any()


class Differentiable(TensorClocks):
    """Observations and rewards remember how they were made."""

    weight = torch.ones((), requires_grad=True)

    def reset(self, **kwargs):
        first, infos = super().reset(**kwargs)
        return first * self.weight, infos

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations * self.weight, rewards * self.weight, *rest


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_a_differentiable_env_is_remembered(mode):
    trainer = trainer_of(Differentiable(mode))
    rollout = trainer.collect()
    assert not rollout.observations.requires_grad
    assert not rollout.rewards.requires_grad
    vecenv = as_vecenv(Differentiable(mode))
    assert not vecenv.reset(seed=0).requires_grad
    assert not vecenv.step(noughts(vecenv)).rewards.requires_grad


def test_a_leaf_that_requires_a_gradient_comes_to_the_host():
    env = TensorClocks(AutoresetMode.NEXT_STEP)
    shown = env._shown
    env._shown = lambda: shown().requires_grad_()
    assert isinstance(on_host(as_vecenv(env)).reset(seed=0), np.ndarray)


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_actions_become_those_that_numpy_envs_get(space):
    layout = action_layout(space)
    draws = np.random.default_rng(0)
    if layout.parts:
        columns = []
        for _, leaf, columns_of in layout.leaves():
            width = columns_of.stop - columns_of.start
            high = np.resize(leaf.nvec or [1], width)
            reals = draws.normal(size=(20, width)) * 3
            columns.append(reals if leaf.is_continuous else draws.integers(high, size=(20, width)))
        actions = np.concatenate(columns, axis=1).astype(layout.policy_dtype)
    elif layout.is_continuous:
        actions = (draws.normal(size=(20, *layout.shape)) * 3).astype(np.float32)
    else:
        actions = draws.integers(layout.nvec, size=(20, len(layout.nvec)))
        actions = actions.reshape(20, *layout.policy_shape)
    expected = layout.to_env(actions)
    members = TensorActions(layout, CPU).to_env(torch.from_numpy(actions))
    for one, other in zip(leaves(members), leaves(expected), strict=True):
        np.testing.assert_array_equal(one.numpy(), other)
        assert one.numpy().dtype == other.dtype


class Masked(TensorClocks):
    """Allows the action that the time names; masks come as `way` says."""

    def __init__(self, mode, way):
        super().__init__(mode)
        self.way = way
        if way == "observation":
            box = spaces.Box(0, 1, (2,), np.int8)
            self.single_observation_space = spaces.Dict(
                {"clock": TensorClocks.single_observation_space, "action_mask": box}
            )

    @property
    def mask(self):
        return torch.stack((self.time % 2 == 0, self.time % 2 == 1), dim=-1)

    def _shown(self):
        shown = super()._shown()
        if self.way == "observation":
            return {"clock": shown, "action_mask": self.mask.to(torch.int8)}
        return shown

    def _infos(self, final=None):
        infos = super()._infos(final)
        return {**infos, "action_mask": self.mask} if self.way == "infos" else infos

    def __getattr__(self, name):
        if name == "action_masks" and self.way in ("attribute", "method"):
            return self.mask if self.way == "attribute" else lambda: self.mask
        raise AttributeError(name)


@pytest.mark.parametrize("way", ["infos", "attribute", "method", "observation"])
@pytest.mark.parametrize("mode", MODES)
def test_masks_are_those_of_the_observations_in_every_way_that_envs_give_them(mode, way):
    vecenv = as_vecenv(Masked(mode, way))
    vecenv.reset(seed=0)
    assert vecenv.action_masks.tolist() == [[True, False]] * 2
    for _ in range(20):
        step = vecenv.step(noughts(vecenv))
        shown = step.observations["clock"] if way == "observation" else step.observations
        idle = step.done & ~step.starts
        expected = torch.stack((shown[:, 1] % 2 == 0, shown[:, 1] % 2 == 1), dim=-1)
        assert torch.equal(vecenv.action_masks, expected | idle[:, None])
        assert torch.equal(vecenv.action_masks, expected | idle[:, None])


def test_a_mask_that_allows_nothing_or_has_another_form_is_refused():
    env = Masked(AutoresetMode.NEXT_STEP, "")
    vecenv = as_vecenv(env)
    for mask, words in (
        (torch.zeros(2, 2, dtype=torch.bool), "allows nothing"),
        (torch.ones(2, 3, dtype=torch.bool), r"\(2, 3\)"),
        (np.ones((2, 2), bool), "ndarray"),
        (torch.ones(2, 2, dtype=torch.bool, device="meta"), "meta"),
    ):
        env._infos = lambda final=None, mask=mask: {"action_mask": mask}
        with pytest.raises(EnvError, match=words):
            vecenv.reset(seed=0)
    env._infos = lambda final=None: {"action_mask": torch.ones(2, 2)}
    vecenv.reset(seed=0)
    assert vecenv.action_masks.dtype is torch.bool
    env._infos = lambda final=None: {}
    vecenv.step(noughts(vecenv))
    with pytest.raises(EnvError, match="NoneType"):
        _ = vecenv.action_masks


def broken(**changes):
    """Return an env one of whose answers is another: names of the parts of a step, or reset."""
    env = TensorClocks(AutoresetMode.NEXT_STEP)
    for name, value in changes.items():
        setattr(env, name, value)
    return env


def answer(**changes):
    names = ("observations", "rewards", "terminated", "truncated", "infos")
    good = (torch.zeros(2, 2), torch.zeros(2), torch.zeros(2) > 0, torch.zeros(2) > 0, {})
    return lambda actions: tuple({**dict(zip(names, good, strict=True)), **changes}.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": answer(rewards=torch.zeros(2, 1))}, r"rewards of shape \(2, 1\)"),
        ({"step": answer(rewards=np.zeros(2))}, "rewards of type ndarray"),
        ({"step": answer(terminated=torch.zeros(2, device="meta"))}, "terminated on meta"),
        ({"step": answer(observations=torch.zeros(2, 3))}, r"observations of shape \(2, 3\)"),
        ({"step": answer(observations=torch.zeros(2, 2).long())}, "observations of torch.int64"),
        ({"step": answer(observations={"a": torch.zeros(2, 2)})}, "observations of type dict"),
        ({"step": answer(infos=None)}, "infos of type NoneType"),
        ({"step": lambda actions: answer()(actions)[:4]}, "tuple of 4"),
        ({"step": lambda actions: 1 / 0}, "in step 1: ZeroDivisionError"),
        ({"reset": lambda seed, options: torch.zeros(2, 2)}, "returned a Tensor"),
        ({"reset": lambda seed: None}, "in reset"),
        ({"reset": lambda seed, options: (np.zeros((2, 2)), {})}, "type ndarray"),
        ({"num_envs": None}, "lacks num_envs"),
        ({"device": None}, "lacks device"),
        ({"device": "bogus"}, "device is 'bogus', which torch can't use here"),
        ({"device": object()}, "which torch can't use here"),
        ({"metadata": {"autoreset_mode": "SAME_STEP"}}, "its mode is 'SAME_STEP'"),
        ({"metadata": {"autoreset_mode": None}}, "its mode is None"),
    ],
)
def test_what_an_env_returns_is_looked_at_once_and_refused_in_words(changes, words):
    with pytest.raises(EnvError, match=words):
        steps_of(TensorVecEnv(broken(**changes)), 1)


def test_actions_elsewhere_or_of_another_shape_are_refused_in_the_first_step():
    vecenv = as_vecenv(TorchCartPole(2))
    vecenv.reset(seed=0)
    with pytest.raises(ConfigError, match="on meta, the envs on cpu"):
        vecenv.step(torch.zeros(2, dtype=torch.int64, device="meta"))
    with pytest.raises(EnvError, match=r"expected \(2,\)"):
        vecenv.step(torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"type ndarray.*\n.*on_host"):
        vecenv.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(("part", "what"), [(0, "observations"), (1, "rewards"), (3, "flags")])
def test_one_row_is_never_repeated_in_all_of_them(part, what):
    env = TensorClocks(AutoresetMode.NEXT_STEP)
    trainer, step = trainer_of(env), env.step
    trainer.collect()

    def shorter(actions):
        parts = list(step(actions))
        parts[part] = parts[part][:1]
        return tuple(parts)

    env.step = shorter
    with pytest.raises(EnvError, match=rf"{what}.* of shape \(1,.*expected \(2,"):
        trainer.collect()


def test_doubles_and_other_flags_become_what_the_trainer_reads():
    env = TensorClocks(AutoresetMode.NEXT_STEP)
    env.single_observation_space = spaces.Box(-1e6, 1e6, (2,), np.float64)
    step, reset = env.step, env.reset
    env.reset = lambda **kwargs: (reset(**kwargs)[0].double(), {})
    env.step = lambda actions: (
        *(each.double() for each in step(actions)[:2]),
        *(each.to(torch.uint8) for each in env.flags()),
        {},
    )
    env.flags = lambda: (env.done, torch.zeros(2))
    vecenv = as_vecenv(env)
    assert vecenv.reset(seed=0).dtype is torch.float32
    answer = vecenv.step(noughts(vecenv))
    dtypes = [getattr(answer, name).dtype for name in NAMES]
    assert dtypes == [torch.float32] * 2 + [torch.bool] * 4


def test_the_state_is_that_of_the_env_where_it_offers_one():
    for mode in MODES:
        one, other = (as_vecenv(TensorClocks(mode)) for _ in range(2))
        steps_of(one, 7)
        steps_of(other, 2)
        set_state(other, get_state(one))
        for _ in range(20):
            a, b = (each.step(noughts(each)) for each in (one, other))
            assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in NAMES)
    with pytest.raises(EnvError, match="get_state"):
        get_state(as_vecenv(IsaacForm()))


@pytest.mark.parametrize("mode", MODES)
def test_on_the_host_all_are_arrays(mode):
    vecenv = as_vecenv(Masked(mode, "infos"))
    host = on_host(vecenv)
    assert device_of(host) is None
    assert on_host(host) is host
    assert isinstance(host.reset(seed=0), np.ndarray)
    step = host.step(np.zeros(2, np.int64))
    arrays = [getattr(step, name) for name in NAMES]
    assert all(isinstance(each, np.ndarray) for each in (*arrays, step.done, host.action_masks))
    assert host.num_agents == vecenv.num_agents
    assert host.driver_env is vecenv.driver_env
    set_state(host, get_state(host))
    host.close()
    assert vecenv.env.closed


def test_numpy_envs_are_none_of_these():
    for env in (gymnasium.make_vec("CartPole-v1", 2), clocks(AutoresetMode.NEXT_STEP)):
        assert device_of(as_vecenv(env)) is None
