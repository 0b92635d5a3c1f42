"""The text of a written query: freed from what models write around it, or dropped with a reason."""

import pytest

from labelkit.queries.cleaning import MOST_WORDS, cleaned


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("how long do cats sleep", "how long do cats sleep"),
        ('"How long do cats sleep?"', "How long do cats sleep?"),
        ("“How long do cats sleep”?", "How long do cats sleep?"),
        ("1. How long do cats sleep?", "How long do cats sleep?"),
        ("- **How long do cats sleep?**", "How long do cats sleep?"),
        ("Query: How long do cats sleep?", "How long do cats sleep?"),
        ("Search Query 1: “How long do cats sleep?”", "How long do cats sleep?"),
        ("**Question:** How long do cats sleep?", "How long do cats sleep?"),
        ("### Question\nHow long do cats sleep?", "How long do cats sleep?"),
        ("Here is the question:\nHow long do cats sleep?", "How long do cats sleep?"),
        ("How long do cats sleep?\n\nWhy do cats purr?\nIt asks for a duration.", "How long do cats sleep?"),
        ("How long\tdo   cats sleep?\n", "How long do cats sleep?"),
        ('what does "purr" mean', 'what does "purr" mean'),
        ("cats, sleep, hunting at night", "cats sleep hunting at night"),
        ("After lunch, cats sleep in the warmest room.", "After lunch, cats sleep in the warmest room."),
        ("F-4B; bombload", "F-4B bombload"),
        ("I heard that cats sleep most of the day.", "Cats sleep most of the day."),
        ("3 cats that sleep all day", "3 cats that sleep all day"),
        ("The passage confirms that cats sleep most of the day.", "Cats sleep most of the day."),
        ("猫はなぜ寝るのですか?", "猫はなぜ寝るのですか?"),
    ],
)  # fmt: skip
def test_what_models_write_around_a_query_is_removed(reply, text):
    assert cleaned(reply) == (text, None)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        ("?!", "empty"),
        ("Sorry, I can not help with that.", "no query but an answer of the model"),
        ("What does the passage say about cats?", "speaks of its passage"),
        ("Which of the two passages is about cats?", "speaks of its passage"),
        ("What do the authors conclude about cats?", "speaks of its passage"),
        ("I don't understand what you're describing about cats", "speaks of its passage"),
        ("What links cats [1] and dogs [2]?", "speaks of its passage"),
        ("Was sagt der Text über Katzen?", "speaks of its passage"),
        ("cat " * (MOST_WORDS + 1), f"longer than {MOST_WORDS} words"),
    ],
)
def test_a_text_that_nobody_would_type_is_dropped_with_a_reason(reply, reason):
    assert cleaned(reply).reason == reason
