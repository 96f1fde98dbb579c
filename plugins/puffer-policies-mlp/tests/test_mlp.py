"""The policies have the sizes of their sources, serve every space, and are found by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from puffer_policies import Spaces, get_policy
from puffer_policies.errors import BuildError
from puffer_policies.registry import default_registry
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies_mlp.bronet import BroBlock, BroNet
from puffer_policies_mlp.layer_norm import MLPLayerNorm
from puffer_policies_mlp.simba import SimBa, SimbaBlock
from puffer_policies_mlp.tanh import MLPTanh, MLPWide

V = Spaces(spaces.Box(-1.0, 1.0, (8,)), spaces.Discrete(4))
HALF_CHEETAH = Spaces(spaces.Box(-np.inf, np.inf, (17,), np.float64), spaces.Box(-1, 1, (6,)))
POLICIES = {each.__name__: each for each in (BroNet, MLPLayerNorm, MLPTanh, MLPWide, SimBa)}
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1.0, 1.0, (8,)),
    "doubles": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    "image": spaces.Box(0, 255, (3, 6, 7), np.uint8),
    "discrete": spaces.Discrete(5, start=-2),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Box(-1.0, 1.0, (2,))}),
    "tuple": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-1.0, 1.0, (3,)))),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3, start=2),
    "multidiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(-1.0, 1.0, (2,)),
    "box_matrix": spaces.Box(-1.0, 1.0, (2, 3)),
    "box_integers": spaces.Box(-1, 2, (2,), np.int64),
}
every_policy = pytest.mark.parametrize("name", sorted(POLICIES))


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def stacked(rows: list[Any]) -> Any:
    first = rows[0]
    if isinstance(first, Mapping):
        return {key: stacked([row[key] for row in rows]) for key in first}
    if isinstance(first, tuple):
        return tuple(stacked(list(column)) for column in zip(*rows, strict=True))
    return torch.from_numpy(np.stack([np.asarray(row) for row in rows]))


def batch(space: spaces.Space[Any], size: int, time: int) -> Any:
    space.seed(0)
    return stacked([stacked([space.sample() for _ in range(time)]) for _ in range(size)])


def rows_of(logits: Any) -> int:
    logits = logits[0] if isinstance(logits, tuple) else getattr(logits, "loc", logits)
    return len(logits)


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "env", "size"),
    [
        (MLPTanh, V, 9_797),
        (MLPTanh, "CartPole-v1", 9_155),
        (MLPTanh, "Pendulum-v1", 8_963),
        (MLPTanh, HALF_CHEETAH, 11_085),
        (MLPWide, V, 69_381),
        (MLPWide, "CartPole-v1", 67_843),
        (MLPLayerNorm, V, 18_821),
        (SimBa, V, 134_021),
        (BroNet, V, 136_709),
    ],
)
def test_the_published_sizes(policy: Any, env: Any, size: int) -> None:
    assert parameters(policy(env)) == size


@pytest.mark.parametrize(
    ("policy", "width", "size"), [(SimBa, 256, 530_181), (BroNet, 128, 35_589)]
)
def test_the_published_sizes_of_other_widths(policy: Any, width: int, size: int) -> None:
    assert parameters(policy(V, hidden_size=width)) == size


@pytest.mark.parametrize(("policy", "block"), [(SimBa, SimbaBlock), (BroNet, BroBlock)])
def test_blocks_can_be_added_and_left_out(policy: Any, block: type) -> None:
    for number in (0, 3):
        built = policy(V, hidden_size=16, num_blocks=number)
        assert sum(isinstance(each, block) for each in built.modules()) == number
        assert built(torch.randn(2, 8))[1].shape == (2, 1)


# -- spaces ----------------------------------------------------------------------------------------


@every_policy
@pytest.mark.parametrize(
    ("observation", "action"),
    # Observations end in the encoder and actions begin in the heads, so each is tried once.
    [
        *((observation, "discrete") for observation in sorted(OBSERVATIONS)),
        *(("vector", action) for action in sorted(ACTIONS) if action != "discrete"),
    ],
)
def test_every_space_is_served_alone_and_with_memory(
    name: str, observation: str, action: str
) -> None:
    env = Spaces(OBSERVATIONS[observation], ACTIONS[action])
    policy = POLICIES[name](env, hidden_size=16)
    assert policy.hidden_size == 16
    x = batch(env.observation, 2, 3)
    logits, values = policy(x)
    assert (rows_of(logits), values.shape) == (6, (6, 1))
    logits, values = LSTMWrapper(env, policy)(x)
    assert (rows_of(logits), values.shape) == (6, (2, 3))


@every_policy
def test_hidden_rows_are_float32_and_a_double_copy_computes_in_double(name: str) -> None:
    policy = POLICIES[name](HALF_CHEETAH).eval()
    x = torch.randn(3, 17, dtype=torch.float64)
    hidden = policy.encode_observations(x)
    assert hidden.dtype == torch.float32
    torch.testing.assert_close(
        policy.double().encode_observations(x).float(), hidden, atol=1e-4, rtol=1e-4
    )


@every_policy
def test_the_first_policy_is_nearly_uniform(name: str) -> None:
    torch.manual_seed(0)
    logits, _ = POLICIES[name](V)(torch.randn(16, 8))
    torch.testing.assert_close(logits.softmax(-1), torch.full((16, 4), 0.25), atol=0.05, rtol=0)


# -- networks --------------------------------------------------------------------------------------


def test_actor_and_critic_of_the_reference_share_nothing() -> None:
    policy = MLPTanh(V)
    x = torch.randn(5, 8)
    policy(x)[0].sum().backward()
    assert all(each.grad is None for each in policy.critic.parameters())
    gradients = [each.grad for each in policy.encoder.critic.parameters()]
    assert not any(bool(each.any()) for each in gradients if each is not None)


def test_the_reference_shows_both_networks_and_each_head_takes_its_half() -> None:
    policy = MLPTanh(V)
    x = torch.randn(5, 8)
    hidden = policy.encode_observations(x)
    assert hidden.shape == (5, 128)
    torch.testing.assert_close(hidden[:, :64], policy.encoder.actor(x))
    torch.testing.assert_close(hidden[:, 64:], policy.encoder.critic(x))
    logits, values = policy.decode_actions(hidden)
    torch.testing.assert_close(logits, policy.actor.head(hidden[:, :64]))
    torch.testing.assert_close(values, policy.critic.head(hidden[:, 64:]))


@pytest.mark.parametrize("hidden_size", [0, 7])
def test_the_reference_refuses_a_size_that_has_no_half(hidden_size: int) -> None:
    with pytest.raises(BuildError, match=f"hidden_size={hidden_size} .*equal parts"):
        MLPTanh(V, hidden_size=hidden_size)


@pytest.mark.parametrize("policy", [MLPTanh, MLPWide, MLPLayerNorm, BroNet])
def test_hidden_layers_start_orthogonal_with_gain_sqrt_2(policy: Any) -> None:
    layers = [each for each in policy(V).encoder.modules() if isinstance(each, nn.Linear)]
    assert len(layers) >= 2
    for layer in layers:
        assert not layer.bias.any()
        rows = layer.weight if len(layer.weight) <= layer.in_features else layer.weight.T
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), atol=1e-4, rtol=0)


def test_simba_starts_with_an_orthogonal_layer_and_he_weights() -> None:
    torch.manual_seed(0)
    _, _, first, block, _ = SimBa(V).encoder
    torch.testing.assert_close(first.weight.T @ first.weight, torch.eye(8), atol=1e-5, rtol=0)
    _, wide, _, narrow = block.branch
    for layer in (wide, narrow):
        assert float(layer.weight.detach().std()) == pytest.approx(
            (2 / layer.in_features) ** 0.5, rel=0.02
        )
        assert not layer.bias.any()


@pytest.mark.parametrize("policy", [SimBa, BroNet])
def test_a_block_adds_to_what_it_reads(policy: Any) -> None:
    block = next(each for each in policy(V).modules() if isinstance(each, SimbaBlock | BroBlock))
    for parameter in block.branch[-1].parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(3, policy(V).hidden_size)
    torch.testing.assert_close(block(x), x)


# -- names -----------------------------------------------------------------------------------------


def test_the_installed_package_registers_its_policies() -> None:
    records = default_registry().records("policy")
    ours = [each for each in records if each.provenance.distribution == "puffer-policies-mlp"]
    assert {each.name for each in ours} == set(POLICIES)
    assert {each.name: each.load() for each in ours} == POLICIES
    assert all(each.summary and each.paper for each in ours)


@every_policy
def test_names_build_and_compose(name: str) -> None:
    env = gymnasium.make("CartPole-v1")
    try:
        policy = get_policy(f"LSTMWrapper({name})", env)
    finally:
        env.close()
    logits, values = policy.forward_eval(torch.randn(2, 4), policy.initial_state(2))
    assert (logits.shape, values.shape) == ((2, 2), (2, 1))
