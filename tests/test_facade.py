"""The front door: every public name is there, sorted, and opening the package costs nothing."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import puffer_policies


@pytest.mark.parametrize("name", puffer_policies.__all__)
def test_a_public_name_leads_somewhere(name):
    assert getattr(puffer_policies, name) is not None


def test_public_names_are_sorted_and_listed():
    assert puffer_policies.__all__ == sorted(puffer_policies.__all__)
    assert set(puffer_policies.__all__) <= set(dir(puffer_policies))


def test_the_version_is_that_of_the_installed_package():
    assert puffer_policies.__version__ == importlib.metadata.version("puffer-policies")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = puffer_policies.nonsense


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, puffer_policies;"
        "heavy = {'torch', 'numpy', 'gymnasium', 'rich', 'pluggy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_everything_leaves_the_process_as_it_was(tmp_path):
    code = (
        "import os, signal, sys, warnings;"
        "before = (signal.getsignal(signal.SIGINT), list(warnings.filters), os.getcwd());"
        "from puffer_policies import *;"
        "assert before[0] is signal.getsignal(signal.SIGINT);"
        "assert before[2] == os.getcwd() and os.listdir() == []"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == done.stderr == ""
