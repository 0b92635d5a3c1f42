"""No reply that is not a label becomes a grade."""

import json
import math
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelkit.engines import Reply
from labelkit.judging.reply_parser import (
    Failure,
    label_probabilities,
    ranking_pattern,
    read_answer,
    read_label,
    read_ranking,
    read_selection,
    selection_pattern,
)

GRADES = ("0", "1", "2", "3")
WORDS = ("No", "Yes")


def hostile(asked):
    """The replies in data/hostile.jsonl that are no answer to what was asked: a grade, or a list of identifiers."""
    lines = (Path(__file__).parent / "data" / "hostile.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["reply"] * row.get("times", 1) for row in rows if row["asked"] == asked]


HOSTILE, HOSTILE_LISTS = hostile("grade"), hostile("list")
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


@pytest.mark.parametrize("text", [None, *HOSTILE], ids=lambda text: repr(text)[:40])
@pytest.mark.parametrize("finish_reason", ["stop", "length", None])
def test_what_is_no_label_is_a_failure_with_a_reason(text, finish_reason):
    found = read(text, finish_reason=finish_reason)
    assert isinstance(found, Failure)
    assert 0 < len(found.reason) < 200


def test_the_table_of_hostile_replies_is_long_and_has_no_doubles():
    assert len(set(HOSTILE)) == len(HOSTILE) > 200
    assert len(set(HOSTILE_LISTS)) == len(HOSTILE_LISTS) > 100


@pytest.mark.parametrize("text", [None, *HOSTILE_LISTS], ids=lambda text: repr(text)[:40])
@pytest.mark.parametrize("finish_reason", ["stop", "length", None])
def test_what_is_no_list_fails_every_pair_with_a_reason(text, finish_reason):
    reply = Reply(key="k", text=text, finish_reason=finish_reason)
    for found in (*read_selection(reply, 8), *read_ranking(reply, 8)):
        assert isinstance(found, Failure)
        assert 0 < len(found.reason) < 200


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("[1], [3]", {1, 3}),
        ("[3],[1]", {1, 3}),
        ("[2]", {2}),
        ("[1] [2]\n[8].", {1, 2, 8}),
        ("`[4]; [5]`", {4, 5}),
        ("none", set()),
        ("None.", set()),
        ("<think>[1] or [2]? The second.</think>\n[2]", {2}),
    ],
)
def test_a_selection_is_read(text, selected):
    found = read_selection(Reply(key="k", text=text, finish_reason="stop"), 8)
    assert found == [place in selected for place in range(1, 9)]


def test_a_ranking_is_read():
    found = read_ranking(Reply(key="k", text="[3] > [1] > [2]", finish_reason="stop"), 3)
    assert found == [2, 3, 1]


def test_a_cut_off_list_is_no_list():
    for found in read_selection(Reply(key="k", text="[1], [2]", finish_reason="length"), 3):
        assert isinstance(found, Failure)
        assert "cut off" in found.reason


@pytest.mark.parametrize("size", [1, 2, 9, 31])
def test_the_patterns_hold_what_the_parser_reads(size):
    chance = random.Random(size)
    for _ in range(50):
        order = chance.sample(range(1, size + 1), size)
        some = order[: chance.randint(0, size)]
        selection = ", ".join(f"[{place}]" for place in some) or "none"
        ranking = " > ".join(f"[{place}]" for place in order)
        assert re.fullmatch(selection_pattern(size), selection)
        assert re.fullmatch(ranking_pattern(size), ranking)
        assert read_selection(Reply(key="k", text=selection), size) == [n in some for n in range(1, size + 1)]
        assert read_ranking(Reply(key="k", text=ranking), size) == [order.index(n) + 1 for n in range(1, size + 1)]
    for wrong in (f"[{size + 1}]", "[0]", "", "[1], none"):
        assert not re.fullmatch(selection_pattern(size), wrong)
        assert not re.fullmatch(ranking_pattern(size), wrong)


PIECES = [
    *"0123489 .\n*`'\"/-:,;>[]()<",
    "[1]",
    "[2]",
    "[3]",
    "[9]",
    ", ",
    " > ",
    "none",
    "Yes",
    "no",
    "４",
    "²",
    "٣",
    "\u200b",
]
PIECES += ["<think>", "</think>", "score", "grade: ", "the ", "not ", "stop"]


@pytest.mark.slow
def test_of_100_000_fuzzed_replies_none_that_is_no_answer_becomes_one():
    """Answers are checked by other means than the parser's own: what is left of them when all that may be there is
    taken out.
    """
    chance = random.Random(20)
    answers = 0
    for _ in range(100_000):
        text = "".join(chance.choices(PIECES, k=chance.randint(0, 6)))
        reply = Reply.model_construct(key="k", text=text, finish_reason="stop")
        thought, closed, rest = text.partition("</think>")
        opened = thought.lstrip().startswith("<think>") or "<think>" not in thought
        answer = (rest if closed and opened else text).strip(" \t\r\n.\"'*`")
        label, selection = read_label(reply, GRADES), read_selection(reply, 3)
        assert (label == answer) if answer in GRADES else isinstance(label, Failure), text
        if any(not isinstance(found, Failure) for found in selection):
            answers += 1
            rest = re.sub(r"\[[123]\]", "", answer)
            assert not rest.strip(" \n,;") or answer.casefold() == "none", text
            for place, found in enumerate(selection, 1):
                times = answer.count(f"[{place}]")
                assert isinstance(found, Failure) if times > 1 else found == bool(times), text
    assert answers > 1000


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


@pytest.mark.parametrize(
    "reason",
    ["content_filter", "SAFETY", "refusal", "abort", "error", "ERROR_TOXIC", "timeout", "insufficient_system_resource"],
)
def test_a_reply_that_did_not_end_well_is_no_label(reason):
    found = read("3", finish_reason=reason)
    assert isinstance(found, Failure)
    assert "cut off" in found.reason


@pytest.mark.parametrize("text", ["Y", "Ye", "", "The passage is", "3 because", "<think>"])
def test_a_cut_off_reply_is_no_label(text):
    assert isinstance(read(text, WORDS, finish_reason="length"), Failure)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("It is 7.", "It is 7."), (" <think>hm</think> It is 7.\n", "It is 7."), ("a [1] b", "a [1] b")],
)
def test_a_free_answer_is_read_without_its_reasoning(text, answer):
    assert read_answer(Reply(key="k", text=text, finish_reason="stop")) == answer


@pytest.mark.parametrize(
    ("text", "finish_reason"),
    [(None, "stop"), ("", "stop"), ("<think>hm</think>", "stop"), ("<think>hm", "stop"), ("It is", "length")],
)
def test_an_answer_that_did_not_come_or_end_is_none(text, finish_reason):
    assert isinstance(read_answer(Reply(key="k", text=text, finish_reason=finish_reason)), Failure)


def test_reasoning_before_a_label_is_passed_over():
    assert read("<think>3? no.</think>\n2") == "2"


def test_letters_that_only_look_like_a_label_are_none():
    assert isinstance(read("Ye\u017f", WORDS), Failure)


def test_an_error_is_no_label_whatever_the_text():
    assert read("3", error="timed out") == Failure("no answer: timed out")


def oracle(text: str) -> str | None:
    """The same rule written as a regular expression."""
    match = re.fullmatch(r"""[ \t\r\n."'*`]*([0-3])[ \t\r\n."'*`]*""", text)
    return match[1] if match else None


LABEL_LIKE = st.text(st.sampled_from("0123 .\n*`'\"/-:４３²٣aesyno"), max_size=8)


@pytest.mark.slow
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
