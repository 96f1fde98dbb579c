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


def test_one_line_tests_every_name_of_the_distribution(package):
    result = package.runpytest_subprocess("-p", "no:randomly", "-rs")
    assert result.parseoutcomes() == {"passed": 35, "failed": 11, "skipped": 20}
    result.stdout.fnmatch_lines(
        [
            "*S1 value-shape: failed*",
            "*policy *acme-policies/Flat*",
            "*expected *",
            "*fix *",
            "*policy = get_policy('acme-policies/Flat', spaces*",
        ]
    )
    result.stdout.fnmatch_lines(["SKIPPED*its observations have no keys*"])


def test_workers_agree_on_the_names_of_the_tests(package):
    package.runpytest_subprocess("-n", "2", "-k", "Fine-").assert_outcomes(passed=19, skipped=8)


def test_a_distribution_without_names_is_an_error_that_says_what_was_looked_for(package):
    package.makepyfile(ONE_LINE.replace("acme-policies", "acme-policy"))
    result = package.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    for group in ("policies", "wrappers", "manifest", "plugins"):
        assert f"puffer_policies.{group}" in text
    assert "Did you mean 'acme-policies'?" in text


def test_policy_option_takes_names_and_expressions_beside_paths(package):
    paths = [each.name for each in package.path.glob("test_*.py")]
    options = ["--policy", "acme-policies/Fine", "--policy", "LSTMWrapper(Fine)"]
    result = package.runpytest_subprocess(*options, "-v", "-k", "S1- and Fine", *paths)
    result.stdout.fnmatch_lines_random(
        ["*test_conformance*Fine-vector-*", "*test_policy*LSTMWrapper(Fine)-vector-*"]
    )
    result.assert_outcomes(passed=11 + 9 + 9)


def test_policy_option_takes_files_needs_no_test_file_and_writes_junit(package):
    package.makepyfile(mine=NETS)
    result = package.runpytest_subprocess(
        "--policy", "mine.py::Flat", "-k", "S1-", "--junitxml=report.xml"
    )
    result.assert_outcomes(failed=3)
    root = ElementTree.parse(package.path / "report.xml").getroot()
    assert len(root.findall(".//failure")) == 3


def test_a_wrong_name_is_told_at_once(package):
    result = package.runpytest_subprocess("--policy", "Defualt")
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


def test_pytest_finds_the_plugin_by_itself():
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True
    )
    assert "--policy=NAME" in process.stdout
