"""The policies have the sizes of their sources, read both layouts alike, and are found by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from puffer_policies import Spaces, get_policy
from puffer_policies.errors import BuildError, IncompatibleSpace, PolicyError
from puffer_policies.registry import default_registry
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies_vision.impala import ImpalaResNet, Impoola
from puffer_policies_vision.minigrid import MiniGridCNN
from puffer_policies_vision.small import ImpalaSmall, MinAtarCNN

FOUR = spaces.Discrete(4)
P84 = Spaces(spaces.Box(0, 255, (4, 84, 84), np.uint8), FOUR)
RGB64 = Spaces(spaces.Box(0, 255, (64, 64, 3), np.uint8), FOUR)
POLICIES = {
    each.__name__: each for each in (ImpalaResNet, ImpalaSmall, Impoola, MinAtarCNN, MiniGridCNN)
}
SMALLEST = {"ImpalaResNet": 1, "Impoola": 1, "ImpalaSmall": 20, "MinAtarCNN": 3, "MiniGridCNN": 7}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=2),
    "multidiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(-1.0, 1.0, (2,)),
    "box_matrix": spaces.Box(-1.0, 1.0, (2, 3)),
    "box_integers": spaces.Box(-1, 2, (2,), np.int64),
}
KINDS = {
    "bytes": (0, 255, np.uint8),
    "floats": (0.0, 1.0, np.float32),
    "doubles": (-np.inf, np.inf, np.float64),
    "bools": (0, 1, np.bool_),
}
every_policy = pytest.mark.parametrize("name", sorted(POLICIES))


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def image(name: str, kind: str, *, layout: str = "CHW") -> spaces.Box:
    """A small image that the policy can read; it is not square."""
    height = max(SMALLEST[name], 5)
    shape = (3, height, height + 1) if layout == "CHW" else (height, height + 1, 3)
    low, high, dtype = KINDS[kind]
    return spaces.Box(low, high, shape, dtype)


def batch(space: spaces.Box, *lead: int) -> Tensor:
    space.seed(0)
    rows = np.stack([space.sample() for _ in range(int(np.prod(lead)))])
    return torch.from_numpy(rows).reshape(*lead, *space.shape)


def rows_of(logits: Any) -> int:
    logits = logits[0] if isinstance(logits, tuple) else getattr(logits, "loc", logits)
    return len(logits)


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "env", "sizes"),
    [
        (ImpalaResNet, P84, {1: 1_089_232, 2: 2_371_744, 4: 5_517_376}),
        (ImpalaResNet, RGB64, {1: 622_144, 2: 1_437_568, 4: 3_649_024}),
        (Impoola, P84, {1: 106_192, 2: 405_664, 4: 1_585_216}),
    ],
)
def test_impala_has_the_published_sizes(policy: Any, env: Spaces, sizes: dict[int, int]) -> None:
    assert {width: parameters(policy(env, width=width).encoder) for width in sizes} == sizes


def test_impala_small_has_the_published_size() -> None:
    assert parameters(ImpalaSmall(P84).encoder) == 676_144


@pytest.mark.parametrize(
    ("channels", "actions", "size"),
    [(4, 3, 132_308), (6, 4, 132_725), (4, 5, 132_566), (7, 3, 132_740), (10, 6, 133_559)],
    ids=["breakout", "space_invaders", "asterix", "freeway", "seaquest"],
)
def test_minatar_has_the_published_sizes(channels: int, actions: int, size: int) -> None:
    grid = spaces.Box(0, 1, (10, 10, channels), np.bool_)
    env = Spaces(grid, spaces.Discrete(actions))
    policy = MinAtarCNN(env, channels_last=True)
    assert parameters(policy) == size
    assert policy(batch(grid, 2))[0].shape == (2, actions)


def test_minigrid_has_the_published_sizes() -> None:
    env = Spaces(spaces.Box(0, 255, (7, 7, 3), np.uint8), spaces.Discrete(7))
    policy = MiniGridCNN(env)
    assert (policy.hidden_size, parameters(policy)) == (64, 19_384)
    assert parameters(LSTMWrapper(env, policy)) == 52_664


# -- spaces ----------------------------------------------------------------------------------------


@every_policy
@pytest.mark.parametrize(
    ("layout", "kind", "action"),
    # Images end in the encoder and actions begin in the head, so each is tried once.
    [
        *((layout, kind, "discrete") for layout in ("CHW", "HWC") for kind in sorted(KINDS)),
        *(("CHW", "bytes", action) for action in sorted(ACTIONS) if action != "discrete"),
    ],
)
def test_every_image_and_action_space_is_served_alone_and_with_memory(
    name: str, layout: str, kind: str, action: str
) -> None:
    env = Spaces(image(name, kind, layout=layout), ACTIONS[action])
    policy = POLICIES[name](env)
    x = batch(env.observation, 2, 3)
    with torch.no_grad():
        logits, values = policy(x)
        assert (rows_of(logits), values.shape) == (6, (6, 1))
        logits, values = LSTMWrapper(env, policy)(x)
        assert (rows_of(logits), values.shape) == (6, (2, 3))


@every_policy
@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_both_layouts_see_the_same_image(name: str, kind: str) -> None:
    first, last = (image(name, kind, layout=layout) for layout in ("CHW", "HWC"))
    one, other = (POLICIES[name](Spaces(space, FOUR)) for space in (first, last))
    other.load_state_dict(one.state_dict())
    x = batch(first, 2)
    with torch.no_grad():
        for a, b in zip(one(x), other(x.permute(0, 2, 3, 1)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@every_policy
def test_images_are_scaled_once(name: str) -> None:
    space = image(name, "bytes")
    policy = POLICIES[name](Spaces(space, FOUR))
    seen: list[Tensor] = []
    first = next(each for each in policy.modules() if isinstance(each, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    policy(torch.full((1, *space.shape), 10, dtype=torch.uint8))
    scale = 16 if name == "MiniGridCNN" else 255
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], 10 / scale))


@every_policy
def test_the_smallest_image_of_the_record_works_and_a_smaller_one_is_refused(name: str) -> None:
    record = default_registry().get(name, kind="policy")
    least = record.capabilities.min_image_size
    assert least == SMALLEST[name]
    env = Spaces(spaces.Box(0, 255, (least, least, 1), np.uint8), FOUR)
    assert POLICIES[name](env, channels_last=True)(batch(env.observation, 2))[1].shape == (2, 1)
    if least > 1:
        smaller = Spaces(spaces.Box(0, 255, (least - 1, least, 1), np.uint8), FOUR)
        with pytest.raises(IncompatibleSpace, match=f"{least - 1} x {least} .*at least {least} x"):
            POLICIES[name](smaller, channels_last=True)


@every_policy
@pytest.mark.parametrize("channels_last", [None, True])
def test_a_vector_is_refused_in_words(name: str, channels_last: bool | None) -> None:
    with pytest.raises(IncompatibleSpace, match="image"):
        POLICIES[name](Spaces(spaces.Box(-1, 1, (8,)), FOUR), channels_last=channels_last)


def test_a_width_without_channels_is_refused() -> None:
    with pytest.raises(BuildError, match="width=0"):
        ImpalaResNet(RGB64, width=0)


# -- networks --------------------------------------------------------------------------------------


@every_policy
def test_weights_start_orthogonal_and_biases_at_zero(name: str) -> None:
    policy = POLICIES[name](Spaces(image(name, "bytes"), FOUR))
    for key, value in policy.state_dict().items():
        if key.endswith("bias"):
            assert not value.any()
        else:
            rows = value.flatten(1)
            small = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
            gain = small.diagonal().mean()
            expected = torch.eye(len(small)) * gain
            torch.testing.assert_close(small, expected, atol=1e-4 * float(gain), rtol=1e-4)


@every_policy
def test_the_first_policy_is_nearly_uniform(name: str) -> None:
    torch.manual_seed(0)
    env = Spaces(image(name, "bytes"), FOUR)
    logits, _ = POLICIES[name](env)(batch(env.observation, 8))
    torch.testing.assert_close(logits.softmax(-1), torch.full((8, 4), 0.25), atol=0.05, rtol=0)


def test_a_residual_block_without_branch_is_the_identity() -> None:
    block = ImpalaResNet(RGB64).encoder.network[0][2]
    nn.init.zeros_(block.second.weight)
    x = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_impoola_does_not_depend_on_the_size_of_the_image() -> None:
    small, large = (
        Impoola(Spaces(spaces.Box(0, 255, (3, side, side), np.uint8), FOUR)) for side in (32, 64)
    )
    large.load_state_dict(small.state_dict())


# -- names -----------------------------------------------------------------------------------------


def test_the_installed_package_registers_its_policies() -> None:
    records = default_registry().records("policy")
    ours = [each for each in records if each.provenance.distribution == "puffer-policies-vision"]
    assert {each.name for each in ours} == set(POLICIES)
    assert {each.name: each.load() for each in ours} == POLICIES
    assert all(each.summary and each.paper for each in ours)


@every_policy
def test_names_build_and_compose(name: str) -> None:
    env = Spaces(image(name, "bytes"), FOUR)
    policy = get_policy(f"LSTMWrapper({name})", env)
    logits, values = policy.forward_eval(batch(env.observation, 2), policy.initial_state(2))
    assert (logits.shape, values.shape) == ((2, 4), (2, 1))


def test_names_are_refused_for_vectors_before_anything_is_built() -> None:
    with pytest.raises(PolicyError, match="ImpalaResNet"):
        get_policy("ImpalaResNet", "CartPole-v1")
