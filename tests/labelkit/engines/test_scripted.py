"""The scripted judge is deterministic and knows no more than the words it sees."""

import math

import pytest

from labelkit.engines import Settings, open_engine
from labelkit.errors import UnknownNameError
from labelkit.judging.reply_parser import Failure, read_label

LABELS = ("0", "1", "2", "3")


def replies(script, requests):
    return list(open_engine("scripted", Settings(script)).run(requests))


def test_overlap_grades_by_the_share_of_query_words_in_the_passage(ask):
    passages = ("dogs", "a cat", "a cat sleeps", "cat sleeps daily")
    grades = [reply.text for reply in replies("overlap", [ask("cat sleeps daily", text) for text in passages])]
    assert grades == ["0", "1", "2", "3"]


def test_log_probabilities_sum_to_1(ask):
    (reply,) = replies("overlap", [ask("cat", "a cat")])
    assert math.fsum(map(math.exp, reply.label_logprobs.values())) == pytest.approx(1)
    assert set(reply.label_logprobs) == set(LABELS)


def test_replies_come_one_by_one_in_order_and_are_the_same_again(ask):
    requests = [ask("cat", f"passage {number}") for number in range(20)]
    first = replies("garbage", requests)
    assert [reply.key for reply in first] == [request.key for request in requests]
    assert replies("garbage", requests[::-1]) == first[::-1]


def test_garbage_is_no_label_about_a_third_of_the_time(ask):
    labels = [read_label(reply, LABELS) for reply in replies("garbage", [ask("cat", str(n)) for n in range(300)])]
    assert 70 < sum(isinstance(label, Failure) for label in labels) < 130


def test_requests_are_taken_lazily(ask):
    engine = open_engine("scripted", Settings("overlap"))
    endless = (ask("cat", str(number)) for number in iter(int, 1))
    assert next(iter(engine.run(endless))).text == "0"


def test_an_unknown_script_is_refused():
    with pytest.raises(UnknownNameError, match="unknown script 'x'; choose one of: garbage, overlap"):
        open_engine("scripted", Settings("x"))


def test_an_unknown_engine_lists_the_choices():
    with pytest.raises(
        UnknownNameError, match="unknown engine 'x'; choose one of: local, openai, openai-batch, ray, scripted, vllm"
    ):
        open_engine("x", Settings("m"))
