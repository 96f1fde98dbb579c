"""Sizes that do not divide are explained before a run starts, with sizes that would fit."""

from __future__ import annotations

import dataclasses
import re

import pytest

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError
from puffer_policies.train.plan import make_plan

CASES = [
    # agents, horizon, recurrent, batch, minibatch: the sizes that the message must offer
    (4, 16, True, 90, 50, "train.batch_size 64 or 128", "with 64, train.minibatch_size 32 or 64"),
    (4, 16, False, 90, 50, "train.batch_size 88 or 92", "with 88, train.minibatch_size 44 or 88"),
    (4, 16, True, 128, 50, "train.batch_size 128", "with 128, train.minibatch_size 32 or 64"),
    (12, 8, True, 100, "auto", "train.batch_size 96 or 192", "with 96, train.minibatch_size"),
    (3, 8, False, 10, 3, "train.batch_size 9 or 12", "with 9, train.minibatch_size 3"),
    (20, 64, True, 100, 100, "train.batch_size 1280", "with 1280, train.minibatch_size 64 or 128"),
    (7, 1, False, 3, 1, "train.batch_size 7", "with 7, train.minibatch_size 1"),
    (4, 16, True, 128, 8, "train.batch_size 128", "with 128, train.minibatch_size 16"),
    (4, 16, True, 128, 512, "train.batch_size 128", "with 128, train.minibatch_size 128"),
]


def config_of(horizon, batch, minibatch):
    return TrainConfig(bptt_horizon=horizon, batch_size=batch, minibatch_size=minibatch)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_nearest_sizes_that_fit_are_offered(case):
    agents, horizon, recurrent, batch, minibatch, *offers = case
    config = config_of(horizon, batch, minibatch)
    with pytest.raises(ConfigError) as caught:
        make_plan(config, agents, recurrent=recurrent)
    for text in offers:
        assert text in caught.value.fix


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_sizes_on_offer_fit(case):
    agents, horizon, recurrent, batch, minibatch, *_ = case
    config = config_of(horizon, batch, minibatch)
    with pytest.raises(ConfigError) as caught:
        make_plan(config, agents, recurrent=recurrent)
    batches, minibatches = (
        [int(each) for each in re.findall(r"\d+", text)]
        for text in re.findall(r"_size ((?:\d+)(?: or \d+)?)", caught.value.fix)
    )
    batch_size = int(re.search(r"with (\d+)", caught.value.fix)[1])
    for size in batches:
        make_plan(
            dataclasses.replace(config, batch_size=size, minibatch_size="auto"),
            agents,
            recurrent=recurrent,
        )
    for size in minibatches:
        make_plan(
            dataclasses.replace(config, batch_size=batch_size, minibatch_size=size),
            agents,
            recurrent=recurrent,
        )


def test_several_agents_of_an_env_are_reported_as_a_product():
    with pytest.raises(ConfigError, match=r"100 / 12 agents \(vec.num_envs 4 x 3\) = 8.33333"):
        make_plan(config_of(8, 100, "auto"), 12, recurrent=False, num_envs=4)
    with pytest.raises(ConfigError, match=r"100 / 12 agents = 8.33333"):
        make_plan(config_of(8, 100, "auto"), 12, recurrent=False, num_envs=12)
