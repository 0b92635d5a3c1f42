"""Relabelled files of other tools: changed passages move, all other bytes, fields and columns stay."""

import gzip
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelkit.datasets.verify import verify
from labelkit.errors import DataError, UsageError
from labelkit.exchange.exporting import export
from labelkit.exchange.formats.collecting import Grading
from labelkit.exchange.importing import import_dataset
from labelkit.exchange.options import ExportOptions, ImportOptions
from labelkit.judging.options import AnnotateOptions
from labelkit.relabelling.options import RelabelOptions
from labelkit.relabelling.relabel import relabel
from labelkit.relabelling.rows import raised
from labelkit.storage.dataset import read_dataset
from labelkit.storage.labels import read_labels

pytestmark = pytest.mark.slow  # every test judges a dataset

JUDGE = AnnotateOptions(model="overlap", engine="scripted", defence=("none",))
RULES = RelabelOptions(llm_positive=0.5, llm_negative=0.3)


def sides_of(folder, format_name, target):
    """(query text, passage text) -> side, as the importer of the format reads the files."""
    import_dataset(folder, target, ImportOptions(judge="j", format=format_name))
    found = read_dataset(target)
    return {
        (one.query, found.corpus[label.passage_id].full_text): side
        for one in found.examples
        for side in ("positives", "negatives")
        for label in getattr(one, side)
    }


def wanted_sides(before, out, imported):
    """The sides that the rules give each judged label, from the judgments alone."""
    data = read_dataset(imported)
    queries = {one.query_id: one.query for one in data.examples}
    rows, (judge,), _ = read_labels(out)
    wanted = dict(before)
    for row in rows:
        pair = (queries[row.query_id], data.corpus[row.passage_id].full_text)
        belief = sum(p for p, grade in zip(row.probs or (), judge.label_grades or (), strict=True) if grade >= 2)
        if before[pair] == "positives":
            if belief <= 0.3:
                del wanted[pair]
        elif belief >= 0.5:
            wanted[pair] = "positives"
        elif belief > 0.3:
            del wanted[pair]
    return wanted


FORMATS = ("tevatron", "tevatron-classic", "flag-embedding", "st-triplet", "st-ntuple", "st-labeled-list")


def files_of(dataset, folder, name):
    """Write a dataset in a format. Mined negatives have no grade, so that labelled lists are made of grades 3 and 0."""
    listed = name == "st-labeled-list"
    export(dataset, folder, ExportOptions(to="flag-embedding" if listed else name))
    if listed:
        rows = [json.loads(line) for line in (folder / "train.jsonl").open(encoding="utf-8")]
        lists = [
            {
                "query": row["query"],
                "docs": row["pos"] + row["neg"],
                "labels": [3.0] * len(row["pos"]) + [0.0] * len(row["neg"]),
            }
            for row in rows
        ]
        folder = folder.with_name("lists")
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(lists), folder / "train.parquet")
    return folder


CASES = [(name, False) for name in FORMATS] + [("flag-embedding", True), ("st-ntuple", True)]


@pytest.mark.parametrize(("name", "positives"), CASES)
def test_a_file_is_read_back_with_the_decided_labels(mined, tmp_path, name, positives):
    files = files_of(mined, tmp_path / "files", name)
    before = sides_of(files, name, tmp_path / "before")
    made = relabel(files, tmp_path / "out", RULES.but(positives=positives), judge=JUDGE)
    assert all(one.source == "imported" for one in made.by_source)
    assert [one.role for one in made.by_source if one.ignored] == ["negative", *(["positive"] if positives else [])]
    assert made.promoted > 0
    wanted = wanted_sides(before, tmp_path / "out.labels", tmp_path / "before")
    after = sides_of(tmp_path / "out", name, tmp_path / "after")
    assert verify(tmp_path / "out").kind == "export"
    lost = {pair for pair in wanted if pair not in after}
    # A query without a positive has no row, and one without a negative has no tuples.
    needed = ["positives", *(["negatives"] if name in ("st-triplet", "st-ntuple") else [])]
    left = [{query for (query, _), found in wanted.items() if found == side} for side in needed]
    assert not {query for query, _ in lost} & set.intersection(*left)
    assert after == {pair: side for pair, side in wanted.items() if pair not in lost}


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_unchanged_lines_keep_their_bytes_and_changed_ones_their_fields(mined, tmp_path, ending):
    export(mined, tmp_path / "files", ExportOptions(to="flag-embedding"))
    rows = [json.loads(line) for line in (tmp_path / "files" / "train.jsonl").open(encoding="utf-8")]
    source = tmp_path / f"data.jsonl{ending}"
    lines = []
    for number, row in enumerate(rows):
        further = {"type": "norm\u00e4l", "neg_scores": [float(one) for one in range(len(row["neg"]))]}
        row |= further | {"pos_scores": [9.5] * len(row["pos"]), "number": number}
        lines.append(json.dumps(row, ensure_ascii=number % 2 == 0, separators=(" ,", ":  ")).encode() + b"\r\n")
    lines.insert(3, b"\n")
    lines[-1] = lines[-1].rstrip()
    content = b"\xef\xbb\xbf" + b"".join(lines)
    source.write_bytes(gzip.compress(content) if ending else content)
    # The first six queries are judged, the others do not change.
    made = relabel(source, tmp_path / "out", RULES, judge=JUDGE.but(limit=36))
    new = (tmp_path / "out" / source.name).read_bytes()
    new = gzip.decompress(new) if ending else new
    old, found = content.split(b"\n"), new.split(b"\n")
    assert len(old) == len(found)
    assert 0 < made.rows["rows changed"] < len(rows)
    assert sum(one != other for one, other in zip(old, found, strict=True)) == made.rows["rows changed"]
    for one, other in zip(old, found, strict=True):
        assert one.endswith(b"\r") == other.endswith(b"\r")
        assert one.isascii() == other.isascii()
        if one != other:
            was, now = (json.loads(line.removeprefix(b"\xef\xbb\xbf")) for line in (one, other))
            assert {**now, **{key: was[key] for key in ("pos", "neg", "pos_scores", "neg_scores")}} == was
            assert list(was) == list(now)
            scores = dict(zip(was["neg"], was["neg_scores"], strict=True)) | dict.fromkeys(was["pos"], 9.5)
            for side in ("pos", "neg"):
                assert [scores[text] for text in now[side]] == now[f"{side}_scores"]


@pytest.mark.parametrize(
    ("label", "grade", "scale", "wanted"),
    [(0, 3, None, 3), (0.0, 1, None, 2.0), (0, 3, "0-1", 1), (1.0, 2, "1-5", 4.0)],
)
def test_a_promoted_passage_of_a_list_gets_a_label_on_the_scale_of_its_file(label, grade, scale, wanted):
    found = raised(label, grade, Grading(2, scale), highest=1)
    assert (found, type(found)) == (wanted, type(label))


def test_labels_of_0_and_1_stay_0_and_1(tmp_path):
    docs = ["cats hunt at night", "why do cats sleep in the day and why not", "mail is carried"]
    rows = [{"query": "why do cats sleep in the day", "docs": docs, "labels": [1, 0, 0]},
            {"query": "green tea", "docs": ["green tea is green tea", "rain"], "labels": [0, 0]}]  # fmt: skip
    source = tmp_path / "lists.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    relabel(source, tmp_path / "out", RULES.but(format="st-labeled-list", positive_grade=1), judge=JUDGE)
    new = [json.loads(line)["labels"] for line in (tmp_path / "out" / "lists.jsonl").open()]
    assert new == [[1, 1, 0], [1, 0]]
    assert raised(0.0, 3, Grading(1), highest=3.0) == 3.0, "labels from 0 to 3 keep the grade"


def test_scores_on_one_side_are_refused(mined, tmp_path):
    export(mined, tmp_path / "files", ExportOptions(to="flag-embedding"))
    rows = [json.loads(line) for line in (tmp_path / "files" / "train.jsonl").open(encoding="utf-8")]
    source = tmp_path / "data.jsonl"
    source.write_text("".join(json.dumps(row | {"neg_ids": list(range(len(row["neg"])))}) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"data.jsonl:\d+: 'neg_ids' and 'pos_ids' must be lists"):
        relabel(source, tmp_path / "out", RULES, judge=JUDGE)
    assert not (tmp_path / "out").exists()


DPR: list[dict[str, Any]] = [
    {
        "dataset": "mine", "question": "why do cats sleep in the day", "answers": ["night"],
        "positive_ctxs": [{"title": "Cats", "text": "cats hunt at night", "passage_id": "1"}],
        "negative_ctxs": [{"title": "", "text": "tea is brewed", "passage_id": "2", "score": 1.5}],
        "hard_negative_ctxs": [
            {"title": "Why", "text": "why do cats sleep in the day and why not", "passage_id": "3", "score": 7.25},
            {"title": "", "text": "mail is carried", "passage_id": "4"},
        ],
    },
    {
        "question": "green tea", "answers": [], "hard_negative_ctxs": [], "negative_ctxs": [],
        "positive_ctxs": [{"title": "", "text": "green tea is brewed", "passage_id": "5"}],
    },
]  # fmt: skip


def test_an_array_of_json_stays_one(tmp_path):
    source = tmp_path / "train.json"
    source.write_text(json.dumps(DPR, indent=3))
    made = relabel(source, tmp_path / "out", RULES, judge=JUDGE)
    text = (tmp_path / "out" / "train.json").read_text()
    changed, same = json.loads(text)
    assert same == DPR[1]
    assert json.dumps(DPR, indent=3)[-40:-2].strip() in text, "the text of an unchanged value stays"
    assert [one["passage_id"] for one in changed["positive_ctxs"]] == ["1", "3"]
    assert changed["positive_ctxs"][1] == DPR[0]["hard_negative_ctxs"][0]
    assert [one["passage_id"] for one in changed["hard_negative_ctxs"]] == ["4"]
    assert (made.promoted, changed["dataset"], changed["answers"]) == (1, "mine", ["night"])


def test_a_table_keeps_its_columns_types_and_metadata(mined, tmp_path):
    export(mined, tmp_path / "files", ExportOptions(to="st-ntuple"))
    table = pq.read_table(tmp_path / "files" / "train.parquet")
    more = table.append_column("row", pa.array(range(len(table)), pa.int16()))
    more = more.append_column("from", pa.array([{"a": [1, 2]}] * len(table)))
    more = more.replace_schema_metadata({"huggingface": "{}"})
    pq.write_table(more, tmp_path / "tuples.parquet")
    more = pq.read_table(tmp_path / "tuples.parquet")
    made = relabel(tmp_path / "tuples.parquet", tmp_path / "out", RULES, judge=JUDGE.but(limit=36))
    new = pq.read_table(tmp_path / "out" / "tuples.parquet")
    assert new.schema.equals(more.schema, check_metadata=True)
    same = [row for row in more.to_pylist() if row in new.to_pylist()]
    assert 0 < len(same) < len(more)
    assert made.rows["rows added for promoted passages"] > 0
    assert set(new["row"].to_pylist()) <= set(range(len(table)))
    rows = pq.read_table(tmp_path / "out" / "relabelled" / "relabelled.parquet").to_pylist()
    assert len(rows) == made.promoted + made.ignored


def test_what_cannot_be_written_back_is_refused_before_anything_is_asked(mined, scifact, tmp_path):
    with pytest.raises(UsageError, match="format beir cannot be relabelled"):
        relabel(scifact, tmp_path / "out", RULES, judge=JUDGE)
    export(mined, tmp_path / "files", ExportOptions(to="st-ntuple"))
    table = pq.read_table(tmp_path / "files" / "train.parquet")
    pq.write_table(table.append_column("score", pa.array([0.5] * len(table))), tmp_path / "scored.parquet")
    with pytest.raises(UsageError, match="the column 'score' has values for the texts of a row"):
        relabel(tmp_path / "scored.parquet", tmp_path / "out", RULES, judge=JUDGE)
    (tmp_path / "tuples.csv").write_text("anchor,positive,negative\ntea,green tea,mail\n")
    with pytest.raises(UsageError, match=r"rows are written back to \.jsonl"):
        relabel(tmp_path / "tuples.csv", tmp_path / "out", RULES, judge=JUDGE)
    with pytest.raises(DataError, match="does not exist"):
        relabel(tmp_path / "none", tmp_path / "out", RULES, judge=JUDGE)
    assert not list(tmp_path.glob("out.labels"))
