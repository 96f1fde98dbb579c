"""``puffer-policies check``: its words and its exit codes."""

from __future__ import annotations

import json

import pytest

from puffer_policies.cli.main import main

FLAT = """
from puffer_policies.zoo.mlp import Default

class Flat(Default):
    def decode_actions(self, hidden):
        logits, values = super().decode_actions(hidden)
        return logits, values.squeeze(-1)
"""


@pytest.fixture
def flat(tmp_path):
    path = tmp_path / "flat_policy.py"
    path.write_text(FLAT)
    return f"{path}::Flat"


def test_a_good_policy_is_0(capsys):
    assert main(["check", "Default", "--env", "CartPole-v1", "--select", "S1,S8,S10"]) == 0
    text = capsys.readouterr().out
    assert "3 selected, 2 run: 2 passed, 1 skipped." in text
    assert "its observations have no keys (S10)" in text


def test_a_bad_policy_is_1_and_is_explained(capsys, flat):
    assert main(["check", flat, "--select", "S1,S8"]) == 1
    text = capsys.readouterr().out
    assert text.startswith("flat_policy.py::Flat does not work: 1 error, 0 failures, 0 pieces")
    assert "ERROR  S1 value-shape" in text
    assert "flat_policy.py::Flat" in text
    assert "policy = get_policy(class_at(" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["Defualt"],
        ["Default", "--select", "S77"],
        ["Continuous", "--env", "CartPole-v1"],
        ["nowhere.py::Net"],
        ["Default", "--env", "Nowhere-v0"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_2(capsys, arguments):
    assert main(["check", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_nothing_run_is_1(capsys):
    assert main(["check", "Default", "--env", "CartPole-v1", "--select", "S10"]) == 1
    assert "Nothing was run" in capsys.readouterr().out


def test_without_a_name_every_fitting_policy_is_checked(capsys):
    assert main(["check", "--env", "CartPole-v1", "--select", "S1", "--no-isolation"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("Default", "Structured"))
    assert "Continuous" not in text


def test_json_holds_the_counts_and_the_results(capsys, flat):
    assert main(["check", flat, "Default", "--select", "S1", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["counts"]["failed"] == 3
    assert data["levels"] == {"error": 1, "failure": 0, "advice": 0}
    assert [finding["codes"] for finding in data["findings"]] == [["S1"]]
    causes = {each["cause"] for each in data["results"] if each["status"] == "failed"}
    assert causes == {data["findings"][0]["cause"]}
    assert {result["policy"] for result in data["results"]} == {"flat_policy.py::Flat", "Default"}


def test_advice_alone_is_0(capsys, tmp_path):
    path = tmp_path / "loud_policy.py"
    path.write_text(
        "from puffer_policies.zoo.mlp import Default\n\n\n"
        "class Loud(Default):\n"
        "    def __init__(self, env):\n"
        "        super().__init__(env)\n"
        "        for weights in self.actor.parameters():\n"
        "            weights.data *= 3000\n"
    )
    policy = [f"{path}::Loud", "--env", "CartPole-v1"]
    assert main(["check", *policy, "--select", "S1,N5", "--no-isolation"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("loud_policy.py::Loud works: 0 errors, 0 failures, 1 piece of advice.")
    assert "ADVICE  N5 first-policy-near-uniform" in text
    assert main(["check", *policy, "--select", "S,N5", "--level", "error"]) == 0
    assert "N5" not in capsys.readouterr().out


def test_fast_is_building_and_shapes(capsys):
    assert main(["check", "Default", "--env", "CartPole-v1", "--fast", "--json"]) == 0
    codes = [result["code"] for result in json.loads(capsys.readouterr().out)["results"]]
    assert {code[0] for code in codes} == {"B", "S"}


def test_time_limit_and_tier(capsys):
    options = ["--tier", "static", "--time-limit", "20", "--ignore", "B1"]
    assert main(["check", "Default", "--env", "CartPole-v1", *options]) == 0
    assert "selected" in capsys.readouterr().out
