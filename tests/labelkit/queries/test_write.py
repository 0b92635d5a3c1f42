"""Queries that a model writes: counted, checked, marked as a model's, and never paid for twice."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from labelkit.corpora.beir import read_data
from labelkit.errors import BudgetError, DataError, NotYetError, UsageError
from labelkit.judging.writing import spent_in
from labelkit.queries.planning import plan_queries
from labelkit.queries.write import write_queries
from labelkit.storage import folders
from labelkit.storage.labels import read_labels
from labelkit.storage.manifest import QUERIES

SEVERAL = "question=0.5,multi-passage=0.5"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def replies(folder: Path) -> int:
    with sqlite3.connect(folder / "journal.sqlite") as db:
        return int(db.execute("SELECT count(*) FROM replies").fetchone()[0])


def test_kept_and_dropped_queries_are_counted_by_register_and_reason(corpus, options, tmp_path):
    output = tmp_path / "made"
    made = write_queries(corpus, output, options(passages=6, registers=SEVERAL))
    assert made.written == {"question": 3, "multi-passage": 3}
    kept, dropped = rows(output / "queries.jsonl"), rows(output / "dropped.jsonl")
    assert len(kept) == sum(made.kept.values()) > 0
    assert len(kept) + len(dropped) == 6
    for name, reasons in made.dropped.items():
        assert sum(reasons.values()) == made.written[name] - made.kept[name]
        assert sorted(reasons) == sorted({row["reason"] for row in dropped if row["register"] == name})
    manifest = folders.read_manifest(output, QUERIES)
    assert dict(manifest.facts.kept) == made.kept
    assert manifest.facts.as_json()["dropped"] == made.dropped
    assert manifest.rows["queries.jsonl"] == len(kept)
    assert (output / "corpus.jsonl").read_bytes() == (corpus / "corpus.jsonl").read_bytes()
    assert f"{len(kept)} of 6 queries kept" in made.lines(output)[0]


def test_every_query_says_where_it_is_from(corpus, options, tmp_path):
    output = tmp_path / "made"
    write_queries(corpus, output, options())
    labels, judges, _ = read_labels(tmp_path / "made.labels")
    grades = {(row.query_id, row.passage_id): row.grade for row in labels}
    data = read_data(output, "train")
    for row in rows(output / "queries.jsonl"):
        about = row["metadata"]
        (passage,) = about["passages"]
        assert about["written_by"] == "llm"
        assert about["writer"].startswith("write-overlap-")
        assert (about["register"], about["prompt"], len(about["prompt_sha256"])) == ("question", "write-question", 64)
        assert 0 < about["overlap"] <= 0.8
        assert about["ranks"]["bm25"] == 1
        assert data.qrels[row["_id"]] == {passage: about["grades"][0]}
        assert about["grades"] == [grades[row["_id"], passage]]
        assert about["grades"][0] >= 2
    facts = folders.read_manifest(output, QUERIES).facts
    assert (facts.queries_by, facts.grades_by, facts.same_model) == ("llm", "llm", True)
    assert [judge.kind for judge in judges] == ["llm"]


def test_the_same_call_again_sends_nothing_and_gives_the_same_files(corpus, options, tmp_path):
    output = tmp_path / "made"
    first = write_queries(corpus, output, options())
    before = {path.name: path.read_bytes() for path in output.glob("*.jsonl")}
    again = write_queries(corpus, output, options())
    assert (first.asked, again.asked) == (4, 0)
    assert replies(tmp_path / "made.drafts") == 4
    assert {path.name: path.read_bytes() for path in output.glob("*.jsonl")} == before


def test_more_passages_keep_what_was_paid_for(corpus, options, tmp_path):
    output = tmp_path / "made"
    write_queries(corpus, output, options(registers=SEVERAL))
    assert write_queries(corpus, output, options(registers=SEVERAL, passages=8)).asked == 4
    assert write_queries(corpus, output, options(registers=SEVERAL, passages=8, per_passage=2)).asked == 8


def test_the_judge_can_only_be_switched_off_and_the_manifest_says_so(corpus, options, tmp_path):
    output = tmp_path / "made"
    made = write_queries(corpus, output, options(judge=False))
    facts = folders.read_manifest(output, QUERIES).facts
    assert facts.grades_by is None
    assert facts.settings["judge"] is False
    assert made.kept["question"] == 4
    assert not (output / "qrels").exists()
    assert not (tmp_path / "made.labels").exists()
    assert all(row["metadata"]["grades"] == [] for row in rows(output / "queries.jsonl"))


def test_a_failed_reply_is_kept_apart_with_its_reason(corpus, options, server_of_texts, tmp_path):
    url, ledger = server_of_texts(lambda number: {"finish_reason": "length"} if number == 0 else {})
    given = options(model="m", engine="openai", base_url=(url,), judge=False)
    made = write_queries(corpus, tmp_path / "made", given)
    assert made.dropped["question"]["not written: cut off"] == 1
    (row,) = [row for row in rows(tmp_path / "made" / "dropped.jsonl") if "cut off" in row["reason"]]
    assert "finish_reason length" in row["detail"]
    assert len(ledger) == 4
    assert write_queries(corpus, tmp_path / "made", given).asked == 0
    assert write_queries(corpus, tmp_path / "made", given.but(retry_failed=True)).asked == 1


def test_options_that_a_server_refuses_are_found_with_the_first_text(corpus, options, server_of_texts, tmp_path):
    def of(number):
        refused = [name for name in ("max_tokens", "temperature", "seed") if name in ledger[number]]
        return {"refuse": f"Unsupported parameter: '{refused[0]}' is not supported with this model."} if refused else {}

    url, ledger = server_of_texts(of)
    given = options(model="m", engine="openai", base_url=(url,), registers="question,claim", judge=False)
    made = write_queries(corpus, tmp_path / "made", given)
    assert made.kept == {"question": 2, "claim": 2}
    assert len(ledger) == 4 + 3  # three refusals, and none again for the other register
    assert write_queries(corpus, tmp_path / "made", given.but(passages=6)).asked == 2
    assert len(ledger) == 4 + 3 + 2


def test_duplicates_and_copies_of_the_collections_queries_are_dropped(corpus, options, server_of_texts, tmp_path):
    texts = ["How hot does a kiln get?", "why is glacier ice bluish", "Why is glacier ice bluish?", "why do bees fan"]
    url, _ = server_of_texts(lambda number: {"text": texts[number]})
    given = options(model="m", engine="openai", base_url=(url,), judge=False, concurrency=1, within=12)
    made = write_queries(corpus, tmp_path / "made", given)
    assert made.dropped["question"]["duplicate of a query of the collection"] == 1
    assert made.dropped["question"]["duplicate of another written query"] == 1
    details = {row["reason"]: row["detail"] for row in rows(tmp_path / "made" / "dropped.jsonl")}
    assert details["duplicate of another written query"] == "why is glacier ice bluish"


def test_overlap_is_bounded_and_the_situation_more_strictly(corpus, options, server_of_texts, tmp_path):
    def of(number):
        return {"passage": lambda words: " ".join([*words[:3], "zebra", "quagga"])}

    url, _ = server_of_texts(of)
    given = options(model="m", engine="openai", base_url=(url,), judge=False, registers="question,situation")
    made = write_queries(corpus, tmp_path / "made", given)
    assert made.dropped == {"question": {}, "situation": {"word overlap above the limit": 2}}
    overlaps = {row["overlap"] for row in rows(tmp_path / "made" / "dropped.jsonl")}
    assert overlaps == {0.6}
    stricter = write_queries(corpus, tmp_path / "stricter", given.but(max_overlap=0.59))
    assert stricter.dropped["question"] == {"word overlap above the limit": 2}


def test_a_query_that_does_not_find_its_passage_is_dropped(corpus, options, server_of_texts, tmp_path):
    animals = ["zebra quagga", "okapi gnu", "yak vicuna", "tapir dugong"]
    url, _ = server_of_texts(lambda number: {"text": f"do {animals[number]} sleep"})
    made = write_queries(corpus, tmp_path / "made", options(model="m", engine="openai", base_url=(url,)))
    assert made.kept == {"question": 0}
    assert made.dropped["question"] == {"no retriever finds its passage": 4}


def test_one_cap_holds_for_writing_and_judging_together(corpus, options, tmp_path):
    output, whole = tmp_path / "made", write_queries(corpus, tmp_path / "whole", options())
    with pytest.raises(BudgetError, match="texts are not written: the caps allow no more requests"):
        write_queries(corpus, output, options(max_tokens=whole.tokens // 8))
    for tokens in [whole.tokens // 8 * 2**step for step in range(1, 12)]:
        try:
            made = write_queries(corpus, output, options(max_tokens=tokens))
        except BudgetError:
            assert tokens_spent(tmp_path) <= tokens
        else:
            break
    assert (made.kept, made.tokens) == (whole.kept, whole.tokens)
    assert replies(tmp_path / "made.drafts") == 4


def tokens_spent(folder: Path) -> int:
    return sum(spent_in(folder / name).tokens for name in ("made.drafts", "made.labels"))


def test_the_plan_counts_what_is_sent_and_sends_nothing(corpus, options, tmp_path):
    given = options(registers=SEVERAL, per_passage=2)
    planned = plan_queries(corpus, given)
    assert not list(tmp_path.glob("made*"))
    assert {name: plan.calls for name, plan in planned.writing.items()} == {"question": 4, "multi-passage": 4}
    assert planned.judging is not None
    assert planned.judging.pairs == 12
    made = write_queries(corpus, tmp_path / "made", given)
    assert made.asked == sum(plan.calls for plan in planned.writing.values())
    most = [*planned.writing.values(), planned.judging]
    assert made.tokens <= sum(plan.most_prompt_tokens + plan.most_completion_tokens for plan in most)


def test_a_dense_model_may_find_what_bm25_does_not(corpus, options, server_of_texts, tmp_path):
    from tiny_encoder import write_encoder

    encoder = write_encoder(tmp_path / "encoder", ["zebra", "quagga", "okapi", "gnu", "yak", "tapir"])
    animals = ["zebra quagga", "okapi gnu", "yak tapir", "quagga yak"]
    url, _ = server_of_texts(lambda number: {"text": f"do {animals[number]} sleep"})
    given = options(model="m", engine="openai", base_url=(url,), judge=False, dense=(str(encoder),), within=12)
    made = write_queries(corpus, tmp_path / "made", given)
    assert made.kept == {"question": 4}
    for row in rows(tmp_path / "made" / "queries.jsonl"):
        assert row["metadata"]["ranks"]["bm25"] is None
        assert 1 <= row["metadata"]["ranks"][f"dense:{encoder.name}"] <= 12


def test_batches_of_all_registers_are_submitted_together_and_collected_later(corpus, options, tmp_path):
    batches, output = tmp_path / "batches", tmp_path / "made"
    given = options(model="m", engine="openai-batch", batch_dir=batches, registers="question,claim", judge=False)
    with pytest.raises(NotYetError, match=r"(?s)run-batch.*run-batch"):
        write_queries(corpus, output, given)
    assert not output.exists()
    for requests in batches.glob("*.requests.jsonl"):
        replies_of(requests)
    made = write_queries(corpus, output, given)
    assert made.written == {"question": 2, "claim": 2}
    assert sum(made.kept.values()) == 4


def replies_of(requests: Path) -> None:
    """Write what `vllm run-batch` writes: a text of each request's own words."""
    lines = []
    for request in rows(requests):
        words = request["body"]["messages"][-1]["content"].removeprefix("Passage: ").split()
        message = {"role": "assistant", "content": f"why {' '.join(words[:4])} matter"}
        body: dict[str, Any] = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        body["usage"] = {"prompt_tokens": 9, "completion_tokens": 6}
        lines.append(json.dumps({"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}}))
    replies = requests.with_name(requests.name.replace(".requests.", ".replies."))
    replies.write_text("".join(f"{line}\n" for line in lines))


def test_reading_a_models_grades_as_the_truth_warns(corpus, options, monkeypatch, tmp_path):
    write_queries(corpus, tmp_path / "made", options())
    said: list[str] = []
    monkeypatch.setattr("labelkit.corpora.beir.log.warning", said.append)
    read_data(tmp_path / "made", "train")
    assert ["a language model gave these grades" in line for line in said] == [True]


def test_another_judge_may_grade(corpus, options, tmp_path):
    given = options(model="garbage", judge_model="overlap", judge_method="binary")
    write_queries(corpus, tmp_path / "made", given)
    facts = folders.read_manifest(tmp_path / "made", QUERIES).facts
    assert facts.models == {"writer": ("garbage",), "judge": ("overlap",)}
    assert facts.same_model is False


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"registers": "poem"}, "unknown register 'poem'; choose one of: claim, keywords, multi-passage, question"),
        ({"registers": "question=0"}, "a share must be above 0"),
        ({"registers": "question=many"}, "expected NAME=SHARE"),
        ({"registers": "question,question=0.5"}, "question is named twice"),
        ({"registers": " , "}, "names no register"),
        ({"judge_method": "relsel"}, "gives no grade to a single pair"),
    ],
)
def test_wrong_options_are_refused(options, given, part):
    with pytest.raises(UsageError, match=part):
        options(**given)


def test_a_corpus_without_usable_passages_is_refused(write_beir, options, tmp_path):
    data = write_beir(tmp_path / "short", {"a": ("", "too short"), "b": ("", "as well")}, {"q": "x"}, {})
    with pytest.raises(DataError, match="no passage is fit for a query: 2 x fewer than 12 different words"):
        write_queries(data, tmp_path / "made", options())
    assert not (tmp_path / "made").exists()
