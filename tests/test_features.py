"""Features equal gymnasium's flatten, and read each space as it is declared."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from specimens import OBSERVATIONS, VECTOR, batched, map_tensors, observation_batch, samples

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.features import make_features
from puffer_policies.nn.observations import batch_layout

IMAGES = {"image_chw", "image_hwc"}
FLAT = sorted(OBSERVATIONS.keys() - IMAGES)


@pytest.mark.parametrize("name", FLAT)
def test_features_equal_gymnasium_flatten(name: str) -> None:
    space = OBSERVATIONS[name]
    members = samples(space, 7)
    expected = np.stack([spaces.flatten(space, each) for each in members]).astype(np.float32)
    features = make_features(space)
    found = features(batched(members, 7))
    assert found.dtype == torch.float32
    assert found.shape == (7, features.size)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.skipif(
    not hasattr(spaces.MultiDiscrete([2]), "start"), reason="gymnasium 0.29 has no start"
)
def test_multidiscrete_features_respect_start() -> None:
    features = make_features(spaces.MultiDiscrete([2, 3], start=[5, -1]))
    found = features(torch.tensor([[6, -1], [5, 1]]))
    assert found.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


@pytest.mark.parametrize("name", sorted(IMAGES))
@pytest.mark.parametrize("pixel", [0, 1, 255])
def test_pixels_are_scaled_exactly_once(name: str, pixel: int) -> None:
    space = OBSERVATIONS[name]
    features = make_features(space)
    found = features(torch.full((2, *space.shape), pixel, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.full_like(found, pixel / 255))


def test_other_boxes_are_not_scaled() -> None:
    ram = spaces.Box(0, 255, (128,), np.uint8)
    assert make_features(ram)(torch.full((1, 128), 255, dtype=torch.uint8)).max() == 255
    unit = spaces.Box(0.0, 1.0, (3, 9, 9), np.float32)
    assert make_features(unit)(torch.ones(1, 3, 9, 9)).max() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.int64, torch.float16])
def test_every_dtype_becomes_float32(dtype: torch.dtype) -> None:
    found = make_features(VECTOR)(torch.ones(2, 8).to(dtype))
    assert found.dtype == torch.float32


def test_dict_features_do_not_depend_on_insertion_order() -> None:
    members = {"b": spaces.Box(-1.0, 1.0, (2,)), "a": spaces.Discrete(3)}
    observation = {"b": torch.ones(4, 2), "a": torch.zeros(4, dtype=torch.int64)}
    one, other = spaces.Dict(members), spaces.Dict(dict(reversed(members.items())))
    first, second = make_features(one), make_features(other)
    assert first.keys == second.keys == ("a", "b")
    turned = dict(reversed(observation.items()))
    torch.testing.assert_close(first(observation), second(turned), atol=0, rtol=0)


@pytest.mark.parametrize("observation", [{"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "d": 2}])
def test_wrong_keys_are_named(observation: dict[str, int]) -> None:
    features = make_features(spaces.Dict(a=VECTOR, b=VECTOR))
    wrong = {key: torch.ones(1, 8) for key in observation}
    with pytest.raises(IncompatibleSpace, match=r"missing .* unknown"):
        features(wrong)


def test_a_tensor_is_no_dict_or_tuple() -> None:
    with pytest.raises(IncompatibleSpace, match="dict of tensors"):
        make_features(spaces.Dict(a=VECTOR))(torch.ones(1, 8))
    with pytest.raises(IncompatibleSpace, match="tuple of 2 tensors"):
        make_features(spaces.Tuple((VECTOR, VECTOR)))((torch.ones(1, 8),))


def test_a_wrong_shape_names_both_shapes() -> None:
    with pytest.raises(IncompatibleSpace, match=r"\(2, 3, 8\).*\(8,\)"):
        make_features(VECTOR)(torch.ones(2, 3, 8))


def test_an_unknown_space_says_how_to_register() -> None:
    with pytest.raises(IncompatibleSpace, match=r"make_features\.register"):
        make_features(spaces.Text(3))


def test_a_space_of_ones_own_can_be_registered() -> None:
    class Compass(gymnasium.Space[Any]):
        pass

    make_features.register(Compass, lambda space: make_features(spaces.Discrete(4)))
    assert make_features(Compass()).size == 4


@pytest.mark.parametrize("name", sorted(OBSERVATIONS))
def test_batch_and_time_merge_in_order(name: str) -> None:
    space = OBSERVATIONS[name]
    observations = observation_batch(space, 3, 4)
    rows, batch = batch_layout(space).flatten(observations)
    assert batch == (3, 4)
    features = make_features(space)
    at = features(map_tensors(lambda leaf: leaf[1], observations))[2]
    torch.testing.assert_close(features(rows)[1 * 4 + 2], at, atol=0, rtol=0)


@pytest.mark.parametrize("name", sorted(OBSERVATIONS))
def test_a_batch_without_time_stays(name: str) -> None:
    space = OBSERVATIONS[name]
    observations = observation_batch(space, 3)
    rows, batch = batch_layout(space).flatten(observations)
    assert batch == (3,)
    features = make_features(space)
    torch.testing.assert_close(features(rows), features(observations), atol=0, rtol=0)


def test_a_wrong_rank_or_unequal_parts_are_named() -> None:
    with pytest.raises(IncompatibleSpace, match=r"expected \(B, \*obs\) or \(B, T, \*obs\)"):
        batch_layout(VECTOR).flatten(torch.ones(8))
    pair = spaces.Tuple((VECTOR, VECTOR))
    with pytest.raises(IncompatibleSpace, match="differ in length"):
        batch_layout(pair).flatten((torch.ones(2, 8), torch.ones(3, 8)))
