import math
from typing import Any

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.fields import count_of, list_of, mapping_of, number_of, text_of


def test_a_mapping_has_text_keys():
    assert mapping_of({1: "a", "b": None}, "here") == {"1": "a", "b": None}


def test_a_mapping_may_hold_any_of_the_known_keys():
    assert mapping_of({"a": 1}, "here", ("a", "b")) == {"a": 1}


@pytest.mark.parametrize("value", [None, [], "a"], ids=["nothing", "a list", "a text"])
def test_is_no_mapping(value: object):
    with pytest.raises(ConfigError, match="here: expected keys and values, got"):
        mapping_of(value, "here")


def test_an_unknown_key_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError) as refused:
        mapping_of({"modle": 1}, "here", ("model", "name"))
    assert str(refused.value) == "here: unknown key 'modle'; did you mean 'model'?"


def test_a_list_stays():
    assert list_of([1, "a"], "here") == [1, "a"]
    assert list_of([], "here", empty=True) == []


@pytest.mark.parametrize("value", [None, [], "a"], ids=["nothing", "an empty list", "a text"])
def test_is_no_list(value: object):
    with pytest.raises(ConfigError, match="here: expected a list, got"):
        list_of(value, "here")


def test_an_empty_list_is_still_a_list_when_asked_for():
    with pytest.raises(ConfigError, match="here: expected a list, got None"):
        list_of(None, "here", empty=True)


def test_a_text_stays():
    assert text_of(" a ", "here") == " a "


@pytest.mark.parametrize("value", [None, " ", 7], ids=["nothing", "a blank", "a number"])
def test_is_no_text(value: object):
    with pytest.raises(ConfigError, match="here: expected a text, got"):
        text_of(value, "here")


@pytest.mark.parametrize(
    ("value", "number"), [(7, 7.0), (0.5, 0.5), ("2e3", 2000.0), (-1, -1.0)],
    ids=["whole", "a fraction", "in text", "below zero"],
)  # fmt: skip
def test_a_number_may_be_text(value: object, number: float):
    assert number_of(value, "here") == number


@pytest.mark.parametrize(
    "value",
    [None, "x", [1], True, math.nan, math.inf, "inf", 10**400],
    ids=["nothing", "a word", "a list", "yes", "nan", "inf", "inf in text", "too large"],
)
def test_is_no_number(value: Any):
    with pytest.raises(ConfigError, match="here: expected a number, got"):
        number_of(value, "here")


def test_a_count_stays():
    assert count_of(1, "here") == 1


@pytest.mark.parametrize(
    "value",
    [0, -1, 1.0, "1", True, None],
    ids=["zero", "less than zero", "a float", "a text", "yes", "nothing"],
)
def test_is_no_count(value: object):
    with pytest.raises(ConfigError) as refused:
        count_of(value, "here")
    assert str(refused.value) == f"here: expected a whole number of at least 1, got {value!r}"
