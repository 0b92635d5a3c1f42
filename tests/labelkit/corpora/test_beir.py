"""Reading collections, qrels and runs: good input byte for byte, bad input with its file and line."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelkit.corpora.beir import read_data
from labelkit.corpora.corpus import read_corpus
from labelkit.corpora.qrels import read_qrels
from labelkit.corpora.queries import read_queries
from labelkit.corpora.runs import read_run
from labelkit.errors import DataError
from labelkit.records import Passage

HOSTILE = [
    "a\u2028b",
    "a\u2029b",
    "a\u0085b",
    "a\0b",
    "\u200bz\u200d",
    "\u202eabc",
    "a\x0b\x0c\x1cb",
    "é\r",
    "\ud7ff😀",
    " x\t",
]


def assert_refused(read, path: Path, where: str, what: str) -> None:
    """Reading raises one line that names the place and the fault."""
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(where)
    assert re.search(what, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_beir_folder_is_read_in_file_order(beir):
    data = read_data(beir, "test")
    assert list(data.corpus) == ["p1", "p2", "p3", "p4", "p5", "p6"]
    assert data.corpus["p3"].title == "Tea"
    assert data.corpus["p1"].full_text == "Cats cats sleep most of the day and hunt at night"
    assert data.corpus["p2"].full_text == "dogs bark at the mail carrier every day"
    assert list(data.queries) == ["q1", "q2", "q3"]
    assert data.qrels["q1"] == {"p1": 3, "p5": 1, "p2": 0}


def test_without_a_split_all_queries_are_kept_and_with_one_those_it_judges(beir, write_qrels):
    write_qrels(beir / "qrels" / "dev.tsv", {"q2": {"p3": 1}})
    assert read_data(beir).qrels == {}
    assert len(read_data(beir).queries) == 3
    assert list(read_data(beir, "dev").queries) == ["q2"]


def test_an_unknown_split_lists_the_splits_there_are(beir, write_qrels):
    write_qrels(beir / "qrels" / "dev.tsv", {"q2": {"p3": 1}})
    assert_refused(
        lambda path: read_data(path, "train"),
        beir,
        f"{beir} has no qrels of the split 'train'",
        f"splits of {beir}: dev, test",
    )


def test_a_missing_folder_or_file_is_named(beir, tmp_path):
    assert_refused(read_data, tmp_path / "no", str(tmp_path / "no"), "does not exist; give a folder")
    assert_refused(read_data, beir / "corpus.jsonl", str(beir / "corpus.jsonl"), "is not a folder")
    for read in (read_corpus, read_queries, read_qrels, read_run):
        assert_refused(read, tmp_path / "no.txt", f"{tmp_path / 'no.txt'} ", "does not exist")


GOOD = b'{"_id": "a", "text": "x"}\n'
BAD_LINES = {
    "malformed": (b'{"_id": "b", "text": "x"', "not valid JSON"),
    "two objects": (b'{"_id": "b", "text": "x"} {}', "not valid JSON"),
    "not JSON": (b"hello", "not valid JSON"),
    "deep nesting": (b"[" * 100_000, "not valid JSON"),
    "a huge number": (b"9" * 5_000, "not valid JSON|JSON object"),
    "a list": (b'["b", "x"]', "expected a JSON object, found list"),
    "a string": (b'"b"', "expected a JSON object, found str"),
    "null": (b"null", "expected a JSON object, found NoneType"),
    "no id": (b'{"text": "x"}', "field '_id' must be text"),
    "an empty id": (b'{"_id": "", "text": "x"}', "the id is empty"),
    "a fraction as id": (b'{"_id": 7.5, "text": "x"}', "field '_id' must be text, found 7.5"),
    "a truth value as id": (b'{"_id": true, "text": "x"}', "field '_id' must be text, found true"),
    "no text": (b'{"_id": "b"}', "field 'text' must be text"),
    "null text": (b'{"_id": "b", "text": null}', "field 'text' must be text"),
    "a list as text": (b'{"_id": "b", "text": ["x"]}', "field 'text' must be text"),
    "NaN as text": (b'{"_id": "b", "text": NaN}', "field 'text' must be text"),
    "a duplicate id": (GOOD.strip(), "id 'a' is duplicated"),
    "a lone surrogate in the text": (rb'{"_id": "b", "text": "\ud800"}', "field 'text' contains a lone surrogate"),
    "a lone surrogate in the id": (rb'{"_id": "\udfff", "text": "x"}', "field '_id' contains a lone surrogate"),
    "invalid UTF-8": (b'{"_id": "b", "text": "\xff\xfe"}', "not UTF-8"),
    "UTF-16": ('{"_id": "b", "text": "x"}'.encode("utf-16"), "not UTF-8"),
}


@pytest.mark.parametrize("read", [read_corpus, read_queries], ids=["corpus", "queries"])
@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named(tmp_path, read, case):
    line, what = BAD_LINES[case]
    path = tmp_path / "file.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n")
    assert_refused(read, path, f"{path}:3: ", what)


@pytest.mark.parametrize("title", [b"7", b"[]", rb'"\ud800"'])
def test_a_bad_title_is_named(tmp_path, title):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"_id": "a", "text": "x", "title": ' + title + b"}")
    assert_refused(read_corpus, path, f"{path}:1: ", "field 'title'")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_named(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert_refused(read_corpus, path, f"{path}: ", "the corpus is empty")
    assert_refused(read_queries, path, f"{path}: ", "there are no queries")
    assert_refused(read_qrels, path, f"{path}: ", "there are no qrels")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("escaped", [True, False])
def test_odd_characters_survive_byte_for_byte(tmp_path, text, escaped):
    path = tmp_path / "corpus.jsonl"
    row = {"_id": text, "title": text, "text": text}
    path.write_text(json.dumps(row, ensure_ascii=escaped) + "\n", encoding="utf-8", newline="")
    assert read_corpus(path) == {text: Passage(passage_id=text, title=text, text=text)}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1), st.text(), st.text()), min_size=1, max_size=5, unique_by=lambda row: row[0])
)
def test_any_text_comes_back_as_it_was_written(rows):
    expected = [Passage(passage_id=name, title=title, text=text) for name, title, text in rows]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.jsonl"
        lines = [{"_id": one.passage_id, "title": one.title, "text": one.text} for one in expected]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_text(content, encoding="utf-8", newline="")
        assert list(read_corpus(path).values()) == expected


def test_bom_crlf_and_a_missing_last_newline_are_no_text(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"_id": "a", "text": "x"}\r\n\r\n{"_id": "b", "text": "y"}')
    assert {name: one.text for name, one in read_corpus(path).items()} == {"a": "x", "b": "y"}
    path = tmp_path / "test.tsv"
    path.write_bytes(b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\r\nq\tp\t2\r\n")
    assert read_qrels(path) == {"q": {"p": 2}}


def test_qrels_are_read_as_beir_and_as_trec(tmp_path):
    path = tmp_path / "qrels"
    path.write_text("query-id\tcorpus-id\tscore\nq 1\tp 1\t3\nq 1\tp2\t0\n")
    assert read_qrels(path) == {"q 1": {"p 1": 3, "p2": 0}}
    path.write_text("q1 0 p1 3\nq1 0 p2 0\nq2 0 p1 -2\n")
    assert read_qrels(path) == {"q1": {"p1": 3, "p2": 0}}


@pytest.mark.parametrize("grade", ["4", "99", "1.5", "x", "", "nan", "inf", "1e9", "two", "2,0", "0x1"])
def test_a_grade_that_is_none_is_named(tmp_path, grade):
    path = tmp_path / "qrels.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\nq\tp\t1\nq\tp2\t{grade}\n")
    assert_refused(read_qrels, path, f"{path}:3: ", f"the grade {grade!r} is not a whole number from 0 to 3")


@pytest.mark.parametrize(
    ("line", "what"), [("q p", "found 2"), ("q\tp", "found 2"), ("q 0 p 1 x", "found 5"), ("q", "found 1")]
)
def test_a_wrong_number_of_columns_is_named(tmp_path, line, what):
    path = tmp_path / "qrels.tsv"
    path.write_text(f"q 0 p 1\n{line}\n")
    assert_refused(read_qrels, path, f"{path}:2: ", f"expected 3 columns .* or 4 .*{what}")


def test_a_pair_that_stands_twice_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_text("q 0 p 1\nq 0 r 1\nq 0 p 2\n")
    assert_refused(read_qrels, path, f"{path}:3: ", "the pair 'q', 'p' is duplicated")
    path.write_text("q Q0 p 1 2.0 tag\nq Q0 p 2 1.0 tag\n")
    assert_refused(read_run, path, f"{path}:2: ", "the pair 'q', 'p' is duplicated")


def test_pairs_without_a_judgment_and_spam_are_left_out_and_counted(tmp_path, caplog):
    """TREC marks a pooled pair that nobody judged with -1 and spam with -2; neither is a human negative by itself."""
    path = tmp_path / "qrels.adhoc.txt"
    path.write_text("q1 0 p1 3\nq1 0 p2 -1\nq1 0 p3 -2\nq1 0 p4 0\nq2 0 p1 -1\n")
    assert read_qrels(path) == {"q1": {"p1": 3, "p4": 0}}
    assert [record.message for record in caplog.records] == [
        f"{path}: 2 pairs of grade -1 (pooled but not judged) are left out",
        f"{path}: 1 pairs of grade -2 (spam) are left out; labelkit import --spam makes them grade 0",
    ]
    assert read_qrels(path, spam=True) == {"q1": {"p1": 3, "p3": 0, "p4": 0}}
    path.write_text("q1 0 p1 -3\n")
    assert_refused(read_qrels, path, f"{path}:1: ", "the grade '-3' is not a whole number from 0 to 3")


@pytest.mark.parametrize(
    "header", ["qid\tdocid\trelevance", "Anfrage\tDokument\tNote", "query-id corpus-id score", "topic run docno label"]
)
def test_a_header_of_any_words_is_a_header(tmp_path, header):
    path = tmp_path / "test.tsv"
    mark, columns = ("\t" if "\t" in header else " "), 3 if header.count(" ") != 3 else 4
    path.write_text(
        f"{header}\n" + mark.join(["q", "0", "p", "2"][-columns:] if columns == 4 else ["q", "p", "2"]) + "\n"
    )
    assert read_qrels(path) == {"q": {"p": 2}}


def test_the_names_of_a_header_say_where_the_columns_are(tmp_path):
    path = tmp_path / "test.tsv"
    path.write_text("corpus-id\tscore\tquery-id\np\t2\tq\n")
    assert read_qrels(path) == {"q": {"p": 2}}
    path.write_text("q p 2\nq r 1\n")
    assert read_qrels(path) == {"q": {"p": 2, "r": 1}}, "a first line with a grade is no header"


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_third_column_of_any_name_has_the_grades(tmp_path, name, mark):
    path = tmp_path / name
    path.write_text("passage_id,query_id,Relevanz\np,q,0\np2,q,3\n".replace(",", mark))
    assert read_qrels(path) == {"q": {"p": 0, "p2": 3}}, "grades of an unknown column are not 1"
    path.with_suffix(".csv").write_text("qid,docid,run,Relevanz\nq,p,a,0\n")
    with pytest.raises(DataError, match=r"found 'run', 'Relevanz', wanted 'score' or .* for the grade; rename the col"):
        read_qrels(path.with_suffix(".csv"))


def test_qrels_of_other_data_are_refused(beir):
    path = beir / "qrels" / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq9\tp9\t3\n")
    with pytest.raises(DataError, match="the query or the passage of every pair is unknown"):
        read_data(beir, "test", skip_unknown=True)


@pytest.mark.parametrize("line", ["q1 0\tp1\t1", "q1\t0 p1\t1", "q1\t0\tp1 1", "q1 0 p1\t1"])
def test_a_line_that_mixes_tabs_and_spaces_is_refused(tmp_path, line):
    path = tmp_path / "qrels.txt"
    path.write_text(f"q0 0 p0 1\n{line}\n")
    assert_refused(read_qrels, path, f"{path}:2: ", "the line mixes tabs and spaces")


def test_unknown_ids_are_skipped_on_request_and_counted(beir, caplog):
    path = beir / "qrels" / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq1\tp1\t3\nq1\tp9\t1\nq9\tp1\t1\n")
    assert_refused(lambda folder: read_data(folder, "test"), beir, f"{path}:3: ", "'p9' .* --skip-unknown leaves such")
    assert read_data(beir, "test", skip_unknown=True).qrels == {"q1": {"p1": 3}}
    assert caplog.records[-1].message == f"{path}: 2 pairs with an unknown query or passage are left out"


@pytest.mark.parametrize("row", ["q9\tp1\t1", "q1\tp9\t1", "q1 \tp1\t1", "q1\t\t1"])
def test_qrels_with_an_id_that_is_not_there_are_refused(beir, row):
    path = beir / "qrels" / "test.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\n{row}\n")
    assert_refused(lambda folder: read_data(folder, "test"), beir, f"{path}:2: ", r"is not in the|the id is empty")


def test_a_run_is_read_by_score_with_ties_in_file_order(tmp_path):
    path = tmp_path / "run"
    path.write_text("q Q0 a 1 1.5 t\nq Q0 b 2 9 t\nq Q0 c 3 1.5 t\nr Q0 a 1 -1e3 t\n")
    assert [list(ranked.items()) for ranked in read_run(path).values()] == [
        [("b", 9), ("a", 1.5), ("c", 1.5)],
        [("a", -1000)],
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("q Q0 p 1 x t", "score 'x'"),
        ("q Q0 p 1 nan t", "score 'nan'"),
        ("q Q0 p 1 inf t", "'inf'"),
        ("q p 1", "found 3"),
    ],
)
def test_a_bad_line_of_a_run_is_named(tmp_path, line, what):
    path = tmp_path / "run"
    path.write_text(f"q Q0 a 1 1.5 t\n{line}\n")
    assert_refused(read_run, path, f"{path}:2: ", what)
