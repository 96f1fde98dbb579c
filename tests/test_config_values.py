"""Text and data become values of the declared type, or an error that says what was expected."""

import math
from typing import Annotated, Literal

import pytest

from puffer_policies.config.values import Range, convert, parse_literal, type_text


@pytest.mark.parametrize("text", ["False", "false", "no", "No", "off", "0", 0])
def test_words_for_false_are_false(text):
    assert convert(text, bool) is False


@pytest.mark.parametrize("text", ["True", "true", "yes", "YES", "on", "1", 1])
def test_words_for_true_are_true(text):
    assert convert(text, bool) is True


@pytest.mark.parametrize("wrong", ["maybe", "", "None", 2, 0.0, None])
def test_what_is_no_boolean_is_refused(wrong):
    with pytest.raises(ValueError, match="expected True or False, found"):
        convert(wrong, bool)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("7", 7), ("1e6", 1_000_000), (1e6, 1_000_000), ("1_000", 1000), ("-3", -3), (5, 5)],
)
def test_integers_may_be_written_with_an_exponent(given, expected):
    found = convert(given, int)
    assert found == expected
    assert type(found) is int


def test_a_long_integer_keeps_its_digits():
    assert convert("9007199254740993", int) == 2**53 + 1


@pytest.mark.parametrize("wrong", ["2.5", 2.5, "abc", "", True, None, "nan", "inf", [1], "1e30"])
def test_what_is_no_integer_is_refused(wrong):
    with pytest.raises(ValueError, match="expected an integer"):
        convert(wrong, int)


def test_an_integer_that_python_does_not_write_is_counted_in_bits():
    with pytest.raises(ValueError, match="found an integer of 16610 bits"):
        convert(10**5000, int)


@pytest.mark.parametrize(("given", "expected"), [("3e-4", 3e-4), (1, 1.0), (".5", 0.5)])
def test_numbers_become_floats(given, expected):
    found = convert(given, float)
    assert found == expected
    assert type(found) is float


@pytest.mark.parametrize("wrong", ["nan", math.inf, "fast", False, None])
def test_what_is_no_finite_number_is_refused(wrong):
    with pytest.raises(ValueError, match="expected a number"):
        convert(wrong, float)


@pytest.mark.parametrize("word", ["None", "none", "null", "", None])
def test_none_is_a_value_where_the_type_allows_it(word):
    assert convert(word, str | None) is None
    assert convert(word, float | None) is None


def test_other_text_for_an_optional_field_is_parsed_by_its_type():
    assert convert("LSTMWrapper", str | None) == "LSTMWrapper"
    assert convert("0.02", float | None) == 0.02
    assert convert("no", bool | None) is False


def test_auto_and_a_number_may_share_a_field():
    annotation = Annotated[int, Range(1)] | Literal["auto"]
    assert convert("auto", annotation) == "auto"
    assert convert("4096", annotation) == 4096
    with pytest.raises(ValueError, match="expected int >= 1 or 'auto', found '0'"):
        convert("0", annotation)


def test_limits_are_kept_and_included():
    annotation = Annotated[float, Range(0, 1)]
    assert convert("1", annotation) == 1.0
    with pytest.raises(ValueError, match=r"expected a number from 0 to 1, found 1\.01"):
        convert("1.01", annotation)


def test_a_misspelt_choice_gets_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'native'"):
        convert("natve", Literal["auto", "native"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("True", True),
        ("false", False),
        ("None", None),
        ("3", 3),
        ("1_000", 1000),
        ("3e-4", 3e-4),
        ("-1", -1),
        ("[64, 64]", [64, 64]),
        ("(1, 2)", [1, 2]),
        ("1,2", [1, 2]),
        ("[(1, 'a'), None]", [[1, "a"], None]),
        ("{'a': 1}", {"a": 1}),
        ("'7'", "7"),
        ("human", "human"),
        ("no", "no"),
        ("a b", "a b"),
        ("[true, false]", [True, False]),
        ('{"x": [1, null], "y": {"z": NONE}}', {"x": [1, None], "y": {"z": None}}),
        ("it's", "it's"),
        ("relu,tanh", "relu,tanh"),
        ("'inf'", "inf"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_text_without_a_type_is_a_literal_or_itself(text, expected):
    found = parse_literal(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("wrong", ["{1, 2}", "b'x'", "2j", "{1: 2}", "[{1}]", "..."])
def test_a_literal_that_no_file_of_a_config_can_hold_is_refused(wrong):
    with pytest.raises(ValueError, match="expected numbers, text"):
        parse_literal(wrong)


@pytest.mark.parametrize("wrong", ["[relu, tanh]", "[1, 2", "{[1]: 2}", "(1, yes)", "[" * 500])
def test_text_that_opens_a_bracket_and_is_no_literal_is_refused(wrong):
    with pytest.raises(ValueError, match="expected a list or table of literals, with text in quo"):
        parse_literal(wrong)


@pytest.mark.parametrize("wrong", ["inf", "-Infinity", "nan", "1e999", "[1e999]", "9" * 400])
def test_a_number_that_is_not_finite_is_refused_everywhere(wrong):
    with pytest.raises(ValueError, match="number that is finite"):
        parse_literal(wrong)


@pytest.mark.parametrize("wrong", ["0x" + "f" * 5000, "[1, 99999999999999999999]"])
def test_an_integer_of_more_than_64_bits_is_refused_in_a_short_message(wrong):
    with pytest.raises(ValueError, match="at most 64 bits, found an integer of") as caught:
        parse_literal(wrong)
    assert len(str(caught.value)) < 200


def test_types_have_words():
    assert type_text(Annotated[int, Range(0)] | None) == "int >= 0 or None"
    assert type_text(Literal["a", "b"]) == "'a' or 'b'"
