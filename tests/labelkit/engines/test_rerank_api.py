"""A tiny random cross-encoder behind loopback servers that speak the dialects of the rerank API, strictly."""

import json
import math

import pytest
from pydantic import JsonValue

from labelkit.engines import Message, Request, Settings, open_engine
from labelkit.engines.rerank_answers import read_scores
from labelkit.engines.rerank_api import DIALECTS, DOCUMENTS
from labelkit.judging.journal import Journal
from labelkit.storage.labels import read_labels


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


class Served:
    """A server of one dialect: known fields only, results from best to worst, as the vendors document them."""

    def __init__(self, dialect, peer_scores, answer):
        self.dialect, self.scores, self.answer = dialect, peer_scores, answer
        self.calls = []
        """Number of passages of each accepted request."""

    def __call__(self, path, body):
        return getattr(self, self.dialect)(path, body)

    def ranked(self, query, texts, name, *, raw=True):
        self.calls.append(len(texts))
        scores = self.scores(query, texts)
        rows = [{"index": n, name: score if raw else sigmoid(score)} for n, score in enumerate(scores)]
        return sorted(rows, key=lambda row: -row[name])

    def refused(self, path, body, right, *, status, fields):
        if path != right:
            return self.answer({"detail": "Not Found"}, 404)
        if unknown := set(body) - fields:
            return self.answer({"message": f"unknown fields {sorted(unknown)}"}, status)
        return None if fields - {"top_n"} <= set(body) | {"return_documents"} else self.answer({"message": "?"}, status)

    def vllm(self, path, body):
        fields = {"model", "query", "documents", "top_n", "use_activation"}
        if said := self.refused(path, body, "/v1/rerank", status=400, fields=fields):
            return said
        rows = self.ranked(body["query"], body["documents"], "relevance_score", raw=body["use_activation"] is False)
        results = [row | {"document": {"text": body["documents"][row["index"]], "multi_modal": None}} for row in rows]
        usage = {"prompt_tokens": 9 * len(rows), "total_tokens": 9 * len(rows)}
        return self.answer({"id": "rerank-1", "model": body["model"], "usage": usage, "results": results})

    def tei(self, path, body):
        if path != "/v1/rerank" or "texts" not in body:
            return self.answer(b"Failed to deserialize the JSON body: missing field `texts`", 422)
        if len(body["texts"]) > 32:
            return self.answer({"error": "batch size > maximum allowed batch size 32", "error_type": "Validation"}, 413)
        return self.answer(self.ranked(body["query"], body["texts"], "score", raw=body["raw_scores"]))

    def jina(self, path, body):
        fields = {"model", "query", "documents", "top_n", "return_documents"}
        if said := self.refused(path, body, "/v1/rerank", status=422, fields=fields):
            return said
        rows = self.ranked(body["query"], body["documents"], "relevance_score", raw=False)
        return self.answer({"model": body["model"], "usage": {"total_tokens": 8 * len(rows)}, "results": rows})

    def cohere(self, path, body):
        fields = {"model", "query", "documents", "top_n"}
        if said := self.refused(path, body, "/v1/rerank", status=400, fields=fields):
            return said
        rows = self.ranked(body["query"], body["documents"], "relevance_score", raw=False)
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
        return self.answer({"id": "x", "results": rows, "meta": meta})

    def score(self, path, body):
        fields = {"model", "text_1", "text_2", "use_activation"}
        if said := self.refused(path, body, "/v1/score", status=400, fields=fields):
            return said
        rows = self.ranked(body["text_1"], body["text_2"], "score", raw=body["use_activation"] is False)
        data = [row | {"object": "score"} for row in rows]
        usage = {"prompt_tokens": 9 * len(rows), "total_tokens": 9 * len(rows), "completion_tokens": 0}
        return self.answer({"id": "s", "object": "list", "created": 0, "model": "served", "data": data, "usage": usage})


@pytest.fixture
def annotate(labelkit, pool, server, tmp_path):
    def run(*options, to="labels"):
        base = ("annotate", pool, "-o", tmp_path / to, "--engine", "openai", "--model", "m", "--method", "rerank")
        return labelkit(*base, "--base-url", server.url, *options)

    return run


def scores_in(folder):
    return {(row.query_id, row.passage_id): row for row in read_labels(folder)[0]}


@pytest.mark.parametrize("dialect", ["vllm", "tei", "jina", "cohere", "score"])
def test_every_dialect(annotate, server, peer_scores, Answer, tmp_path, candidates, dialect):
    server.route = served = Served(dialect, peer_scores, Answer)
    called = annotate("--concurrency", 1)
    assert called.code == 0, called.err
    found = scores_in(tmp_path / "labels")
    for (query_id, passage_id), row in found.items():
        text = candidates.passages[passage_id].full_text
        (logit,) = peer_scores(candidates.queries[query_id].text, [text])
        expected = sigmoid(logit) if dialect in ("jina", "cohere") else logit
        assert row.score == pytest.approx(expected, abs=1e-4)
        assert (row.grade, row.failure) == (None, None)
    by_query = [sum(query_id == asked for query_id, _ in found) for asked in sorted({one for one, _ in found})]
    # The first pair is sent alone, and the rest of its query together.
    assert served.calls == [1, by_query[0] - 1, *by_query[1:]]
    probing = list(DIALECTS).index(dialect)
    assert len(server.ledger) == len(served.calls) + probing
    with Journal(tmp_path / "labels") as journal:
        replies = [json.loads(reply) for _, _, reply, *_ in journal.records()]
        assert journal.spent().replies == len(found)
    assert {reply["fingerprint"] for reply in replies} == {dialect}
    if dialect in ("vllm", "score"):
        assert sum(reply["prompt_tokens"] for reply in replies) == 9 * len(found)
    assert ("instead of raw logits" in called.err) == (dialect in ("jina", "cohere") and len(found) >= 10)
    again = annotate("--concurrency", 1)
    assert (again.code, len(server.ledger)) == (0, len(served.calls) + probing)


def test_a_long_pool_is_sent_in_parts(server, Answer, peer_scores):
    server.route = served = Served("tei", peer_scores, Answer)
    engine = open_engine("openai", Settings("m", base_urls=(server.url,), concurrency=1))
    replies = list(engine.run(batch(70)))
    assert {reply.key for reply in replies if reply.score is not None} == {request.key for request in batch(70)}
    assert served.calls == [1, DOCUMENTS, DOCUMENTS, 5]


def test_a_bad_passage_fails_alone(annotate, server, Answer, peer_scores, tmp_path):
    good = Served("tei", peer_scores, Answer)

    def route(path, body):
        if any("mail" in text for text in body.get("texts", ())):
            return Answer({"error": "`inputs` must have less than 8 tokens", "error_type": "Validation"}, 413)
        return good(path, body)

    server.route = route
    called = annotate()
    assert called.code == 0, called.err
    found = scores_in(tmp_path / "labels")
    failed = {passage_id for (_, passage_id), row in found.items() if row.failure}
    assert failed == {"p2", "p6"}
    assert all("must have less than 8 tokens" in row.failure for row in found.values() if row.failure)
    assert sum(row.score is not None for row in found.values()) == len(found) - sum(
        passage_id in failed for _, passage_id in found
    )


def test_a_server_without_a_rerank_api_is_named_with_its_words(annotate, server, Answer):
    server.route = lambda path, body: Answer({"detail": "Not Found"}, 404)
    called = annotate()
    assert called.code == 1
    assert "no known rerank API (paths /rerank and /score after the address)" in called.err
    assert "Not Found" in called.err


def test_a_refused_key_and_a_missing_address_are_one_line(
    annotate, labelkit, pool, server, Answer, tmp_path, monkeypatch
):
    monkeypatch.setenv("LABELKIT_API_KEY", "sk-none")
    server.route = lambda path, body: Answer({"message": "invalid api token"}, 401)
    called = annotate()
    assert called.code == 1
    assert "refuses the key in LABELKIT_API_KEY" in called.err
    base = ("annotate", pool, "-o", tmp_path / "none", "--engine", "openai", "--model", "m", "--method", "rerank")
    called = labelkit(*base)
    assert (called.code, "give the address of a server with --base-url" in called.err) == (2, True)


def test_a_fault_is_retried_and_a_cap_holds(annotate, server, Answer, peer_scores, tmp_path):
    good, faults = Served("vllm", peer_scores, Answer), iter([Answer({}, 503), Answer({}, 503)])
    server.route = lambda path, body: next(faults, None) or good(path, body)
    called = annotate("--max-tokens", 1000)
    assert called.code == 1, called.err
    assert "the caps allow no more requests" in called.err
    assert sum(good.calls) > 0
    assert annotate().code == 0
    assert sum(good.calls) == len(scores_in(tmp_path / "labels")), "no pair was bought twice"


def batch(size):
    return [
        Request(f"k{n}", "q", (Message("query", "why"), Message("document", "word " * (n + 1)))) for n in range(size)
    ]


ODD: dict[str, tuple[JsonValue, list[float | None]]] = {
    "in any order": ([{"index": 1, "score": -5.31}, {"index": 0, "score": 2}], [2.0, -5.31]),
    "index as a float": ({"results": [{"index": 0.0, "relevance_score": 1e-9}]}, [1e-9, None]),
    "one is missing": ({"results": [{"index": 1, "relevance_score": 0.5}]}, [None, 0.5]),
    "an index twice": ([{"index": 0, "score": 1}, {"index": 0, "score": 2}, {"index": 1, "score": 3}], [None, 3.0]),
    "an index too high": ([{"index": 2, "score": 1}, {"index": -1, "score": 1}], [None, None]),
    "counted from 1": ([{"index": 1, "score": 1}, {"index": 2, "score": 2}], [None, None]),
    "no index": ([{"score": 1}, {"score": 2}], [None, None]),
    "a score of null": ([{"index": 0, "score": None}], [None, None]),
    "a text for a score": ([{"index": 0, "score": "0.9"}, {"index": 1, "score": 0.1}], [None, 0.1]),
    "no list": ({"results": None}, [None, None]),
    "another document": ({"choices": []}, [None, None]),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_answers_cost_only_what_they_lack(case):
    answer, expected = ODD[case]
    replies = read_scores(json.dumps(answer).encode(), batch(2), "jina")
    assert [reply.score for reply in replies] == expected
    assert all((reply.error is None) == (reply.score is not None) for reply in replies)


def test_scores_that_json_does_not_have_are_none():
    replies = read_scores(b'[{"index": 0, "score": NaN}, {"index": 1, "score": -Infinity}]', batch(2), "tei")
    assert [reply.score for reply in replies] == [None, None]
    assert "not a list of scores" in str(read_scores(b"<html>", batch(1), "tei")[0].error)


@pytest.mark.parametrize(
    ("usage", "total"),
    [
        ({"usage": {"prompt_tokens": 0, "total_tokens": 815}}, 815),
        ({"usage": {"prompt_tokens": 41, "total_tokens": 41}}, 41),
        ({"meta": {"tokens": {"input_tokens": 77}}}, 77),
        ({"meta": {"billed_units": {"search_units": 1}}}, None),
        ({"usage": {"total_tokens": 10**8}}, None),
        ({"usage": None}, None),
        ({}, None),
    ],
)
def test_stated_tokens_are_divided_by_length(usage, total):
    results = [{"index": n, "relevance_score": n} for n in range(20)]
    replies = read_scores(json.dumps({"results": results, **usage}).encode(), batch(20), "jina")
    counts = [reply.prompt_tokens for reply in replies]
    assert counts == [None] * 20 if total is None else sum(map(int, filter(None, counts))) == total
    assert counts[0] is None or counts[0] <= int(counts[-1] or 0)


def replies_in(folder):
    with Journal(folder) as journal:
        return [json.loads(reply) for _, _, reply, *_ in journal.records()]


def test_an_unknown_form_of_answer_ends_the_run_and_is_in_the_journal(annotate, server, Answer, tmp_path):
    server.route = lambda path, body: Answer({"scores": [0.5], "detail": "model v9", "path": path})
    called = annotate()
    assert (called.code, len(server.ledger)) == (1, len(DIALECTS)), "one pair is asked, once in each dialect"
    assert f"{server.url} speaks no known rerank API" in called.err
    assert "model v9" in called.err.splitlines()[-1]
    (reply,) = replies_in(tmp_path / "labels")
    assert [json.loads(line)["path"] for line in reply["raw"].splitlines()] == ["/v1/rerank", "/v1/score"]
    assert reply["tries"] == len(DIALECTS)


def test_refusals_in_every_dialect_end_the_run_at_the_second_pair(annotate, server, Answer):
    server.route = lambda path, body: Answer({"message": "no such field"}, 400)
    called = annotate()
    assert (called.code, len(server.ledger)) == (1, 2 * len(DIALECTS))
    assert "no such field" in called.err.splitlines()[-1]


@pytest.mark.parametrize("most", [1, 3])
def test_a_server_that_returns_the_best_few_is_asked_for_the_others_in_the_same_run(
    annotate, server, Answer, peer_scores, tmp_path, most
):
    good = Served("cohere", peer_scores, Answer)

    def route(path, body):
        answer = good(path, {**body, "documents": body.get("documents", [])})
        return answer if answer.status != 200 else Answer(answer.body | {"results": answer.body["results"][:most]})

    server.route = route
    called = annotate("--concurrency", 1)
    assert called.code == 0, called.err
    found = scores_in(tmp_path / "labels")
    assert [row.failure for row in found.values()] == [None] * len(found)
    assert all("tries" in reply or reply["score"] for reply in replies_in(tmp_path / "labels"))
    assert max(good.calls[2:]) > 1
    assert sum(good.calls) < 2 * len(found)


def test_a_passage_that_never_gets_a_score_is_asked_a_bounded_number_of_times(
    annotate, server, Answer, peer_scores, tmp_path
):
    good = Served("jina", peer_scores, Answer)
    asked: list[str] = []

    def route(path, body):
        answer = good(path, body)
        if answer.status != 200:
            return answer
        bad = {number for number, text in enumerate(body["documents"]) if "mail" in text}
        asked.extend(body["documents"][number] for number in bad)
        return Answer({"results": [row for row in answer.body["results"] if row["index"] not in bad]})

    server.route = route
    called = annotate("--concurrency", 1)
    assert called.code == 0, called.err
    failed = [row for row in scores_in(tmp_path / "labels").values() if row.failure]
    assert len(failed) > 0
    assert any('"results": []' in reply.get("raw", "") for reply in replies_in(tmp_path / "labels"))
    assert all("the server gives no score for this passage" in row.failure for row in failed)
    assert max(map(asked.count, asked)) <= 3


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [("vllm", "score", "refuses it: status 404"), ("vllm", "tei", "refuses it: status 422"), ("jina", "vllm", "gives")],
)
def test_two_servers_that_score_differently_end_the_run_at_once_and_are_named(
    labelkit, pool, server, Answer, peer_scores, tmp_path, first, second, says
):
    """The vLLM server of the last case gives raw logits where Jina gives probabilities of the same model."""
    other = type(server)()
    try:
        server.route, other.route = Served(first, peer_scores, Answer), Served(second, peer_scores, Answer)
        if first == "jina":
            lenient = Served("vllm", peer_scores, Answer)
            other.route = lambda path, body: lenient(
                path,
                {name: value for name, value in body.items() if name != "return_documents"} | {"use_activation": False},
            )
        base = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m", "--method", "rerank")
        called = labelkit(*base, "--base-url", server.url, "--base-url", other.url, "--concurrency", 4)
        sent = len(server.ledger) + len(other.ledger)
    finally:
        other.close()
    assert called.code == 1
    words = called.err.splitlines()[-1]
    assert server.url in words
    assert f"{other.url} {says}" in words
    assert "leave one out, or judge with each of them in a folder of its own" in words
    assert sent <= 3 + list(DIALECTS).index(first)
    assert [reply.get("error") for reply in replies_in(tmp_path / "labels")] == [None, None], "what was paid is kept"


def test_two_servers_that_score_alike_share_the_run(labelkit, pool, server, Answer, peer_scores, tmp_path):
    other = type(server)()
    try:
        for one in (server, other):
            one.route = Served("vllm", peer_scores, Answer)
        base = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m", "--method", "rerank")
        called = labelkit(*base, "--base-url", server.url, "--base-url", other.url, "--concurrency", 2)
        shares = len(server.ledger), len(other.ledger)
    finally:
        other.close()
    assert called.code == 0, called.err
    assert all(row.score is not None for row in scores_in(tmp_path / "labels").values())
    assert min(shares) >= 1


def test_a_server_that_is_down_is_left_out_with_a_word(labelkit, pool, server, Answer, peer_scores, tmp_path):
    server.route = Served("vllm", peer_scores, Answer)
    other = type(server)()
    other.route = lambda path, body: Answer({"message": "loading"}, 503)
    base = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", "m", "--method", "rerank")
    called = labelkit(*base, "--base-url", other.url, "--base-url", server.url)
    other.close()
    assert called.code == 0, called.err
    assert f"{other.url} does not answer" in called.err
    assert all(row.score is not None for row in scores_in(tmp_path / "labels").values())
