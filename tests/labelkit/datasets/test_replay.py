"""Every label can be traced: its request is rebuilt byte for byte, and its reply gives the label."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelkit.datasets.options import ReplayOptions
from labelkit.datasets.replay import replay
from labelkit.judging.reading import Reading
from labelkit.storage import folders
from labelkit.storage.manifest import document_sha256

READINGS = {
    "graded": Reading(passage_words=4, defences=("strip", "nonce", "second-look")),
    "binary": Reading(votes=3),
    "relsel": Reading(),
    "utilsel": Reading(permutations=3),
    "utilrank": Reading(passage_tokens=5),
}


@pytest.mark.parametrize("method", READINGS)
def test_every_label_of_a_folder_replays(judge, wide, tmp_path, method):
    labels = tmp_path / "labels"
    judge(wide, labels, "garbage", method=method, reading=READINGS[method])
    replayed = replay(labels, ReplayOptions(sample=10_000))
    assert replayed.mismatches == []
    assert replayed.labels == replayed.of >= 300


@pytest.fixture
def mixed(labelkit, judge, wide, tmp_path):
    """A dataset of two judges, one with several orders."""
    judge(wide, tmp_path / "one", "garbage")
    judge(wide, tmp_path / "two", "overlap", method="utilsel", reading=Reading(permutations=2))
    called = labelkit(
        "mix", "--data", tmp_path / "wide", "--llm", tmp_path / "one", "--llm", tmp_path / "two", "-o", tmp_path / "set"
    )
    assert called.code == 0, called.err
    return tmp_path / "set"


def test_a_dataset_replays_without_the_folders_it_was_made_from(labelkit, mixed, tmp_path):
    for name in ("one", "two", "wide"):
        (tmp_path / name).rename(tmp_path / f"{name}.gone")
    called = labelkit("replay", mixed, "--sample", "1000", "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert (found["labels"], found["of"], found["mismatches"]) == (600, 600, [])


def changed(folder, table, column, change):
    """Rewrite a column of a table and the manifest over it: a forger's work, or a bug's."""
    path = folder / f"{table}.parquet"
    rows = pq.read_table(path)
    cells = [change(cell) for cell in rows[column].to_pylist()]
    field = rows.schema.field(column)
    pq.write_table(rows.set_column(rows.column_names.index(column), field, pa.array(cells, field.type)), path)
    document = json.loads((folder / folders.MANIFEST).read_text())
    document["files"][path.name] = folders.file_sha256(path)
    (folder / folders.MANIFEST).write_text(json.dumps(document | {"sha256": document_sha256(document)}))


@pytest.mark.parametrize(
    ("table", "column", "change", "why"),
    [
        ("judgements", "grade", lambda grade: {1: 2, 2: 1}.get(grade, grade), "the label is"),
        ("replies", "reply", lambda reply: reply.replace('"text":"1"', '"text":"3"'), "its reply gives"),
        ("corpus", "text", lambda text: text + "!", "differs from the one that was sent"),
        ("prompts", "content", lambda content: content + "\n", "differs from the one that was used"),
        ("replies", "key", lambda key: key[::-1], "not stored"),
    ],
    ids=["grade", "reply", "text", "prompt", "key"],
)
def test_what_does_not_agree_is_found(labelkit, mixed, table, column, change, why):
    changed(mixed, table, column, change)
    called = labelkit("replay", mixed, "--sample", "1000")
    assert called.code == 1
    assert why in called.err
    assert "Traceback" not in called.err


def test_imported_labels_have_no_replies(labelkit, beir, tmp_path):
    labelkit("import", beir / "qrels" / "test.tsv", "--judge", "people", "-o", tmp_path / "labels")
    called = labelkit("replay", tmp_path / "labels")
    assert called.code == 2
    assert "has no replies to replay" in called.err
    assert not (tmp_path / "labels" / "journal.sqlite").exists()


def test_a_pool_that_is_gone_is_named(labelkit, judge, wide, tmp_path):
    judge(wide, tmp_path / "labels")
    (tmp_path / "wide.pool").rename(tmp_path / "elsewhere")
    called = labelkit("replay", tmp_path / "labels")
    assert called.code == 2
    assert "give it by --pool" in called.err
    assert labelkit("replay", tmp_path / "labels", "--pool", tmp_path / "elsewhere").code == 0
