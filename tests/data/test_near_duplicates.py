"""Which texts nearly repeat one another."""

from hashlib import sha256

import pytest

from parlai_prosocial.data.near_duplicates import clusters, comparison_form, near_pairs

QUOTED = "I can't even go for a walk because I can't stand the smell of the canal in summer."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the matter with him?", "what IS the matter, with him"),
        ("I\u2019m going home now", "I\ufffd\ufffdm going home now"),
        ("I\\u2019m going home now", "I'm going home now"),
        ("I donâ€™t want to go home", "I don\u2019t want to go home"),
        ("this is a long sentence with a typo", "this is a long sentence with a typpo"),
        (QUOTED, QUOTED + " So at least you get out sometimes and see other people, you know?"),
        ("\U0001f600", "\U0001f600 "),
    ],
)
def test_near(one, other):
    assert list(near_pairs([one], [other])) == [(0, 0)]
    assert list(near_pairs([other], [one])) == [(0, 0)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I like dogs", "I like cats a lot"),
        ("So are you", "So are you going to tell me what happened at the station last night?"),
        ("What is the treatment for a cold?", "Where is the station of the northern line?"),
        ("?", "!"),
        ("", "Hello"),
    ],
)
def test_not_near(one, other):
    assert list(near_pairs([one], [other])) == []


def test_clusters_are_connected_components():
    a = "one two three four five six seven eight nine ten"
    b = "one two three four five six seven eight nine"
    c = "one two three four five six seven"
    assert not list(near_pairs([a], ["one two three four five"]))
    assert clusters(["other words", c, "Other, words!", a, b]) == [0, 1, 0, 1, 1]
    assert clusters([]) == []


def test_many_texts_take_blocks():
    texts = [sha256(str(n).encode()).hexdigest() for n in range(1100)]
    found = clusters([*texts, *[text.upper() + "!" for text in texts]])
    assert found == [*range(1100), *range(1100)]


def test_form_of_other_scripts():
    assert comparison_form("\uff28\uff49") == "hi"
    assert comparison_form("?!") == "?!"
