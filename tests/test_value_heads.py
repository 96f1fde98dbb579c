"""Critics with a loss of their own: targets, gradients, statistics, and how PPO uses them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick_checks import quick_report
from torch import Tensor, nn
from training_toys import guesses, one_thread_seed, run, update, weights

from puffer_policies.assembly.checkpoint import load_policy, save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import BuildError, ConfigError, ContractError
from puffer_policies.export.step import Step
from puffer_policies.export.styles import STYLES
from puffer_policies.models import Default
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.value_heads import (
    BinnedValueHead,
    HLGaussHead,
    PopArtHead,
    TwoHotHead,
    ValueHeadWithLoss,
    giving_outputs,
    value_head_of,
)
from puffer_policies.spaces import Spaces
from puffer_policies.train.optim import hidden_matrices
from puffer_policies.train.trainer import Trainer
from puffer_policies.wrappers.value_heads import HLGaussWrapper, PopArtWrapper

ENV = Spaces(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4))
WRAPPERS = ["HLGaussWrapper", "TwoHotWrapper", "PopArtWrapper"]
STACKS = [
    "HLGaussWrapper(LSTMWrapper(Default))",
    "LSTMWrapper(TwoHotWrapper(Default))",
    "SeparateCriticWrapper(PopArtWrapper(GRUWrapper(Default(hidden_size=16))))",
    "TwoHotWrapper(SeparateCriticWrapper(Default))",
    "PopArtWrapper(PufferNet)",
    "FrameStackWrapper(HLGaussWrapper(Default))",
    "NormalizeObservationWrapper(HLGaussWrapper(Default))",
]
B, T = 4, 5
BINS = {"bins": 21, "low": -10.0, "high": 10.0}


def bins_of(kind: str, **options: Any) -> BinnedValueHead:
    layer = nn.Linear(6, 1)
    if kind == "two-hot":
        return TwoHotHead(layer, **{**BINS, "spacing": "linear", **options})
    return HLGaussHead(layer, **{**BINS, "spacing": "linear", "smoothing": 0.75, **options})


HEADS = [(kind, spacing) for kind in ("two-hot", "hl-gauss") for spacing in ("linear", "symlog")]


# -- targets and losses ----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "spacing"), HEADS)
def test_the_mean_of_a_target_is_the_return(kind: str, spacing: str) -> None:
    head = bins_of(kind, spacing=spacing, bins=41)
    middles = head.middles()
    between = torch.linspace(-10, 10, 333, dtype=torch.float64)
    for returns, close in ((middles, 1e-6), (between, 1e-6 if kind == "two-hot" else 0.01)):
        targets = head.targets(returns)
        assert targets.min() >= 0
        torch.testing.assert_close(targets.sum(1), torch.ones_like(returns))
        means = targets @ head.places.double()
        torch.testing.assert_close(means, returns, atol=close, rtol=close)


def test_a_two_hot_target_is_on_the_two_nearest_bins() -> None:
    head = bins_of("two-hot")
    targets = head.targets(torch.tensor([0.25, -10.0, 3.0, 99.0]))
    expected = torch.zeros(4, 21)
    expected[0, 10], expected[0, 11] = 0.75, 0.25
    expected[1, 0] = expected[2, 13] = expected[3, 20] = 1.0
    torch.testing.assert_close(targets, expected)


def test_a_smoothed_target_is_the_mass_under_a_gaussian() -> None:
    head = bins_of("hl-gauss")
    (target,) = head.targets(torch.tensor([2.3], dtype=torch.float64))
    gaussian = torch.distributions.Normal(torch.tensor(2.3, dtype=torch.float64), 0.75)
    edges = torch.arange(-10.5, 11.0, dtype=torch.float64)
    torch.testing.assert_close(target, gaussian.cdf(edges).diff())


@pytest.mark.parametrize(("kind", "spacing"), HEADS)
def test_the_gradient_is_that_of_cross_entropy(kind: str, spacing: str) -> None:
    head = bins_of(kind, spacing=spacing)
    outputs = torch.randn(7, 21, dtype=torch.float64, requires_grad=True)
    returns = torch.randn(7, dtype=torch.float64) * 4
    loss = head.loss(outputs, returns)
    probabilities, targets = outputs.softmax(-1), head.targets(returns)
    torch.testing.assert_close(loss, -(targets * probabilities.log()).sum(1))
    (gradient,) = torch.autograd.grad(loss.sum(), outputs)
    torch.testing.assert_close(gradient, (probabilities - targets).detach())


@pytest.mark.parametrize("far", [1e3, 1e4, 1e9])
def test_values_far_from_zero_are_learned_and_those_beyond_are_the_last(far: float) -> None:
    head = get_policy("TwoHotWrapper(Default)", ENV).policy.critic
    outputs = head.targets(torch.tensor([far])).clamp(min=1e-30).log()
    torch.testing.assert_close(head.values(outputs), torch.tensor([min(far, 1e4)]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"spacing": "log"}, "'log' is not one of 'symlog' and 'linear'"),
        ({"bins": 1}, "bins=1 from low"),
        ({"low": 1.0, "high": 1.0}, "span nothing"),
        ({"smoothing": 3.0}, r"should be 0\.5 to 1 widths"),
        ({"bins": 11}, "Use bins=38 or more"),
    ],
)
def test_bins_that_can_not_be_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(BuildError, match=text):
        HLGaussWrapper(ENV, Default(ENV, hidden_size=8), **options)


# -- the exchange ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_new_head_gives_the_values_of_the_layer_that_was_there(name: str) -> None:
    observations = torch.rand(B, 3)
    torch.manual_seed(3)
    logits, values = get_policy("LSTMWrapper(Default)", ENV)(observations)
    torch.manual_seed(3)
    policy = get_policy(f"LSTMWrapper({name}(Default))", ENV)
    torch.testing.assert_close(policy(observations)[0], logits, atol=0, rtol=0)
    torch.testing.assert_close(policy(observations)[1], values, atol=0.05, rtol=0.05)


class Deep(nn.Module):
    """Plain torch, with a critic of two layers under a name of its own."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.hidden_size, self.is_continuous = 8, False
        self.body, self.choose = nn.Linear(3, 8), nn.Linear(8, 4)
        self.judge = nn.Sequential(nn.Linear(8, 1), nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))

    def encode_observations(self, observations: Tensor, state: Any = None) -> Tensor:
        return torch.tanh(self.body(observations))

    def decode_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.choose(hidden), self.judge(hidden)

    def forward_eval(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self.decode_actions(self.encode_observations(observations, state))

    def forward(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self.forward_eval(observations.reshape(-1, 3), state)


def test_the_last_layer_of_any_critic_is_exchanged_and_the_others_stay() -> None:
    policy = get_policy(Deep, ENV, wrappers=["HLGaussWrapper"])
    judge = policy.policy.judge
    assert isinstance(judge[3], HLGaussHead)
    assert isinstance(judge[0], nn.Linear)
    names = {id(each): name for name, each in policy.named_parameters()}
    matrices = [names[id(each)] for each in hidden_matrices(policy)]
    assert matrices == ["policy.body.weight", "policy.choose.weight"]  # what Muon takes
    assert policy(torch.randn(B, 3))[1].shape == (B, 1)


class Joint(Deep):
    def decode_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.choose(hidden)[:, :3], self.choose(hidden)[:, 3:]


class Unusual(ActorCritic):
    """A critic that makes its values of several layers, or of one in an unusual way."""

    def __init__(self, env, kind):
        inner = Default(env, hidden_size=8)
        super().__init__(inner.encoder, inner.spaces)
        self.v, self.other, self.kind = nn.Linear(8, 1), nn.Linear(8, 1), kind
        if kind == "zeros":
            for each in (self.v, self.other):
                nn.init.zeros_(each.weight)
                nn.init.zeros_(each.bias)
        self.plain = [self.v]

    def decode_actions(self, hidden):
        logits, _ = super().decode_actions(hidden)
        value = self.plain[0](hidden) if self.kind == "list" else self.v(hidden)
        if self.kind in ("minimum", "zeros"):
            other = self.other(hidden)
            value = torch.minimum(value, other) if self.kind == "minimum" else value
        return logits, torch.relu(value) if self.kind == "relu" else value


@pytest.mark.parametrize("kind", ["minimum", "relu", "list"])
def test_values_that_are_not_a_layers_output_are_refused(kind) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        with pytest.raises(BuildError, match=r"value layer|no layer whose output is its value"):
            PopArtWrapper(ENV, Unusual(ENV, kind))


def test_of_two_layers_of_equal_numbers_that_of_the_values_is_exchanged() -> None:
    policy = Unusual(ENV, "zeros")
    PopArtWrapper(ENV, policy)
    assert isinstance(policy.v, PopArtHead)
    assert isinstance(policy.other, nn.Linear)


def test_a_policy_without_a_value_layer_and_two_heads_are_refused() -> None:
    with pytest.raises(BuildError, match="no layer whose output is its value"):
        PopArtWrapper(ENV, Joint(ENV))
    with pytest.raises(BuildError, match="forbids 'value_head'"):
        get_policy("PopArtWrapper(TwoHotWrapper(Default))", ENV)
    with pytest.raises(BuildError, match="already"):
        PopArtWrapper(ENV, PopArtWrapper(ENV, Default(ENV)))
    with pytest.raises(BuildError, match=r"rate=0\.0"):
        PopArtWrapper(ENV, Default(ENV), rate=0.0)
    both = nn.ModuleList([bins_of("two-hot"), bins_of("two-hot")])
    with pytest.raises(ContractError, match="2 value heads"):
        value_head_of(both)


@pytest.mark.parametrize("name", STACKS)
def test_outputs_pass_through_every_stack_and_are_those_of_the_values(name: str) -> None:
    policy, observations = get_policy(name, ENV), torch.rand(B, T, 3)
    head = value_head_of(policy)
    assert head is not None
    logits, values = policy(observations, {})
    with giving_outputs(head):
        same, outputs = policy(observations, {})
    torch.testing.assert_close(same, logits, atol=0, rtol=0)
    outputs = outputs.reshape(B * T, head.linear.out_features)
    torch.testing.assert_close(head.values(outputs), values.flatten())
    assert policy(observations, {})[1].shape == values.shape


@pytest.mark.parametrize("name", ["LSTMWrapper(HLGaussWrapper(Default))", "PopArtWrapper(Default)"])
def test_both_passes_compile_without_a_break(name: str) -> None:
    policy, x = get_policy(name, ENV), torch.rand(B, T, 3)
    step = torch.compile(policy.forward_eval, backend="eager", fullgraph=True)
    torch.testing.assert_close(step(x[:, 0], {})[1], policy.forward_eval(x[:, 0], {})[1])
    sequence = torch.compile(policy, backend="eager", fullgraph=True)
    head = value_head_of(policy)
    assert head is not None
    with giving_outputs(head):
        torch.testing.assert_close(sequence(x, {})[1], policy(x, {})[1])


# -- PopArt ----------------------------------------------------------------------------------------


def test_statistics_move_and_values_do_not() -> None:
    policy = get_policy("PopArtWrapper(Default)", ENV).double()
    head, observations = policy.policy.critic, torch.randn(B, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    hidden = policy.encode_observations(observations)
    for mean, deviation in ((100.0, 5.0), (-3.0, 0.1), (7.0, 0.0), (0.0, 1e4)):
        before = head.linear(hidden) * head.deviation + head.mean
        head.update_statistics(mean + deviation * torch.randn(50, generator=generator))
        after = head.linear(hidden) * head.deviation + head.mean
        torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)


def test_statistics_are_averages_that_forget_and_the_first_batch_counts_in_full() -> None:
    head = PopArtHead(nn.Linear(2, 1), rate=0.25, min_deviation=1e-4)
    first, second = torch.tensor([1.0, 3.0]), torch.tensor([10.0, 14.0, 18.0])
    head.update_statistics(first)
    assert (float(head.mean), float(head.var)) == (2.0, 1.0)
    head.update_statistics(second)
    share = 0.25 / (1 - 0.75**2)
    mean = (1 - share) * 2 + share * 14
    square = (1 - share) * 5 + share * float(second.square().mean())
    np.testing.assert_allclose(float(head.mean), mean)
    np.testing.assert_allclose(float(head.var), square - mean**2, rtol=1e-6)
    head.update_statistics(torch.zeros(0))
    np.testing.assert_allclose(float(head.mean), mean)


def test_its_loss_is_the_squared_error_in_units_of_the_deviation() -> None:
    head = PopArtHead(nn.Linear(2, 1), rate=1.0, min_deviation=1e-4)
    head.update_statistics(torch.tensor([10.0, 30.0]))
    outputs, returns = torch.tensor([[0.5], [-2.0]]), torch.tensor([40.0, 20.0])
    torch.testing.assert_close(head.values(outputs), torch.tensor([25.0, 0.0]))
    torch.testing.assert_close(head.loss(outputs, returns), torch.tensor([1.125, 2.0]))


def test_statistics_are_saved_with_the_policy_and_exports_give_values_of_returns(
    tmp_path: Path,
) -> None:
    policy, x = get_policy("PopArtWrapper(Default)", ENV), torch.rand(B, 3)
    policy.policy.critic.update_statistics(torch.randn(20) * 9 + 40)
    save_checkpoint(tmp_path / "policy.safetensors", policy, env=ENV)
    again = load_policy(tmp_path / "policy.safetensors", ENV)
    torch.testing.assert_close(again(x)[1], policy(x)[1], atol=0, rtol=0)
    graph = STYLES["default"](Step(policy, ENV))
    inputs = graph.example()
    values = policy(inputs["obs"])[1].flatten()
    torch.testing.assert_close(graph(inputs)["value"].flatten(), values)
    assert not torch.allclose(
        values, policy.policy.critic.linear(policy.encode_observations(inputs["obs"])).flatten()
    )


# -- the trainer -----------------------------------------------------------------------------------

CONFIG = TrainConfig(
    total_timesteps=3072, batch_size=256, minibatch_size=64, bptt_horizon=16, learning_rate=1e-2
)


def trainer_of(policy: Any, **options: Any) -> Trainer:
    one_thread_seed(1)
    vecenv = guesses(8)
    if isinstance(policy, str):
        policy = get_policy(policy, vecenv)
    return Trainer(dataclasses.replace(CONFIG, **options), vecenv, policy)


@pytest.mark.trainer
@pytest.mark.parametrize("name", [f"{name}(Default(hidden_size=32))" for name in WRAPPERS])
def test_ppo_learns_with_it_from_raw_rewards(name: str) -> None:
    logs = run(trainer_of(name, scale_rewards=False))
    assert logs["environment/episode_return"] > 3.7


@pytest.mark.trainer
@pytest.mark.parametrize("name", ["LSTMWrapper(HLGaussWrapper(Default))", *WRAPPERS[1:]])
def test_the_loss_of_the_update_is_that_of_the_head(name: str) -> None:
    trainer = trainer_of(name if "(" in name else f"{name}(Default)", scale_rewards=False)
    batch = trainer.estimate(trainer.collect())
    head = value_head_of(trainer.policy)
    assert head is not None
    _, new = trainer.ppo.predict(batch.segments)
    with giving_outputs(head):
        observations = batch.segments.observations
        state = {**batch.segments.states, "episode_start": batch.segments.starts}
        outputs = trainer.policy(observations, state)[1]
    returns = batch.segments.transitions.returns
    outputs = outputs.reshape(len(returns), -1)
    torch.testing.assert_close(new.value_loss, head.loss(outputs, returns))
    torch.testing.assert_close(new.values, batch.segments.transitions.values, atol=1e-4, rtol=1e-4)


class Halved(ValueHeadWithLoss):
    """Another package's head, whose outputs are half the values and learn by absolute errors."""

    def values(self, outputs: Tensor) -> Tensor:
        return 2 * outputs.squeeze(-1)

    def loss(self, outputs: Tensor, returns: Tensor) -> Tensor:
        return (outputs.squeeze(-1) - returns / 2).abs()


@pytest.mark.trainer
def test_a_head_of_another_package_is_found_by_the_trainer() -> None:
    vecenv = guesses(8)
    plain = Default(vecenv, hidden_size=16)
    policy = ActorCritic(plain.encoder, plain.spaces, critic=Halved(nn.Linear(16, 1)))
    trainer = trainer_of(policy)
    returns = trainer.estimate(trainer.collect())
    _, new = trainer.ppo.predict(returns.segments)
    expected = (new.values - returns.segments.transitions.returns).abs() / 2
    torch.testing.assert_close(new.value_loss, expected)


@pytest.mark.trainer
def test_statistics_move_before_the_loss_once_in_an_update() -> None:
    trainer = trainer_of("PopArtWrapper(Default)", scale_rewards=False, learning_rate=0.0)
    head = value_head_of(trainer.policy)
    assert isinstance(head, PopArtHead)
    batch = trainer.estimate(trainer.collect())
    logs = trainer.learn(batch)
    returns = batch.returns[~batch.rollout.ghost]
    np.testing.assert_allclose(float(head.mean), returns.mean(), rtol=1e-5)
    np.testing.assert_allclose(float(head.var), returns.var(), rtol=1e-4)
    values = batch.segments.transitions.values[batch.segments.transitions.weights > 0].numpy()
    by_time = (returns - batch.advantages[~batch.rollout.ghost]) - returns
    expected = 0.5 * np.square(by_time).mean() / returns.var()
    assert len(values) == returns.size
    np.testing.assert_allclose(logs["losses/value"], expected, rtol=1e-2)


@pytest.mark.trainer
def test_a_clip_of_the_value_loss_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="HLGaussHead has a loss of its own"):
        trainer_of("HLGaussWrapper(Default)", clip_vloss=True)


@pytest.mark.trainer
def test_returns_beyond_the_bins_are_reported() -> None:
    policy = get_policy("TwoHotWrapper(Default, low=-0.1, high=0.1, bins=11)", guesses(8))
    trainer = trainer_of(policy, scale_rewards=False)
    update(trainer)
    assert "returns_outside" in [alarm.name for alarm in trainer.alarms]
    assert weights(trainer).isfinite().all()


# -- promises --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("HLGaussWrapper(Default)", ENV),
        ("TwoHotWrapper(GRUWrapper(Default))", Spaces(ENV.observation, spaces.MultiBinary(2))),
        ("PopArtWrapper(Default)", Spaces(ENV.observation, spaces.Box(-1.0, 1.0, (2,)))),
    ],
)
def test_every_promise_is_kept(name: str, env: Spaces) -> None:
    report = quick_report(name, env)
    assert report.ok, report
