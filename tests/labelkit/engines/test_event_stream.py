"""Answers that a server streams although no stream was asked for."""

import json
from typing import Any

import pytest

from labelkit.engines import Message, Request
from labelkit.engines.completions import read_answer
from labelkit.engines.event_stream import read_json
from labelkit.judging.reply_parser import Failure, read_label

LABELS = ("0", "1", "2", "3")
REQUEST = Request("k", "q", (Message("user", "grade"),), LABELS)


def chunk(delta: Any, finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c", "model": "served", "choices": [choice], **fields}


def events(*chunks: Any, end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(one)}\n\n" for one in chunks) + end).encode()


def read(body: bytes) -> Any:
    return read_answer(body, REQUEST)


def test_chunks_are_joined_with_reasoning_log_probabilities_and_usage():
    """Before: the whole answer was lost, although it was paid for."""
    top = [{"token": label, "logprob": value} for label, value in zip(LABELS, (-5.0, -2.0, -0.2, -3.0), strict=True)]
    listed = {"content": [{"token": "2", "logprob": -0.2, "top_logprobs": top}]}
    usage = {"prompt_tokens": 20, "completion_tokens": 4}
    answer = chunk({"content": "2"})
    answer["choices"][0]["logprobs"] = listed
    last = chunk({}, "stop", usage=usage)
    reply = read(events(chunk({"role": "assistant", "reasoning": "a "}), chunk({"reasoning": "match"}), answer, last))
    assert (reply.text, reply.reasoning, reply.finish_reason, reply.model) == ("2", "a match", "stop", "served")
    assert reply.label_logprobs == {"0": -5.0, "1": -2.0, "2": -0.2, "3": -3.0}
    assert (reply.prompt_tokens, reply.completion_tokens, reply.raw) == (20, 4, None)


def test_a_stream_that_breaks_off_is_no_answer():
    body = events(chunk({"content": "2"}), end="")
    reply = read(body)
    failure = read_label(reply, LABELS)
    assert isinstance(failure, Failure)
    assert "incomplete" in failure.reason
    assert isinstance(read_label(read(events(chunk({"content": "2"}))), LABELS), str), "the end mark is an end"


@pytest.mark.parametrize("ending", ["\n\ndata: [DONE]\n\n", "\r\n\r\ndata: [DONE]\r\n"])
@pytest.mark.parametrize("beginning", ["", ": processing\n\n: processing\n\n", "\n\n"])
def test_comments_and_end_marks_around_a_whole_answer_cost_nothing(beginning, ending):
    message = {"role": "assistant", "content": "2"}
    whole = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}, indent=1)
    assert read(f"{beginning}{whole}{ending}".encode()).text == "2"


def test_an_error_in_a_stream_is_an_error_by_its_code():
    told = {"error": {"code": 429, "message": "slow down"}}
    reply = read(events(chunk({"role": "assistant", "content": ""}), told))
    assert reply.error.startswith("RateLimitError: status 429")


@pytest.mark.parametrize("raw", ["", ": only a comment", "data: {", "data: [DONE]", "<html>data: 1</html>"])
def test_what_is_neither_is_a_value_error(raw):
    with pytest.raises(ValueError, match=r"no JSON|Expecting"):
        read_json(raw)


def test_long_integers_are_read():
    assert read_json('{"a": 12, "b": ' + "9" * 5000 + "}") == {"a": 12, "b": float("inf")}
