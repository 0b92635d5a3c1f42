"""Failures that end a run at any time, each with the server's words and the cure, and failures that pass."""

import json
import socket
import subprocess
import sys
import time

import pytest
from present import present

from labelkit.engines.http import status_error
from labelkit.engines.stopping import FinalErrors, is_page, names_of_models

PAGE = b"<!DOCTYPE html><html><head><title>Welcome to  nginx!</title></head><body>hi</body></html>"


def message(text, **fields):
    return {"error": {"message": text, **fields}}


FINAL = {
    "a wrong key": (
        401,
        message("Incorrect API key provided"),
        ["/v1 refuses the key in LABELKIT_API_KEY: status 401: Incorrect API key provided; correct it"],
    ),
    "DeepSeek's empty account": (
        402,
        message("Insufficient Balance"),
        ["no credit left: status 402: Insufficient Balance"],
    ),
    "OpenAI's empty account": (
        429,
        message("You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"),
        ["no credit left: status 429: You exceeded your current quota; add credit"],
    ),
    "Moonshot's empty account": (
        429,
        message("suspended, please recharge", type="exceeded_current_quota_error"),
        ["no credit left", "please recharge"],
    ),
    "Anthropic's empty account": (400, message("Your credit balance is too low"), ["no credit left: status 400"]),
    "OpenRouter's key limit": (
        403,
        message("Key limit exceeded (monthly limit)", code=403),
        ["refuses access", "Key limit"],
    ),
    "OpenAI's unknown model": (
        404,
        message("The model `m` does not exist or you do not have access to it.", code="model_not_found"),
        ["has no model 'm': status 404: The model `m` does not exist", "correct --model"],
    ),
    "Ollama's unknown model": (
        404,
        message('model "m" not found, try pulling it first'),
        ["has no model 'm'", "pulling"],
    ),
    "DeepSeek's unknown model": (400, message("Model Not Exist", param=None), ["has no model 'm': status 400"]),
    "OpenRouter's unknown model": (400, message("m is not a valid model ID", code=400), ["has no model 'm'"]),
    "Mistral's unknown model": (
        400,
        {"object": "error", "message": "Invalid model: m", "type": "invalid_model", "code": "1500"},
        ["has no model 'm': status 400: Invalid model: m"],
    ),
    "LiteLLM's unknown model": (400, message("Invalid model name passed in model=m"), ["has no model 'm'"]),
    "Azure's unknown deployment": (
        404,
        message("The API deployment for this resource does not exist.", code="DeploymentNotFound"),
        ["has no model 'm'"],
    ),
    "FastAPI's missing path": (404, {"detail": "Not Found"}, ["is not the address of this API: status 404: Not Found"]),
    "a page for a missing path": (
        404,
        PAGE,
        ["is not the address of this API", "Welcome to nginx!", "correct --base-url"],
    ),
    "a method that is not allowed": (405, b"Method Not Allowed", ["is not the address of this API"]),
    "a redirect": (308, b"", ["redirects are not followed"]),
    "a page": (200, PAGE, ["answers with a web page titled 'Welcome to nginx!'", "correct --base-url"]),
    "an unknown model behind status 200": (
        200,
        message("no such", code=404, type="model_not_found"),
        ["has no model 'm'"],
    ),
}
"""Status, body, and what the last line must say."""


@pytest.fixture
def annotate(labelkit, pool, server, tmp_path, monkeypatch):
    monkeypatch.setenv("LABELKIT_API_KEY", "sk-of-the-test")

    def run(*options, pairs=pool):
        base = ("annotate", pairs, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m")
        return labelkit(*base, "--concurrency", "2", "--base-url", server.url, "--json", *options)

    return run


@pytest.fixture
def twenty(annotate, wide, tmp_path):
    """Judge 20 pairs."""
    return lambda: annotate("--limit", 20, pairs=tmp_path / "wide.pool")


@pytest.mark.parametrize("name", FINAL)
def test_a_final_error_ends_the_run_at_once_and_leaves_no_trace(annotate, server, Answer, tmp_path, name):
    status, body, words = FINAL[name]
    server.script = lambda sent: Answer(body, status)
    called = annotate()
    assert called.code == 1
    last = called.err.splitlines()[-1]
    assert all(word in last for word in words), last
    assert len(server.ledger) <= 6, "at most two requests, each in up to three forms"
    assert not (tmp_path / "labels" / "unfinished.json").exists()


@pytest.mark.parametrize("name", FINAL)
def test_a_final_error_in_the_middle_ends_the_run_and_keeps_what_came(twenty, server, Answer, completion, name):
    status, body, words = FINAL[name]
    server.script = lambda sent: Answer(body, status) if len(server.ledger) > 4 else Answer(completion("1"))
    called = twenty()
    assert called.code == 1
    assert all(word in called.err.splitlines()[-1] for word in words), called.err
    assert len(server.ledger) <= 4 + 2 + 5
    server.script = lambda sent: Answer(completion("1"))
    sent = len(server.ledger)
    again = json.loads(twenty().out)
    assert again["failures"] == {}
    assert again["known"] >= 2
    assert len(server.ledger) - sent == again["asked"]


def test_a_refusal_names_the_place_of_the_key_or_says_that_none_was_sent(
    annotate, server, Answer, monkeypatch, tmp_path
):
    server.script = lambda sent: Answer(message("bad key"), 401)
    ring = tmp_path / "keys.toml"
    ring.write_text('"127.0.0.1" = "sk-of-the-ring"\n')
    ring.chmod(0o600)
    monkeypatch.delenv("LABELKIT_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-general")
    assert f"{server.url} refuses the key in OPENAI_API_KEY: status 401: bad key" in annotate().err
    monkeypatch.setenv("LABELKIT_KEYRING", str(ring))
    assert f"refuses the key in the keyring {ring}: status 401: bad key" in annotate().err
    monkeypatch.delenv("OPENAI_API_KEY")
    ring.write_text("")
    said = annotate().err
    assert f"{server.url} asks for a key and none was sent: status 401: bad key; set LABELKIT_API_KEY or" in said
    assert f'write "127.0.0.1" = "KEY" to {ring}, then run the same command again' in said


ALONE = {
    "a filtered prompt": (400, message("The response was filtered", code="content_filter")),
    "OpenRouter's moderation": (403, message("Input was flagged by moderation", code=403)),
    "a long prompt": (400, message("This model's maximum context length is 10 tokens, which is not available")),
    "an unknown field": (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_refusal_of_one_request_fails_its_pair_alone(annotate, server, Answer, completion, passage_of, name):
    status, body = ALONE[name]
    server.script = lambda sent: Answer(body, status) if "roasted" in passage_of(sent) else Answer(completion("1"))
    called = annotate()
    assert called.code == 0, called.err
    assert json.loads(called.out)["failures"] == {"no answer": 1}


PASSING = {
    "a rate limit": (429, message("Rate limit reached for requests", type="requests", code="rate_limit_exceeded")),
    "Gemini's limit per minute": (429, message("You exceeded your current quota, please check your plan and billing")),
    "a model that loads": (503, message("Loading model")),
    "a bad gateway": (502, PAGE),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_waited_for(annotate, server, Answer, completion, name):
    status, body = PASSING[name]
    server.script = lambda sent: Answer(body, status) if 3 <= len(server.ledger) < 9 else Answer(completion("1"))
    called = annotate()
    assert called.code == 0, called.err
    assert json.loads(called.out)["failures"] == {}


def test_a_long_outage_is_waited_out_with_a_line(annotate, server, Answer, completion, monkeypatch):
    """More refusals than the tries of a call, because no server worked on them."""
    monkeypatch.setattr("labelkit.engines.concurrency.SAID_SECONDS", 0.005)
    server.script = lambda sent: Answer({}, 503) if 3 <= len(server.ledger) < 40 else Answer(completion("1"))
    called = annotate()
    assert (called.code, json.loads(called.out)["failures"]) == (0, {})
    assert f"waiting 0 s for {server.url} (status 503" in called.err


def test_a_server_that_dies_in_the_middle_ends_the_run_when_its_calls_are_lost(
    twenty, server, Answer, completion, monkeypatch
):
    monkeypatch.setattr("labelkit.engines.client.LOST", 4)
    server.script = lambda sent: Answer({}, 500) if len(server.ledger) > 5 else Answer(completion("1"))
    called = twenty()
    assert called.code == 1
    assert f"error: {server.url}: no answer to 4 requests in a row" in called.err
    assert "every reply is kept: run the same command again" in called.err


def test_a_server_that_is_gone_ends_the_run_after_one_request(annotate, server, Answer, completion, monkeypatch):
    """Before: with one request at a time, 20 requests waited for five minutes each."""
    monkeypatch.setattr("labelkit.engines.client.CALL_SECONDS", 1.0)
    monkeypatch.setattr("labelkit.engines.client.LONGEST_PAUSE", 0.2)

    def script(body):
        if len(server.ledger) == 2:
            server.close()
        return Answer(completion("2"), 200, {"Connection": "close"})

    server.script = script
    called = annotate("--concurrency", 1)
    assert called.code == 1
    assert f"nothing listens at {server.url} any more" in called.err
    assert "every reply is kept" in called.err


def test_a_rate_limit_that_stays_ends_the_run(annotate, server, Answer, completion, monkeypatch):
    """A daily limit. Before: every further pair was sent and failed."""
    monkeypatch.setattr("labelkit.engines.client.CALL_SECONDS", 5.0)
    monkeypatch.setattr("labelkit.engines.client.LOST", 2)
    limited = Answer(message("come back tomorrow"), 429, {"Retry-After": "40000"})
    server.script = lambda body: Answer(completion("2")) if len(server.ledger) < 3 else limited
    called = annotate("--concurrency", 1)
    assert called.code == 1
    assert "no answer to 2 requests in a row" in called.err


def test_a_redirect_is_named_with_its_target_but_without_secrets(annotate, server, Answer):
    target = "https://user:secret-a@elsewhere.test/v2/chat/completions?token=secret-b"
    server.script = lambda body: Answer(b"", 307, {"Location": target})
    called = annotate()
    assert "give the address that it leads to, https://elsewhere.test/v2/chat/completions;" in called.err
    assert "secret" not in called.err


def test_a_few_lost_calls_do_not_end_a_run(annotate, server, Answer, completion, passage_of):
    server.script = lambda sent: Answer({}, 500) if "roasted" in passage_of(sent) else Answer(completion("1"))
    called = annotate()
    assert (called.code, json.loads(called.out)["failures"]) == (0, {"no answer": 1})
    again = json.loads(annotate().out)
    assert (again["known"], again["failures"]) == (again["pairs"] - 1, {"no answer": 1}), "the folder is finished again"


def test_nothing_listening_ends_in_under_20_seconds_with_the_address(pool, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    command = ["annotate", str(pool), "-o", str(tmp_path / "labels"), "--engine", "openai", "--model", "m"]
    command = [sys.executable, "-m", "labelkit", *command, "--base-url", url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        first = present(process.stderr).readline()
        start = time.monotonic()  # after the imports, which take long on a busy machine
        last = present(process.stderr).read().removesuffix("\n")
        seconds = time.monotonic() - start
    assert process.returncode == 1
    assert first.startswith(f"nothing answers at {url} (Connection refused): trying again")
    assert last.startswith(f"error: nothing listens at {url} (Connection refused)")
    assert last.endswith("start the server, or correct --base-url")
    assert seconds < 20
    assert not (tmp_path / "labels").exists()


def test_an_unknown_host_is_an_address_at_which_nothing_listens(labelkit, pool, tmp_path, monkeypatch):
    monkeypatch.setattr("labelkit.engines.client.START_SECONDS", 0.1)
    monkeypatch.setattr("labelkit.engines.client.FIRST_PAUSE", 0.001)
    monkeypatch.setenv("LABELKIT_API_KEY", "k")
    called = labelkit(
        *("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m"),
        *("--base-url", "https://no-such-host.invalid/v1"),
    )
    assert called.code == 1
    assert "nothing listens at https://no-such-host.invalid/v1" in called.err.splitlines()[-1]


def test_a_server_that_starts_a_moment_later_is_waited_for(labelkit, pool, tmp_path, server, monkeypatch):
    """The connection is refused at first."""
    from labelkit.engines.client import Client

    send, refused = Client._send, iter(range(3))

    async def later(self, at, *rest):
        if next(refused, None) is not None:
            at = type(at)("http://127.0.0.1:9/v1", 1)
        return await send(self, at, *rest)

    monkeypatch.setattr(Client, "_send", later)
    command = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m")
    called = labelkit(*command, "--base-url", server.url, "--json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["failures"] == {}


LISTS = {
    "OpenAI": {"object": "list", "data": [{"id": "judge-large"}, {"id": "judge-small"}]},
    "a plain list": ["judge-large", "judge-small"],
    "Ollama": {"models": [{"name": "judge-large"}, {"name": "judge-small"}]},
}
ODD = [b"<html>", b"", {}, {"data": None}, {"data": [{"id": 3}]}, {"data": {}}, {"error": "no"}, 7, b"[" * 100_000]


@pytest.mark.parametrize("name", LISTS)
def test_an_unknown_model_is_refused_with_the_models_that_the_server_lists(annotate, server, Answer, name):
    server.models = lambda: Answer(LISTS[name])
    server.script = lambda sent: Answer(message("The model `judge-smal` does not exist"), 404)
    called = annotate("--model", "judge-smal")
    assert called.code == 1
    last = called.err.splitlines()[-1]
    assert "has no model 'judge-smal'" in last
    assert "did you mean judge-small" in last
    assert "it lists judge-large, judge-small" in last
    assert len(server.ledger) <= 3, "one request, in up to three forms"


@pytest.mark.parametrize("body", ODD)
def test_a_list_of_models_of_any_form_is_no_error(annotate, server, Answer, body):
    server.models = lambda: Answer(body)
    called = annotate()
    assert called.code == 0
    assert "it lists" not in called.err
    server.models = lambda: Answer({}, 500)
    assert annotate("--limit", 2, "--passage-words", 3).code == 0


@pytest.mark.parametrize(
    "model", ["judge-large", "JUDGE-LARGE", "judge-large:latest", "models/judge-large", "org/judge-large"]
)
def test_a_listed_model_needs_no_words(annotate, server, Answer, model):
    server.models = lambda: Answer(LISTS["OpenAI"])
    called = annotate("--model", model)
    assert called.code == 0
    assert "does not list" not in called.err


def test_a_server_that_answers_for_a_model_it_does_not_list_is_named_once(annotate, server, Answer):
    server.models = lambda: Answer(LISTS["OpenAI"])
    called = annotate("--model", "mine")
    assert called.code == 0
    assert called.err.count("does not list model 'mine', but answers; it lists judge-large, judge-small") == 1


def test_a_list_of_models_is_read_in_every_known_form():
    for listed in LISTS.values():
        assert names_of_models(json.dumps(listed).encode()) == ["judge-large", "judge-small"]


@pytest.mark.parametrize(
    ("body", "page"),
    [
        (PAGE, True),
        (b"\n<html lang='en'>", True),
        (b"<!-- x --><html>", True),
        (b'{"choices": []}', False),
        (b"", False),
    ],
)
def test_a_web_page_is_known_by_its_beginning(body, page):
    assert is_page(body) == page


@pytest.mark.parametrize("status", [400, 403, 404, 422, 429, 500])
def test_any_body_of_a_refusal_is_read(status):
    for body in (
        b"",
        b"[]",
        b"null",
        b'{"error": null}',
        b'{"error": {"message": 3}}',
        b'[{"error": {"code": 1}}]',
        b"\xff",
    ):
        FinalErrors("m").problem(status_error(status, None, body))
