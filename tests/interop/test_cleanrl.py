"""Our policies in scripts as CleanRL has them, and agents of such scripts as policies of ours."""

from __future__ import annotations

import itertools
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from cleanrl_script import run_script
from gymnasium import spaces
from scenes import (
    CHOICE,
    MEMORIES,
    PAIRS,
    SMALL,
    VECTOR,
    RandomEnv,
    numbers,
    pair_of,
    same_step_envs,
)
from torch import nn

from puffer_policies import Spaces, load_policy, save_checkpoint
from puffer_policies.checks import check_policy
from puffer_policies.contract import EPISODE_START
from puffer_policies.envs.recall import RepeatPreviousEnv
from puffer_policies.errors import BuildError, PolicyNotFound
from puffer_policies.interop.cleanrl import Agent, RecurrentAgent, as_policy
from puffer_policies.nn.samples import random_observations
from puffer_policies.spaces import action_layout

pytestmark = pytest.mark.interop

STEPS, ENVS = 16, 4
ONE_UPDATE = {"num_steps": STEPS, "steps": STEPS * ENVS, "epochs": 1, "minibatches": 2}
ARRAYS = {
    **{key: pair for key, pair in PAIRS.items() if "dict" not in key},
    "vector-multibinary": Spaces(VECTOR, spaces.MultiBinary(3)),
    "vector-shifted": Spaces(VECTOR, spaces.Box(-1, 2, (2,), np.int64)),
}


def envs_of(pair):
    def make(seed):
        env = RandomEnv(copied(pair), seed)
        is_continuous = action_layout(pair.action).is_continuous
        return gymnasium.wrappers.ClipAction(env) if is_continuous else env  # as the scripts do

    return same_step_envs([lambda i=i: make(i) for i in range(ENVS)])


def copied(pair):
    """Return spaces of its own, as envs draw from them."""
    return Spaces(*pair_of(pair))


@pytest.mark.parametrize("pair", ARRAYS.values(), ids=ARRAYS)
def test_a_script_has_the_numbers_of_the_policy(pair):
    agent = Agent(envs_of(pair), f"Default({SMALL})")
    store = run_script(agent, envs_of(pair), update=False, **ONE_UPDATE)
    obs, members = store.obs.flatten(0, 1), store.actions.flatten(0, 1)
    layout = action_layout(pair.action)
    actions = members.reshape(-1, *layout.policy_shape)
    if not layout.is_continuous:
        start = torch.as_tensor(np.array(layout.start)).reshape(layout.policy_shape)
        actions = actions.long() - start
    own = numbers(agent.policy, obs, actions)
    _, log_prob, entropy, values = agent.get_action_and_value(obs, members)
    torch.testing.assert_close((values.flatten(), log_prob, entropy), own)
    torch.testing.assert_close((store.values.flatten(), store.log_probs.flatten()), own[:2])
    ratio = run_script(agent, envs_of(pair), **ONE_UPDATE).first_ratio
    torch.testing.assert_close(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("observation", [VECTOR, spaces.Discrete(5)], ids=["vector", "discrete"])
@pytest.mark.parametrize("stack", [*MEMORIES, f"GTrXLWrapper(Default({SMALL}), memory=4)"])
def test_memories_are_reset_exactly_in_rollouts_and_updates(stack, observation):
    pair = Spaces(observation, CHOICE)
    agent = RecurrentAgent(envs_of(pair), stack)
    run_script(agent, envs_of(pair), **ONE_UPDATE)
    # The second rollout begins in the midst of episodes.
    store = run_script(
        agent, envs_of(pair), update=False, **{**ONE_UPDATE, "steps": 2 * STEPS * ENVS}
    )
    starts = store.dones.T > 0
    assert starts[:, 1:].any()
    actions = store.actions.flatten(0, 1).long()
    _, log_prob, _, values, _ = agent.get_action_and_value(
        store.obs.flatten(0, 1), store.initial, store.dones.flatten(), actions
    )
    torch.testing.assert_close(values.reshape(STEPS, ENVS), store.values)
    torch.testing.assert_close(log_prob.reshape(STEPS, ENVS), store.log_probs)
    ratio = run_script(agent, envs_of(pair), **ONE_UPDATE).first_ratio
    torch.testing.assert_close(ratio, torch.ones_like(ratio))


def test_a_memory_in_a_script_has_the_numbers_of_the_policy():
    pair = Spaces(VECTOR, CHOICE)
    agent = RecurrentAgent(envs_of(pair), f"LSTMWrapper(Default({SMALL}))")
    store = run_script(agent, envs_of(pair), update=False, **ONE_UPDATE)
    starts = store.dones.T > 0
    actions = store.actions.T.flatten().long()
    own = numbers(agent.policy, store.obs.transpose(0, 1), actions, {EPISODE_START: starts})
    _, log_prob, entropy, values, _ = agent.get_action_and_value(
        store.obs.flatten(0, 1), store.initial, store.dones.flatten(), store.actions.flatten()
    )
    theirs = [each.reshape(STEPS, ENVS).T.flatten() for each in (values, log_prob, entropy)]
    torch.testing.assert_close(tuple(theirs), own)


def test_the_state_after_a_sequence_is_that_after_its_steps():
    agent = RecurrentAgent(Spaces(VECTOR, CHOICE), f"GRUWrapper(Default({SMALL}))")
    obs, done = torch.randn(STEPS, 3, 4), (torch.rand(STEPS, 3) < 0.2).float()
    done[:, 0] = 0
    begin = tuple(torch.zeros(1, 3, agent.lstm.hidden_size) for _ in range(2))
    state = begin
    for t in range(STEPS):
        with torch.no_grad():
            *_, value, state = agent.get_action_and_value(obs[t], state, done[t])
    rows = obs.flatten(0, 1), begin, done.flatten()
    *_, after = agent.get_action_and_value(*rows)
    torch.testing.assert_close(after, state)
    torch.testing.assert_close(agent.get_value(*rows)[-3:], value)


def test_zeros_are_the_beginning_of_a_memory_that_begins_with_learned_numbers():
    agent = RecurrentAgent(Spaces(VECTOR, CHOICE), f"GRUWrapper(Default({SMALL}))")
    core = agent.policy.core
    begin = {key: torch.full_like(each, 0.7) for key, each in core.initial_state(1).items()}
    core.initial_state = lambda rows, device=None: {k: v.repeat(rows, 1) for k, v in begin.items()}
    core.reset = lambda state, starts: {
        key: torch.where(starts[:, None], begin[key], each) for key, each in state.items()
    }
    zeros = tuple(torch.zeros(1, 2, agent.lstm.hidden_size) for _ in range(2))
    obs, none = torch.randn(2, 4), torch.zeros(2)
    expected = agent.policy.forward_eval(obs, core.initial_state(2))[1]
    torch.testing.assert_close(agent.get_value(obs, zeros, none), expected)


def test_statistics_of_a_rollout_count_from_the_next_one_on():
    pair = Spaces(VECTOR, CHOICE)
    agent = Agent(envs_of(pair), f"NormalizeObservationWrapper(Default({SMALL}))")
    counts = []
    sizes = {**ONE_UPDATE, "steps": 2 * STEPS * ENVS}
    step = agent.get_action_and_value

    def noted(*args):
        result = step(*args)
        counts.append(float(agent.policy.state_dict()["moments.0.count"].sum()))
        return result

    agent.get_action_and_value = noted
    run_script(agent, envs_of(pair), **sizes)
    assert counts == [0.0] * (STEPS + 2) + [float(STEPS * ENVS)] * (STEPS + 2)


def test_an_agent_is_saved_as_torch_saves_it_and_its_policy_as_ours(tmp_path):
    pair = Spaces(VECTOR, CHOICE)
    agent, again = (RecurrentAgent(pair, f"GRUWrapper(Default({SMALL}))") for _ in range(2))
    torch.save(agent.state_dict(), tmp_path / "agent.pt")
    again.load_state_dict(torch.load(tmp_path / "agent.pt", weights_only=True))
    torch.testing.assert_close(again.state_dict(), agent.state_dict())
    path = save_checkpoint(tmp_path / "own.safetensors", agent.policy, env=pair)
    torch.testing.assert_close(load_policy(path).state_dict(), agent.policy.state_dict())


@pytest.mark.parametrize(
    ("cls", "stack", "error", "remedy"),
    [
        (Agent, "LSTMWrapper(Default)", BuildError, "RecurrentAgent"),
        (Agent, "ActionMaskWrapper(Default)", BuildError, "Dict observation"),
        (Agent, "PrevActionRewardWrapper(Default)", BuildError, "observation"),
        (Agent, "Defualt", PolicyNotFound, "Default"),
        (
            RecurrentAgent,
            "LSTMWrapper(ActionMaskWrapper(Default))",
            BuildError,
            "key='action_mask'",
        ),
    ],
)
def test_what_would_silently_be_another_policy_is_refused(cls, stack, error, remedy):
    with pytest.raises(error) as caught:
        cls(Spaces(VECTOR, CHOICE), stack)
    assert remedy in str(caught.value)


def test_envs_that_reset_in_the_next_step_are_refused_for_a_memory():
    modes = pytest.importorskip("gymnasium", "1.1").vector.AutoresetMode
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")], autoreset_mode=modes.NEXT_STEP
    )
    Agent(envs)
    with pytest.raises(BuildError, match="SAME_STEP"):
        RecurrentAgent(envs, "LSTMWrapper(Default)")


def test_rows_that_do_not_fit_are_refused():
    agent = Agent(Spaces(VECTOR, spaces.MultiDiscrete([3, 2])), f"Default({SMALL})")
    obs = torch.randn(5, 4)
    action, *_ = agent.get_action_and_value(obs)
    with pytest.raises(BuildError, match=r"leave out the \.T"):
        agent.get_action_and_value(obs, action.T)
    memory = RecurrentAgent(Spaces(VECTOR, CHOICE), f"GRUWrapper(Default({SMALL}))")
    state = tuple(torch.zeros(1, 2, memory.lstm.hidden_size) for _ in range(2))
    with pytest.raises(BuildError, match="whole envs"):
        memory.get_value(obs, state, torch.zeros(5))


# -- from there to here ----------------------------------------------------------------------------


def layers(*sizes):
    """Return tanh layers, and a last one without an activation."""
    pairs = itertools.pairwise(sizes)
    parts = [part for pair in pairs for part in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*parts[:-1])


class ScriptAgent(nn.Module):
    """What the agents of the scripts have in common."""

    def hidden(self, x):
        return x

    def chances(self, hidden):
        return torch.distributions.Categorical(logits=self.actor(hidden))

    def get_action_and_value(self, x, action=None):
        hidden = self.hidden(x)
        chances = self.chances(hidden)
        action = chances.sample() if action is None else action
        log_prob, entropy = chances.log_prob(action), chances.entropy()
        if log_prob.ndim > 1:
            log_prob, entropy = log_prob.sum(1), entropy.sum(1)
        return action, log_prob, entropy, self.critic(hidden)


class OfVector(ScriptAgent):
    """As in ppo.py."""

    pair = PAIRS["vector-discrete"]

    def __init__(self):
        super().__init__()
        self.critic, self.actor = layers(4, 16, 16, 1), layers(4, 16, 8, 3)


class OfReals(ScriptAgent):
    """As in ppo_continuous_action.py."""

    pair = Spaces(VECTOR, spaces.Box(-1.0, 1.0, (2,), np.float32))

    def __init__(self):
        super().__init__()
        self.critic, self.actor_mean = layers(4, 16, 1), layers(4, 16, 2)
        self.actor_logstd = nn.Parameter(torch.randn(1, 2))

    def chances(self, hidden):
        mean = self.actor_mean(hidden)
        return torch.distributions.Normal(mean, self.actor_logstd.expand_as(mean).exp())


class OfImages(ScriptAgent):
    """As in ppo_atari.py."""

    pair = Spaces(spaces.Box(0, 255, (4, 36, 36), np.uint8), CHOICE)

    def __init__(self, channels=4, width=32):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(channels, 4, 8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, width), nn.ReLU()
        )
        self.actor, self.critic = nn.Linear(32, 3), nn.Linear(32, 1)

    def hidden(self, x):
        return self.network(x / 255.0)


class OfImagesLastChannel(OfImages):
    """As in ppo_procgen.py."""

    pair = Spaces(spaces.Box(0, 255, (36, 36, 3), np.uint8), CHOICE)

    def __init__(self):
        super().__init__(channels=3)

    def hidden(self, x):
        return self.network(x.permute((0, 3, 1, 2)) / 255.0)


class OfChoices(OfVector):
    """As in ppo_multidiscrete.py, with the choices of all rows side by side."""

    pair = Spaces(VECTOR, spaces.MultiDiscrete([3, 2]))

    def __init__(self):
        super().__init__()
        self.actor = layers(4, 16, 5)

    def get_action_and_value(self, x, action):
        parts = torch.split(self.actor(x), [3, 2], 1)
        chances = [torch.distributions.Categorical(logits=part) for part in parts]
        log_prob = sum(each.log_prob(a) for each, a in zip(chances, action, strict=True))
        return action, log_prob, sum(each.entropy() for each in chances), self.critic(x)


class WithMemory(OfImages):
    """As in ppo_atari_lstm.py."""

    def __init__(self):
        super().__init__(width=24)
        self.lstm = nn.LSTM(24, 32)

    def get_action_and_value(self, x, state, done, action=None):
        batch = state[0].shape[1]
        steps = self.network(x / 255.0).reshape(-1, batch, 24)
        outputs = []
        for hidden, ended in zip(steps, done.reshape(-1, batch), strict=True):
            state = tuple((1.0 - ended)[None, :, None] * each for each in state)
            output, state = self.lstm(hidden[None], state)
            outputs.append(output[0])
        hidden = torch.cat(outputs)
        chances = self.chances(hidden)
        return action, chances.log_prob(action), chances.entropy(), self.critic(hidden), state


@pytest.mark.parametrize(
    "cls",
    [OfVector, OfReals, OfImages, OfImagesLastChannel, OfChoices],
    ids=lambda cls: cls.__name__,
)
def test_an_agent_of_a_script_has_its_numbers_here(cls):
    theirs = cls()
    ours, layout = as_policy(theirs, cls.pair), action_layout(cls.pair.action)
    obs = random_observations(cls.pair.observation, (6,), seed=1)
    members = torch.from_numpy(np.stack([cls.pair.action.sample() for _ in range(6)]))
    taken = members.T if layout.kind == "multidiscrete" else members
    _, log_prob, entropy, values = theirs.get_action_and_value(obs.float(), taken)
    expected = numbers(ours, obs, members.reshape(-1, *layout.policy_shape))
    torch.testing.assert_close((values.flatten(), log_prob, entropy), expected)
    assert {id(each) for each in ours.parameters()} == {id(each) for each in theirs.parameters()}


def test_an_agent_with_an_lstm_has_its_numbers_here_over_episodes():
    theirs = WithMemory()
    ours = as_policy(theirs, WithMemory.pair)
    obs = random_observations(WithMemory.pair.observation, (3, 7), seed=1)  # (B, T)
    starts = torch.rand(3, 7, generator=torch.Generator().manual_seed(0)) < 0.3
    actions = torch.arange(21).reshape(3, 7) % 3
    zeros = torch.zeros(1, 3, 32), torch.zeros(1, 3, 32)
    rows = obs.transpose(0, 1).flatten(0, 1).float()
    _, *judged, values, _ = theirs.get_action_and_value(
        rows, zeros, starts.T.flatten().float(), actions.T.flatten()
    )
    expected = numbers(ours, obs, actions.flatten(), {EPISODE_START: starts})
    log_prob, entropy, values = (each.reshape(7, 3).T.flatten() for each in (*judged, values))
    torch.testing.assert_close((values, log_prob, entropy), expected)
    assert {id(each) for each in ours.parameters()} == {id(each) for each in theirs.parameters()}


def test_an_agent_of_a_script_keeps_our_contract():
    report = check_policy(as_policy(OfVector(), OfVector.pair), OfVector.pair, select="S,A,B9")
    assert not report.bad


class Noisy(OfReals):
    """As in rpo_continuous_action.py, which adds noise to the mean."""

    def chances(self, hidden):
        mean = self.actor_mean(hidden) + torch.rand(len(hidden), 2)
        return torch.distributions.Normal(mean, self.actor_logstd.expand_as(mean).exp())


class Bidirectional(WithMemory):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(24, 16, bidirectional=True)


@pytest.mark.parametrize(
    ("agent", "problem"),
    [
        (Noisy, "a difference of"),
        (Bidirectional, "second direction"),
        (lambda: nn.Linear(4, 3), "actor or actor_mean"),
    ],
)
def test_an_agent_that_computes_something_else_is_refused(agent, problem):
    module = agent()
    with pytest.raises(BuildError, match=problem):
        as_policy(module, getattr(module, "pair", Spaces(VECTOR, CHOICE)))


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_cartpole_is_solved(note_return):
    envs, steps = same_step_envs([lambda: gymnasium.make("CartPole-v1")] * 8), 100_000
    store = run_script(
        Agent(envs),
        envs,
        steps=steps,
        num_steps=32,
        minibatches=1,
        epochs=20,
        learning_rate=1e-3,
        gamma=0.98,
        gae_lambda=0.8,
        entropy=0.0,
    )
    mean, trainer = np.mean(store.returns[-20:]), "CleanRL ppo.py"
    note_return(mean, least=400, trainer=trainer, policy="Default", env="CartPole-v1", steps=steps)


@pytest.mark.exhaustive
def test_repeating_the_card_before_is_solved(note_return):
    envs, steps = same_step_envs([partial(RepeatPreviousEnv, k=2)] * 16), 60_000
    stack = "GRUWrapper(Default(hidden_size=64))"
    store = run_script(
        RecurrentAgent(envs, stack), envs, steps=steps, num_steps=64, learning_rate=2e-3
    )
    mean, trainer, env = np.mean(store.returns[-50:]), "CleanRL ppo_atari_lstm.py", "RepeatPrevious"
    note_return(mean, least=0.8, trainer=trainer, policy=stack, env=f"{env}, k=2", steps=steps)
