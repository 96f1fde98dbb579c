"""Gradients in one tensor against torch's own clearing and clipping, tensor by tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from puffer_policies.train.optim import Gradients


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 1))
    net[2].double()
    net[3].requires_grad_(False)
    return net


def backward(net):
    images = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)
    hidden = net[2](net[1](net[0](images)).double())
    net[3](hidden.float()).square().sum().backward()


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_is_that_of_torch(max_norm):
    ours, theirs = network(), network()
    gradients = Gradients(ours.parameters())
    for _ in range(2):
        gradients.clear()
        backward(ours)
        gradients.clip(max_norm)
    backward(theirs)
    nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("max_norm", [0.1, 0.3, 1.7, 1e6])
def test_clipping_has_the_same_bits_whether_or_not_the_norm_is_read_back(max_norm):
    ours, theirs = network(), network()
    for net, on_host in ((ours, True), (theirs, False)):
        gradients = Gradients(net.parameters())
        gradients.clear()
        backward(net)
        gradients.clip(max_norm, on_host=on_host)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is None or torch.equal(mine.grad, other.grad)


def test_parameters_that_are_not_trained_get_no_gradient():
    net = network()
    Gradients(net.parameters()).clear()
    assert [each.grad is None for each in net.parameters()] == [False] * 4 + [True] * 2


def test_clearing_takes_back_what_zero_grad_threw_away():
    net = network()
    gradients = Gradients(net.parameters())
    net.zero_grad()
    gradients.clear()
    backward(net)
    once = copy.deepcopy([each.grad for each in net.parameters()][:4])
    gradients.clear()
    backward(net)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), once, strict=False))


def test_each_lies_in_memory_as_its_parameter_does():
    net = network().to(memory_format=torch.channels_last)
    net[2].weight = nn.Parameter(net[2].weight.detach().t().contiguous().t())
    Gradients(net.parameters()).clear()
    for each in list(net.parameters())[:4]:
        assert each.grad.stride() == each.stride()


def test_a_part_that_is_frozen_later_has_none_from_then_on():
    net = network()
    gradients = Gradients(net.parameters())
    gradients.clear()
    backward(net)
    net[0].requires_grad_(False)
    gradients.clear()
    backward(net)
    assert [each.grad is None for each in net.parameters()] == [True] * 2 + [False] * 2 + [True] * 2


def test_a_network_that_is_laid_out_anew_is_followed():
    torch.manual_seed(0)
    net, x = nn.Conv2d(2, 4, 2), torch.randn(3, 2, 4, 4)
    gradients = Gradients(net.parameters())
    gradients.clear()
    assert not gradients.follow_layouts()
    net.to(memory_format=torch.channels_last)  # the gradients, too
    assert gradients.follow_layouts()
    for _ in range(2):
        gradients.clear()
        net(x).sum().backward()
    assert net.weight.grad.stride() == net.weight.stride() != (8, 4, 2, 1)
    total = sum(each.grad.square().sum() for each in net.parameters())
    torch.testing.assert_close(gradients.tensors[0].square().sum(), total)
    assert not gradients.follow_layouts()
