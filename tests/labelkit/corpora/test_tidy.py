"""Hostile text reaches a judge byte for byte, or stands in the list of what was set aside."""

import json

import pytest

from labelkit.corpora.beir import read_data
from labelkit.corpora.rows import LINE_BYTES
from labelkit.storage.folders import read_manifest
from labelkit.storage.labels import read_labels

ODD = {
    "line separator": "one\u2028two",
    "next line": "one\x85two",
    "NUL": "one\0two",
    "right to left": "\u202etxet\u202c \u05e2\u05d1\u05e8\u05d9\u05ea",
    "zero width": "z\u200be\u200dr\ufeffo",
    "empty": "",
    "blank": " \t ",
    "CRLF inside": "one\r\ntwo",
    "id\twith\ttabs": "tabs",
    "id with spaces": "spaces",
    "id\u2028odd": "id",
    "emoji": "\U0001f9ea" * 3,
}
BAD = {
    b'{"_id": "surrogate", "text": "\\ud800"}': "lone surrogate",
    b'{"_id": "twice", "text": "a", "text": "b"}': "key 'text' is duplicated",
    b'{"_id": "nan", "text": NaN}': "field 'text' must be text",
    b'{"_id": "latin", "text": "caf\xe9"}': "not UTF-8",
    b'{"_id": "torn", "text": "x': "not valid JSON",
    b"[" * 5000: "not valid JSON",
    b'{"_id": "", "text": "x"}': "the id is empty",
    b'{"_id": "same", "text": "other"}': "duplicated with different texts",
    b'{"_id": "same", "text": "one"}': "duplicated with different texts",
    b'{"_id": "NUL", "text": "one\\u0000two"}': "duplicated with the same text",
}


@pytest.fixture
def hostile(tmp_path):
    """A BEIR folder with every odd text and every bad line, a BOM and CRLF line ends."""
    folder = tmp_path / "hostile"
    (folder / "qrels").mkdir(parents=True)
    rows = [
        json.dumps({"_id": key, "text": text}, ensure_ascii=number % 2 == 0).encode()
        for number, (key, text) in enumerate(ODD.items())
    ]
    (folder / "corpus.jsonl").write_bytes(b"\xef\xbb\xbf" + b"".join(row + b"\r\n" for row in [*rows, *BAD]))
    queries = [{"_id": f"q {number}\t", "text": f"{text} tabs one"} for number, text in enumerate(ODD.values())]
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n", encoding="utf-8")
    return folder


def test_bad_lines_stop_a_command_and_tidy_lists_them(labelkit, hostile, tmp_path):
    refused = labelkit("pool", hostile, "-o", tmp_path / "pool")
    assert refused.code == 1
    assert "corpus.jsonl:13: " in refused.err
    called = labelkit("tidy", hostile, "-o", tmp_path / "clean")
    assert called.code == 0, called.err
    assert f"{len(BAD)} lines removed in total" in called.err
    listed = [json.loads(line) for line in (tmp_path / "clean" / "set_aside.jsonl").read_bytes().split(b"\n") if line]
    assert [row["line"] for row in listed] == list(range(len(ODD) + 1, len(ODD) + len(BAD) + 1))
    assert all(why in row["reason"] for row, why in zip(listed, BAD.values(), strict=True))
    manifest = read_manifest(tmp_path / "clean", "data")
    assert manifest.facts.set_aside == {str(hostile / "corpus.jsonl"): len(BAD)}
    assert {key: row.text for key, row in read_data(tmp_path / "clean").corpus.items()} == ODD


def test_odd_text_goes_through_every_command_byte_for_byte(labelkit, hostile, tmp_path):
    labelkit("tidy", hostile, "-o", tmp_path / "clean")
    clean, pool, labels, mixed = (tmp_path / name for name in ("clean", "pool", "labels", "mixed"))
    assert labelkit("pool", clean, "-o", pool).code == 0
    options = ("--engine", "scripted", "--model", "overlap", "--defence", "none")
    called = labelkit("annotate", pool, "-o", labels, *options)
    assert called.code == 0, called.err
    judged = read_labels(labels)[0]
    assert {row.passage_id for row in judged} > {"NUL", "line separator", "id\twith\ttabs"}
    assert labelkit("mix", "--data", clean, "--llm", labels, "-o", mixed).code == 0
    replayed = labelkit("replay", mixed, "--sample", "1000")
    assert replayed.code == 0, replayed.err
    assert labelkit("verify", mixed).code == 0


def test_pairs_of_what_is_not_there_are_set_aside(labelkit, beir, tmp_path):
    with (beir / "corpus.jsonl").open("ab") as file:
        file.write(b'{"_id": "bad", "text": 5}\n')
    with (beir / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\tbad\t1\nq1\tp1\t3\nq1\tp2\tnan\n")
    called = labelkit("tidy", beir, "-o", tmp_path / "clean")
    assert called.code == 0, called.err
    assert "4 lines removed in total" in called.err
    qrels = read_data(tmp_path / "clean", "test").qrels
    assert qrels == {"q1": {"p1": 3, "p5": 1, "p2": 0}, "q2": {"p3": 3, "p4": 1}, "q3": {"p2": 2, "p6": 1}}
    assert (tmp_path / "clean" / "queries.jsonl").read_bytes() == (beir / "queries.jsonl").read_bytes()


def test_a_line_without_end_is_set_aside_and_a_long_one_read(labelkit, beir, tmp_path):
    long = "x" * (50 << 20)
    with (beir / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "long", "text": long}) + "\n" + "y" * (LINE_BYTES + 5) + "\n")
        file.write('{"_id": "after", "text": "it"}\n')
    assert "longer than 64 MB" in labelkit("pool", beir, "-o", tmp_path / "pool").err
    called = labelkit("tidy", beir, "-o", tmp_path / "clean")
    assert "1 lines removed in total" in called.err
    corpus = read_data(tmp_path / "clean").corpus
    assert corpus["long"].text == long
    assert corpus["after"].text == "it"


def test_grades_that_contradict_each_other_are_set_aside_with_both_values(labelkit, beir, tmp_path):
    with (beir / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\tp1\t1\nq2\tp3\t3\n")
    called = labelkit("tidy", beir, "-o", tmp_path / "clean")
    assert called.code == 0, called.err
    listed = [json.loads(line) for line in (tmp_path / "clean" / "set_aside.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in listed] == [
        (2, "the pair 'q1', 'p1' has the grades 1 and 3"),
        (9, "the pair 'q1', 'p1' has the grades 1 and 3"),
        (10, "the pair 'q2', 'p3' is duplicated with the same grade"),
    ]
    assert read_data(tmp_path / "clean", "test").qrels["q1"] == {"p5": 1, "p2": 0}


@pytest.mark.parametrize(("ending", "mark"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_bad_rows_of_tables_are_set_aside(labelkit, tmp_path, ending, mark):
    folder = tmp_path / "data"
    rows = {
        f"corpus.{ending}": "id,text\nd1,one,more\nd2,two\nd3\n",
        f"queries.{ending}": "id,text\nq1,x,y\nq2,two\n",
        "qrels/test.csv": "query-id,corpus-id,score\nq2,d2\nq2,d2,7\nq2,d2,1\n",
    }
    for name, text in rows.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace(",", mark))
    called = labelkit("tidy", folder, "-o", tmp_path / "clean")
    assert called.code == 0, called.err
    data = read_data(tmp_path / "clean", "test")
    assert (list(data.corpus), list(data.queries), data.qrels) == (["d2"], ["q2"], {"q2": {"d2": 1}})
    aside = [json.loads(line) for line in (tmp_path / "clean" / "set_aside.jsonl").read_text().splitlines()]
    assert [row["line"] for row in aside] == [2, 4, 2, 2, 3]
    refused = labelkit("pool", folder, "-o", tmp_path / "pool")
    assert f"corpus.{ending}:2: expected 2 columns separated by" in refused.err


def test_a_bad_object_of_an_array_is_set_aside(labelkit, tmp_path):
    (tmp_path / "corpus.json").write_text('[7, {"id": 1, "text": "x"}]')
    (tmp_path / "queries.tsv").write_text("q\ttwo\n")
    called = labelkit("tidy", tmp_path, "-o", tmp_path.with_name("clean"))
    assert called.code == 0, called.err
    assert list(read_data(tmp_path.with_name("clean")).corpus) == ["1"]
