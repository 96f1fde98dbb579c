"""PufferLib's classes as they stand: what each is judged by, and how they are built and played."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from good import CONTINUOUS, DISCRETE, GoodMLP
from gymnasium import spaces as gym

from puffer_policies import Spaces, get_policy
from puffer_policies.checks import check_policy
from puffer_policies.checks.engine.targets import targets_for
from puffer_policies.errors import BuildError
from puffer_policies.registry import default_registry
from puffer_policies.spaces import with_four_names
from puffer_policies.wrappers.base import PolicyWrapper

FORMS = Path(__file__).with_name("pufferlib_forms.py")
PAGE = Path(__file__).parents[2] / "docs" / "pufferlib.md"
PIXELS = gym.Box(0, 255, (12, 12, 3), np.uint8)
FRAMES = gym.Box(0, 255, (4, 12, 12), np.uint8)


class Cells(gymnasium.Env):
    """Sends codes below 8 in a space of bytes, and has a number of columns."""

    observation_space = gym.Box(0, 255, (9,), np.uint8)
    action_space = gym.Discrete(3)
    n_cols = 3

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        return self._observe(), 0.0, bool(self.np_random.random() < 0.1), False, {}

    def _observe(self):
        return self.np_random.integers(0, 8, 9, dtype=np.uint8)


ENVS = {
    "Box, Discrete": DISCRETE,
    "Box, Box": CONTINUOUS,
    "pixels": Spaces(PIXELS, gym.Discrete(3)),
    "frames": Spaces(FRAMES, gym.Discrete(3)),
    "codes": Spaces(Cells.observation_space, Cells.action_space),
    "the env": Cells(),
}
ROWS = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|", PAGE.read_text(), re.M)


@pytest.mark.parametrize(("name", "env", "verdict"), ROWS, ids=[f"{a}-{b}" for a, b, _ in ROWS])
def test_a_class_of_pufferlib_is_judged_as_the_page_says(name, env, verdict):
    text = re.sub(r"\w+(?=\)*$)", lambda each: f"{FORMS}::{each[0]}", name, count=1)
    # Checks that take seconds say nothing of PufferLib.
    report = check_policy(text, ENVS[env.strip()], ignore="P2,P7,P9", isolate=False)
    expected = set(re.findall(r"\b[A-Z]\d+\b", verdict))
    assert report.failed() == expected, [(each.code, each.actual) for each in report.bad]


def test_the_table_has_every_class():
    names = set(re.findall(r"^class (\w+)", FORMS.read_text(), re.M)) - {"Convolutional"}
    assert names <= {each for name, _, _ in ROWS for each in re.findall(r"\w+", name)}


@pytest.mark.parametrize("env", [DISCRETE, Cells(), gymnasium.make("CartPole-v1")], ids=str)
def test_what_constructors_get_has_all_four_names(env):
    view = with_four_names(env)
    assert view.single_observation_space is view.observation_space
    assert view.single_action_space is view.action_space
    assert with_four_names(view) is view


def test_a_view_of_an_env_shows_what_else_it_has_and_can_be_copied():
    view = with_four_names(Cells())
    assert view.n_cols == 3
    for twin in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        assert twin.n_cols == 3
    with pytest.raises(AttributeError):
        _ = view.no_such_name


def test_a_vector_env_stays_as_it_is():
    env = gymnasium.vector.SyncVectorEnv([Cells, Cells])
    assert with_four_names(env) is env


def test_a_class_is_built_with_the_env_that_was_given():
    class Counting(GoodMLP):
        def __init__(self, env):
            super().__init__(env)
            self.columns = env.n_cols

    assert get_policy(Counting, Cells()).columns == 3
    (target,) = targets_for(Counting, Cells(), registry=default_registry())
    assert target.subject.fresh().columns == 3


@pytest.mark.parametrize("env", [Cells(), gymnasium.vector.SyncVectorEnv([Cells, Cells])], ids=str)
def test_observations_are_those_that_the_env_sends(env):
    (target,) = targets_for(GoodMLP, env, registry=default_registry())
    subject = target.subject
    observations = subject.observations(4, steps=3)
    assert observations.shape == (4, 3, 9)
    assert observations.dtype is torch.uint8
    assert int(subject.observations(200).max()) == 7
    assert torch.equal(observations, subject.observations(4, steps=3))
    assert int(subject.admit(torch.full((2, 9), 255, dtype=torch.uint8)).max()) == 7


FACTORY = """
import gymnasium
from puffer_policies import get_policy

def of_env(env):
    return get_policy("Default(hidden_size=8)", env)

def alone():
    return get_policy("Default(hidden_size=8)", "CartPole-v1")

def nothing(env):
    return None
"""


def test_a_factory_in_a_file_or_a_module_builds_the_policy(tmp_path, monkeypatch):
    (tmp_path / "made_by_hand.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    places = [f"{tmp_path / 'made_by_hand.py'}::{name}" for name in ("of_env", "alone")]
    for place in (*places, "made_by_hand:of_env"):
        report = check_policy(place, "CartPole-v1", select="B2,S1", isolate=False)
        assert report.ok, report.bad
    with pytest.raises(BuildError, match="for which spaces"):
        check_policy(places[0])
    report = check_policy(f"{tmp_path / 'made_by_hand.py'}::nothing", "CartPole-v1", isolate=False)
    assert "NoneType" in report.bad[0].message


class DropsStarts(PolicyWrapper):
    """Hands on the memory alone, so that nothing is ever reset."""

    def forward_eval(self, observations, state=None):
        kept = {key: each for key, each in (state or {}).items() if key.startswith("lstm")}
        outputs = self.policy.forward_eval(observations, kept)
        state is None or state.update(kept)
        return outputs

    def forward(self, observations, state=None):
        kept = {key: each for key, each in (state or {}).items() if key.startswith("lstm")}
        return self.policy(observations, kept)


def test_a_wrapper_goes_around_a_memory_and_a_mask_with_the_checks_that_did_not_apply():
    report = check_policy(DropsStarts, DISCRETE, select="S1,R3,A4", isolate=False)
    ran = {each.policy: each.code for each in report.results if each.status != "skipped"}
    around = {f"DropsStarts({each}(Default))" for each in ("LSTMWrapper", "ActionMaskWrapper")}
    assert ran["DropsStarts(Default)"] == "S1"
    assert {each.policy for each in report.bad} == around == set(ran) - {"DropsStarts(Default)"}


class LSTMWrapper(PolicyWrapper):
    """Named like one of ours, and no memory."""


def test_a_wrapper_named_like_one_of_ours_is_itself_in_examples_and_in_a_new_process():
    report = check_policy(LSTMWrapper, DISCRETE, select="S1,P2", isolate=False)
    assert report.ok, report.bad
    targets = targets_for(LSTMWrapper, DISCRETE, registry=default_registry())
    assert targets[0].name == "LSTMWrapper(Default)"
    names: dict[str, object] = {}
    exec(targets[0].subject.source, names)
    assert type(names["policy"]) is LSTMWrapper


def test_a_class_without_hidden_size_is_told_so_once():
    class Bare(GoodMLP):
        def __init__(self, env):
            super().__init__(env)
            del self.hidden_size

    report = check_policy(Bare, DISCRETE, ignore="P2,P7,P9", isolate=False)
    assert report.failed() == {"B2"}
