"""Which policies fit an env, and the reason why each other one does not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces as gym_spaces

from puffer_policies import Spaces, discover
from puffer_policies.assembly.fit import fits, misfits
from puffer_policies.errors import EnvError
from puffer_policies.registry.records import Capabilities

VECTOR = gym_spaces.Box(-1, 1, (4,))
BUILTINS = discover(environ={"PUFFER_POLICIES_PLUGINS": ""})


def image(height: int, width: int) -> gym_spaces.Box:
    return gym_spaces.Box(0, 255, (3, height, width), np.uint8)


def judge(spaces: Spaces) -> dict[str, tuple[str, ...]]:
    return {fit.name: fit.reasons for fit in fits(spaces, registry=BUILTINS)}


def test_every_policy_gets_a_verdict_and_every_refusal_a_reason():
    judged = judge(Spaces(VECTOR, gym_spaces.Discrete(2)))
    assert judged["Default"] == ()
    assert "image" in judged["Convolutional"][0]
    assert "box" in judged["Continuous"][0]


@pytest.mark.parametrize(
    ("action", "fitting", "refused"),
    [
        (gym_spaces.Box(-1, 1, (2,)), "Continuous", "MultiDiscrete"),
        (gym_spaces.MultiDiscrete([2, 3]), "MultiDiscrete", "Continuous"),
        (gym_spaces.Box(0, 5, (2,), np.int64), "MultiDiscrete", "Continuous"),
        (gym_spaces.Dict(a=gym_spaces.Box(-1, 1, (2,))), "PufferNet", "Continuous"),
        (gym_spaces.Tuple((gym_spaces.MultiDiscrete([2, 3]),)), "Structured", "MultiDiscrete"),
    ],
)
def test_actions_decide(action, fitting, refused):
    judged = judge(Spaces(VECTOR, action))
    assert judged[fitting] == ()
    assert judged[refused] != ()


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_record_that_names_kinds_serves_parts_if_it_names_their_kind(kind):
    box = gym_spaces.Box(-1, 1, (2,))
    parts = {"dict": gym_spaces.Dict(a=box), "tuple": gym_spaces.Tuple((box,))}[kind]
    [reason] = misfits(Capabilities(actions=("discrete", "box")), Spaces(VECTOR, parts))
    assert reason.startswith(f"it serves discrete or box actions, got {kind} {kind.title()}(")
    assert misfits(Capabilities(actions=("discrete", kind)), Spaces(VECTOR, parts)) == []


def test_an_image_that_is_too_small_is_refused_with_both_sizes():
    judged = judge(Spaces(image(10, 12), gym_spaces.Discrete(2)))
    assert judged["Convolutional"] == ("it reads images of at least 36x36, got 10x12",)
    assert judge(Spaces(image(36, 36), gym_spaces.Discrete(2)))["Convolutional"] == ()


def test_a_space_that_nothing_reads_is_a_reason_not_a_crash():
    spaces = Spaces(gym_spaces.Text(5), gym_spaces.Dict(a=gym_spaces.Text(2)))
    reasons = misfits(Capabilities(), spaces)
    assert len(reasons) == 2
    assert "Text" in reasons[0]
    assert "At 'a': Action space Text" in reasons[1]


def test_a_wrong_env_id_names_the_nearest():
    with pytest.raises(EnvError, match="CartPole-v1"):
        fits("CartPoel-v1", registry=BUILTINS)


def test_an_object_without_spaces_is_refused():
    with pytest.raises(EnvError, match="no observation and action space"):
        fits(object(), registry=BUILTINS)


def test_judging_an_env_imports_no_torch():
    code = (
        "import sys; from puffer_policies import default_registry;"
        "from puffer_policies.assembly.fit import fits;"
        "assert fits('CartPole-v1', registry=default_registry());"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
