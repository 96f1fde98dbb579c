"""check_policy takes a policy however it is given."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from fake_packages import site_in
from good import DISCRETE, GoodLSTM, GoodMLP
from gymnasium import spaces as gym

from puffer_policies import Spaces, get_policy
from puffer_policies.checks import CheckFailed, check, check_policy
from puffer_policies.checks.engine.targets import targets_for
from puffer_policies.errors import (
    BuildError,
    ConfigError,
    IncompatibleSpace,
    PolicyNotFound,
)
from puffer_policies.registry import default_registry, discover
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.wrappers.memory import GRUWrapper

FEW = ("B2", "S1", "S8")


PUFFER_NET = """
import numpy as np
import torch
import torch.nn as nn

import pufferlib
import pufferlib.models
import pufferlib.pytorch


class Policy(nn.Module):
    def __init__(self, env, hidden_size=64):
        super().__init__()
        self.hidden_size = hidden_size
        self.is_continuous = False
        size = int(np.prod(env.single_observation_space.shape))
        init = pufferlib.pytorch.layer_init
        self.net = nn.Sequential(init(nn.Linear(size, hidden_size)), nn.GELU())
        self.action_head = init(nn.Linear(hidden_size, env.single_action_space.n), std=0.01)
        self.value_head = init(nn.Linear(hidden_size, 1), std=1)

    def forward_eval(self, observations, state=None):
        hidden = self.encode_observations(observations, state=state)
        return self.decode_actions(hidden)

    def forward(self, observations, state=None):
        return self.forward_eval(observations, state)

    def encode_observations(self, observations, state=None):
        batch_size = observations.shape[0]
        return self.net(observations.view(batch_size, -1).float())

    def decode_actions(self, hidden):
        return self.action_head(hidden), self.value_head(hidden)
"""


class Flat(GoodMLP):
    """Its values have lost an axis."""

    def decode_actions(self, hidden):
        logits, values = super().decode_actions(hidden)
        return logits, values.squeeze(-1)


@pytest.mark.parametrize(
    "policy",
    [
        "Default",
        "puffer-policies/Default",
        "LSTMWrapper(Default(hidden_size=8))",
        PolicySpec("Default"),
        GoodMLP,
        GoodLSTM,
        GoodMLP(DISCRETE),
        get_policy("Default", DISCRETE),
    ],
    ids=lambda policy: policy if isinstance(policy, str) else repr(policy)[:40].split("(")[0],
)
@pytest.mark.parametrize("isolate", [True, False])
def test_a_policy_is_checked_however_it_is_given(policy, isolate):
    report = check_policy(policy, DISCRETE, select=FEW, isolate=isolate)
    assert report.ok, report.bad
    assert report.counts["run"] == len(FEW)


def test_a_bad_policy_is_found_and_the_example_shows_it():
    report = check_policy(Flat, DISCRETE, select=FEW)
    assert report.failed() == {"S1"}
    example = report.bad[0].example
    assert "from test_api import Flat" in example
    names: dict[str, object] = {}
    exec(example, names)
    assert isinstance(names["policy"], Flat)


def test_spaces_are_read_from_envs_and_ids():
    with gymnasium.make("CartPole-v1") as env:
        reports = [check_policy("Default", each, select=FEW) for each in (env, "CartPole-v1")]
    assert [report.counts["passed"] for report in reports] == [len(FEW)] * 2


def test_a_policy_of_pufferlib_is_checked_as_it_stands(tmp_path):
    path = tmp_path / "puffer_net.py"
    path.write_text(PUFFER_NET)
    report = check_policy(f"{path}::Policy", "CartPole-v1", isolate=False)
    assert report.ok, report.bad
    stacked = check_policy(
        f"{path}::Policy", "CartPole-v1", wrappers=["LSTMWrapper"], select=(*FEW, "R1")
    )
    assert stacked.ok, stacked.bad


LEAKY = """
import torch
from puffer_policies.nn.cores.base import Core
from puffer_policies.wrappers.base import MemoryWrapper


class SumCore(Core):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.share = torch.nn.Parameter(torch.tensor(0.5))

    def state_shapes(self, batch_size):
        return {"sum": (batch_size, self.hidden_size)}

    def step(self, x, state):
        after = x + self.share * state["sum"]
        return after, {"sum": after}

    def reset(self, state, episode_start):
        return dict(state) if RESETS_NOTHING else super().reset(state, episode_start)


class SumWrapper(MemoryWrapper, core=SumCore):
    pass
"""


@pytest.mark.parametrize("leaks", [False, True])
def test_a_wrapper_of_a_file_is_checked_around_default(tmp_path, leaks):
    path = tmp_path / "sums.py"
    path.write_text(LEAKY + f"\n\nRESETS_NOTHING = {leaks}\n")
    report = check_policy(f"{path}::SumWrapper", DISCRETE, select="S1,R", isolate=False)
    assert report.ok is not leaks
    assert all(code.startswith("R") for code in report.failed())
    if leaks:
        names: dict[str, object] = {}
        exec(report.bad[0].example, names)
        assert type(names["policy"]).__name__ == "SumWrapper"


def test_a_wrapper_class_is_checked_around_default():
    report = check_policy(GRUWrapper, DISCRETE, select=(*FEW, "R1"), isolate=False)
    assert report.ok
    around = {result.policy for result in report.results}
    assert around == {"GRUWrapper(Default)", "GRUWrapper(ActionMaskWrapper(Default))"}


def test_without_spaces_every_declared_kind_is_tried():
    report = check_policy("Continuous", select="S1", isolate=False)
    actions = {result.action for result in report.results}
    assert report.ok
    assert all(action.startswith("Box") for action in actions)
    assert len({result.observation for result in report.results}) == 9


def test_a_wrapper_is_checked_around_a_policy():
    report = check_policy("LSTMWrapper", DISCRETE, select=FEW, isolate=False)
    around = {result.policy for result in report.results}
    assert around == {"LSTMWrapper(Default)", "LSTMWrapper(ActionMaskWrapper(Default))"}
    assert report.ok


def test_wrappers_go_around_what_is_given():
    for wrappers in (["LSTMWrapper"], ["LSTMWrapper(num_layers=2)"]):
        report = check_policy(GoodMLP, DISCRETE, wrappers=wrappers, select=FEW, isolate=False)
        assert report.ok, report.bad


def test_a_check_that_says_the_same_for_all_spaces_runs_once():
    report = check_policy("Structured", select="P2", isolate=False)
    ran = [result for result in report.results if result.status != "skipped"]
    assert len(ran) == 1
    assert report.counts["skipped"] == len(report.results) - 1


@pytest.mark.parametrize(
    ("policy", "pairs"),
    [("Structured", 3), ("Structured(hidden_size=16)", 3), ("LSTMWrapper(Structured)", 1)],
)
def test_a_check_of_modules_runs_behind_each_kind_of_head_and_in_a_wrapper_on_one(policy, pairs):
    report = check_policy(policy, select="B7,S1", isolate=False)
    ran = [result.code for result in report.results if result.status == "passed"]
    assert ran.count("B7") == pairs
    assert ran.count("S1") == len(report.results) / 2 > 3


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("Defualt",), {}, PolicyNotFound),
        (("Default",), {"select": "Q1"}, ConfigError),
        (("Continuous", DISCRETE), {}, IncompatibleSpace),
        (("LSTMWrapper(LSTMWrapper(Default))", DISCRETE), {}, BuildError),
        (("nowhere.py::Net", DISCRETE), {}, BuildError),
        ((torch.nn.Linear(2, 2),), {}, BuildError),
        ((GoodMLP(DISCRETE), DISCRETE), {"wrappers": ["LSTMWrapper"]}, BuildError),
    ],
    ids=str,
)
def test_a_mistake_in_the_question_raises(arguments, options, error):
    with pytest.raises(error):
        check_policy(*arguments, **options)


def test_a_policy_that_is_no_policy_gives_a_report():
    report = check_policy(torch.nn.Linear(2, 2), DISCRETE, select="B2,S1,R1", isolate=False)
    assert not report.ok
    assert "B2" in report.failed()


def test_a_plugins_own_checks_are_run(tmp_path):
    text = """
    from puffer_policies.checks import CheckFailed, check
    from puffer_policies.hookspecs import hookimpl

    @check("ACME1", "is-small", promise="It is small.", why="Size.", fix="Shrink it.")
    def is_small(subject):
        raise CheckFailed("something small", "something large")

    @hookimpl
    def register_checks(registrar):
        registrar.add(is_small)
    """
    with site_in(tmp_path) as site:
        site.install(
            "acme-checks",
            entry_points={"plugins": {"acme": "acme_checks"}},
            files={"acme_checks.py": text},
        )
        registry = discover(plugins=["acme-checks"], environ={})
        report = check_policy("Default", DISCRETE, select="ACME,S1", registry=registry)
    assert report.failed() == {"ACME1"}


def test_the_parts_of_a_check_are_public():
    own = check("ACME1", "is-small", promise="It is small.", why="Size.", fix="Shrink it.")
    assert own(lambda _: None).code == "ACME1"
    assert issubclass(CheckFailed, Exception)


def test_bounds_that_stand_for_none_overflow_no_correct_policy():
    """Envs that give the largest float as a bound are many; CartPole was one in gymnasium 0.29."""
    largest = np.finfo(np.float32).max
    spaces = Spaces(gym.Box(-largest, largest, (4,), np.float32), gym.Discrete(2))
    report = check_policy("Default", spaces, ignore="P", isolate=False)
    assert report.ok, report.bad


def test_checks_in_this_process_take_one_thread_and_give_the_others_back():
    threads = []

    class Counts(GoodMLP):
        def forward(self, observations, state=None):
            threads.append(torch.get_num_threads())
            return super().forward(observations, state)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check_policy(Counts, DISCRETE, select="S1", isolate=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}


def test_the_class_of_a_file_may_stand_inside_wrappers(tmp_path):
    path = tmp_path / "nets_of_mine.py"
    path.write_text("class Mine: pass\n")
    text = f"LSTMWrapper(FrameStackWrapper({path}::Mine, frames=2), num_layers=1)"
    (target,) = targets_for(text, "CartPole-v1", registry=default_registry())
    assert target.name == "LSTMWrapper(FrameStackWrapper(nets_of_mine.py::Mine))"
    with pytest.raises(BuildError, match=r"nets_of_mine\.py' is a file") as caught:
        targets_for(str(path), registry=default_registry())
    assert caught.value.fix == f"Write {path}::Mine."
    with pytest.raises(BuildError, match="innermost brackets, without arguments"):
        targets_for(f"LSTMWrapper({path}::Mine(hidden_size=3))", registry=default_registry())
