"""Runs against servers that lie about tokens or answer oddly: caps hold by our own count, nothing paid is lost."""

import base64
import json
import math
import sqlite3
from typing import Any

import pytest
from present import present

from labelkit.engines import Message
from labelkit.engines.tokenizers import FileTokens, most_prompt_tokens
from labelkit.judging.journal import Journal
from labelkit.judging.stored_replies import reply_of
from labelkit.storage.labels import read_labels

LIES: dict[str, Any] = {
    "zeros": {"prompt_tokens": 0, "completion_tokens": 0},
    "ones": {"prompt_tokens": 1, "completion_tokens": 1},
    "a negative prompt": {"prompt_tokens": -1e6, "completion_tokens": 1},
    "a negative answer": {"prompt_tokens": 0, "completion_tokens": -(10**6)},
    "both negative": {"prompt_tokens": -1, "completion_tokens": -1},
    "1e30": {"prompt_tokens": 1e30, "completion_tokens": 1e30},
    "more than 64 bits": {"prompt_tokens": 2**63, "completion_tokens": 10**400},
    "an answer beyond its limit": {"prompt_tokens": 0, "completion_tokens": 10**8},
    "text": {"prompt_tokens": "x", "completion_tokens": "1"},
    "NaN": {"prompt_tokens": math.nan, "completion_tokens": math.nan},
    "fractions": {"prompt_tokens": 500.5, "completion_tokens": 0.5},
    "null inside": {"prompt_tokens": None, "completion_tokens": None},
    "null": None,
    "a list": [500, 1],
}


def messages_of(body):
    return [Message(**turn) for turn in body["messages"]]


def own_count(body, written=2):
    """Tokens of a request and its answer "2" where no tokenizer is at hand: one a byte, and one for the end."""
    return most_prompt_tokens(messages_of(body)) + written


@pytest.fixture
def annotate(labelkit, wide, server, tmp_path):
    def run(*options, output="labels"):
        base = ("annotate", tmp_path / "wide.pool", "-o", tmp_path / output, "--engine", "openai", "--model", "m")
        return labelkit(*base, "--json", "--base-url", server.url, "--concurrency", 4, *options)

    return run


def answering(server, Answer, completion, **changes):
    """Let the server answer "2" with these changes."""
    server.script = lambda body: Answer(completion("2", **changes))


@pytest.mark.parametrize("lie", LIES)
def test_a_cap_in_tokens_holds_by_our_own_count(annotate, server, Answer, completion, lie):
    """Before: zeros never reached the cap, negative counts freed it for good, 1e30 was a traceback."""
    cap = 60_000
    answering(server, Answer, completion, usage=LIES[lie])
    called = annotate("--max-tokens", cap)
    assert called.code == 1
    assert "the caps allow no more requests" in called.err
    outcome = json.loads(called.out)
    assert outcome["pending"] > 0
    assert outcome["failures"] == {}
    # One token for this answer is a count that can be.
    written = 1 if lie in ("ones", "a negative prompt") else 2
    spent = sum(own_count(body, written) for body in server.ledger)
    assert outcome["tokens"] == spent <= cap
    # What one request sets aside, all its tries included, is what is left at the end.
    assert spent > cap - 9 * max(map(own_count, server.ledger))
    assert called.err.count("labelkit counts tokens as one per byte, an upper bound; --tokenizer is more exact") == 1
    sent = len(server.ledger)
    assert annotate("--max-tokens", cap).code == 1
    assert len(server.ledger) == sent, "the cap is the folder's, over all runs"


@pytest.mark.parametrize("lie", ["zeros", "a negative prompt", "1e30"])
def test_a_cap_in_dollars_holds_and_every_pair_has_its_cost(annotate, server, Answer, completion, tmp_path, lie):
    (tmp_path / "prices.toml").write_text("[m]\nprompt = 100.0\ncompletion = 200.0\n")
    answering(server, Answer, completion, usage=LIES[lie])
    called = annotate("--max-usd", 12, "--prices", tmp_path / "prices.toml")
    assert called.code == 1
    outcome = json.loads(called.out)
    judgements, _, _ = read_labels(tmp_path / "labels")
    assert 5 < outcome["usd"] <= 12
    assert sum(present(row.cost) for row in judgements) == pytest.approx(outcome["usd"])
    assert {row.tokens for row in judgements} <= {None, *range(1, 10**6)}


def test_a_good_count_is_charged_as_it_is_and_an_absent_one_by_the_tokenizer(
    annotate, server, Answer, completion, tiny_qwen
):
    tokens = FileTokens(str(tiny_qwen))
    server.script = lambda body: Answer(
        completion("2", usage={"prompt_tokens": tokens.prompt(messages_of(body)), "completion_tokens": 1.0})
    )
    outcome = json.loads(annotate("--limit", 20).out)
    assert outcome["tokens"] == sum(tokens.prompt(messages_of(body)) + 1 for body in server.ledger)
    server.ledger.clear()
    answering(server, Answer, completion, usage=None)
    called = annotate("--limit", 20, "--tokenizer", tiny_qwen, output="counted")
    assert "labelkit counts tokens by --tokenizer" in called.err
    assert json.loads(called.out)["tokens"] == sum(tokens.prompt(messages_of(body)) + 2 for body in server.ledger)


def test_a_good_answer_without_usage_costs_one_try_and_not_all_that_was_set_aside(annotate, server, Answer, completion):
    answering(server, Answer, completion, usage=None)
    outcome = json.loads(annotate("--limit", 10, "--max-tokens", 10**6).out)
    assert outcome["tokens"] == sum(map(own_count, server.ledger))


def test_counts_that_an_earlier_release_kept_are_no_counts(tmp_path):
    kept = '{"text":"2","prompt_tokens":-1000000,"completion_tokens":1e30}'
    reply = reply_of("k", kept, tmp_path)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("2", None, None)


ODD: dict[str, Any] = {
    "a surrogate in the model": {"model": "served\ud800"},
    "a number as model": {"model": 7},
    "a list as fingerprint": {"system_fingerprint": [1]},
    "usage of text": {"usage": {"prompt_tokens": "x", "completion_tokens": "x"}},
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_detail_costs_no_label_and_its_body_is_in_the_journal(
    annotate, server, Answer, completion, odd, tmp_path, labelkit
):
    answering(server, Answer, completion, **ODD[odd])
    called = annotate("--limit", 12)
    assert called.code == 0, called.err
    assert "Traceback" not in called.err
    judgements, _, _ = read_labels(tmp_path / "labels")
    assert {row.grade for row in judgements} == {2}
    if odd != "a surrogate in the model":
        assert all(ODD[odd].items() <= json.loads(raw).items() for raw in raw_in(tmp_path / "labels"))
    assert len(raw_in(tmp_path / "labels")) == len(server.ledger)
    assert labelkit("verify", tmp_path / "labels").code == 0
    assert json.loads(annotate("--limit", 12).out)["asked"] == 0


def raw_in(folder):
    """The bodies in a journal, read without the journal's own code."""
    with sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True) as db:
        replies = [json.loads(reply) for (reply,) in db.execute("SELECT reply FROM replies ORDER BY row")]
    return [reply["raw"] for reply in replies if "raw" in reply]


def test_a_body_of_a_shape_that_only_a_later_release_reads_is_read_again_and_not_bought_again(
    annotate, server, Answer, completion, tmp_path, monkeypatch
):
    whole = completion("2")
    server.script = lambda body: Answer(whole | {"choices": {"0": whole["choices"][0]}})
    outcome = json.loads(annotate("--limit", 12).out)
    assert outcome["failures"] == {"no answer": 12}
    sent = len(server.ledger)
    assert json.loads(annotate("--limit", 12).out)["asked"] == 0, "it is paid"
    from labelkit.engines import completions

    earlier = completions.first_choice

    def later(completion):
        choices = completion.get("choices")
        return earlier(completion | {"choices": list(choices.values()) if isinstance(choices, dict) else choices})

    monkeypatch.setattr(completions, "first_choice", later)
    assert annotate("--reparse").code == 0
    judgements, _, _ = read_labels(tmp_path / "labels")
    assert {row.grade for row in judgements} == {2}
    assert json.loads(annotate("--limit", 12).out)["failures"] == {}
    assert len(server.ledger) == sent


@pytest.mark.parametrize("encoding", ["br", "zstd"])
def test_a_body_in_an_unknown_compression_is_in_the_journal_byte_for_byte(
    annotate, server, Answer, completion, tmp_path, encoding
):
    packed = b"\x1b\xff\x00" + json.dumps(completion("2")).encode()
    odd = Answer(packed, 200, {"Content-Encoding": encoding})
    server.script = lambda body: odd if body == server.ledger[0] else Answer(completion("2"))
    called = annotate("--limit", 5)
    assert json.loads(called.out)["failures"] == {"no answer": 1}
    assert f"compressed as '{encoding}'" in called.err
    raw = raw_in(tmp_path / "labels")[-1]
    head, coded = raw.split(",")
    assert head == f"data:application/octet-stream;encoding={encoding};base64"
    assert base64.b64decode(coded) == packed


def test_a_body_that_is_not_utf_8_is_in_the_journal_byte_for_byte(annotate, server, Answer, completion, tmp_path):
    odd = json.dumps(completion("2")).encode("utf-16")[:-1]
    server.script = lambda body: Answer(odd) if body == server.ledger[0] else Answer(completion("2"))
    called = annotate("--limit", 5)
    assert json.loads(called.out)["failures"] == {"no answer": 1}
    assert "the body is not UTF-8 (encoding utf-16)" in called.err
    assert base64.b64decode(raw_in(tmp_path / "labels")[-1].split(",")[1]) == odd


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-32", "iso-8859-1"])
def test_an_answer_in_another_encoding_is_read(annotate, server, Answer, completion, tmp_path, monkeypatch, charset):
    """A secret that the server repeats in UTF-16 stays out of the journal, too."""
    monkeypatch.setenv("LABELKIT_API_KEY", "sk-canary-0123456789")
    whole = completion("2", model="modèle", note="sk-canary-0123456789")
    body = json.dumps(whole, ensure_ascii=False).encode(charset)
    server.script = lambda sent: Answer(body, 200, {"Content-Type": f"application/json; charset={charset}"})
    called = annotate("--limit", 5)
    assert (called.code, json.loads(called.out)["failures"]) == (0, {})
    judgements, judges, _ = read_labels(tmp_path / "labels")
    assert {row.grade for row in judgements} == {2}
    assert [judge.model_answered for judge in judges] == ["modèle"]
    assert b"sk-canary" not in (tmp_path / "labels" / "journal.sqlite").read_bytes()


def test_a_refusal_in_an_unknown_compression_keeps_the_meaning_of_its_status(
    annotate, server, Answer, completion, tmp_path
):
    busy = Answer(b"\x1b\xff", 429, {"Content-Encoding": "br"})
    server.script = lambda body: Answer(completion("2")) if len(server.ledger) > 1 else busy
    outcome = json.loads(annotate("--limit", 5).out)
    assert (outcome["failures"], len(server.ledger)) == ({}, 6)
    with Journal(tmp_path / "labels") as journal:
        assert journal.spent().replies == 5, "a refused try is no answer"


def test_an_error_with_status_200_is_an_error_by_its_own_code(annotate, server, Answer, completion, tmp_path):
    errors = iter([{"code": 429, "message": "slow"}, {"code": "503", "message": "loading"}, {"code": 502}])
    server.script = lambda body: Answer({"error": error} if (error := next(errors, None)) else completion("2"))
    outcome = json.loads(annotate("--limit", 5, "--cache", tmp_path / "cache").out)
    assert outcome["failures"] == {}
    assert len(server.ledger) == 5 + 3
    with Journal(tmp_path / "labels") as journal:
        tries = [json.loads(reply).get("tries", 1) for _, _, reply, *_ in journal.records()]
    assert sorted(tries) == [1, 1, 1, 1, 2], "neither a 429 nor a 503 is billed"
    server.script = lambda body: Answer({"error": "no such thing", "choices": None})
    called = annotate("--limit", 6, "--cache", tmp_path / "cache")
    assert json.loads(called.out)["failures"] == {"no answer": 1}
    answering(server, Answer, completion)
    assert json.loads(annotate("--limit", 6, "--cache", tmp_path / "cache", output="other").out)["cached"] == 5
    server.script = lambda body: Answer({"error": {"code": 401, "message": "key expired"}})
    stopped = annotate("--limit", 8)
    assert (stopped.code, stopped.err.count("\n")) == (1, 1)
    assert "asks for a key and none was sent: status 401: key expired" in stopped.err


def test_pairs_without_a_score_are_counted_on_the_screen_and_in_the_manifest(
    annotate, server, Answer, completion, tmp_path
):
    tops = [{"2": -0.001}, {"2": -1.0}, None]
    server.script = lambda body: Answer(completion("2", tops[len(server.ledger) % 3]))
    called = annotate("--limit", 12)
    outcome = json.loads(called.out)
    assert 0 < outcome["unscored"] < 12
    assert f"{outcome['unscored']} x grade without a score" in called.err
    judgements, _, manifest = read_labels(tmp_path / "labels")
    assert manifest.facts.without_score == outcome["unscored"] == sum(row.score is None for row in judgements)


def test_answers_longer_than_their_limit_are_charged_and_the_cap_holds(annotate, server, Answer, completion):
    """A server that does not limit the reasoning. Before: each answer was charged 2 tokens, the cap passed unseen."""
    cap, used = 60_000, 2000
    usage = {"prompt_tokens": 400, "completion_tokens": used, "total_tokens": 400 + used}
    answering(server, Answer, completion, usage=usage)
    called = annotate("--max-tokens", cap)
    assert called.code == 1
    assert f"the server counts {used} tokens for an answer that was limited to 8" in called.err
    outcome = json.loads(called.out)
    assert outcome["pending"] > 0
    assert outcome["tokens"] == (400 + used) * len(server.ledger) <= cap
