import pytest

from parlai_prosocial.data.normalise import normalise_text, one_line


@pytest.mark.parametrize(
    "text",
    [
        "Don't do it",
        "don't do it!!",
        "  DON'T\tdo\n it... ",
        "\u201cDon't do it\u201d",
        "\uff24on't do it",  # a full-width D
        "don't do it \u2026",
    ],
)
def test_spellings_that_count_as_the_same(text):
    assert normalise_text(text) == "don't do it"


@pytest.mark.parametrize("text", ["do it", "don't do that", "dont do it"])
def test_wordings_that_do_not(text):
    assert normalise_text(text) != "don't do it"


def test_normalising_twice_changes_nothing():
    for text in (" A  b! ", "?", "", "...x...", "Stra\u00dfe"):
        assert normalise_text(normalise_text(text)) == normalise_text(text)


@pytest.mark.parametrize("text", ["one\ntwo", "one\r\n two", "\none\u2028two ", "one\n\n\ntwo"])
def test_a_turn_is_one_line(text):
    assert one_line(text) == "one two"


def test_one_line_keeps_the_wording():
    assert one_line("a  b\tc!") == "a  b\tc!"
