"""A separate critic: two networks of one form, one pair of heads, and exact memories of both."""

from __future__ import annotations

import copy

import pytest
import torch
from gymnasium import spaces
from plain_policies import Split
from quick_checks import quick_report
from specimens import (
    ACTIONS,
    OBSERVATIONS,
    PAIRS,
    assert_same_logits,
    map_tensors,
    observation_batch,
)
from torch import nn

from puffer_policies.assembly.checkpoint import load_policy, save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.errors import BuildError
from puffer_policies.models import Default
from puffer_policies.nn.distributions import distribution
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.separate_critic import SeparateCriticWrapper

ENV = Spaces(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4))
STACKS = [
    "SeparateCriticWrapper(Default)",
    "SeparateCriticWrapper(LSTMWrapper(Default))",
    "SeparateCriticWrapper(FrameStackWrapper(Default))",
    "FrameStackWrapper(SeparateCriticWrapper(Default))",
    "NormalizeObservationWrapper(SeparateCriticWrapper(GRUWrapper(Default)))",
    "SeparateCriticWrapper(NormalizeObservationWrapper(GTrXLWrapper(Default)))",
]
B, T = 4, 5


class Plain(nn.Module):
    """Plain torch, with heads under names of its own, one of them two layers deep."""

    def __init__(self, env):
        super().__init__()
        self.hidden_size, self.is_continuous = 8, False
        self.body = nn.Linear(3, 8)
        self.choose = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
        self.scale = nn.Parameter(torch.ones(1))
        self.judge = nn.Linear(8, 1)

    def encode_observations(self, observations, state=None):
        return torch.tanh(self.body(observations))

    def decode_actions(self, hidden):
        return self.choose(hidden) * self.scale, self.judge(hidden)

    def forward_eval(self, observations, state=None):
        return self.decode_actions(self.encode_observations(observations, state))

    def forward(self, observations, state=None):
        return self.forward_eval(observations.reshape(-1, 3), state)


def gradients_of(policy, loss):
    policy.zero_grad()
    loss.backward()
    return {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("name", [*STACKS, Plain, Split])
def test_choices_and_values_train_different_networks(name):
    wrappers = [] if isinstance(name, str) else ["SeparateCriticWrapper"]
    policy = get_policy(name, ENV, wrappers=wrappers)
    observations = torch.randn(B, T, 3) if name in STACKS else torch.randn(B * T, 3)
    logits, values = policy(observations, {})
    by_values = gradients_of(policy, values.sum())
    logits, values = policy(observations, {})
    assert logits.shape == (B * T, 4)
    by_choices = gradients_of(policy, distribution(logits).log_prob(torch.zeros(B * T)).sum())
    assert by_values | by_choices == {name for name, _ in policy.named_parameters()}
    assert by_values & by_choices == set()


def test_the_policy_inside_decides_exactly_as_alone():
    torch.manual_seed(3)
    alone = get_policy("LSTMWrapper(Default)", ENV)
    torch.manual_seed(3)
    policy = get_policy("SeparateCriticWrapper(LSTMWrapper(Default))", ENV)
    for key, weight in alone.state_dict().items():
        torch.testing.assert_close(policy.policy.state_dict()[key], weight, atol=0, rtol=0)
    observations = torch.randn(B, T, 3)
    (logits, values), (expected, others) = policy(observations), alone(observations)
    torch.testing.assert_close(logits, expected, atol=0, rtol=0)
    assert not torch.allclose(values, others)


def test_values_are_those_of_the_second_network_under_the_first_ones_head():
    policy = get_policy("SeparateCriticWrapper(Default)", ENV)
    observations = torch.randn(B, 3)
    hidden = policy.critic.encode_observations(observations)
    _, values = policy(observations)
    torch.testing.assert_close(values, policy.policy.critic(hidden))
    assert list(dict(policy.critic.named_children())) == ["encoder"]


@pytest.mark.parametrize("name", STACKS)
def test_a_sequence_is_its_steps_wherever_episodes_start(name):
    policy = get_policy(name, ENV)
    observations, starts = torch.randn(B, T, 3), torch.rand(B, T) < 0.3
    initial = getattr(policy, "initial_state", lambda batch_size: {})(B)
    before = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in initial.items()}
    whole = {**before, "episode_start": starts}
    logits, values = policy(observations, whole)
    state = dict(before)
    for t in range(T):
        state["episode_start"] = starts[:, t]
        step, value = policy.forward_eval(observations[:, t], state)
        torch.testing.assert_close(logits.reshape(B, T, -1)[:, t], step, atol=1e-4, rtol=1e-4)
        found = values.reshape(B, T)[:, t]
        torch.testing.assert_close(found, value.squeeze(-1), atol=1e-4, rtol=1e-4)
    for key in before:
        torch.testing.assert_close(whole[key], state[key], atol=1e-4, rtol=1e-4)


def test_both_memories_are_in_the_state_under_keys_of_their_own():
    policy = get_policy("SeparateCriticWrapper(LSTMWrapper(Default))", ENV)
    state = policy.initial_state(B)
    assert set(state) == {"lstm_h", "lstm_c", "critic_lstm_h", "critic_lstm_c"}
    observations = torch.randn(B, 3)
    policy.forward_eval(observations, state)
    assert not torch.allclose(state["lstm_h"], state["critic_lstm_h"])
    first = policy.forward_eval(observations, dict(state))
    state["critic_lstm_h"] = torch.randn(B, 128)
    second = policy.forward_eval(observations, dict(state))
    torch.testing.assert_close(first[0], second[0])
    assert not torch.allclose(first[1], second[1])
    assert not hasattr(get_policy("SeparateCriticWrapper(Default)", ENV), "initial_state")


@pytest.mark.parametrize(("observation", "action"), PAIRS)
def test_it_fits_every_space_that_the_policy_fits(observation, action):
    env = Spaces(OBSERVATIONS[observation], ACTIONS[action])
    policy = get_policy("SeparateCriticWrapper(LSTMWrapper(Default(hidden_size=8)))", env)
    observations = observation_batch(env.observation, B, T)
    state = policy.initial_state(B)
    logits, values = policy(observations, dict(state))
    step = policy.forward_eval(map_tensors(lambda leaf: leaf[:, 0], observations), state)
    assert values.shape == (B, T)
    assert_same_logits(step[0], step[0])
    assert distribution(logits).entropy().shape == (B * T,)


def test_it_is_copied_and_saved_as_one(tmp_path):
    policy = get_policy("SeparateCriticWrapper(LSTMWrapper(Default))", ENV)
    save_checkpoint(tmp_path / "policy.safetensors", policy, env=ENV)
    observations = torch.randn(B, T, 3)
    expected = policy(observations)
    loaded = load_policy(tmp_path / "policy.safetensors", ENV)
    copied = copy.deepcopy(policy)
    for parameter in policy.parameters():
        torch.nn.init.zeros_(parameter)
    for other in (loaded, copied):
        torch.testing.assert_close(other(observations), expected)


def test_both_networks_gather_statistics():
    name = "SeparateCriticWrapper(NormalizeObservationWrapper(Default))"
    policy = get_policy(name, ENV)
    policy.update_statistics(torch.randn(50, 3) * 3 + 1)
    own, critics = policy.policy.moments.state_dict(), policy.critic.moments.state_dict()
    torch.testing.assert_close(own, critics)
    assert own["0.mean"].abs().sum() > 0


def test_masks_bind_the_choices_of_the_policy_inside():
    policy = get_policy("SeparateCriticWrapper(ActionMaskWrapper(Default))", ENV)
    mask = torch.tensor([[True, False, True, False]] * B)
    logits, values = policy.forward_eval(torch.randn(B, 3), {"action_mask": mask})
    assert torch.isinf(logits[:, [1, 3]]).all()
    assert values.isfinite().all()


def test_a_step_compiles_without_a_break():
    policy = get_policy("SeparateCriticWrapper(LSTMWrapper(Default))", ENV)
    state = policy.initial_state(B)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(policy.forward_eval)(torch.randn(B, 3), state)
    assert explained.graph_break_count == 0, explained.break_reasons


def test_what_can_not_be_told_apart_is_refused():
    policy = Default(ENV)
    with pytest.raises(BuildError, match="share weights"):
        SeparateCriticWrapper(ENV, policy, policy)
    with pytest.raises(BuildError, match="forbids 'separate_critic'"):
        get_policy("SeparateCriticWrapper(SeparateCriticWrapper(Default))", ENV)
    with pytest.raises(BuildError, match=r"SeparateCriticWrapper\(GRUWrapper\(...\)\)"):
        get_policy("GRUWrapper(NormalizeObservationWrapper(SeparateCriticWrapper(Default)))", ENV)


def test_every_promise_is_kept_around_a_memory():
    report = quick_report(STACKS[1], ENV)
    assert report.ok, report
