from __future__ import annotations

import math

import pytest

from puffer_policies.errors import BuildError
from puffer_policies.registry.specs import PolicySpec, WrapperSpec

EXPRESSIONS = [
    "Default",
    "Default(hidden_size=256)",
    "LSTMWrapper(Default)",
    "LSTMWrapper(Default(hidden_size=256), num_layers=2)",
    "acme-nets/Conv",
    "acme-nets/Wrap(other.nets/Conv(name='a/b', sizes=[1, 2], on=True, off=None))",
    "A(B(C(D(x=-1.5), y={'k': [1]}), z='('))",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_and_its_spec_and_its_json_say_the_same(expression):
    spec = PolicySpec.parse(expression)
    assert str(spec) == expression
    assert PolicySpec.parse(str(spec)) == spec
    assert PolicySpec.from_json(spec.to_json()) == spec
    assert PolicySpec.from_dict(spec.to_dict()) == spec


def test_wrappers_stand_from_the_innermost_outwards():
    spec = PolicySpec.parse("Outer(Inner(Net(a=1), b=2), c=3)")
    assert (spec.name, spec.kwargs) == ("Net", {"a": 1})
    assert spec.wrappers == (WrapperSpec("Inner", {"b": 2}), WrapperSpec("Outer", {"c": 3}))


def test_tuples_are_lists_so_that_a_round_trip_is_equal():
    assert PolicySpec("Net", {"sizes": (1, 2)}).kwargs == {"sizes": [1, 2]}


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "can't be parsed"),
        ("Default(", "can't be parsed"),
        ("Default()()", "is not a name"),
        ("a.b", "neither a name nor a call"),
        ("Default(hidden_size=__import__('os'))", "is not a literal"),
        ("Default(hidden_size=size)", "is not a literal"),
        ("Default(**{'a': 1})", "'**' is not allowed"),
        ("Wrap(A, B)", "wraps one policy, got 2"),
        ("Wrap(*nets)", "neither a name nor a call"),
        ("Wrap(3)", "neither a name nor a call"),
        ("lambda: 0", "neither a name nor a call"),
        ("Default; import os", "can't be parsed"),
        ("_qualified_0", "is not a name"),
        ("_qualified_x", "is not a name"),
        ("Default\0", "can't be parsed"),
        ("(" * 5000, "can't be parsed"),
        ("Default(a=1, a=2)", "'a' is given twice"),
        ("Default(a=" + "-" * 9_000 + "1)", "can't be parsed"),
        ("Default(a='" + "x" * 10_000 + "')", "longer than 10,000 characters"),
        ("Default(a={[1]: 2})", "is not a literal"),
        ("_Private", "is not a name"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_reason(expression, reason):
    with pytest.raises(BuildError) as caught:
        PolicySpec.parse(expression)
    assert reason in caught.value.problem
    assert "Python literals" in caught.value.fix


DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"x", 1j, math.inf, math.nan, DEEP, 16**5000], ids=lambda _: ""
)
def test_arguments_that_json_can_not_hold_are_refused(value):
    with pytest.raises(BuildError, match="must be plain data"):
        PolicySpec("Net", {"a": value})


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"name": "A"}',
        "3",
        "null",
        "[" * 100_000,
        '{"name": 1, "kwargs": {}, "wrappers": []}',
        '{"name": "A", "kwargs": {}, "wrappers": [{"name": [], "kwargs": {}}]}',
    ],
    ids=lambda text: text[:20],
)
def test_json_that_is_no_spec_is_refused(text):
    with pytest.raises(BuildError, match="spec"):
        PolicySpec.from_json(text)


def test_a_spec_can_be_a_key():
    assert len({PolicySpec.parse("A(x=[1])"), PolicySpec.parse("A(x=[1])")}) == 1
