"""Each kind of column takes what it should and says what is wrong with the rest."""

import math

import pytest

from parlai_prosocial.data.field_checks import (
    BadRow,
    Field,
    Schema,
    one_of,
    several_of,
    text,
    text_list,
    text_list_with_blanks,
    turn_list,
    weight_list,
    whole_number,
)


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (text, "  a b ", "a b"),
        (text_list, ["a", None, " b "], ["a", "b"]),
        (text_list, '["a", "b"]', ["a", "b"]),
        (text_list, "just one, with a comma", ["just one, with a comma"]),
        (text_list, [], []),
        (text_list, "['a', \"it's\", None, 'q\\'s', 'x\\ny']", ["a", "it's", "q's", "x\ny"]),
        (text_list, "('a', 'b',)", ["a", "b"]),
        (text_list, "('a') is a smiley", ["('a') is a smiley"]),
        (turn_list, "['Hi, you', 'Hello.']", ["Hi, you", "Hello."]),
        (turn_list, '["Hi", "Hello"]', ["Hi", "Hello"]),
        (turn_list, "[laughs] Hi\r\nHello [again]", ["[laughs] Hi", "Hello [again]"]),
        (turn_list, '["Sic" is my word]\nOh', ['["Sic" is my word]', "Oh"]),
        *((turn_list, f"a{c}b\n\nc", [f"a{c}b", "c"]) for c in "\u2028\u2029\x85\x0b\x0c\x1c\r"),
        (turn_list, ["", "a", " ", "b", None, ""], ["a", "", "b"]),
        (text_list_with_blanks, ["", "a", None], ["a"]),
        (weight_list, [1, 2.5], [1.0, 2.5]),
        (weight_list, "[1, 2]", [1.0, 2.0]),
        (one_of(["x", "y"]), "y", "y"),
        (several_of(["x", "y"], "|"), "x|y", ["x", "y"]),
        (whole_number(1, 5), "3", 3),
        (whole_number(1, 5), "3.0", 3),
        (whole_number(1, 5), 3.0, 3),
        (whole_number(1, 5, missing=-1), "-1", None),
    ],
)
def test_good_values(read, value, expected):
    assert read(value) == expected


@pytest.mark.parametrize(
    ("read", "value", "reason"),
    [
        (text, 3, "a number; give a text"),
        (text_list, ["a", " "], "empty or no text"),
        (text_list, ["a", 3], "empty or no text"),
        (text_list, {"a": 1}, "an object; give a list"),
        (text_list, "[broken", "no JSON list"),
        (text_list, "[" * 100_000, "no JSON list"),
        (turn_list, "['a' 'b']", "no JSON list"),  # NumPy's
        (turn_list, "['a'\n 'b']", "no JSON list"),
        (turn_list, "['a', nan]", "no JSON list"),
        (turn_list, "['a', ['b']]", "no JSON list"),
        (turn_list, " \n ", "no turn"),
        (turn_list, ["", " "], "no turn"),
        (turn_list, ["a", 3], "no text; give a list"),
        (turn_list, {"a": 1}, "an object; give a list"),
        (weight_list, [10**400], "very many digits"),
        (whole_number(1, 5), 10**400, "very many digits"),
        (text, b"a", "of the type bytes"),
        (weight_list, ["a"], "a text; give a list of numbers"),
        (weight_list, [True], "a truth value"),
        (weight_list, [1, 0], "above 0"),
        (weight_list, [-1], "above 0"),
        (weight_list, [math.nan], "above 0"),
        (weight_list, [math.inf], "above 0"),
        (one_of(["x", "y"]), "z", "'z'; it must be one of x, y"),
        (several_of(["x", "y"], "|"), "x|z", "'z'"),
        (whole_number(1, 5), "6", "from 1 to 5"),
        (whole_number(1, 5), "2.5", "from 1 to 5"),
        (whole_number(1, 5), "many", "'many'"),
        (whole_number(1, 5), "nan", "from 1 to 5"),
        (whole_number(1, 5), True, "a truth value"),
        (whole_number(1, 5), -1, "from 1 to 5"),
    ],
)
def test_bad_values(read, value, reason):
    with pytest.raises(ValueError, match=r"is|holds|has") as error:
        read(value)
    assert reason in str(error.value)


SCHEMA = Schema("Test", {"a": Field(text), "b": Field(text, required=False)})


def test_rows_have_every_field_and_no_other():
    assert SCHEMA.read_row({"a": "x", "c": "y"}) == {"a": "x", "b": None}
    assert SCHEMA.read_row({"a": "x", "b": " "}) == {"a": "x", "b": None}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"b": "x"}, "field 'a' is missing"),
        ({"a": " "}, "field 'a' is empty"),
        ({"a": None}, "field 'a' is empty"),
        ({"a": "x", "b": 4}, "field 'b' is a number"),
    ],
)
def test_bad_rows_name_the_field(row, message):
    with pytest.raises(BadRow) as error:
        SCHEMA.read_row(row)
    assert message in str(error.value)


@pytest.mark.parametrize("value", ["a \ud83d", ["a", "\udc00 b"]])
def test_half_characters_are_named(value):
    schema = Schema("Test", {"a": Field(text if isinstance(value, str) else text_list)})
    with pytest.raises(BadRow, match=r"field 'a' holds half a character \(\\ud"):
        schema.read_row({"a": value})
