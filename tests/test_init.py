"""Fresh weights have the statistics that they promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from puffer_policies.nn.init import layer_init, orthogonal_gates


@pytest.mark.parametrize("std", [math.sqrt(2), 0.01, 1.0])
@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Linear(5, 7), nn.Conv2d(3, 8, 2)])
def test_all_singular_values_are_the_gain(layer: nn.Module, std: float) -> None:
    layer_init(layer, std)
    values = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    torch.testing.assert_close(values, torch.full_like(values, std))


def test_default_gain_and_bias_are_those_of_pufferlib() -> None:
    layer = layer_init(nn.Linear(4, 4))
    assert torch.linalg.svdvals(layer.weight.detach())[0].item() == pytest.approx(math.sqrt(2))
    assert not layer.bias.any()


def test_bias_is_constant_and_the_layer_comes_back() -> None:
    layer = nn.Linear(3, 3)
    assert layer_init(layer, 1.0, 0.5) is layer
    assert (layer.bias == 0.5).all()


def test_a_layer_without_bias_keeps_none() -> None:
    assert layer_init(nn.Linear(3, 3, bias=False)).bias is None


def test_every_gate_is_orthogonal_with_gain_one() -> None:
    weight = torch.zeros(4 * 6, 6)
    orthogonal_gates(weight, 4)
    for gate in weight.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(6), atol=1e-6, rtol=0)
