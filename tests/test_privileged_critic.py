"""A critic that sees or remembers more than the actor: an actor that acts, and travels, alone."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick_checks import quick_report
from test_resume import require_same, stopped_after

from puffer_policies.agent import Agent
from puffer_policies.assembly.blueprint import prepare
from puffer_policies.assembly.checkpoint import load_policy, read_checkpoint, save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.checks.model import Status
from puffer_policies.config.load import load_config, load_run_config
from puffer_policies.config.schema import EvalConfig
from puffer_policies.errors import (
    CheckpointError,
    IncompatibleSpace,
    PolicyError,
    PolicyNotFound,
    TrustError,
)
from puffer_policies.export.api import export_policy
from puffer_policies.export.recording import record_step
from puffer_policies.export.source import source_of
from puffer_policies.nn.distributions import distribution
from puffer_policies.registry import default_registry
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.runs.run import train_from_config
from puffer_policies.spaces import Spaces
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.wrappers.base import actor_of

SIGHT, POSE, MASK = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), spaces.MultiBinary(4)
ENV = Spaces(spaces.Dict(sight=SIGHT, pose=POSE), spaces.Discrete(4))
MASKED = Spaces(spaces.Dict(sight=SIGHT, pose=POSE, mask=MASK), spaces.Discrete(4))
ROBOT = Spaces(spaces.Dict(sight=SIGHT), spaces.Discrete(4))
NET, SEES = "Default(hidden_size=8)", "actor_keys=['sight']"
PLAIN = f"SeparateCriticWrapper({NET}, {SEES})"
ONLY_CRITIC_REMEMBERS = (
    f"SeparateCriticWrapper({NET}, {SEES}, critic='LSTMWrapper(Default(hidden_size=12))')"
)
ONLY_ACTOR_REMEMBERS = (
    f"SeparateCriticWrapper(GRUWrapper({NET}), {SEES}, critic='Default(hidden_size=12)')"
)
NORMALIZED = (
    f"NormalizeObservationWrapper(SeparateCriticWrapper({NET}, {SEES}, critic='RNNWrapper({NET})'))"
)
MASKED_AROUND = (
    f"ActionMaskWrapper(SeparateCriticWrapper(PrevActionRewardWrapper({NET}), {SEES}), key='mask')"
)
STACKS = {
    PLAIN: ENV,
    f"SeparateCriticWrapper(LSTMWrapper({NET}), {SEES}, critic_keys=['pose'])": ENV,
    ONLY_CRITIC_REMEMBERS: ENV,
    ONLY_ACTOR_REMEMBERS: ENV,
    NORMALIZED: ENV,
    f"SeparateCriticWrapper(FrameStackWrapper({NET}), {SEES}, critic='NormalizeObservationWrapper"
    f"(PrevActionRewardWrapper(GRUWrapper({NET})))')": ENV,
    MASKED_AROUND: MASKED,
    f"SeparateCriticWrapper(ActionMaskWrapper(GRUWrapper({NET}), key='mask'), critic='{NET}', "
    "actor_keys=['sight', 'mask'], critic_keys=['pose'])": MASKED,
}
STACKS[f"TwoHotWrapper({ONLY_ACTOR_REMEMBERS}, bins=11)"] = ENV
B, T = 4, 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def noisy(stack, env):
    """A policy whose choices and memories are not nearly the same everywhere."""
    policy = get_policy(stack, env)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return policy


def observed(env, *lead):
    observations = {"sight": torch.randn(*lead, 3), "pose": torch.randn(*lead, 2)}
    return observations | ({"mask": torch.ones(*lead, 4)} if env is MASKED else {})


def step_of(observations, t):
    return {key: each[:, t] for key, each in observations.items()}


@pytest.mark.parametrize(("stack", "env"), STACKS.items())
def test_what_the_critic_alone_sees_never_reaches_the_actor(stack, env):
    policy, starts = noisy(stack, env), torch.rand(B, T) < 0.3
    one, other = observed(env, B, T), {"pose": torch.randn(B, T, 2)}
    sequences, states = [], []
    for observations in (one, one | other):
        state = {"episode_start": starts}
        sequences.append(policy(observations, state))
        states.append(state)
    (logits, values), (same, others) = sequences
    assert torch.equal(logits, same)
    assert not torch.allclose(values, others)
    own = [key for key in states[0] if not key.startswith("critic_")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in own)
    actor = actor_of(policy, env)
    assert "pose" not in actor.spaces.observation.spaces
    state, alone = {}, {}
    for t in range(T):
        observation = step_of(one, t)
        state["episode_start"] = alone["episode_start"] = starts[:, t]
        chosen, value = policy.forward_eval(observation, state)
        torch.testing.assert_close(chosen, logits.reshape(B, T, 4)[:, t], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(value[:, 0], values.reshape(B, T)[:, t], atol=1e-4, rtol=1e-4)
        by_itself, _ = actor.policy.forward_eval(actor.see(observation), alone)
        assert torch.equal(by_itself, chosen)
    assert not any(key.startswith("critic_") for key in alone)


@pytest.mark.parametrize(("stack", "env"), STACKS.items())
def test_every_weight_is_trained_by_choices_or_by_values_alone(stack, env):
    policy, trained = get_policy(stack, env), []
    for loss in ("choices", "values"):
        logits, values = policy(observed(env, B, T), {"episode_start": torch.zeros(B, T).bool()})
        policy.zero_grad()
        chosen = distribution(logits).log_prob(torch.zeros(B * T)).sum()
        (chosen if loss == "choices" else values.square().sum()).backward()
        named = policy.named_parameters()
        trained.append({name for name, p in named if p.grad is not None and p.grad.any()})
    by_choices, by_values = trained
    assert by_choices | by_values == {name for name, _ in policy.named_parameters()}
    assert by_choices & by_values == set()


@pytest.mark.parametrize("stack", [ONLY_CRITIC_REMEMBERS, ONLY_ACTOR_REMEMBERS])
def test_every_promise_is_kept(stack):
    report = quick_report(stack, ENV)
    assert report.ok, report
    assert "S13" in {result.code for result in report.results if result.status is Status.PASSED}


REFUSED = {
    "SeparateCriticWrapper(Default, actor_keys=['sigth'])": "no 'sigth'.[\\s\\S]*'sight'",
    "SeparateCriticWrapper(Default, actor_keys=[])": "no key",
    "SeparateCriticWrapper(Default, actor_keys='sight')": "actor_keys='sight'.* not a list",
    "SeparateCriticWrapper(Default, critic_keys=['pose', 'pose'])": "each once",
    "SeparateCriticWrapper(Default, critic_keys=['pose', 'sight'])": "the same keys",
    "SeparateCriticWrapper(Default, critic=3)": "critic=3",
    "SeparateCriticWrapper(Default, critics='Default')": "no argument 'critics'",
    "SeparateCriticWrapper(Default, critic='SeparateCriticWrapper(Default)')": "forbids",
    "SeparateCriticWrapper(Default, critic='ActionMaskWrapper(Default)')": "Masks are for the",
    "SeparateCriticWrapper(Default, critic='PopArtWrapper(Default)')": "would be lost",
    f"FrameStackWrapper(SeparateCriticWrapper(Default, {SEES}))": "Put it inside",
    f"PrevActionRewardWrapper(SeparateCriticWrapper(Default, {SEES}))": "Put it inside|no 'sight'",
    f"GRUWrapper(SeparateCriticWrapper(Default, {SEES}))": "mix two networks",
}


@pytest.mark.parametrize(("stack", "words"), REFUSED.items())
def test_what_makes_no_sense_is_refused_in_words(stack, words):
    with pytest.raises(PolicyError, match=words):
        get_policy(stack, ENV)


def test_keys_of_an_observation_without_keys_are_refused():
    with pytest.raises(IncompatibleSpace, match="is not a Dict, so it has no key 'pose'"):
        get_policy("SeparateCriticWrapper(Default, critic_keys=['pose'])", "CartPole-v1")
    policy = get_policy(f"SeparateCriticWrapper(Default, {SEES})", ENV)
    with pytest.raises(IncompatibleSpace, match=r"missing \['pose'\]"):
        policy({"sight": torch.zeros(B, 3)})


def test_a_critic_that_does_not_see_the_mask_of_its_actor_is_asked_for_by_name():
    stack = "SeparateCriticWrapper(ActionMaskWrapper(Default, key='mask'), critic_keys=['pose'])"
    with pytest.raises(IncompatibleSpace, match=r"is built like [\s\S]*critic='Default'"):
        get_policy(stack, MASKED)


def test_a_critic_by_name_is_built_and_resolved_as_any_policy_is():
    registry = default_registry()
    stack = "SeparateCriticWrapper(Default, critic='LSTMWrapper(Default(hidden_size=16))')"
    policy = get_policy(stack, ENV)
    assert policy.critic.spec.kwargs == {"hidden_size": 16}
    assert policy.spec.wrappers[0].kwargs["critic"] == str(policy.critic.spec)
    assert get_policy(policy.spec, ENV).spec == policy.spec
    blueprint = prepare(stack, ENV, registry=registry)
    assert blueprint.capabilities.recurrent
    assert [name.rpartition("/")[2] for name in blueprint.names()][2:] == ["Default", "LSTMWrapper"]
    with pytest.raises(PolicyNotFound, match="Did you mean 'LSTMWrapper'"):
        get_policy("SeparateCriticWrapper(Default, critic='LSTMWraper(Default)')", ENV)


def test_the_code_of_a_critic_needs_consent_too():
    stack = "SeparateCriticWrapper(Default, critic='Default')"
    blueprint = prepare(stack, ENV, registry=default_registry())
    wrapper = blueprint.wrappers[0]
    critic = wrapper.policies["critic"]
    record = replace(
        critic.record, provenance=replace(critic.record.provenance, distrust="it is a stranger's")
    )
    critic = replace(critic, policy=replace(critic.policy, record=record))
    wrappers = (replace(wrapper, policies={"critic": critic}),)
    with pytest.raises(TrustError, match="stranger's"):
        replace(blueprint, wrappers=wrappers).require_consent()


@pytest.mark.parametrize("stack", [ONLY_CRITIC_REMEMBERS, NORMALIZED])
def test_a_checkpoint_holds_both_and_gives_an_agent_that_needs_the_actors_keys(stack, tmp_path):
    policy = noisy(stack, ENV)
    policy.update_statistics(observed(ENV, 50))
    path = save_checkpoint(tmp_path / "policy.safetensors", policy, env=ENV)
    observations = observed(ENV, B)
    expected, values = policy.forward_eval(observations, {})
    loaded = load_policy(path, ENV)
    again = loaded.forward_eval(observations, {})
    assert torch.equal(again[0], expected)
    assert torch.equal(again[1], values)
    arrays = {key: each.numpy() for key, each in observations.items()}
    for env in (None, ENV, ROBOT):
        agent = Agent.load(path, env)
        assert agent.spaces == ROBOT
        for seen in (arrays, {"sight": arrays["sight"]}):
            agent.reset()
            np.testing.assert_array_equal(agent.act(seen), expected.argmax(-1))
    with pytest.raises(CheckpointError, match="trained on other spaces"):
        load_policy(path, Spaces(spaces.Dict(pose=POSE), ENV.action))
    assert get_policy(stack, ENV, pretrained=path).spec == policy.spec
    if stack == ONLY_CRITIC_REMEMBERS:
        other = stack.replace("hidden_size=12", "hidden_size=16")
        with pytest.raises(CheckpointError, match="hidden_size=12"):
            get_policy(other, ENV, pretrained=path)
    names = {each.name for each in read_checkpoint(path).header.origins}
    assert ("puffer-policies/LSTMWrapper" in names) == ("LSTMWrapper" in stack)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_share_nothing_with_what_they_are_of(copied):
    policy, observations = noisy(ONLY_CRITIC_REMEMBERS, ENV), observed(ENV, B)
    twin, expected = copied(policy), policy.forward_eval(observations, {})
    for weight in policy.parameters():
        torch.nn.init.zeros_(weight)
    torch.testing.assert_close(twin.forward_eval(observations, {}), expected, atol=0, rtol=0)
    actor = actor_of(twin, ENV).policy
    assert torch.equal(actor.forward_eval({"sight": observations["sight"]}, {})[0], expected[0])


def test_a_policy_without_privileged_keys_goes_nowhere_without_its_critic():
    for stack in (
        "SeparateCriticWrapper(Default)",
        "SeparateCriticWrapper(Default, critic_keys=['sight'])",
    ):
        policy = get_policy(stack, ENV)
        actor = actor_of(policy, ENV)
        assert actor.policy is policy
        assert not actor.is_part


@pytest.mark.parametrize("stack", [NORMALIZED, MASKED_AROUND])
def test_an_exported_actor_takes_and_gives_nothing_of_the_critic(stack):
    env = STACKS[stack]
    recording = record_step(source_of(noisy(stack, env)), "default")
    with torch.no_grad():
        recording.require_same(recording.program.module(), "torch.export")
    names = {port.name for port in (*recording.graph.inputs, *recording.graph.outputs)}
    assert "obs.sight" in names
    assert ("obs.mask" in names) == (env is MASKED)
    assert not [each for each in names if "pose" in each or "critic" in each or each == "value"]
    assert "pose" not in recording.source.about()["observation_space"]


def test_a_file_of_a_checkpoint_holds_the_actor(tmp_path):
    policy = noisy(ONLY_ACTOR_REMEMBERS, ENV)
    path = save_checkpoint(tmp_path / "policy.safetensors", policy, env=ENV)
    file = export_policy(path, to="torch", env=ROBOT)
    program = torch.export.load(file)
    sizes = {tuple(each.shape) for each in program.state_dict.values()}
    assert not [each for each in sizes if 12 in each]
    observation = {"sight": torch.randn(B, 3)}
    state = policy.initial_state(B)
    inputs = {"obs.sight": observation["sight"], "episode_start": torch.zeros(B).bool()}
    inputs |= {f"state.{key}": each for key, each in state.items()}
    outputs = program.module()(inputs)
    logits, _ = actor_of(policy, ENV).policy.forward_eval(observation, state)
    torch.testing.assert_close(outputs["logits"], logits)


class Recall(gymnasium.Env):
    """Shows a bit once, and always to the critic; pays for naming it. Episodes of 5 steps."""

    observation_space = spaces.Dict(
        sight=spaces.Box(-1, 1, (2,), np.float32), truth=spaces.Box(-1, 1, (1,), np.float32)
    )
    action_space = spaces.Discrete(2)

    def __init__(self, *, privileged=True):
        self.privileged = privileged
        if not privileged:
            self.observation_space = spaces.Dict(sight=self.observation_space["sight"])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.bit, self.time = int(self.np_random.integers(2)), 0
        return self._observation(), {}

    def step(self, action):
        self.time += 1
        reward = float(action == self.bit)
        return self._observation(), reward, self.time >= 5, False, {}

    def _observation(self):
        sign = np.float32(2 * self.bit - 1)
        first = float(self.time == 0)
        shown = {"sight": np.array([sign * first, first], np.float32)}
        return shown | ({"truth": np.array([sign], np.float32)} if self.privileged else {})

    def get_state(self):
        return {"bit": self.bit, "time": self.time, "rng": self.np_random.bit_generator.state}

    def set_state(self, state):
        self.bit, self.time = state["bit"], state["time"]
        self.np_random.bit_generator.state = state["rng"]


gymnasium.register("tests/PrivilegedRecall-v0", Recall)

TOML = """
[base]
env_name = "tests/PrivilegedRecall-v0"
policy_name = '''
SeparateCriticWrapper(
    GRUWrapper(Default(hidden_size=16)),
    actor_keys=["sight"],
    critic="NormalizeObservationWrapper(Default(hidden_size=24))",
)'''
[vec]
num_envs = 4
vectorization = "sync"
[train]
total_timesteps = 640
bptt_horizon = 32
batch_size = "auto"
minibatch_size = "auto"
update_epochs = 2
[eval]
episodes = 4
"""


@pytest.mark.trainer
def test_a_config_file_trains_both_and_a_run_goes_on_as_if_never_stopped(tmp_path, monkeypatch):
    file = tmp_path / "recall.toml"
    file.write_text(TOML)

    def config(name):
        return load_config(str(file), ["--train.data-dir", str(tmp_path / name)])

    whole = train_from_config(config("whole"), display="quiet")
    with monkeypatch.context() as patch:
        stopped_after(2, patch)
        first = train_from_config(config("parts"), display="quiet")
    second = train_from_config(load_run_config(first.folder), display="quiet", resume=first.folder)
    require_same(whole.folder, second.folder)
    policy = load_policy(whole.folder)
    assert type(policy.critic).__name__ == "NormalizeObservationWrapper"
    assert policy.critic.moments[0].count > 0
    settings = EvalConfig(episodes=8, max_steps=50)
    results = []
    for privileged in (True, False):
        makers = [lambda each=privileged: Recall(privileged=each) for _ in range(2)]
        vecenv = GymVecEnv(gymnasium.vector.SyncVectorEnv(makers))
        results.append(evaluate(policy, vecenv, settings))
        vecenv.close()
    assert results[0] == results[1]


def test_an_actor_is_loaded_for_an_env_that_lacks_only_some_of_the_critics_keys(tmp_path):
    parts = {key: spaces.Box(-1, 1, (2,)) for key in "abc"}
    whole = Spaces(spaces.Dict(parts), spaces.Discrete(3))
    policy = get_policy("SeparateCriticWrapper(Default, actor_keys=['a'])", whole)
    save_checkpoint(tmp_path / "p.safetensors", policy, env=whole)
    for keys in ("a", "ab", "ac"):
        env = Spaces(spaces.Dict({key: parts[key] for key in keys}), whole.action)
        load_policy(tmp_path / "p.safetensors", env)
    with pytest.raises(CheckpointError):
        load_policy(
            tmp_path / "p.safetensors", Spaces(spaces.Dict({"b": parts["b"]}), whole.action)
        )
