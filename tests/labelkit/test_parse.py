"""No reply that is not a label becomes a grade."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelkit.engines import Reply
from labelkit.parse import Failure, label_probabilities, read_label

GRADES = ("0", "1", "2", "3")
WORDS = ("No", "Yes")

HOSTILE = [
    None,
    "",
    " ",
    "\n\t\r",
    "...",
    "**",
    '""',
    "3/10",
    "1/3",
    "2/3.",
    "3 out of 3",
    "score: 3",
    "Score: 3",
    "final score: 10",
    "##final score: 3",
    "O: 3",
    "Grade: 2",
    "grade=3",
    "error 403",
    "Error 503: try again",
    "HTTP 200",
    "<think>3</think>",
    "<think>",
    "<think>the passage is a 3",
    "</think>3",
    "0 or 1",
    "0-1",
    "2-3",
    "1, 2",
    "1 2",
    "3 3",
    "3\n3",
    "3\n\nBecause it answers.",
    "33",
    "03",
    "3.0",
    "3.5",
    "2,5",
    "-1",
    "+3",
    "±1",
    "~3",
    "=3",
    "#3",
    "4",
    "10",
    "99",
    "three",
    "Three",
    "drei",
    "III",
    "３",
    "③",
    "³",
    "٣",
    "३",
    "೩",
    "𝟑",
    "3\u200b",
    "\u200b3",
    "\ufeff3",
    "3\u00a0",
    "3\0",
    "3️⃣",
    "3\u0301",
    "(3)",
    "[3]",
    "{3}",
    "<3>",
    "[[3]]",
    '{"grade": 3}',
    '{"grade": "3"}',
    '["3"]',
    "```json\n3\n```",
    "\\boxed{3}",
    "$3$",
    "3%",
    "3!",
    "3?",
    "3;",
    "3:",
    "3,",
    "_3_",
    "~~3~~",
    "I would say 3",
    "I'd rate this passage 3.",
    "The answer is 3",
    "3 (perfectly relevant)",
    "Relevant",
    "yes",
    "true",
    "null",
    "None",
    "nan",
    "inf",
    "I'm sorry, but I can't help with that.",
    "As an AI language model, I cannot judge 3 passages",
    "I cannot assess this.",
    "<|im_end|>",
    "3<|im_end|>",
    "<|endoftext|>",
    "assistant\n3",
    "Passage: 3",
    "0123",
    "0x3",
    "3e0",
    "1e1",
    "2b",
    "<html><body>3</body></html>",
    "rate limit exceeded, retry after 3",
    "3" * 10_000,
    "9" * 5_000,
]
LABELS_WITH_DECORATION = [
    ("3", "3"),
    ("3.", "3"),
    (" 2\n", "2"),
    ("**1**", "1"),
    ("`0`", "0"),
    ('"2"', "2"),
    ("'2'.", "2"),
    ("\t3\r\n", "3"),
]


def read(text, labels=GRADES, finish_reason="stop", **fields):
    return read_label(Reply(key="k", text=text, finish_reason=finish_reason, **fields), labels)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:40])
@pytest.mark.parametrize("finish_reason", ["stop", "length", None])
def test_what_is_no_label_is_a_failure_with_a_reason(text, finish_reason):
    found = read(text, finish_reason=finish_reason)
    assert isinstance(found, Failure)
    assert 0 < len(found.reason) < 200


def test_the_table_of_hostile_replies_is_long_and_has_no_doubles():
    assert len(set(HOSTILE)) == len(HOSTILE) > 100


@pytest.mark.parametrize(("text", "label"), LABELS_WITH_DECORATION)
def test_a_decorated_label_is_a_label(text, label):
    assert read(text) == label


@pytest.mark.parametrize(
    ("text", "label"), [("Yes", "Yes"), ("yes", "Yes"), ("YES.", "Yes"), ("no", "No"), (" No\n", "No")]
)
def test_case_does_not_matter(text, label):
    assert read(text, WORDS) == label


@pytest.mark.parametrize(
    "text",
    ["yes and no", "Yes, it does", "not", "nope", "yeah", "y", "Yess", "no yes", "3", "oui", "Y e s", "non", "NO!"],
)
def test_words_near_a_label_are_none(text):
    assert isinstance(read(text, WORDS), Failure)


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "function_call", "abort", "error", "7", ""])
def test_a_reply_that_did_not_end_well_is_no_label(reason):
    found = read("3", finish_reason=reason)
    assert isinstance(found, Failure)
    assert "cut off" in found.reason


@pytest.mark.parametrize("text", ["Y", "Ye", "", "The passage is", "3 because", "<think>"])
def test_a_cut_off_reply_is_no_label(text):
    assert isinstance(read(text, WORDS, finish_reason="length"), Failure)


def test_an_error_is_no_label_whatever_the_text():
    assert read("3", error="timed out") == Failure("no answer: timed out")


def oracle(text: str) -> str | None:
    """The same rule written as a regular expression."""
    match = re.fullmatch(r"""[ \t\r\n."'*`]*([0-3])[ \t\r\n."'*`]*""", text)
    return match[1] if match else None


LABEL_LIKE = st.text(st.sampled_from("0123 .\n*`'\"/-:４３²٣aesyno"), max_size=8)


@settings(max_examples=3000, deadline=None)
@given(st.one_of(st.text(), LABEL_LIKE))
def test_any_text_is_a_label_exactly_where_the_oracle_says_so(text):
    found = read(text)
    expected = oracle(text)
    assert isinstance(found, Failure) if expected is None else found == expected


@settings(max_examples=500, deadline=None)
@given(st.lists(st.floats(-1e4, 0), min_size=4, max_size=4))
def test_label_probabilities_are_a_softmax(values):
    probs, mass = label_probabilities(dict(zip(GRADES, values, strict=True)), GRADES)
    assert math.fsum(probs) == pytest.approx(1)
    for one in range(4):
        for other in range(4):
            if values[one] > values[other]:
                assert probs[one] >= probs[other]
    assert mass == pytest.approx(min(1, math.fsum(map(math.exp, values))))


def test_label_probabilities_follow_the_order_of_the_labels():
    logprobs = {"1": math.log(0.1), "0": math.log(0.2), "3": math.log(0.05), "2": math.log(0.15)}
    probs, mass = label_probabilities(logprobs, GRADES)
    assert probs == pytest.approx((0.4, 0.2, 0.3, 0.1))
    assert mass == pytest.approx(0.5)


@pytest.mark.parametrize(
    "values", [(-9999.0,) * 4, (0.0, -9999.0, -9999.0, -9999.0), (-800.0, -801.0, -900.0, -9999.0)]
)
def test_extreme_log_probabilities_stay_finite(values):
    probs, mass = label_probabilities(dict(zip(GRADES, values, strict=True)), GRADES)
    assert math.fsum(probs) == pytest.approx(1)
    assert 0 <= mass <= 1


def test_tiny_masses_keep_their_ratio():
    probs, _ = label_probabilities({"a": -1000.0, "b": -1000.0 + math.log(3)}, ("a", "b"))
    assert probs == pytest.approx((0.25, 0.75))
