"""Answers of every shape: an odd detail costs that detail, the text is graded, and the journal can be read again."""

import gzip
import json
import math
import string
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from present import present

from labelkit.engines import LOWEST, Message, Reply, Request
from labelkit.engines.answer_text import NO_END, normalise, says
from labelkit.engines.bodies import decoded
from labelkit.engines.completions import EARLY, LONGEST_ANSWER, read_again, read_answer
from labelkit.engines.http import CallError, refuse_error
from labelkit.engines.openai_batch import read_reply, read_row
from labelkit.judging.reply_parser import Failure, label_probabilities, read_label

LABELS = ("0", "1", "2", "3")
MESSAGES = (Message("system", "Grade the passage."), Message("user", "Query: tea\n\nPassage: green tea\n\nGrade:"))
REQUEST = Request("k", "q", MESSAGES, LABELS)


def good():
    """An answer as a good server sends it."""
    listed = [
        {"token": str(grade), "logprob": value, "bytes": [48 + grade]} for grade, value in enumerate((-5, -2, -0.2, -3))
    ]
    first = {"token": "2", "logprob": -0.2, "bytes": [50], "top_logprobs": listed}
    message: dict[str, Any] = {"role": "assistant", "content": "2", "refusal": None, "tool_calls": []}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "stop",
        "logprobs": {"content": [first], "refusal": None},
    }
    usage = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
    return {"id": "c", "model": "served", "system_fingerprint": "fp", "choices": [choice], "usage": usage}


def read(completion):
    body = completion if isinstance(completion, bytes) else json.dumps(completion).encode()
    return read_answer(body, REQUEST)


def changed(path, value):
    """The good answer with another value at a path of keys and indexes."""
    whole = good()
    *way, last = path
    place = whole
    for step in way:
        place = place[step]
    place[last] = value
    return whole


CHOICE = ("choices", 0)
MESSAGE = (*CHOICE, "message")
FIRST = (*CHOICE, "logprobs", "content", 0)
COSTS_A_DETAIL: dict[str, tuple[tuple[Any, ...], Any, dict[str, Any]]] = {
    "a lone surrogate in the model": (("model",), "served\ud800", {}),
    "a number as model": (("model",), 5, {"model": None}),
    "an empty model": (("model",), "", {"model": None}),
    "an object as model": (("model",), {"name": "served"}, {"model": None}),
    "a lone surrogate in the finish reason": ((*CHOICE, "finish_reason"), "st\udfffop", {}),
    "a number as finish reason": ((*CHOICE, "finish_reason"), 7, {"finish_reason": None}),
    "an empty finish reason": ((*CHOICE, "finish_reason"), "", {"finish_reason": None}),
    "a number as fingerprint": (("system_fingerprint",), 12, {"fingerprint": None}),
    "an empty fingerprint": (("system_fingerprint",), "", {"fingerprint": None}),
    "text as completion tokens": (("usage", "completion_tokens"), "x", {"completion_tokens": None}),
    "usage as a list": (("usage",), [1], {"prompt_tokens": None, "completion_tokens": None}),
    "text as log-probability": ((*FIRST, "top_logprobs", 0, "logprob"), "-1", {"label_logprobs": None}),
    "null among the alternatives": ((*FIRST, "top_logprobs", 1), None, {"label_logprobs": None}),
    "a null token": ((*FIRST, "top_logprobs", 1, "token"), None, {}),
    "a token as bytes": ((*FIRST, "top_logprobs", 1, "token"), [49], {}),
    "the first token as bytes": ((*FIRST, "token"), [50], {}),
    "a null log-probability entry": ((*CHOICE, "logprobs", "content", 0), None, {"label_logprobs": None}),
    "log-probabilities of a legacy shape": ((*CHOICE, "logprobs"), {"tokens": ["2"]}, {"label_logprobs": None}),
    "log-probabilities as text": ((*CHOICE, "logprobs"), "high", {"label_logprobs": None}),
    "NaN": ((*FIRST, "top_logprobs", 0, "logprob"), float("nan"), {"label_logprobs": None}),
    "a huge negative number": (
        (*FIRST, "top_logprobs", 0, "logprob"),
        -(10**400),
        {"label_logprobs": {"0": LOWEST, "1": -2.0, "2": -0.2, "3": -3.0}},
    ),
    "a text part": ((*MESSAGE, "content"), [{"type": "text", "text": "2"}], {}),
    "a thinking part before the text": (
        (*MESSAGE, "content"),
        [{"type": "thinking", "thinking": [{"type": "text", "text": "3?"}]}, {"type": "text", "text": "2"}],
        {},
    ),
    "parts of several types": (
        (*MESSAGE, "content"),
        [None, 3, {"type": ["text"]}, {"type": "output_text", "text": "2"}],
        {},
    ),
    "reasoning beside the text": ((*MESSAGE, "reasoning_content"), "it is 3, no, 2", {}),
    "a second choice": (("choices",), [good()["choices"][0]] * 2, {}),
    "an error that is empty": (("error",), {}, {}),
    "an error beside the answer": (("error",), {"code": 500}, {}),
}


@pytest.mark.parametrize("name", COSTS_A_DETAIL)
def test_an_odd_detail_costs_that_detail_and_never_the_grade(name):
    path, value, lost = COSTS_A_DETAIL[name]
    reply = read(changed(path, value))
    assert reply.error is None
    assert read_label(reply, LABELS) == "2"
    whole = read(good())
    for field in ("label_logprobs", "prompt_tokens", "completion_tokens", *lost):
        assert getattr(reply, field) == (lost[field] if field in lost else getattr(whole, field)), field
    if lost and None in lost.values() and value != "":
        assert json.loads(reply.raw) == json.loads(json.dumps(changed(path, value))) or "NaN" in reply.raw


def test_a_good_answer_is_kept_without_its_body():
    reply = read(good())
    assert reply.raw is None
    assert (reply.text, reply.model, reply.fingerprint, reply.finish_reason) == ("2", "served", "fp", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (20, 1)
    assert read(good() | {"usage": None}).raw is None


NO_TEXT = {
    "choices as an object": {"choices": {"0": good()["choices"][0]}},
    "a number as content": changed((*MESSAGE, "content"), 2),
    "a message of text": changed(MESSAGE, "2"),
    "content of thinking alone": changed((*MESSAGE, "content"), [{"type": "thinking", "thinking": "2"}]),
    "reasoning that used up the length": changed(MESSAGE, {"content": None, "reasoning_content": "the grade is 2"}),
    "another vendor's shape": {"content": [{"type": "text", "text": "2"}], "stop_reason": "end_turn"},
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_an_answer_without_text_is_a_failure_that_keeps_its_body(name):
    reply = read(NO_TEXT[name])
    assert (reply.text, reply.error) == (None, None)
    assert isinstance(read_label(reply, LABELS), Failure)
    assert json.loads(reply.raw) == NO_TEXT[name]


@pytest.mark.parametrize(
    "body", [b"<html>score 3</html>", b"3", b'"3"', b"null", b"", b"[" * 100_000, b'{"choices": [{']
)
def test_what_is_no_completion_is_an_error_that_keeps_its_body(body):
    reply = read(body)
    assert reply.text is None
    assert reply.error
    assert reply.raw == body.decode(errors="replace")
    assert json.loads(reply.model_dump_json())["raw"] == reply.raw


def test_whole_numbers_of_any_length_and_a_byte_order_mark_cost_nothing():
    body = b"\xef\xbb\xbf" + json.dumps(good()).encode().replace(b'"id": "c"', b'"id": ' + b"9" * 5000)
    assert read_label(read(body), LABELS) == "2"
    reply = read(json.dumps(good()).encode().replace(b'"prompt_tokens": 20', b'"prompt_tokens": ' + b"9" * 5000))
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("2", None, 1)


@pytest.mark.parametrize(
    ("count", "found"),
    [
        *[
            (20, 20),
            (20.0, 20),
            (0, None),
            (1, None),
            (-1, None),
            (-1e6, None),
            (20.5, None),
            ("20", None),
            (None, None),
        ],
        *[(True, None), (1e30, None), (10**20, None), (10**5, None), (math.nan, None), (math.inf, None), ([2], None)],
    ],
)
def test_a_count_of_the_prompt_that_cannot_be_is_not_counted(count, found):
    assert read(changed(("usage", "prompt_tokens"), count)).prompt_tokens == found


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (1, 1),
        (9, 9),
        (8.0, 8),
        (0, None),
        (-5, None),
        (10, 10),
        (900, 900),
        (10**7, None),
        (1e30, None),
        ("1", None),
        (math.nan, None),
    ],
)
def test_a_count_of_the_answer_that_cannot_be_is_not_counted(count, found):
    assert read(changed(("usage", "completion_tokens"), count)).completion_tokens == found


def test_counts_by_other_names_are_read():
    reply = read(good() | {"usage": {"input_tokens": 20, "output_tokens": 2}})
    assert (reply.prompt_tokens, reply.completion_tokens, reply.raw) == (20, 2, None)


def listing(top, text="2"):
    """The good answer with these alternatives at its first token."""
    entry = {"token": text, "logprob": top.get(text, -0.1)}
    entry["top_logprobs"] = [{"token": token, "logprob": value} for token, value in top.items()]
    return changed(FIRST, entry)


def test_a_list_of_the_answer_alone_is_no_uniform_distribution():
    """Seen: "0" with p = 0.9999 alone became 0.25 each."""
    whole = listing({"0": math.log(0.9999)}, text="0")
    whole["choices"][0]["message"]["content"] = "0"
    probs, mass = label_probabilities(read(whole).label_logprobs, LABELS)
    assert probs[0] == pytest.approx(0.9999, abs=1e-5)
    assert sum(probs[1:]) <= 1.01e-4
    assert mass == pytest.approx(1)
    entry = whole["choices"][0]["logprobs"]["content"][0]
    nothing: tuple[Any, ...] = (None, [])
    for alternatives in nothing:
        entry["top_logprobs"] = alternatives
        assert label_probabilities(read(whole).label_logprobs, LABELS)[0] == pytest.approx(probs)
    del entry["top_logprobs"]
    assert label_probabilities(read(whole).label_logprobs, LABELS)[0] == pytest.approx(probs)


@pytest.mark.parametrize(
    "top", [{"2": math.log(0.4)}, {"2": math.log(0.5), "the": math.log(0.2)}, {"2": math.log(0.5), "1": math.log(0.3)}]
)
def test_a_list_that_leaves_too_much_gives_a_grade_and_no_score(top):
    reply = read(listing(top))
    assert read_label(reply, LABELS) == "2"
    assert reply.label_logprobs is None
    assert reply.raw is not None


@given(st.lists(st.floats(0.01, 1), min_size=5, max_size=12), st.integers(1, 12), st.permutations(LABELS))
@settings(max_examples=300, deadline=None)
def test_a_score_from_a_short_list_is_near_the_score_from_the_whole(weights, length, order):
    """The true distribution is known; the server lists its `length` likeliest tokens."""
    total = sum(weights)
    names = [*order, *string.ascii_lowercase][: len(weights)]
    true = dict(sorted(zip(names, (weight / total for weight in weights), strict=True), key=lambda item: -item[1]))
    top = {name: math.log(p) for name, p in list(true.items())[:length]}
    text = next((name for name in top if name in LABELS), None)
    if text is None:
        return
    whole = listing(top, text)
    whole["choices"][0]["message"]["content"] = text
    found = read(whole).label_logprobs
    if found is None:
        return
    probs, _ = label_probabilities(found, LABELS)
    mass = sum(true[label] for label in LABELS)
    exact = sum(int(label) * true[label] / mass for label in LABELS)
    assert sum(int(label) * p for label, p in zip(LABELS, probs, strict=True)) == pytest.approx(exact, abs=0.16)


@pytest.mark.parametrize("value", [0.0, -0.01, math.log(0.4)])
def test_numbers_that_are_no_log_probabilities_give_a_grade_and_no_score(value):
    """Before: a server that writes 0 for every token gave a uniform distribution with the full label mass."""
    reply = read(listing(dict.fromkeys(LABELS, value)))
    assert (read_label(reply, LABELS), reply.label_logprobs) == ("2", None)
    assert read(listing(dict.fromkeys(LABELS, math.log(0.26)))).label_logprobs is not None, "rounding is accepted"


def test_a_token_that_is_a_part_of_a_character_costs_no_score():
    whole = listing({"2": -0.2, "1": -2.0, "3": -3.0, "0": -5.0})
    entry = whole["choices"][0]["logprobs"]["content"][0]
    entry["top_logprobs"].append({"token": None, "bytes": [226], "logprob": -9.0})
    assert read(whole).label_logprobs == {"0": -5.0, "1": -2.0, "2": -0.2, "3": -3.0}


WITHOUT_ANSWER: dict[str, tuple[Any, str]] = {
    "older vLLM": ({"object": "error", "message": "no", "type": "x", "param": None, "code": 503}, "status 503"),
    "FastAPI": ({"detail": "Not authenticated"}, "Not authenticated"),
    "Cloudflare": ({"errors": [{"code": 7, "message": "busy"}], "success": False, "result": None}, "busy"),
    "gateways": ({"success": False, "code": 500, "msg": "system busy", "data": None}, "status 500"),
    "MiniMax": ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "no balance"}}, "no balance"),
}


@pytest.mark.parametrize("server", WITHOUT_ANSWER)
def test_an_error_without_the_field_error_is_no_answer(server):
    """Before: it counted as an answer without text, was charged, cached and not asked again."""
    document, words = WITHOUT_ANSWER[server]
    reply = read(document)
    assert words in present(reply.error)
    with pytest.raises(CallError, match=words):
        refuse_error(json.dumps(document).encode())
    row = {"response": {"status_code": 200, "body": document}}
    again = read_reply(row, REQUEST)
    assert again is None or again.error is not None
    refuse_error(json.dumps(good() | {"base_resp": {"status_code": 0, "status_msg": "success"}}).encode())
    refuse_error(json.dumps({"code": 200, "msg": "ok", "data": good()}).encode())


@pytest.mark.parametrize("mark", [" ", "▁", "Ġ", "Ċ"])
def test_a_label_behind_a_mark_of_its_vocabulary_is_found(mark):
    top = {f"{mark}{label}": value for label, value in zip(LABELS, (-5.0, -2.0, -0.2, -3.0), strict=True)}
    whole = listing(top, f"{mark}2")
    assert read(whole).label_logprobs == {"0": -5.0, "1": -2.0, "2": -0.2, "3": -3.0}


def test_a_server_without_log_probabilities_is_said_once_and_early(server, answer_all, completion, Answer, capsys):
    server.script = lambda body: Answer(completion("2", {"2": -1.0} if len(server.ledger) == 3 else None))
    answer_all(*map(str, range(3 * EARLY)), concurrency=1)
    assert "no log-probabilities" in capsys.readouterr().err, "a list of one unsure token is none"
    server.ledger.clear()
    server.script = lambda body: Answer(completion("2", {"2": -0.001} if len(server.ledger) == 3 else None))
    answer_all(*map(str, range(3 * EARLY)), concurrency=1)
    assert capsys.readouterr().err == ""
    server.script = lambda body: Answer(completion("2"))
    answer_all(*map(str, range(EARLY - 1)), concurrency=1)
    assert capsys.readouterr().err == ""
    answer_all(*map(str, range(3 * EARLY)), concurrency=1)
    assert capsys.readouterr().err.count(f"no log-probabilities that distinguish labels (none in {EARLY} answers)") == 1


FINISHED = [
    "stop",
    "eos",
    "eos_token",
    "stop_sequence",
    "end_turn",
    "STOP",
    "COMPLETE",
    "tool_calls",
    "matched_stop",
    "",
]
WITHHELD = ["content_filter", "contentFilter", "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "refusal", "ERROR_TOXIC"]
BROKEN = ["error", "insufficient_system_resource", "abort", "timeout", "user-cancel"]
CUT = ["length", "max_tokens", "MAX_TOKENS", "maxTokens", "model_length", "model_context_window_exceeded"]


@pytest.mark.parametrize("reason", [*FINISHED, *WITHHELD, *BROKEN, *CUT])
def test_only_cut_withheld_and_broken_answers_are_failures(reason):
    whole = read(changed((*CHOICE, "finish_reason"), reason))
    half = read(changed((*CHOICE, "finish_reason"), reason) | {})
    half = half.model_copy(update={"text": "the grade is"})
    assert isinstance(read_label(whole, LABELS), Failure) == (reason in (*WITHHELD, *BROKEN))
    failed = read_label(half, LABELS)
    assert isinstance(failed, Failure)
    assert ("cut off" in failed.reason) == (reason not in FINISHED)


def test_an_error_in_place_of_an_answer_is_an_error_in_a_batch_too():
    error: dict[str, Any] = {"code": 400, "message": "too long"}
    row: dict[str, Any] = {"custom_id": "k", "response": {"status_code": 200, "body": {"error": error}}}
    assert (
        present(read_reply(row, REQUEST)).error == 'BadRequestError: status 400: {"code": 400, "message": "too long"}'
    )
    error["code"] = "503"
    assert read_reply(row, REQUEST) is None
    for status in (0, None, "0", "many", [200]):
        row["response"] = {"status_code": status, "body": {"id": "c"}}
        assert read_reply(row, REQUEST) is None
        row["response"] = {"status_code": status, "body": good()}
        assert present(read_reply(row, REQUEST)).text == "2", "it was paid for"
        assert read_reply(row | {"error": {"message": "lost"}}, REQUEST) is None
    row["response"] = good()
    assert present(read_reply(row, REQUEST)).text == "2", "before: bought three times a run"
    row["response"] = {"status_code": "200", "body": good()}
    assert present(read_reply(row, REQUEST)).text == "2"


def test_a_body_written_as_text_in_a_batch_is_read():
    row = {"custom_id": "k", "response": {"status_code": 200, "body": json.dumps(good())}}
    assert present(read_reply(row, REQUEST)).text == "2"
    assert read(json.dumps(good())).text == "2"


def test_a_header_that_claims_compression_costs_no_plain_answer():
    body = json.dumps(good()).encode()
    assert decoded(body, "gzip", 10_000) == decoded(gzip.compress(body), "x-gzip", 10_000) == body


# Any change of a good answer.

TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["2", "3\ud800", "\udfff", "-1", "NaN", "stop", "length"]
)
NUMBERS = (
    st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([0, -1, 1, 1e30, -1e6, 10**400, -(10**400)])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def paths(value, here=()):
    """Every place in a JSON document."""
    yield here
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in inner:
        yield from paths(part, (*here, step))


@st.composite
def mutations(draw):
    """The good answer after one to three changes: a value replaced, removed, doubled or wrapped."""
    whole = {"answer": good()}
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths(whole))[1:]))
        place = whole
        for step in path[:-1]:
            place = place[step]
        last = path[-1]
        how = draw(st.sampled_from(["replace", "replace", "remove", "double", "wrap", "stringify", "add"]))
        if how == "replace":
            place[last] = draw(VALUES)
        elif how == "remove" and path != ("answer",):
            del place[last]
        elif how == "double" and isinstance(place, list):
            place.insert(last, place[last])
        elif how == "wrap":
            place[last] = draw(st.sampled_from([[place[last]], {"text": place[last]}, {"0": place[last]}]))
        elif how == "stringify":
            place[last] = json.dumps(place[last])
        elif how == "add" and isinstance(place, dict):
            place[draw(TEXTS)] = draw(VALUES)
    return whole["answer"]


def label_in(answer):
    """The label that an answer states in the place where text belongs; None where it states none."""
    try:
        choice = answer["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
        if not isinstance(answer["choices"], list) or not isinstance(text, str):
            return None
        ended = not isinstance(reason, str) or not says(reason, NO_END)
        return next((label for label in LABELS if ended and normalise(text) == label), None)
    except (TypeError, LookupError, AttributeError):
        return None


@pytest.mark.slow
@given(mutations())
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_change_of_an_answer_raises_or_costs_its_label(answer):
    body = json.dumps(answer)
    row = json.dumps({"custom_id": "k", "response": {"status_code": 200, "body": answer}, "error": None})
    replies = [read_answer(body.encode(), REQUEST), read_reply(read_row(row.encode())[1], REQUEST)]
    # The mutations include the JSON of an answer as text.
    answer = json.loads(answer) if isinstance(answer, str) and answer.startswith("{") else answer
    for reply in replies:
        # A batch line with a fault of the server is asked again.
        if reply is None:
            assert label_in(answer) is None
            continue
        kept = Reply.model_validate_json(reply.model_dump_json())
        assert kept == reply, "the journal gives back what was read"
        found = read_label(kept, LABELS)
        assert (found if isinstance(found, str) else None) == label_in(answer) or found == label_of_parts(answer)
        if kept.text is None or kept.text != content_of(answer):
            assert kept.raw is not None
        if kept.raw is not None:
            assert read_again(kept, LABELS).model_dump(
                exclude={"prompt_tokens", "completion_tokens"}
            ) == kept.model_dump(exclude={"prompt_tokens", "completion_tokens"})
        if kept.label_logprobs is not None:
            probs, mass = label_probabilities(kept.label_logprobs, LABELS)
            assert sum(probs) == pytest.approx(1)
            assert 0 <= mass <= 1
        for count, most in ((kept.prompt_tokens, 200), (kept.completion_tokens, LONGEST_ANSWER)):
            assert count is None or 0 <= count <= most


def content_of(answer):
    try:
        return answer["choices"][0]["message"]["content"]
    except (TypeError, LookupError):
        return None


def label_of_parts(answer):
    """The label in the text parts of a content."""
    content = content_of(answer)
    if not isinstance(content, list):
        return None
    texts = [
        part if isinstance(part, str) else part["text"]
        for part in content
        if isinstance(part, str)
        or (
            isinstance(part, dict)
            and part.get("type") in (None, "text", "output_text")
            and isinstance(part.get("text"), str)
        )
    ]
    return next((label for label in LABELS if normalise("".join(texts)) == label), None)
