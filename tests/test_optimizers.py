"""Optimizers: which parameters Muon takes, what each part does, and that its state goes on."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys

import pytest
import torch
from plain_policies import Split
from torch import nn
from training_toys import guesses

from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import MissingDependency
from puffer_policies.train.optim import (
    Adam,
    Gradients,
    hidden_matrices,
    lr_fraction,
    make_optimizer,
)

ADAM = TrainConfig(learning_rate=1e-2, adam_beta1=0.8)
MUON = dataclasses.replace(ADAM, optimizer="muon")
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch >= 2.9")


class Net(nn.Module):
    """A parameter of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.kernel = nn.Conv1d(4, 4, 1)
        self.hidden = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5))
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.actor = nn.Linear(5, 2)
        self.critic = nn.Linear(5, 1)
        self.log_std = nn.Parameter(torch.zeros(2))


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def descend(optimizer, module, *, seeds):
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        optimizer.zero_grad()
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()


def parameters_of(module):
    return {name: each.detach().clone() for name, each in module.named_parameters()}


def names_of(module, parameters):
    ids = {id(each) for each in parameters}
    return {name for name, each in module.named_parameters() if id(each) in ids}


def test_muon_is_meant_for_hidden_matrices_only():
    module = net()
    assert names_of(module, hidden_matrices(module)) == {"hidden.0.weight", "hidden.2.weight"}


def test_heads_stay_heads_inside_wrappers_and_a_memory_is_hidden():
    policy = get_policy("LSTMWrapper(Default)", guesses())
    names = names_of(policy, hidden_matrices(policy))
    memory = {name.rpartition(".")[2] for name in names if name.startswith("core.")}
    assert memory == {"weight_ih_l0", "weight_hh_l0"}
    assert not [name for name in names if "actor" in name or "critic" in name]


def test_a_tied_matrix_is_stepped_once():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    assert len(list(hidden_matrices(module))) == 1


@needs_muon
def test_matrices_take_torchs_muon_and_the_rest_torchs_adam():
    module, muons, adams = net(), net(), net()
    descend(make_optimizer(MUON, module), module, seeds=range(3))
    descend(
        torch.optim.Muon(
            list(hidden_matrices(muons)),
            lr=1e-2,
            momentum=0.8,
            weight_decay=0.0,
            adjust_lr_fn="match_rms_adamw",
        ),
        muons,
        seeds=range(3),
    )
    descend(make_optimizer(ADAM, adams), adams, seeds=range(3))
    matrices = names_of(module, hidden_matrices(module))
    expected = {**parameters_of(adams), **{k: parameters_of(muons)[k] for k in matrices}}
    actual = parameters_of(module)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=name)


@needs_muon
def test_frozen_parameters_stay():
    module = net()
    descend(make_optimizer(MUON, module), module, seeds=range(2))
    torch.testing.assert_close(module.frozen.weight, net().frozen.weight)


def test_a_policy_without_hidden_matrices_has_adam_alone():
    module = nn.Module()
    module.actor = nn.Linear(4, 2)
    assert type(make_optimizer(MUON, module)) is Adam


@needs_muon
def test_one_learning_rate_reaches_every_part():
    module = net()
    optimizer, before = make_optimizer(MUON, module), parameters_of(module)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    descend(optimizer, module, seeds=range(2))
    for name, value in parameters_of(module).items():
        assert torch.equal(value, before[name]), name


@needs_muon
def test_muon_takes_steps_as_long_as_adams():
    def size_of_a_step(config):
        torch.manual_seed(0)
        module = nn.Linear(64, 32, bias=False)
        before = module.weight.detach().clone()
        descend(make_optimizer(config, module), module, seeds=[0])
        return (module.weight - before).square().mean().sqrt()

    # Adam's first step has size 1 in every element, later ones some 0.2 (arXiv:2502.16982).
    assert 0.1 < size_of_a_step(MUON) / 1e-2 < 0.4


@needs_muon
def test_the_state_goes_on_where_it_was_saved():
    whole, before = net(), net()
    descend(make_optimizer(MUON, whole), whole, seeds=range(4))
    first = make_optimizer(MUON, before)
    descend(first, before, seeds=range(2))
    state = copy.deepcopy(first.state_dict())
    after = copy.deepcopy(before)
    second = make_optimizer(MUON, after)
    second.load_state_dict(state)
    descend(second, after, seeds=range(2, 4))
    for name, value in parameters_of(whole).items():
        assert torch.equal(parameters_of(after)[name], value), name


@needs_muon
def test_the_saved_state_is_tensors_shaped_as_their_parameters():
    module = net()
    optimizer = make_optimizer(MUON, module)
    descend(optimizer, module, seeds=[0])
    shapes = [each.shape for group in optimizer.param_groups for each in group["params"]]
    state = optimizer.state_dict()["state"]
    assert sorted(state) == list(range(len(shapes)))
    for index, tensors in state.items():
        assert {each.shape for each in tensors.values()} <= {shapes[index], torch.Size([])}


@needs_muon
def test_a_policy_learns_to_fit_with_muon():
    torch.manual_seed(0)
    policy = Split(guesses())
    optimizer = make_optimizer(MUON, policy)
    x, losses = torch.rand(64, 1), []
    for _ in range(60):
        _, values = policy(x)
        loss = (values - torch.sin(6 * x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_torch_without_muon_is_named(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(MissingDependency, match=r"since 2\.9.*\n?.*torch>=2\.9"):
        make_optimizer(MUON, net())


@pytest.mark.parametrize("length", [1, 7, 50])
def test_the_cosine_is_torchs(length):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=length)
    config = dataclasses.replace(ADAM, lr_schedule="cosine")
    for epoch in range(length + 1):
        (expected,) = schedule.get_last_lr()
        assert lr_fraction(config, 1 - epoch / length) == pytest.approx(expected, abs=1e-9)
        optimizer.step()
        schedule.step()


def test_the_line_is_what_remains_and_without_annealing_all_does():
    assert lr_fraction(ADAM, 0.25) == 0.25
    for schedule in ("linear", "cosine"):
        config = dataclasses.replace(ADAM, anneal_lr=False, lr_schedule=schedule)
        assert lr_fraction(config, 0.25) == 1.0


# Our Adam against torch's -------------------------------------------------------------------


def mixed():
    """Parameters of two dtypes, one of which gets no gradient in some steps."""
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 2).double(), nn.Linear(2, 2)])


def adams():
    ours, theirs = mixed(), mixed()
    options = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-5, "fused": True}
    mine = (ours, Adam(ours.parameters(), **options))
    return mine, (theirs, torch.optim.Adam(theirs.parameters(), **options))


def step_both(pairs, *, seeds, skipped=None):
    for module, optimizer in pairs:
        for seed in seeds:
            draw = torch.Generator().manual_seed(seed)
            for parameter in module.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
            for parameter in [] if skipped is None else module[skipped].parameters():
                parameter.grad = None
            optimizer.step()


def assert_equal(pairs):
    (ours, _), (theirs, _) = pairs
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_step_of_adam_is_that_of_torch_bit_for_bit():
    pairs = adams()
    step_both(pairs, seeds=range(3))
    step_both(pairs, seeds=range(3, 5), skipped=2)
    assert_equal(pairs)


@pytest.mark.parametrize("from_ours", [True, False])
def test_each_adam_goes_on_from_the_state_of_the_other(from_ours):
    pairs, again = adams(), adams()
    step_both(pairs, seeds=range(3))
    source = pairs[0 if from_ours else 1]
    for module, optimizer in again:
        module.load_state_dict(source[0].state_dict())
        optimizer.load_state_dict(copy.deepcopy(source[1].state_dict()))
    step_both([*pairs, *again], seeds=range(3, 6))
    assert_equal(pairs)
    assert_equal([pairs[0], again[0]])
    assert_equal(again)


def innermost_channels():
    """Parameters whose numbers don't lie in memory in the order of their indices."""
    torch.manual_seed(0)
    kernel = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    matrix = nn.Linear(5, 3)
    matrix.weight = nn.Parameter(matrix.weight.detach().t().contiguous().t())
    return nn.ModuleList([kernel, matrix])


def gradient_step(module, optimizer, *, seed):
    """Add gradients to those that are there, as autograd does, and step."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad.add_(torch.randn(parameter.shape, generator=draw))
    optimizer.step()


@pytest.mark.parametrize("config", [ADAM, pytest.param(MUON, marks=needs_muon)])
def test_the_layout_of_a_parameter_in_memory_does_not_matter(config):
    theirs = innermost_channels()
    ours = copy.deepcopy(theirs)
    for parameter in ours.parameters():
        parameter.data = parameter.detach().contiguous()
    for module in (theirs, ours):
        optimizer, gradients = make_optimizer(config, module), Gradients(module.parameters())
        for seed in range(4):
            gradients.clear()
            gradient_step(module, optimizer, seed=seed)
            # A file holds numbers in the order of their indices.
            state = copy.deepcopy(optimizer.state_dict())
            for moments in state["state"].values():
                moments.update({name: each.contiguous() for name, each in moments.items()})
            optimizer.load_state_dict(state)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(other, mine)
    assert not theirs[0].weight.is_contiguous()


def test_hooks_of_a_step_run():
    pairs = adams()
    optimizer = pairs[0][1]
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    step_both(pairs, seeds=range(2))
    assert calls == [1, 1]


COMPILER = """
import sys, torch
from puffer_policies.config.schema import TrainConfig
from puffer_policies.train.optim import make_optimizer
policy = torch.nn.Linear(2, 1)
optimizer = make_optimizer(TrainConfig(), policy)
policy(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""


def test_adam_does_not_import_the_compiler():
    assert subprocess.run([sys.executable, "-c", COMPILER], check=False).returncode == 0
