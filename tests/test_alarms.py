"""Each alarm goes off for what it names, and for nothing else."""

from __future__ import annotations

import pytest

from puffer_policies.train.alarms import Reading, Watch, alarms

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
)

SICK = {
    "ratio": Reading(epoch=100, ratio_error=0.01),
    "idle": Reading(epoch=0, idle_parameters=("actor.weight", "a", "b", "c")),
    "dead_units": Reading(epoch=100, dead_units=0.9),
    "entropy": Reading(epoch=100, entropy_share=1e-4),
    "logits": Reading(epoch=100, logit_spread=80.0),
    "value_share": Reading(epoch=100, value_share=0.99, gradient_clipped=True),
    "clipped_actions": Reading(epoch=100, clipped_actions=0.8),
    "explained_variance": Reading(epoch=100, explained_variance=-2.0),
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
    early = Reading(epoch=2, explained_variance=-3.0, value_share=0.99, gradient_clipped=True)
    assert alarms(early) == []


def test_a_lasting_alarm_is_reported_once():
    watch = Watch()
    current = alarms(SICK["dead_units"])
    assert watch.new(current) == current
    assert watch.new(current) == []
    assert [each.name for each in watch.new(current + alarms(SICK["ratio"]))] == ["ratio"]
