"""The OpenAI engine against a real server on loopback, well-behaved and hostile."""

import itertools
import math
import random
import threading
import time

import pytest

from labelkit.engines import Message, Request, Settings, open_engine
from labelkit.errors import EngineError, UsageError
from labelkit.judging.reply_parser import Failure, label_probabilities, read_label

LABELS = ("0", "1", "2", "3")
TOP = {"2": -0.2, "1": -2.0, "3": -3.0, "0": -5.0}


def test_the_request_asks_for_one_constrained_label_with_log_probabilities(server, answer_all):
    answer_all("a", model="judge-1")
    (body,) = server.ledger
    assert body["model"] == "judge-1"
    assert body["temperature"] == 0
    assert body["structured_outputs"] == {"choice": list(LABELS)}
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]


def test_label_log_probabilities_and_usage_are_read(server, answer_all, completion, Answer):
    server.script = lambda body: Answer(completion("2", TOP | {"the": -4.0}))
    reply = answer_all("a")["a"]
    assert (reply.text, reply.finish_reason, reply.model, reply.fingerprint) == ("2", "stop", "served", "fp")
    assert (reply.prompt_tokens, reply.completion_tokens) == (40, 1)
    assert reply.label_logprobs == TOP


def test_a_label_outside_the_list_gets_the_lowest_value_as_its_bound(server, answer_all, completion, Answer):
    server.script = lambda body: Answer(completion("2", {" 2": -0.2, "2": -3.0, "the": -7.5}))
    assert answer_all("a")["a"].label_logprobs == {"0": -7.5, "1": -7.5, "2": -0.2, "3": -7.5}


def test_a_chosen_token_that_the_list_leaves_out_counts_and_other_labels_get_the_rest_at_most(
    server, answer_all, completion, Answer
):
    server.script = lambda body: Answer(completion("2", {"the": -4.0, "a": -5.0}))
    found = answer_all("a")["a"].label_logprobs
    assert found["2"] == -0.1
    rest = 1 - sum(math.exp(value) for value in (-0.1, -4.0, -5.0))
    assert {label: value <= max(math.log(rest), -5.0) for label, value in found.items() if label != "2"} == {
        "0": True, "1": True, "3": True,
    }  # fmt: skip


def test_masked_tokens_stay_finite(server, answer_all, completion, Answer):
    server.script = lambda body: Answer(completion("2", {"2": 0.0, "0": -9999.0, "1": -9999.0, "3": -9999.0}))
    probs, mass = label_probabilities(answer_all("a")["a"].label_logprobs, LABELS)
    assert probs == (0, 0, 1, 0)
    assert mass == 1


def test_429_with_retry_after_is_waited_for(server, answer_all, completion, Answer):
    times = []

    def script(body):
        times.append(time.monotonic())
        if len(times) == 1:
            return Answer({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.5"})
        return Answer(completion("1"))

    server.script = script
    assert answer_all("a")["a"].text == "1"
    assert len(times) == 2
    assert times[1] - times[0] >= 0.5


def test_server_errors_are_tried_again_and_given_up_in_the_end(server, answer_all, completion, Answer):
    faults = itertools.chain([500, 503, 502], itertools.repeat(200))
    server.script = lambda body: Answer(completion("1"), next(faults))
    assert answer_all("a")["a"].text == "1"
    assert len(server.ledger) == 4
    server.script = lambda body: Answer({}, 500)
    assert answer_all("a")["a"].error.startswith("InternalServerError")


def test_a_broken_connection_is_tried_again(server, answer_all, completion, Answer):
    faults = itertools.chain([100_000], itertools.repeat(None))
    server.script = lambda body: Answer(completion("1"), length=next(faults))
    assert answer_all("a")["a"].text == "1"
    assert len(server.ledger) == 2


def test_a_server_that_never_answers_costs_the_deadline_and_no_more(
    server, answer_all, completion, Answer, monkeypatch, passage_of
):
    monkeypatch.setattr("labelkit.engines.client.CALL_SECONDS", 0.5)
    released = threading.Event()

    def script(body):
        if passage_of(body) == "slow":
            released.wait(20)
        return Answer(completion("1"))

    server.script = script
    replies = answer_all("a", "slow", "b", "c")
    released.set()
    assert replies["slow"].error.startswith("DeadlineError: no answer within")
    assert {replies[passage].text for passage in "abc"} == {"1"}


def test_refused_structured_outputs_are_dropped_with_a_word(server, answer_all, completion, Answer, capsys):
    def script(body):
        if "structured_outputs" in body:
            return Answer({"error": {"message": "unknown field structured_outputs"}}, 400)
        return Answer(completion("2", TOP))

    server.script = script
    replies = answer_all("a", "b", "c")
    assert {reply.text for reply in replies.values()} == {"2"}
    assert replies["c"].label_logprobs == TOP
    assert len(server.ledger) == 4
    assert capsys.readouterr().err.count("this run sends: constraint none") == 1


def test_refused_log_probabilities_leave_grades_without_scores(server, answer_all, completion, Answer):
    server.script = lambda body: Answer({}, 400) if "logprobs" in body else Answer(completion("2"))
    replies = answer_all("a", "b")
    assert [(reply.text, reply.label_logprobs) for reply in replies.values()] == [("2", None)] * 2
    # In full, without the constraint, with 5, 1 and no log-probabilities, and the second request.
    assert len(server.ledger) == 6
    assert "structured_outputs" in server.ledger[-1], "what the server accepts is not given up"


@pytest.mark.parametrize("order", [["long", "a", "b"], ["a", "long", "b"]], ids=["first", "later"])
def test_a_refused_request_fails_alone_and_gives_up_no_feature(
    server, answer_all, completion, Answer, order, passage_of
):
    too_long = {"error": {"message": "maximum context length is 512 tokens", "code": "context_length_exceeded"}}
    server.script = lambda body: Answer(too_long, 400) if passage_of(body) == "long" else Answer(completion("2", TOP))
    replies = answer_all(*order)
    assert "maximum context length" in replies["long"].error
    assert replies["b"].label_logprobs == TOP
    assert "structured_outputs" in server.ledger[-1]


def test_many_requests_are_in_flight_but_never_more_than_allowed(server, answer_all, completion, Answer):
    def script(body):
        time.sleep(0.02)
        return Answer(completion("1"))

    server.script = script
    answer_all(*map(str, range(120)), concurrency=16)
    assert 8 <= server.most_busy <= 16
    assert len(server.ledger) == 120


def test_under_a_mix_of_faults_every_pair_ends_in_a_state(
    server, answer_all, completion, Answer, monkeypatch, passage_of
):
    monkeypatch.setattr("labelkit.engines.client.LONGEST_PAUSE", 1.0)
    chance, lock = random.Random(0), threading.Lock()

    def script(body):
        with lock:
            draw = chance.random()
        right = completion(LABELS[int(passage_of(body)) % 4], TOP)
        if draw < 0.2:
            return Answer({}, 429, {"Retry-After": "0.01"})
        if draw < 0.25:
            return Answer({}, 500)
        if draw < 0.3:
            return Answer(right, length=100_000)
        if draw < 0.33:
            return Answer(right | {"choices": []})
        return Answer(right)

    server.script = script
    replies = answer_all(*map(str, range(300)), concurrency=32)
    labels = {passage: read_label(reply, LABELS) for passage, reply in replies.items()}
    failed = [passage for passage, label in labels.items() if isinstance(label, Failure)]
    assert 0 < len(failed) < 60
    assert all(label == LABELS[int(passage) % 4] for passage, label in labels.items() if passage not in failed)


def test_a_refused_key_stops_the_run(server, answer_all, Answer):
    server.script = lambda body: Answer({"error": {"message": "bad key"}}, 401)
    with pytest.raises(EngineError, match="asks for a key and none was sent: status 401: bad key"):
        answer_all("a", "b")
    assert len(server.ledger) == 1


def test_a_redirect_carries_nothing_to_another_origin(server, answer_all, Answer):
    other = type(server)()
    try:
        server.script = lambda body: Answer({}, 307, {"Location": f"{other.url}/chat/completions"})
        with pytest.raises(EngineError, match="status 307: redirects are not followed"):
            answer_all("secret")
    finally:
        other.close()
    assert other.ledger == []


def test_without_a_key_only_this_machine_is_asked(server, monkeypatch):
    for urls in ((), ("https://api.example.com/v1",), (server.url, "https://api.example.com/v1")):
        with pytest.raises(UsageError, match="set LABELKIT_API_KEY or OPENAI_API_KEY"):
            open_engine("openai", Settings("m", base_urls=urls))
    open_engine("openai", Settings("m", base_urls=(server.url,)))


def test_log_probabilities_are_read_where_the_answer_begins(server, answer_all, completion, Answer):
    """A reasoning model writes before it answers, and ends with a token of its own."""
    written = [("<think>", {"2": -9.0, "the": -0.1}), ("so 2</think>", {"2": -8.0}), ("2", TOP), ("<|im_end|>", {})]
    content = [
        {"token": token, "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": v} for t, v in top.items()]}
        for token, top in written
    ]
    choice = completion("2")["choices"][0] | {"logprobs": {"content": content}}
    server.script = lambda body: Answer(completion("2", choices=[choice]))
    assert answer_all("a")["a"].label_logprobs == TOP
    choice["message"]["content"] = "3"
    reply = answer_all("a")["a"]
    assert (reply.text, reply.label_logprobs) == ("3", None)


def test_free_text_is_asked_for_without_the_options_of_labels(server, completion, Answer):
    def script(body):
        return Answer({}, 400) if "structured_outputs" in body else Answer(completion("2", TOP))

    server.script = script
    message = (Message("user", "hello"),)
    requests = [Request(f"pattern {n}", "q", message, pattern="[0-3]") for n in range(2)]
    requests += [Request(f"label {n}", "q", message, LABELS) for n in range(2)]
    requests += [Request("free", "q", message, max_tokens=50, temperature=0.5, seed=7)]
    engine = open_engine("openai", Settings("m", base_urls=(server.url,), concurrency=1))
    replies = {reply.key: reply for reply in engine.run(requests)}
    assert [reply.error for reply in replies.values()] == [None] * 5
    assert replies["label 1"].label_logprobs == TOP
    refused, *_, free = server.ledger
    assert refused["structured_outputs"] == {"regex": "[0-3]"}
    assert len(server.ledger) == 6
    sent = {name: free[name] for name in ("max_tokens", "temperature", "seed")}
    assert sent == {"max_tokens": 50, "temperature": 0.5, "seed": 7}
    assert not {"structured_outputs", "logprobs"} & set(free)
