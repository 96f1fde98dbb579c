"""Each alarm goes off for what it names, and for nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from puffer_policies.nn.distributions import distribution
from puffer_policies.train.alarms import Reading, Watch, alarms
from puffer_policies.train.health import _logit_spread
from puffer_policies.train.returns import explained_variance, return_variation

HEALTHY = Reading(
    epoch=100,
    ratio_error=1e-6,
    dead_units=0.1,
    entropy_share=0.5,
    logit_spread=3.0,
    value_share=0.6,
    gradient_clipped=True,
    clipped_actions=0.1,
    explained_variance=0.7,
    return_variation=0.3,
)

SICK = {
    "ratio": Reading(epoch=100, ratio_error=0.01),
    "idle": Reading(epoch=0, idle_parameters=("actor.weight", "a", "b", "c")),
    "dead_units": Reading(epoch=100, dead_units=0.9),
    "entropy": Reading(epoch=100, entropy_share=1e-4),
    "logits": Reading(epoch=100, logit_spread=80.0),
    "value_share": Reading(epoch=100, value_share=0.99, gradient_clipped=True),
    "clipped_actions": Reading(epoch=100, clipped_actions=0.8),
    "explained_variance": Reading(epoch=100, explained_variance=-2.0, return_variation=0.3),
}


def test_a_healthy_update_is_silent():
    assert alarms(HEALTHY) == []


def test_an_update_without_measurements_is_silent():
    assert alarms(Reading(epoch=3)) == []


@pytest.mark.parametrize("name", SICK)
def test_an_alarm_goes_off_alone(name):
    (alarm,) = alarms(SICK[name])
    assert alarm.name == name
    assert "\n" not in alarm.text


def test_idle_parameters_are_named():
    (alarm,) = alarms(SICK["idle"])
    assert "actor.weight, a, b and 1 more" in alarm.text


def test_a_big_value_loss_is_no_alarm_while_the_gradient_is_whole():
    assert alarms(Reading(epoch=9, value_share=0.999, gradient_clipped=False)) == []


def test_values_may_be_far_off_at_first():
    early = Reading(
        epoch=2,
        explained_variance=-3.0,
        return_variation=0.3,
        value_share=0.99,
        gradient_clipped=True,
    )
    assert alarms(early) == []


@pytest.mark.parametrize("shift", [-1, 1])
def test_returns_that_hardly_vary_leave_nothing_to_explain(shift):
    returns = 4 * shift + np.random.default_rng(0).normal(scale=0.1, size=4096)
    values = returns + np.random.default_rng(1).normal(scale=0.2, size=4096)
    reading = Reading(
        epoch=100,
        explained_variance=explained_variance(values, returns),
        return_variation=return_variation(returns),
    )
    assert reading.explained_variance < -3
    assert alarms(reading) == []
    # The same errors of returns around 0, which have no size but their variation.
    assert alarms(
        dataclasses.replace(reading, return_variation=return_variation(returns - 4 * shift))
    )


def test_returns_of_which_there_are_none_or_that_are_all_zero_do_not_vary():
    assert return_variation(np.zeros(0)) == return_variation(np.zeros(9)) == 0
    assert return_variation(np.array([-1.0, 1.0])) == 1


def test_one_row_of_far_apart_logits_is_not_a_saturated_policy():
    logits = torch.zeros(64, 3)
    logits[5, 0] = 90.0
    assert _logit_spread(distribution(logits)) == 0
    assert _logit_spread(distribution(logits + torch.tensor([90.0, 0, 0]))) == 90


def test_a_lasting_alarm_is_reported_once():
    watch = Watch()
    current = alarms(SICK["dead_units"])
    assert watch.new(current) == current
    assert watch.new(current) == []
    assert [each.name for each in watch.new(current + alarms(SICK["ratio"]))] == ["ratio"]


def test_an_alarm_that_was_reported_is_not_reported_after_a_resume():
    watch, resumed = Watch(), Watch()
    watch.new(alarms(SICK["ratio"]))
    resumed.load_state_dict(watch.state_dict())
    assert resumed.new(alarms(SICK["ratio"])) == []
