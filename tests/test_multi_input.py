"""`MultiInput` encodes each part of an observation by its space, in an order of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick_checks import quick_report
from specimens import (
    ACTIONS,
    FOUR,
    OBSERVATIONS,
    PIXELS,
    VECTOR,
    assert_same_logits,
    map_tensors,
    observation_batch,
    tensors_of,
)
from torch import Tensor, nn

from puffer_policies import Spaces, get_policy
from puffer_policies.assembly.fit import fits
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.nn.encoders import ConvEncoder, ImageEncoder, MLPEncoder
from puffer_policies.nn.multi_input import (
    NETWORKS,
    ChoicePart,
    MultiInputEncoder,
    PartSizes,
    make_part,
)
from puffer_policies.registry import discover
from puffer_policies.spaces.nested import leaves, names_of
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies.zoo.inputs import MultiInput

GRID = spaces.Dict(
    {"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "direction": spaces.Discrete(4)}
)
MIXED = spaces.Dict(
    {
        "view": spaces.Box(0, 255, (12, 10, 3), np.uint8),
        "body": spaces.Dict({"speed": VECTOR, "armed": spaces.MultiBinary(2)}),
        "cards": spaces.MultiDiscrete([3, 5]),
        "turn": spaces.Discrete(3, start=1),
        "past": spaces.Tuple((spaces.Box(-1.0, 1.0, (2, 2), np.float32), spaces.Discrete(2))),
    }
)
ORDER = ("body.armed", "body.speed", "cards", "past.0", "past.1", "turn", "view")


def image(side: int, *, channels: int = 3) -> spaces.Box:
    return spaces.Box(0, 255, (channels, side, side + 1), np.uint8)


def turned(tree: Any) -> Any:
    """The same space or observations, with the keys of every dict the other way round."""
    if isinstance(tree, spaces.Dict):
        names = list(tree.spaces)[::-1]
        return spaces.Dict([(name, turned(tree.spaces[name])) for name in names])
    if isinstance(tree, spaces.Tuple):
        return spaces.Tuple([turned(each) for each in tree.spaces])
    if isinstance(tree, dict):
        return {name: turned(each) for name, each in reversed(tree.items())}
    return tuple(turned(each) for each in tree) if isinstance(tree, tuple) else tree


# -- parts -----------------------------------------------------------------------------------------


def test_keys_are_sorted_and_recorded() -> None:
    assert MultiInputEncoder(MIXED, 8).keys == ORDER
    assert MultiInputEncoder(turned(MIXED), 8).keys == ORDER
    assert MultiInputEncoder(VECTOR, 8).keys == ("",)


def test_each_leaf_has_the_encoder_of_its_kind() -> None:
    encoder = MultiInputEncoder(MIXED, 8)
    found = dict(zip(encoder.keys, encoder.parts, strict=True))
    kinds = {name: type(part) for name, part in found.items()}
    dense = ("body.armed", "body.speed", "past.0")
    assert kinds == {
        **dict.fromkeys(dense, MLPEncoder),
        **dict.fromkeys(("cards", "past.1", "turn"), ChoicePart),
        "view": ConvEncoder,
    }
    widths = {name: part.hidden_size for name, part in found.items()}
    assert widths == {
        **dict.fromkeys(dense, 64),
        "cards": 2 * 16,
        "past.1": 16,
        "turn": 16,
        "view": 128,
    }


def test_the_encoder_is_its_parts_side_by_side_and_one_layer() -> None:
    encoder = MultiInputEncoder(MIXED, 8)
    x = observation_batch(MIXED, 5)
    inputs = {
        "body.armed": x["body"]["armed"],
        "body.speed": x["body"]["speed"],
        "cards": x["cards"],
        "past.0": x["past"][0],
        "past.1": x["past"][1],
        "turn": x["turn"],
        "view": x["view"],
    }
    with torch.no_grad():
        for row in range(5):
            seen = [
                part(inputs[name][row : row + 1])
                for name, part in zip(ORDER, encoder.parts, strict=True)
            ]
            wide = torch.cat([each[0] for each in seen])
            expected = (encoder.linear.weight @ wide + encoder.linear.bias).clamp(min=0)
            torch.testing.assert_close(encoder(x)[row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [2, 4, 5, 15, 16, 35, 36, 84])
def test_images_of_every_size_have_convolutions_that_fit(side: int) -> None:
    part = make_part(image(side, channels=1), PartSizes())
    assert isinstance(part, ImageEncoder)
    assert part(observation_batch(image(side, channels=1), 2)).shape == (2, 128)
    convolutions = [each for each in part.modules() if isinstance(each, nn.Conv2d)]
    fitting = [layers for least, layers in NETWORKS.items() if side >= least]
    assert len(convolutions) == (len(fitting[0]) if fitting else 0)
    assert part.flat_size <= 4500


@pytest.mark.parametrize("side", [3, 7, 20, 40])
def test_both_layouts_of_an_image_are_seen_alike(side: int) -> None:
    first = spaces.Box(0, 255, (2, side, side), np.uint8)
    last = spaces.Box(0, 255, (side, side, 2), np.uint8)
    one, other = MultiInputEncoder(first, 8), MultiInputEncoder(last, 8)
    x = observation_batch(first, 3)
    if side >= min(NETWORKS):
        other.load_state_dict(one.state_dict())
        torch.testing.assert_close(one(x), other(x.permute(0, 2, 3, 1)), atol=1e-5, rtol=1e-4)
    assert other(x.permute(0, 2, 3, 1)).shape == (3, 8)


@pytest.mark.parametrize(("full_scale", "divisor"), [(None, 255), (16, 16)])
@pytest.mark.parametrize("side", [3, 7])
def test_images_are_divided_once_by_what_is_asked(
    side: int, full_scale: float | None, divisor: int
) -> None:
    part = make_part(image(side, channels=1), PartSizes(full_scale=full_scale))
    assert isinstance(part, ImageEncoder)
    seen: list[Tensor] = []
    part.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    part(torch.full((1, 1, side, side + 1), 10, dtype=torch.uint8))
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], 10 / divisor))


def test_minigrids_observation_has_a_view_and_a_direction() -> None:
    policy = MultiInput(Spaces(GRID, spaces.Discrete(7)), full_scale=16)
    view = 16 * 3 * 9 + 16 + 32 * 16 * 9 + 32 + (9 * 32 + 1) * 128
    direction, both = 4 * 16, (16 + 128 + 1) * 128
    assert policy.encoder.keys == ("direction", "image")
    assert sum(each.numel() for each in policy.parameters()) == (
        view + direction + both + 129 * 7 + 129
    )


# -- order and dtype -------------------------------------------------------------------------------


def test_no_order_of_keys_changes_anything() -> None:
    one, other = MultiInput(Spaces(MIXED, FOUR)), MultiInput(Spaces(turned(MIXED), FOUR))
    other.load_state_dict(one.state_dict())
    x = observation_batch(MIXED, 2, 3)
    with torch.no_grad():
        expected = one(x)
        for policy, seen in ((one, turned(x)), (other, x), (other, turned(x))):
            torch.testing.assert_close(policy(seen), expected, atol=0, rtol=0)


def test_one_seed_gives_one_policy_in_any_order_of_keys() -> None:
    first, second = (
        (torch.manual_seed(3), MultiInput(Spaces(space, FOUR)))[1]
        for space in (MIXED, turned(MIXED))
    )
    torch.testing.assert_close(first.state_dict(), second.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.int32])
def test_observations_of_any_dtype_give_the_same_float32(dtype: torch.dtype) -> None:
    policy = MultiInput(Spaces(MIXED, FOUR))
    x = map_tensors(lambda leaf: leaf.round(), observation_batch(MIXED, 3))
    cast = map_tensors(lambda leaf: leaf.to(dtype), x)
    with torch.no_grad():
        (logits, values), expected = policy(cast), policy(x)
    assert logits.dtype == values.dtype == torch.float32
    torch.testing.assert_close((logits, values), expected, atol=1e-6, rtol=1e-5)


def test_a_double_copy_computes_in_double() -> None:
    policy = MultiInput(Spaces(MIXED, FOUR))
    x = observation_batch(MIXED, 3)
    with torch.no_grad():
        single = policy(x)
        logits, values = policy.double()(x)
    assert logits.dtype == values.dtype == torch.float64
    torch.testing.assert_close((logits.float(), values.float()), single, atol=1e-5, rtol=1e-4)


# -- spaces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OBSERVATIONS))
def test_every_observation_space_is_served_alone_and_with_memory(name: str) -> None:
    env = Spaces(OBSERVATIONS[name], FOUR)
    policy = MultiInput(env, hidden_size=16)
    x = observation_batch(env.observation, 2, 3)
    with torch.no_grad():
        logits, values = policy(x)
        assert (logits.shape, values.shape) == ((6, 4), (6, 1))
        logits, values = LSTMWrapper(env, policy)(x)
        assert (logits.shape, values.shape) == ((6, 4), (2, 3))


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_every_action_space_is_served(name: str) -> None:
    policy = MultiInput(Spaces(GRID, ACTIONS[name]), hidden_size=16)
    logits, values = policy(observation_batch(GRID, 3))
    assert {len(each) for each in tensors_of(logits)} == {3} == {len(values)}


def test_an_image_that_does_not_show_its_layout_is_a_vector() -> None:
    cube = spaces.Box(0, 255, (9, 9, 9), np.uint8)
    assert isinstance(make_part(cube, PartSizes()), MLPEncoder)


def test_steps_are_the_rows_of_a_sequence() -> None:
    policy = MultiInput(Spaces(MIXED, FOUR))
    x = observation_batch(MIXED, 2, 3)
    with torch.no_grad():
        logits, _ = policy(x)
        for step in range(3):
            alone, _ = policy.forward_eval(map_tensors(lambda leaf, t=step: leaf[:, t], x))
            assert_same_logits(alone, logits.reshape(2, 3, 4)[:, step])


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"image": torch.zeros(2, 7, 7, 3)}, "missing \\['direction'\\]"),
        ({"image": torch.zeros(2, 3, 7, 7), "direction": torch.zeros(2)}, r"\(2, 3, 7, 7\)"),
        (torch.zeros(2, 7, 7, 3), "dict of tensors"),
    ],
)
def test_observations_of_another_form_are_refused_in_words(spoilt: Any, said: str) -> None:
    policy = MultiInput(Spaces(GRID, FOUR))
    for run in (policy, policy.forward_eval):
        with pytest.raises(IncompatibleSpace, match=said):
            run(spoilt)


def test_a_space_that_nothing_reads_is_refused_in_words() -> None:
    unread = spaces.Dict({"image": GRID["image"], "mission": spaces.Text(5)})
    with pytest.raises(IncompatibleSpace, match=r"Text.*no encoder reads"):
        MultiInput(Spaces(unread, FOUR))
    with pytest.raises(IncompatibleSpace, match="is empty"):
        MultiInput(Spaces(spaces.Dict({}), FOUR))


@pytest.mark.parametrize(
    "sizes", [{"hidden_size": 0}, {"vector_size": 0}, {"image_size": -1}, {"embedding_size": 0}]
)
def test_a_width_of_nothing_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(BuildError, match="from 1 on"):
        MultiInput(Spaces(MIXED, FOUR), **sizes)


# -- start, names, promises ------------------------------------------------------------------------


def test_layers_start_orthogonal_with_a_gain_of_the_root_of_two() -> None:
    encoder = MultiInputEncoder(MIXED, 8)
    layers = [each for each in encoder.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    assert len(layers) == 3 + 3 + 1
    for layer in layers:
        rows = layer.weight.detach().flatten(1)
        small = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
        torch.testing.assert_close(small, 2 * torch.eye(len(small)), atol=1e-4, rtol=1e-4)
        assert layer.bias is not None
        assert not layer.bias.any()


@pytest.mark.parametrize("space", [MIXED, GRID, PIXELS], ids=["mixed", "grid", "pixels"])
def test_the_first_policy_is_nearly_uniform(space: Any) -> None:
    torch.manual_seed(0)
    logits, _ = MultiInput(Spaces(space, FOUR))(observation_batch(space, 8))
    torch.testing.assert_close(logits.softmax(-1), torch.full((8, 4), 0.25), atol=0.05, rtol=0)


def test_names_of_leaves_are_in_the_order_of_leaves() -> None:
    tree = {"b": (1, {"x": 2}), "a": 3}
    assert dict(zip(names_of(tree), leaves(tree), strict=True)) == {"b.0": 1, "b.1.x": 2, "a": 3}


def test_it_is_found_by_name_and_fits_everything() -> None:
    registry = discover(plugins=[], environ={"PUFFER_POLICIES_REGISTRY": ""})
    for space in (GRID, VECTOR, PIXELS):
        judged = {fit.name: fit.fits for fit in fits(Spaces(space, FOUR), registry=registry)}
        assert judged["MultiInput"]
    policy = get_policy("LSTMWrapper(MultiInput(full_scale=16))", Spaces(GRID, FOUR))
    assert policy.policy.encoder.parts[1].images.full_scale == 16


def test_promises_are_kept_on_a_view_with_a_direction() -> None:
    report = quick_report("MultiInput", Spaces(GRID, FOUR))
    assert report.ok, str(report)
