from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from puffer_policies.contract import Policy, missing_members, require_members
from puffer_policies.errors import ContractError


class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden_size = 4
        self.is_continuous = False

    def encode_observations(self, observations, state=None):
        return observations

    def decode_actions(self, hidden):
        return hidden, hidden

    def forward_eval(self, observations, state=None):
        return self.decode_actions(observations)

    def forward(self, observations, state=None):
        return self.forward_eval(observations, state)


def test_a_good_class_and_a_good_policy_miss_nothing():
    assert missing_members(Good) == []
    assert missing_members(Good()) == []
    require_members(Good(), name="Good")
    assert isinstance(Good(), Policy)


def test_a_compiled_policy_and_a_scripted_name_still_pass():
    assert missing_members(torch.compile(Good(), backend="eager")) == []


def test_an_empty_module_misses_every_method_although_torch_lends_it_a_forward():
    offences = missing_members(nn.Module)
    assert len(offences) == 4
    assert any("forward(observations, state=None)" in each for each in offences)
    assert len(missing_members(nn.Module())) == 6


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (lambda self, observations: None, "forward_eval(self, observations)"),
        (lambda self, state=None: None, "forward_eval(self, state=None)"),
        (lambda self, observations, carry=None: None, "forward_eval(self, observations, carry"),
        (lambda self, observations, state: None, "forward_eval(self, observations, state)"),
        (lambda self, observations, mask, state=None: None, "mask"),
        (3, "no method forward_eval"),
        (None, "no method forward_eval"),
    ],
)
def test_a_signature_that_a_caller_can_not_use_is_an_offence(method, named):
    wrong = type("Wrong", (Good,), {"forward_eval": method})
    (offence,) = missing_members(wrong)
    assert named in offence
    assert len(missing_members(wrong())) == 1


@pytest.mark.parametrize(
    "method",
    [
        lambda self, x, state=None: None,
        lambda self, observations, *, state=None: None,
        lambda self, *args, **kwargs: None,
        lambda self, observations, state=None, extra=1: None,
    ],
)
def test_a_signature_that_serves_every_call_is_none(method):
    assert missing_members(type("Fine", (Good,), {"forward_eval": method})) == []


def test_a_decorated_method_is_judged_by_what_it_wraps():
    def traced(method):
        @functools.wraps(method)
        def run(*args, **kwargs):
            return method(*args, **kwargs)

        return run

    assert missing_members(type("Traced", (Good,), {"forward": traced(Good.forward)})) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("hidden_size", 4.0, "hidden_size should be int, got 4.0"),
        ("hidden_size", True, "hidden_size should be int, got True"),
        ("is_continuous", 0, "is_continuous should be bool, got 0"),
    ],
)
def test_attributes_of_the_wrong_type_are_offences(name, value, expected):
    policy = Good()
    setattr(policy, name, value)
    assert missing_members(policy) == [expected]


def test_the_error_lists_every_offence_at_once():
    with pytest.raises(ContractError) as caught:
        require_members(nn.Linear(1, 1), name="acme/Linear")
    text = str(caught.value)
    assert "'acme/Linear'" in text
    for member in ("encode_observations", "decode_actions", "forward_eval", "hidden_size"):
        assert member in text
