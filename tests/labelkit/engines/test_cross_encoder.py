"""A tiny random cross-encoder through engine local: raw logits as sentence-transformers computes them."""

import pytest

from labelkit.engines import Message, Request, Settings, open_engine, traits_of
from labelkit.engines.chat_encoding import ChatEncoder
from labelkit.engines.local import load_tokenizer
from labelkit.errors import UsageError
from labelkit.judging.prompts import load_prompt
from labelkit.pooling.encoding import by_tokens
from labelkit.records import Judge
from labelkit.storage.labels import read_labels

QUERY = "why do cats sleep in the day?"
PASSAGES = ["cats sleep", "", "the mail carrier " * 20, "Zero TEA, ünïcode ☕ and {braces}", "dogs", "tea " * 60]


def pair(query: str, document: str, key: str = "") -> Request:
    return Request(key or document, query, (Message("query", query), Message("document", document)), max_tokens=0)


def scored(requests, model, **settings):
    engine = open_engine("local", Settings(str(model), **settings))
    replies = {reply.key: reply for reply in engine.run(requests)}
    engine.close()
    return replies


def test_every_score_is_the_logit_of_sentence_transformers(tiny_reranker, peer_scores):
    requests = [pair(query, passage, f"{query}|{passage}") for query in (QUERY, "tea") for passage in PASSAGES]
    found = scored(requests, tiny_reranker)
    for query in (QUERY, "tea"):
        scores = [found[f"{query}|{passage}"].score for passage in PASSAGES]
        assert scores == pytest.approx(peer_scores(query, PASSAGES), abs=1e-4)
        assert max(map(abs, scores)) > 1, "these are logits and no probabilities"
    assert found[f"tea|{PASSAGES[0]}"].prompt_tokens == 6
    assert {reply.completion_tokens for reply in found.values()} == {0}


def test_a_pair_over_the_limit_fails_alone(tiny_reranker, peer_scores):
    long = ["tea " * 200, "x" * 1_000_000]
    found = scored([pair(QUERY, text) for text in (*PASSAGES, *long)], tiny_reranker, concurrency=2)
    assert [found[text].score is None for text in (*PASSAGES, *long)] == [False] * 6 + [True] * 2
    assert all("over the limit of 128; cut passages with --passage-tokens" in str(found[one].error) for one in long)
    shorter = scored([pair(QUERY, text) for text in PASSAGES], tiny_reranker, max_model_len=32)
    assert [shorter[text].error is None for text in PASSAGES] == [True, True, False, False, True, False]


def test_a_run_of_annotate_with_a_cross_encoder(labelkit, pool, tiny_reranker, tmp_path, peer_scores, candidates):
    given = ("--model", tiny_reranker, "--method", "rerank", "--passage-tokens", 60)
    planned = labelkit("plan", pool, *given)
    assert planned.code == 0, planned.err
    called = labelkit("annotate", pool, "-o", tmp_path / "labels", *given)
    assert called.code == 0, called.err
    rows, (judge,), manifest = read_labels(tmp_path / "labels")
    for row in rows:
        text = candidates.passages[row.passage_id].full_text
        assert [row.score] == pytest.approx(peer_scores(candidates.queries[row.query_id].text, [text]), abs=1e-4)
    assert isinstance(judge, Judge)
    assert (judge.family, judge.engine, judge.dtype) == ("BERT", "local", "float32")
    assert manifest.facts.rerankers == {judge.judge_id: "BERT"}
    assert f"prompt tokens      {sum(row.tokens or 0 for row in rows)}" in planned.out


def test_a_reranker_answers_no_chat(labelkit, pool, tiny_reranker, tmp_path):
    for method in ("graded", "relsel"):
        called = labelkit("annotate", pool, "-o", tmp_path / method, "--model", tiny_reranker, "--method", method)
        assert called.code == 2, called.err
        assert "is a reranker, which gives scores only: use --method rerank" in called.err


def test_a_model_with_several_outputs_is_refused(tiny_reranker, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_reranker, num_labels=3, ignore_mismatched_sizes=True
    )
    model.save_pretrained(tmp_path / "three")
    load_tokenizer(Settings(str(tiny_reranker))).save_pretrained(tmp_path / "three")
    with pytest.raises(UsageError, match="has 3 outputs"):
        scored([pair(QUERY, "x")], tmp_path / "three")


def test_a_language_model_answers_yes_or_no_after_an_empty_reasoning(labelkit, pool, tiny_qwen, tmp_path):
    given = ("--model", tiny_qwen, "--method", "rerank", "--dtype", "float32", "--passage-tokens", 20)
    called = labelkit("annotate", pool, "-o", tmp_path / "labels", *given, "--max-model-len", 500)
    assert called.code == 0, called.err
    rows, (judge,), _ = read_labels(tmp_path / "labels")
    assert (judge.prompt_name, judge.family, judge.label_grades) == ("rerank-yes-no", "Qwen", None)
    assert len({row.score for row in rows}) > 1
    assert {(row.grade, row.failure) for row in rows} == {(None, None)}
    assert all(row.label_mass is not None and 0 < row.label_mass < 1 for row in rows)


def test_the_answer_begins_as_the_prompt_says(tiny_qwen):
    tokenizer = load_tokenizer(Settings(str(tiny_qwen)))
    messages = load_prompt("rerank-yes-no").render("judge", "tea", ["green tea"])
    text = tokenizer.decode(ChatEncoder(tokenizer).encode(messages))
    assert text.endswith(
        "\n<Query>: tea\n<Document>: green tea<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert traits_of("local").pairs(Settings(str(tiny_qwen))) is False


def test_batches_hold_a_number_of_tokens_and_of_rows():
    blocks = [["aaaa", "b", "cc"], ["ddd", "e"]]
    assert list(by_tokens(blocks, 4)) == [([0], ["aaaa"]), ([2, 1], ["cc", "b"]), ([3], ["ddd"]), ([4], ["e"])]
    assert list(by_tokens(blocks, 8, packed=True)) == [([0, 2, 1], ["aaaa", "cc", "b"]), ([3, 4], ["ddd", "e"])]
    assert [places for places, _ in by_tokens(blocks, 100, most=2)] == [[0, 2], [1, 3], [4]]
