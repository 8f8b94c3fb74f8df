from __future__ import annotations

import pytest

from ai_hub.errors import BadInputError
from ai_hub.ingest.columns import ASSET_ID, TIMESTAMP, Field, parse_mapping, resolve

FIELDS = (TIMESTAMP, ASSET_ID, Field("value"))
REQUIRED = ("timestamp", "value")


def test_parse_mapping__pairs__become_a_dictionary() -> None:
    assert parse_mapping("timestamp=start, value = kWh used ") == {"timestamp": "start", "value": "kWh used"}
    assert parse_mapping(None) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('value="Usage, total (kWh)",timestamp=start', {"value": "Usage, total (kWh)", "timestamp": "start"}),
        ('timestamp=start, "value=Usage, total"', {"value": "Usage, total", "timestamp": "start"}),
        ('value="5"" pipe, m3"', {"value": '5" pipe, m3'}),
        ('value="a=b,c"', {"value": "a=b,c"}),
        ('value=flow 5"" x', {"value": 'flow 5"" x'}),
    ],
)
def test_parse_mapping__commas_in_quotes__belong_to_the_name(text: str, expected: dict[str, str]) -> None:
    assert parse_mapping(text) == expected


def test_parse_mapping__quote_that_is_not_closed__is_refused() -> None:
    with pytest.raises(BadInputError, match="not closed"):
        parse_mapping('value="Usage, total')


@pytest.mark.parametrize("text", ["value", "=x", "value=", "value=a,value=b"])
def test_parse_mapping__malformed__is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="--columns"):
        parse_mapping(text)


def test_resolve__obvious_names__are_found_whatever_their_case() -> None:
    assert resolve(FIELDS, ["Meter", " Start", "VALUE"], {}, required=REQUIRED) == {
        "timestamp": " Start",
        "asset_id": "Meter",
        "value": "VALUE",
    }


def test_resolve__own_name__comes_before_an_alias() -> None:
    actual = resolve(FIELDS, ["start", "timestamp", "value"], {}, required=REQUIRED)
    assert actual["timestamp"] == "timestamp"


def test_resolve__given_column__is_not_guessed_for_another_field() -> None:
    actual = resolve(FIELDS, ["start", "value", "meter"], {"value": "meter"}, required=REQUIRED)
    assert actual == {"value": "meter", "timestamp": "start"}


def test_resolve__nothing_obvious__lists_the_columns_and_the_option() -> None:
    with pytest.raises(BadInputError) as error:
        resolve(FIELDS, ["when", "kwh"], {}, required=REQUIRED)
    assert "timestamp, value" in str(error.value)
    assert "when, kwh" in str(error.value)
    assert "--columns timestamp=COLUMN,value=COLUMN" in str(error.value)


@pytest.mark.parametrize(
    ("available", "given", "text"),
    [
        (["start", "value"], {"value": "kwh"}, "no column 'kwh'"),
        (["start", "value"], {"price": "value"}, "unknown field"),
        (["start", "value", "value"], {}, "more than one column 'value'"),
    ],
)
def test_resolve__impossible_mapping__is_refused(
    available: list[str], given: dict[str, str], text: str
) -> None:
    with pytest.raises(BadInputError, match=text):
        resolve(FIELDS, available, given, required=REQUIRED)
