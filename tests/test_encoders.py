"""Encoders read the layout and the size of images, and say what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from specimens import OBSERVATIONS, PIXELS, observation_batch
from torch import nn

from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.nn.encoders import (
    NARROW_INPUT,
    ConvEncoder,
    InputLinear,
    LinearEncoder,
    MLPEncoder,
    min_image_size,
    require_equal,
)
from puffer_policies.nn.images import ImageInput

HWC = spaces.Box(0, 255, (84, 84, 4), np.uint8)


@pytest.mark.parametrize("name", sorted(OBSERVATIONS))
def test_every_observation_becomes_one_hidden_row(name: str) -> None:
    space = OBSERVATIONS[name]
    encoder = MLPEncoder(space, (16, 12))
    hidden = encoder(observation_batch(space, 5))
    assert hidden.shape == (5, 12)
    assert hidden.dtype == torch.float32


def test_the_linear_encoder_is_linear_then_gelu() -> None:
    encoder = LinearEncoder(OBSERVATIONS["vector"], 16)
    linear = encoder.layers[0]
    x = torch.randn(3, 8)
    torch.testing.assert_close(encoder(x), nn.functional.gelu(linear(x)))


def test_a_double_copy_computes_in_double() -> None:
    encoder = LinearEncoder(OBSERVATIONS["vector"], 16)
    x = torch.randn(3, 8)
    single = encoder(x)
    torch.testing.assert_close(encoder.double()(x).float(), single, atol=1e-6, rtol=1e-5)


def test_the_trunk_is_the_nature_network() -> None:
    encoder = ConvEncoder(PIXELS)
    assert sum(each.numel() for each in encoder.parameters()) == 1_684_128
    assert encoder.flat_size == 3136
    x = observation_batch(PIXELS, 2)
    expected = encoder.linear(encoder.network(x.float() / 255)).relu()
    torch.testing.assert_close(encoder(x), expected)


@pytest.mark.parametrize("pixel", [0, 1, 255])
def test_pixels_reach_the_network_between_0_and_1(pixel: int) -> None:
    encoder = ConvEncoder(PIXELS, 16)
    seen: list[torch.Tensor] = []
    encoder.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(torch.full((1, *PIXELS.shape), pixel, dtype=torch.uint8))
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], pixel / 255))


def test_an_image_of_floats_is_left_as_it_is() -> None:
    space = spaces.Box(0.0, 1.0, (3, 40, 40), np.float32)
    encoder = ConvEncoder(space, 16)
    x = torch.rand(2, 3, 40, 40)
    torch.testing.assert_close(encoder(x), encoder.linear(encoder.network(x)).relu())


def test_another_full_scale_takes_the_place_of_255() -> None:
    images = ImageInput(PIXELS, full_scale=16)
    x = observation_batch(PIXELS, 2)
    torch.testing.assert_close(images(x), x.float() / 16)


def test_images_follow_the_dtype_of_the_encoder_and_add_nothing_to_checkpoints() -> None:
    encoder = ConvEncoder(PIXELS, 16).double()
    assert encoder(observation_batch(PIXELS, 2)).dtype == torch.float64
    assert not [key for key in encoder.state_dict() if key.startswith("images")]


def test_both_layouts_see_the_same_image() -> None:
    first, last = ConvEncoder(PIXELS, 16), ConvEncoder(HWC, 16)
    assert (first.images.channels_last, last.images.channels_last) == (False, True)
    last.load_state_dict(first.state_dict())
    x = observation_batch(PIXELS, 2)
    torch.testing.assert_close(first(x), last(x.permute(0, 2, 3, 1)), atol=1e-5, rtol=1e-5)


def test_the_layout_in_memory_of_a_gradient_step_changes_no_result() -> None:
    encoder, x = ConvEncoder(PIXELS, 16), observation_batch(PIXELS, 3)
    with torch.no_grad():
        expected = encoder(x)
        assert encoder.images(x).is_contiguous()
    hidden = encoder(x)
    assert encoder.images(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)
    hidden.square().sum().backward()
    gradients = [each.grad.clone() for each in encoder.parameters() if each.grad is not None]
    encoder.zero_grad()
    with torch.no_grad():
        pixels = encoder.images(x)
    flat = encoder.network(pixels)
    nn.functional.relu(encoder.linear(flat)).square().sum().backward()
    own = [each.grad for each in encoder.parameters()]
    torch.testing.assert_close(gradients, own, atol=1e-4, rtol=1e-4)


def test_the_layout_of_small_images_stays() -> None:
    space = spaces.Box(0, 255, (4, 10, 10), np.uint8)
    assert ImageInput(space)(observation_batch(space, 2)).is_contiguous()


def test_images_need_not_be_square_or_contiguous() -> None:
    space = spaces.Box(0, 255, (3, 64, 96), np.uint8)
    x = observation_batch(space, 2)
    encoder = ConvEncoder(space, 16)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(encoder(turned), encoder(x), atol=1e-5, rtol=1e-5)


def test_the_smallest_image_works_and_a_smaller_one_is_refused_in_words() -> None:
    least = min_image_size()
    assert least == 36
    ConvEncoder(spaces.Box(0, 255, (3, least, least), np.uint8), 16)
    with pytest.raises(IncompatibleSpace, match=r"35 x 36 pixels is too small.*at least 36 x 36"):
        ConvEncoder(spaces.Box(0, 255, (3, least - 1, least), np.uint8), 16)


def test_an_ambiguous_layout_must_be_said() -> None:
    cube = spaces.Box(0, 255, (40, 40, 40), np.uint8)
    with pytest.raises(IncompatibleSpace, match="channels"):
        ConvEncoder(cube, 16)
    assert ConvEncoder(cube, 16, channels_last=True).channels == 40


def test_a_space_without_three_axes_is_refused_in_words() -> None:
    with pytest.raises(IncompatibleSpace, match="not an image, as it has 1 axes"):
        ConvEncoder(OBSERVATIONS["vector"], 16, channels_last=True)


def test_a_given_size_that_differs_shows_both_numbers() -> None:
    require_equal("framestack", argument=None, inferred=4)
    require_equal("framestack", argument=4, inferred=4)
    with pytest.raises(BuildError, match=r"framestack=3.*4"):
        require_equal("framestack", argument=3, inferred=4)


def test_another_shape_than_the_spaces_is_refused() -> None:
    with pytest.raises(IncompatibleSpace, match=r"\(2, 84, 84, 4\).*\(4, 84, 84\)"):
        ConvEncoder(PIXELS, 16)(torch.zeros(2, 84, 84, 4))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [4, NARROW_INPUT + 1])
def test_an_input_layer_has_the_gradients_of_a_linear_layer(size: int, bias: bool) -> None:
    layer, reference = InputLinear(size, 8, bias=bias), nn.Linear(size, 8, bias=bias)
    reference.load_state_dict(layer.state_dict())
    rows = torch.randn(32, size)
    for each in (layer, reference):
        each(rows).square().sum().backward()
    for mine, other in zip(layer.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
        assert mine.grad is not None
        assert mine.grad.is_contiguous()
