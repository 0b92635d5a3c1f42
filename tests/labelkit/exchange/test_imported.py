"""Files of labelled data sets on disk: DPR's JSON, every form of rows, contradictions, and batches of rows."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelkit.errors import DataError
from labelkit.exchange.formats import collecting, recognised
from labelkit.exchange.importing import import_dataset
from labelkit.exchange.options import ImportOptions
from labelkit.storage.dataset import read_dataset


def imported(path: Path, target: Path, form: str | None = None, **options: Any) -> dict[str, int]:
    return import_dataset(path, target, ImportOptions(judge="x", format=form or recognised(path), **options))


def test_dpr_training_files_are_read(tmp_path):
    """biencoder-nq-train.json: one JSON array, passages with `passage_id` (`psg_id` in the first release).

    https://github.com/facebookresearch/DPR, section "Retriever input data format".
    """

    def context(name: str, text: str, key: str = "passage_id") -> dict[str, Any]:
        return {"title": "T", "text": text, "score": 12.5, "title_score": 1, key: name}

    row = {
        "dataset": "nq_train_psgs_w100", "question": "how hot is tea", "answers": ["hot"],
        "positive_ctxs": [context("11", "tea is brewed hot")],
        "negative_ctxs": [context("12", "cats sleep")],
        "hard_negative_ctxs": [context("13", "dogs bark", "psg_id"), context("12", "cats sleep")],
    }  # fmt: skip
    path = tmp_path / "biencoder-nq-train.json"
    path.write_text(json.dumps([row], indent=4))
    assert recognised(path) == "dpr"
    assert imported(path, tmp_path / "d") == {"queries": 1, "positives": 1, "negatives": 2, "on_both_sides": 0}
    (one,), corpus, _ = read_dataset(tmp_path / "d")
    assert [label.passage_id for label in one.negatives] == ["13", "12"], "in the order of the file, hard ones first"
    assert corpus["11"].title == "T"
    plain = {key: row[key] for key in ("question", "positive_ctxs", "hard_negative_ctxs")}
    path.write_text(json.dumps([plain]))
    assert imported(path, tmp_path / "f")["negatives"] == 2, "a kind of passages may be absent"
    path.with_suffix(".json.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert imported(path.with_suffix(".json.gz"), tmp_path / "e")["negatives"] == 2


ROWS = [
    {"query_id": 1, "query": "q", "positive_passages": [{"docid": 7, "title": None, "text": "good"}],
     "negative_passages": [{"docid": 8, "title": "t", "text": "bad"}]}
]  # fmt: skip
FORMS: dict[str, Callable[[Path], object]] = {
    "train.jsonl": lambda path: path.write_text(json.dumps(ROWS[0]) + "\n"),
    "train.json": lambda path: path.write_text(json.dumps(ROWS)),
    "train.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "train.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "train.jsonl.zst": lambda path: path.write_bytes(pa.compress(json.dumps(ROWS[0]).encode(), "zstd", asbytes=True)),
}


@pytest.mark.parametrize("name", FORMS)
def test_rows_are_the_same_in_every_form_and_ids_may_be_numbers(tmp_path, name):
    (tmp_path / "in").mkdir()
    FORMS[name](tmp_path / "in" / name)
    imported(tmp_path / "in", tmp_path / "d")
    (one,), corpus, _ = read_dataset(tmp_path / "d")
    assert (one.query_id, [label.passage_id for label in one.positives]) == ("1", ["7"])
    assert {name: (each.title, each.text) for name, each in corpus.items()} == {"7": ("", "good"), "8": ("t", "bad")}


def test_qrels_that_contradict_each_other_are_refused(tmp_path, write_beir):
    folder = write_beir(tmp_path / "data")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp1\t0\n")
    with pytest.raises(DataError, match=r"the pair 'q1', 'p1' has the grades 0 and 3; labelkit tidy sets"):
        imported(folder, tmp_path / "d", "beir")
    assert imported(folder, tmp_path / "d", "beir", split="test")["queries"] == 3


def test_texts_that_contradict_each_other_are_refused_with_the_place(tmp_path):
    rows = [{**ROWS[0], "query_id": "a"}, {**ROWS[0], "query_id": "b"}]
    rows[1]["positive_passages"] = [{"docid": 7, "text": "other"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"t\.jsonl:2: passage '7' has two different texts"):
        imported(tmp_path / "t.jsonl", tmp_path / "d")


def test_batches_and_slices_change_nothing(tmp_path, monkeypatch):
    """Rows are collected in batches and examples are written in slices of queries."""
    rows = [
        {"query_id": f"q{n % 7}", "query": f"query {n % 7}", "positive_passages": [passage(n)],
         "negative_passages": [passage(m) for m in range(n, n + 5)]}
        for n in range(40)
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = imported(tmp_path / "t.jsonl", tmp_path / "whole")
    assert counts["on_both_sides"] > 0
    monkeypatch.setattr(collecting, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(collecting, "QUERIES_AT_ONCE", 2)
    assert imported(tmp_path / "t.jsonl", tmp_path / "parts") == counts
    for name in ("train", "corpus", "queries", "judgements"):
        assert (tmp_path / "parts" / f"{name}.parquet").read_bytes() == (
            tmp_path / "whole" / f"{name}.parquet"
        ).read_bytes()


def passage(number: int) -> dict[str, str]:
    return {"docid": f"p{number}", "title": "", "text": f"text {number}"}
