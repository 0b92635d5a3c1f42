"""Servers send anything with status 200: none of it stops a run, and none of it becomes a grade or a score."""

import pytest

from labelkit.judging.reply_parser import Failure, label_probabilities, read_label

LABELS = ("0", "1", "2", "3")
CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "2"}}
NO_ANSWER = {
    "html": b"<html><body>3</body></html>",
    "a digit": b"3",
    "a string": b'"3"',
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "nothing": b"",
    "half an object": b'{"choices": [{"message": {"content": "3"',
    "no UTF-8": b'{"choices": "\xff"}',
    "deep nesting": b"[" * 100_000,
    "an error": b'{"error": {"message": "overloaded", "code": 502}}',
    "no choices": {"choices": []},
    "null choices": {"choices": None},
    "an object of choices": {"choices": {"0": CHOICE}},
    "choices of null": {"choices": [None]},
    "choices of text": {"choices": ["3"]},
    "an empty choice": {"choices": [{}]},
    "a null message": {"choices": [CHOICE | {"message": None}]},
    "a message of text": {"choices": [CHOICE | {"message": "3"}]},
    "null content": {"choices": [CHOICE | {"message": {"role": "assistant", "content": None}}]},
    "empty content": {"choices": [CHOICE | {"message": {"role": "assistant", "content": ""}}]},
    "a number as content": {"choices": [CHOICE | {"message": {"content": 3}}]},
    "thinking parts": {"choices": [CHOICE | {"message": {"content": [{"type": "thinking", "text": "3"}]}}]},
    "a lone surrogate": {"choices": [CHOICE | {"message": {"content": "3\ud800"}}]},
    "a refusal": {"choices": [CHOICE | {"message": {"content": None, "refusal": "no"}}]},
    "reasoning only": {"choices": [CHOICE | {"message": {"content": None, "reasoning_content": "3"}}]},
    "filtered content": {"choices": [CHOICE | {"finish_reason": "content_filter"}]},
    "a refused prompt": {"choices": [CHOICE | {"finish_reason": "PROHIBITED_CONTENT"}]},
    "a broken model": {"choices": [CHOICE | {"finish_reason": "insufficient_system_resource"}]},
}


@pytest.mark.parametrize("first", [True, False], ids=["as the first answer", "later"])
@pytest.mark.parametrize("name", NO_ANSWER)
def test_a_reply_that_is_no_answer_becomes_a_failure(
    server, answer_all, completion, Answer, name, first, tmp_path, passage_of
):
    hostile = NO_ANSWER[name]
    body = hostile if isinstance(hostile, bytes) else completion("2") | hostile
    headers = {"Content-Type": "text/html"} if name == "html" else {}
    server.script = lambda sent: Answer(body, 200, headers) if passage_of(sent) == "bad" else Answer(completion("1"))
    replies = answer_all(*(["bad", "a", "b"] if first else ["a", "bad", "b"]))
    assert isinstance(read_label(replies["bad"], LABELS), Failure)
    assert read_label(replies["a"], LABELS) == read_label(replies["b"], LABELS) == "1"
    replies["bad"].model_dump_json()


def first_token(listed):
    return {"choices": [CHOICE | {"logprobs": {"content": [{"token": "2", "top_logprobs": listed}]}}]}


ODD_DETAILS = {
    "no usage": {"usage": None},
    "usage as text": {"usage": "lots"},
    "tokens as text": {"usage": {"prompt_tokens": "many", "completion_tokens": None}},
    "fractions of tokens": {"usage": {"prompt_tokens": 1.5, "completion_tokens": 1}},
    "no model": {"model": None},
    "a number as model": {"model": 5},
    "an object as fingerprint": {"system_fingerprint": {}},
    "log-probabilities as a list": {"choices": [CHOICE | {"logprobs": [1]}]},
    "log-probabilities of null": {"choices": [CHOICE | {"logprobs": {"content": [None]}}]},
    "no list": first_token(None),
    "an empty list": first_token([]),
    "a list of null": first_token([None]),
    "an empty entry": first_token([{}]),
    "a null token": first_token([{"token": None, "logprob": -1.0}]),
    "text for a number": first_token([{"token": "2", "logprob": "high"}]),
    "null for a number": first_token([{"token": "2", "logprob": None}]),
    "NaN": first_token([{"token": "2", "logprob": float("nan")}, {"token": "1", "logprob": -1.0}]),
    "minus infinity": first_token([{"token": label, "logprob": -float("inf")} for label in LABELS]),
    "infinity": first_token([{"token": "2", "logprob": float("inf")}, {"token": "1", "logprob": -1.0}]),
    "1e300": first_token([{"token": "2", "logprob": 1e300}, {"token": "1", "logprob": -1.0}]),
}


@pytest.mark.parametrize("name", ODD_DETAILS)
def test_odd_details_never_give_a_score_that_is_no_number(server, answer_all, completion, Answer, name):
    server.script = lambda sent: Answer(completion("2") | ODD_DETAILS[name])
    reply = answer_all("a", "b")["a"]
    assert reply.error is not None or read_label(reply, LABELS) == "2"
    if reply.label_logprobs is not None:
        probs, mass = label_probabilities(reply.label_logprobs, LABELS)
        assert sum(probs) == pytest.approx(1)
        assert 0 <= mass <= 1
