from __future__ import annotations

import pickle

import pytest

from puffer_policies import errors
from puffer_policies.errors import PluginError, PolicyError, did_you_mean, nearest

TREE = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, PolicyError)
]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_reads_problem_then_fix(kind):
    assert str(kind("It broke.", fix="Mend it.")) == "It broke.\nMend it."
    assert str(kind("It broke.")) == "It broke."


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_from_a_worker(kind):
    error = pickle.loads(pickle.dumps(kind("It broke.", fix="Mend it.")))
    assert type(error) is kind
    assert (error.problem, error.fix) == ("It broke.", "Mend it.")


def test_a_plugin_error_keeps_its_package_when_pickled():
    error = PluginError("It broke.", distribution="acme-nets", version="1.2")
    again = pickle.loads(pickle.dumps(error))
    assert (again.distribution, again.version) == ("acme-nets", "1.2")


def test_the_tree_in_the_docstring_is_the_tree():
    for kind in TREE:
        assert kind.__name__ in (errors.__doc__ or "")


def test_near_names_ignore_case_and_come_best_first():
    assert nearest("default", ["Convolutional", "Default"]) == ["Default"]
    assert nearest("Convolutionl", ["Convolution", "Convolutional"])[0] == "Convolutional"


def test_far_names_are_not_suggested():
    assert nearest("Transformer", ["Default"]) == []
    assert did_you_mean("Transformer", ["Default"]) == ""


def test_near_names_are_asked_about_in_words():
    assert did_you_mean("Defualt", ["Default"]) == "Did you mean 'Default'?"
