"""One line in a package's tests, or ``pytest --policy``, runs the suite as tests."""

from __future__ import annotations

import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from fake_packages import Site

pytest_plugins = ["pytester"]

NETS = """
from puffer_policies.zoo.mlp import Default


class Fine(Default):
    "A policy that keeps the contract."


class Flat(Default):
    "Its values have lost an axis."

    def decode_actions(self, hidden):
        logits, values = super().decode_actions(hidden)
        return logits, values.squeeze(-1)


class Loud(Default):
    "Its first policy is far from uniform."

    def __init__(self, env):
        super().__init__(env)
        for weights in self.actor.parameters():
            weights.data *= 300


class Torn(Default):
    "Its encoder raises, wherever it is called from."

    def encode_observations(self, observations, state=None):
        raise ValueError(f"no batch of {len(observations)}")
"""

ONE_LINE = """
from puffer_policies.checks import conformance_tests

test_conformance = conformance_tests("acme-policies", select="S1,S8,S10")
"""


@pytest.fixture
def package(pytester, monkeypatch):
    """Install acme-policies for the processes that a test starts."""
    folder = pytester.mkdir("site")
    Site(folder).install(
        "acme-policies",
        entry_points={"policies": {"Fine": "acme_nets:Fine", "Flat": "acme_nets:Flat"}},
        files={"acme_nets.py": NETS},
    )
    here = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(here))
    pytester.makepyfile(ONE_LINE)
    return pytester


@pytest.fixture
def run_pytest(package, forks, tmp_path):
    """Run pytest in the folder of the package, in a process of its own."""
    program = tmp_path / "run_pytest.py"
    program.write_text("import sys, pytest\n\nsys.exit(pytest.main(sys.argv[1:]))\n")

    def run(*options: str) -> pytest.RunResult:
        options = ("-p", "no:randomly", "-p", "no:cacheprovider", "-rs", *options)
        process = forks.run(program, *options, cwd=package.path, env=dict(os.environ))
        lines = (text.splitlines() for text in (process.stdout, process.stderr))
        return pytest.RunResult(process.returncode, *lines, duration=0.0)

    return run


def test_one_line_tests_every_name_of_the_distribution_and_fails_once_for_a_cause(run_pytest):
    result = run_pytest()
    assert result.parseoutcomes() == {"passed": 38, "failed": 1, "skipped": 31}
    result.stdout.fnmatch_lines(
        [
            "*ERROR  S1 value-shape*",
            "*policy *acme-policies/Flat*",
            "*expected *",
            "*fix *",
            "*policy = get_policy('acme-policies/Flat', spaces*",
        ]
    )
    result.stdout.fnmatch_lines(
        "SKIPPED [[]11[]]*it has a cause that Flat-vector-discrete-S1-value-shape tells*"
    )
    text = result.stdout.str()
    assert "its observations have no keys" in text
    assert "raceback" not in text


def test_every_nth_pair_is_tried_in_turn(run_pytest):
    options = ("--collect-only", "-q", "-k", "not LSTMWrapper")
    names = [run_pytest(*options, *more).outlines for more in ((), ("--every", "3"))]
    every, some = ({each.partition("[")[2] for each in lines if "::" in each} for lines in names)
    assert some < every
    assert len(every) / 3 - 2 < len(some) < len(every) / 3 + 2
    # Over checks and policies, each pair has its turn.
    pairs = ({name.split("-S")[0].partition("-")[2] for name in names} for names in (every, some))
    assert next(pairs) == next(pairs)


def test_pytest_finds_the_plugin_and_names_the_same_tests_in_every_process(package, run_pytest):
    paths = [each.name for each in package.path.glob("test_*.py")]
    options = ["--collect-only", "-q", "--policy", "acme-policies/Fine", *paths]
    names = run_pytest(*options).outlines
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", *options]
    environ = {**os.environ, "PYTHONHASHSEED": "1"}
    others = subprocess.run(command, env=environ, cwd=package.path, capture_output=True, text=True)
    assert len([each for each in names if "test_policy[" in each]) > 30
    assert [each for each in others.stdout.splitlines() if "::" in each] == [
        each for each in names if "::" in each
    ]


def test_a_distribution_without_names_is_an_error_that_says_what_was_looked_for(
    package, run_pytest
):
    package.makepyfile(ONE_LINE.replace("acme-policies", "acme-policy"))
    result = run_pytest()
    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    for group in ("policies", "wrappers", "manifest", "plugins"):
        assert f"puffer_policies.{group}" in text
    assert "Did you mean 'acme-policies'?" in text


def test_policy_option_takes_names_and_expressions_beside_paths(package, run_pytest):
    paths = [each.name for each in package.path.glob("test_*.py")]
    options = ["--policy", "acme-policies/Fine", "--policy", "LSTMWrapper(Fine)"]
    result = run_pytest(*options, "-v", "-k", "S1- and Fine and vector", *paths)
    result.stdout.fnmatch_lines_random(
        ["*test_conformance*Fine-vector-*", "*test_policy*LSTMWrapper(Fine)-vector-*"]
    )
    result.assert_outcomes(passed=3 + 2 + 2)


def test_policy_option_takes_files_needs_no_test_file_and_writes_junit(package, run_pytest):
    package.makepyfile(mine=NETS)
    result = run_pytest("--policy", "mine.py::Flat", "-k", "S1-", "--junitxml=report.xml")
    result.assert_outcomes(failed=1, skipped=2)
    root = ElementTree.parse(package.path / "report.xml").getroot()
    assert len(root.findall(".//failure")) == 1


def test_a_policy_that_does_not_run_fails_one_test_whichever_comes_first(package, run_pytest):
    package.makepyfile(mine=NETS)
    result = run_pytest("--policy", "mine.py::Torn", "-k", "B9- or S1- or R6- or A1-")
    result.assert_outcomes(failed=1, skipped=10)
    result.stdout.fnmatch_lines(["ERROR  B9 runs", "*found *ValueError: no batch of *"])
    result = run_pytest("--policy", "mine.py::Torn", "-k", "S1- and discrete")
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["ERROR  S1 value-shape", "*found *ValueError: no batch of *"])


def test_advice_fails_no_test_and_is_listed_at_the_end(package, run_pytest):
    package.makepyfile(mine=NETS)
    result = run_pytest("--policy", "mine.py::Loud", "-k", "N5- and discrete", "-r", "N")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*advice of puffer-policies*", "N5 first-policy-near-uniform: *"])
    assert result.ret == 0


def test_a_wrong_name_is_told_at_once(run_pytest):
    result = run_pytest("--policy", "Defualt")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*Did you mean 'Default'?*"])


def test_the_plugin_costs_nothing_at_the_start():
    code = (
        "import sys, puffer_policies.checks.pytest_plugin\n"
        "print(sorted({'torch', 'numpy', 'gymnasium', 'rich'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
