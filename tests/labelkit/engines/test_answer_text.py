"""Reasoning in the text of a reply, with and without its opening mark, is told apart from the answer."""

import pytest

from labelkit.engines import Reply
from labelkit.engines.answer_text import MARKS, divided
from labelkit.judging.reply_parser import RAN_OUT, Failure, read_label

GRADES = ("0", "1", "2", "3")


def read(text, finish_reason="stop"):
    return read_label(Reply(key="k", text=text, finish_reason=finish_reason), GRADES)


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_the_answer_follows_the_closing_mark_whether_or_not_the_template_opened_it(opening, closing):
    assert read(f"{opening}0 or 1?{closing}\n\n2") == "2"
    assert read(f"It is 0, or 1.\n{closing}\n\n2") == "2"
    assert read(f"{closing}2") == "2", "a template that opens and closes at once"


@pytest.mark.parametrize(("opening", "closing"), MARKS)
@pytest.mark.parametrize(
    "text", ["{o}3", "3{c}", "{c}3{c}", "2 {o}or 3?{c}", "{c}{o}3", "2{o}x{c}3", "{o}x{c}3{o}", "{c}"]
)
def test_an_answer_with_other_marks_is_none(opening, closing, text):
    assert isinstance(read(text.format(o=opening, c=closing)), Failure)


def test_a_closing_mark_of_another_kind_ends_nothing():
    assert divided("<think>so </reasoning> 3</think>2").answer == "2"
    assert isinstance(read("<think>so</reasoning>3"), Failure)


@pytest.mark.parametrize("text", [None, "", " \n", "<think>so long", "<think>so</think>", "so</think>\n"])
@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_length_that_ran_out_before_an_answer_names_the_flag(text, reason):
    assert read(text, reason) == Failure(RAN_OUT)
    assert "--thinking-tokens" in RAN_OUT
    assert read(text) != Failure(RAN_OUT)


def test_an_answer_that_was_cut_off_or_withheld_is_another_failure():
    assert read("The passage", "length").reason.startswith("cut off: finish_reason length")
    assert read(None, "content_filter").reason == "no answer: the reply holds no text"
    assert read("so</think>2", "length") == "2", "a whole label counts"
