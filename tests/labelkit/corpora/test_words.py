"""One definition of the words that a passage shares with its query."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelkit.corpora.words import CHARACTERS, beginning, overlap, words


@pytest.mark.parametrize(
    ("query", "passage", "expected"),
    [
        ("how many days off do I get", "You get 25 days of leave", 2 / 7),
        ("straße", "STRASSE", 1.0),
        ("ﬁnal Ⅳ", "FINAL iv", 1.0),
        ("café", "cafe\u0301", 1.0),
        ("snake_case", "the case of the snake", 1.0),
        ("हिन्दी में", "हिन्दी", 0.5),
        ("東京の天気", "東京", 2 / 5),
        ("to be or not to be", "not to be", 3 / 4),
        ("?!", "?!", 0.0),
        ("", "", 0.0),
    ],
)
def test_overlap_by_hand(query, passage, expected):
    assert overlap(query, passage) == pytest.approx(expected)


@given(st.text(), st.text())
def test_overlap_is_a_share_that_case_and_spelling_do_not_change(query, passage):
    share = overlap(query, passage)
    assert 0 <= share <= 1
    assert overlap(query, passage + " " + query) == (1.0 if words(query) else 0.0)
    assert words(query.casefold()) == words(query)


def test_the_beginning_is_what_tokens_can_reach():
    short, long = "a" * CHARACTERS, "a" * (CHARACTERS * 3)
    assert beginning(short, 1) is short
    assert beginning(long, 2) == "a" * (2 * CHARACTERS)


@given(st.text(st.characters(max_codepoint=127)))
def test_an_ascii_text_has_the_same_words_beside_another_word(text):
    assert words(text) | {"é"} == words(f"{text} é")
