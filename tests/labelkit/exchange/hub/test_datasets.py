"""Labelled data sets on the Hub are imported as they lie there: small replicas of real repositories.

A replica has the file names, configurations, columns and types of the repository that its docstring names. The texts
are ours.
"""

import gzip
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelkit.exchange.formats.collecting import name_of
from labelkit.storage.dataset import read_dataset
from labelkit.storage.labels import read_labels

Command = Callable[..., subprocess.CompletedProcess[str]]
QUERY, GOOD, BAD, WORSE = "how hot is tea", "tea is brewed hot", "cats sleep", "dogs bark"
STRINGS = pa.list_(pa.struct([("docid", pa.string()), ("text", pa.string()), ("title", pa.string())]))


def packed(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def parquet(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out)
    return out.getvalue()


def passage(docid: str, text: str, title: str | None = "-") -> dict[str, Any]:
    return {"docid": docid, "title": title, "text": text}


Replica = tuple[str, str, tuple[str, ...]]
"""Address, format, and more arguments of the import."""


def tevatron_msmarco(hub: Any) -> Replica:
    """Tevatron/msmarco-passage: gzipped JSONL per split, and a loading script, which is never run.

    https://huggingface.co/datasets/Tevatron/msmarco-passage/blob/main/msmarco-passage.py
    """
    row = {
        "query_id": "1185869", "query": QUERY, "positive_passages": [passage("0", GOOD)],
        "negative_passages": [passage("1", BAD), passage("2", WORSE)],
    }  # fmt: skip
    files = {
        "msmarco-passage.py": b"raise SystemExit('never run')\n",
        "train.jsonl.gz": packed([row]),
        "dev.jsonl.gz": packed([{**row, "query_id": "2", "negative_passages": []}]),
    }
    return hub.put("Tevatron/msmarco-passage", files), "tevatron-classic", ("--split", "train")


def tevatron_nq(hub: Any) -> Replica:
    """Tevatron/wikipedia-nq: nq-train, nq-dev and nq-test.jsonl.gz, with answers; the test split has no passages.

    https://huggingface.co/datasets/Tevatron/wikipedia-nq/tree/main
    """
    row = {
        "query_id": "0", "query": QUERY, "answers": ["hot"], "positive_passages": [passage("2354", GOOD, "Tea")],
        "negative_passages": [passage("9", BAD, "Cat"), passage("10", WORSE, "Dog")],
    }  # fmt: skip
    test = {**row, "positive_passages": [], "negative_passages": []}
    files = {f"nq-{split}.jsonl.gz": packed([row if split != "test" else test]) for split in ("train", "dev", "test")}
    return hub.put("Tevatron/wikipedia-nq", files), "tevatron-classic", ("--split", "train")


def rlhn(hub: Any) -> Replica:
    """rlhn/rlhn-680K: Parquet in data/, lists of structs, titles that are mostly empty, and the column subset.

    https://huggingface.co/datasets/rlhn/rlhn-680K/blob/main/README.md
    """
    schema = pa.schema(
        [("query_id", pa.string()), ("query", pa.string()), ("positive_passages", STRINGS),
         ("negative_passages", STRINGS), ("subset", pa.string())]
    )  # fmt: skip
    rows = [
        {
            "query_id": "a1", "query": QUERY, "positive_passages": [passage("x", GOOD, "")],
            "negative_passages": [passage("y", BAD, None), passage("z", WORSE, "")], "subset": "nq",
        }
    ]  # fmt: skip
    files = {f"data/train-0000{n}-of-00002.parquet": parquet(part, schema) for n, part in enumerate((rows, []))}
    return hub.put("rlhn/rlhn-680K", files), "tevatron-classic", ()


def st_triplets(hub: Any) -> Replica:
    """sentence-transformers/msmarco-bm25: a folder per configuration, of which the address names one.

    https://huggingface.co/datasets/sentence-transformers/msmarco-bm25/blob/main/README.md
    """
    rows = [{"query": QUERY, "positive": GOOD, "negative": text} for text in (BAD, WORSE)]
    files = {
        "triplet/train-00000-of-00001.parquet": parquet(rows),
        "triplet-ids/train-00000-of-00001.parquet": parquet([{"query": 1, "positive": 2, "negative": 3}]),
    }
    return f"{hub.put('sentence-transformers/msmarco-bm25', files)}/triplet", "st-triplet", ()


def st_tuples(hub: Any) -> Replica:
    """sentence-transformers/msmarco-bm25, configuration triplet-50, in which the negatives stand before the query.

    https://huggingface.co/datasets/sentence-transformers/msmarco-bm25/blob/main/README.md
    """
    row = {"negative_1": BAD, "negative_2": WORSE, "query": QUERY, "positive": GOOD}
    address = hub.put("sentence-transformers/tuples", {"triplet-50/train-00000-of-00018.parquet": parquet([row])})
    return f"{address}/triplet-50", "st-ntuple", ()


@pytest.mark.parametrize("replica", [tevatron_msmarco, tevatron_nq, rlhn, st_triplets, st_tuples])
def test_a_data_set_is_imported_as_it_lies_there(
    hub: Any, labelkit: Command, tmp_path: Path, replica: Callable[[Any], Replica]
) -> None:
    address, form, more = replica(hub)
    called = labelkit("import", address, "--from", form, "--judge", "theirs", "-o", tmp_path / "dataset", *more)
    assert called.returncode == 0, called.stderr
    assert "queries 1, positives 1, negatives 2, on both sides 0" in called.stderr
    dataset = read_dataset(tmp_path / "dataset")
    (one,) = dataset.examples
    assert one.query == QUERY
    texts = [[dataset.corpus[each.passage_id].text for each in side] for side in (one.positives, one.negatives)]
    assert sorted(texts[0]) == [GOOD]
    assert sorted(texts[1]) == [BAD, WORSE]


def test_pairs_without_negatives_are_imported(hub: Any, labelkit: Command, tmp_path: Path) -> None:
    """sentence-transformers/natural-questions: the columns query and answer, in the configuration pair.

    https://huggingface.co/datasets/sentence-transformers/natural-questions/blob/main/README.md
    """
    rows = [{"query": QUERY, "answer": GOOD}, {"query": "when do cats sleep", "answer": BAD}]
    address = hub.put("sentence-transformers/natural-questions", {"pair/train-00000-of-00001.parquet": parquet(rows)})
    called = labelkit("import", address, "--from", "st-ntuple", "--judge", "nq", "-o", tmp_path / "dataset")
    assert called.returncode == 0, called.stderr
    assert "queries 2, positives 2, negatives 0" in called.stderr


def test_a_file_without_positives_is_refused(hub: Any, labelkit: Command, tmp_path: Path) -> None:
    """sentence-transformers/all-nli, configuration pair-score: sentences with a score are no labels of a query.

    https://huggingface.co/datasets/sentence-transformers/all-nli/blob/main/README.md
    """
    rows = [{"sentence1": QUERY, "sentence2": GOOD, "score": 0.5}]
    files = {f"{name}/train-00000-of-00001.parquet": parquet(rows) for name in ("pair-score", "pair-class")}
    address = hub.put("sentence-transformers/all-nli", files)
    called = labelkit("import", address, "--from", "st-triplet", "--judge", "x", "-o", tmp_path / "dataset")
    assert called.returncode == 2
    assert "has several configurations (pair-class, pair-score); add one of them to the path" in called.stderr
    called = labelkit("import", f"{address}/pair-score", "--from", "st-triplet", "--judge", "x", "-o", tmp_path / "d")
    assert called.returncode == 1
    assert "found 'sentence1', 'sentence2', 'score', wanted 'anchor' or 'query' or 'question'" in called.stderr
    rows = [{"query": QUERY, "better": GOOD, "negative": BAD}]
    address = hub.put("somebody/triplets", {"train.parquet": parquet(rows)})
    called = labelkit("import", address, "--from", "st-triplet", "--judge", "x", "-o", tmp_path / "d")
    assert called.returncode == 1
    assert "row 1: found 'query', 'better', 'negative', wanted 'positive' or 'answer' for the positive" in called.stderr
    assert not (tmp_path / "d").exists()


def test_several_splits_are_not_mixed(hub: Any, labelkit: Command, tmp_path: Path) -> None:
    address, form, _ = tevatron_nq(hub)
    called = labelkit("import", address, "--from", form, "--judge", "x", "-o", tmp_path / "dataset")
    assert called.returncode == 2
    assert "has the splits dev, test, train; choose one with --split" in called.stderr
    called = labelkit("import", address, "--from", form, "--judge", "x", "-o", tmp_path / "dataset", "--split", "dl19")
    assert called.returncode == 2
    assert "has no split 'dl19'; its files are: nq-dev.jsonl.gz, nq-test.jsonl.gz, nq-train.jsonl.gz" in called.stderr


LIGHTON = """---
configs:
  - config_name: queries
    data_files:
      - split: train
        path: english_queries.train.parquet
  - config_name: documents
    data_files:
      - split: train
        path: english_collection.parquet
  - config_name: train
    data_files:
      - split: train
        path: dataset.parquet
---
"""


def test_scores_of_a_reranker_become_labels_without_grades(hub: Any, labelkit: Command, tmp_path: Path) -> None:
    """lightonai/ms-marco-en-bge: queries, documents, and rows of ids with float32 scores.

    https://huggingface.co/datasets/lightonai/ms-marco-en-bge/blob/main/README.md
    """
    schema = pa.schema(
        [("query_id", pa.string()), ("document_ids", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))]
    )
    scored = [{"query_id": "q", "document_ids": ["a", "b"], "scores": [0.75, -2.5]}]
    files = {
        "README.md": LIGHTON.encode(),
        "english_queries.train.parquet": parquet([{"query_id": "q", "text": QUERY}, {"query_id": "r", "text": "cats"}]),
        "english_collection.parquet": parquet([{"document_id": p, "text": t} for p, t in (("a", GOOD), ("b", BAD))]),
        "dataset.parquet": parquet(scored, schema),
    }
    address = hub.put("lightonai/ms-marco-en-bge", files)
    called = labelkit(
        "import", address, "--from", "scored-ids", "--judge", "bge", "--kind", "llm", "-o", tmp_path / "labels"
    )
    assert called.returncode == 0, called.stderr
    judgements, (judge,), manifest = read_labels(tmp_path / "labels")
    assert [(row.passage_id, row.score, row.grade, row.failure) for row in judgements] == [
        ("a", 0.75, None, None),
        ("b", -2.5, None, None),
    ]
    assert (judge.kind, judge.name, manifest.facts.without_grade) == ("llm", "bge", 2)
    called = labelkit("pool", address, "-o", tmp_path / "pool")
    assert called.returncode == 0, called.stderr
    assert labelkit("verify", tmp_path / "labels").returncode == 0


def test_a_published_name_may_be_anything(hub: Any, labelkit: Command, tmp_path: Path) -> None:
    """A passage without an id gets one from its text, in every form in which the text is stored."""
    address, form, more = st_triplets(hub)
    assert labelkit("import", address, "--from", form, "--judge", "x", "-o", tmp_path / "d", *more).returncode == 0
    assert set(read_dataset(tmp_path / "d").corpus) == {name_of("p", text) for text in (GOOD, BAD, WORSE)}
