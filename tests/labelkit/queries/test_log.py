"""Queries from a log: without near-duplicates and personal data, drawn, counted, and never a grade."""

import json
from collections import Counter

import pytest

from labelkit.errors import DataError
from labelkit.queries.log import sample_log
from labelkit.queries.options import LogOptions
from labelkit.storage import folders
from labelkit.storage.manifest import QUERIES

LINES = [
    "how tall is mount everest above the sea",
    "How  tall is Mount Everest above the sea",
    "how tall is mount everest above the seas",
    "mail jane@example.com",
    "call +49 30 1234567",
    "who is @jane",
    "???",
    "cheap flights to lisbon",
    "cheap flights to lisbon",
    "",
]


def written(folder):
    return [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]


def test_a_log_becomes_queries_and_everything_left_out_is_counted(corpus, tmp_path):
    log, output = tmp_path / "queries.log", tmp_path / "made"
    log.write_text("\n".join(LINES))
    made = sample_log(corpus, output, LogOptions(log=log))
    assert (made.lines_read, made.different, made.kept) == (9, 3, 2)
    assert made.left_out == {
        "e-mail address": 1,
        "phone number": 1,
        "@handle": 1,
        "no words": 1,
        "near-duplicate of another query": 1,
    }
    rows = written(output)
    assert {row["metadata"]["written_by"] for row in rows} == {"log"}
    assert {row["metadata"]["count"] for row in rows if "lisbon" in row["text"]} == {2}
    facts = folders.read_manifest(output, QUERIES).facts
    assert (facts.queries_by, facts.grades_by) == ("log", None)
    assert not (output / "qrels").exists()


def test_personal_data_is_written_nowhere(corpus, tmp_path):
    log, output = tmp_path / "queries.log", tmp_path / "made"
    log.write_text("\n".join(LINES))
    sample_log(corpus, output, LogOptions(log=log))
    everything = b"".join(path.read_bytes() for path in output.rglob("*") if path.is_file())
    assert not [word for word in (b"jane", b"1234567") if word in everything]
    dropped = [json.loads(line) for line in (output / "dropped.jsonl").read_text().splitlines()]
    assert {row["line"]: row["reason"] for row in dropped}[f"{log}:4"] == "e-mail address"


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("log.csv", 'when,typed\n1,"flights, cheap"\n2,trains\n', "typed"),
        ("log.tsv", "query\twhen\nflights, cheap\t1\ntrains\t2\n", None),
        ("log.jsonl", '{"q": "flights, cheap"}\n{"q": "trains"}\n', "q"),
        ("log.txt", "flights, cheap\r\ntrains\r\n", None),
    ],
)
def test_logs_of_several_forms_are_read(corpus, tmp_path, name, content, field):
    (tmp_path / name).write_text(content)
    sample_log(corpus, tmp_path / "made", LogOptions(log=tmp_path / name, text_field=field))
    assert sorted(row["text"] for row in written(tmp_path / "made")) == ["flights, cheap", "trains"]


def test_a_missing_column_names_the_cure(corpus, tmp_path):
    (tmp_path / "log.csv").write_text("when,typed\n1,trains\n")
    with pytest.raises(DataError, match=r"found 'when', 'typed', wanted 'text' or 'query' .*--text-field"):
        sample_log(corpus, tmp_path / "made", LogOptions(log=tmp_path / "log.csv"))


def numbered(number):
    """A query that is no near-duplicate of any other."""
    return " ".join(f"{chr(97 + (number * step) % 26) * 3}{number * step}" for step in (3, 5, 7, 11))


def test_a_sample_is_uniform_over_different_queries_or_follows_their_frequency(corpus, tmp_path):
    log = tmp_path / "queries.log"
    frequent, rare = [numbered(number) for number in range(20)], [numbered(number) for number in range(20, 220)]
    log.write_text("\n".join([*(frequent * 50), *rare]))
    drawn: Counter[bool] = Counter()
    for by_frequency in (False, True):
        options = LogOptions(log=log, sample=40, by_frequency=by_frequency, seed=3)
        made = sample_log(corpus, tmp_path / "made", options)
        assert made.kept == 40
        drawn[by_frequency] = sum(row["text"] in frequent for row in written(tmp_path / "made"))
    assert drawn[False] <= 12
    assert drawn[True] >= 15
    again = sample_log(corpus, tmp_path / "again", LogOptions(log=log, sample=40, by_frequency=True, seed=3))
    assert again.kept == 40
    assert written(tmp_path / "again") == written(tmp_path / "made")


def test_a_sample_is_full_although_its_first_queries_are_near_duplicates(corpus, tmp_path):
    log = tmp_path / "queries.log"
    alike = [f"how do i restore the factory settings of my telephone please {letter}" for letter in "abcdefghijklm"]
    log.write_text("\n".join([*alike, *map(numbered, range(8))]))
    assert sample_log(corpus, tmp_path / "made", LogOptions(log=log, sample=9)).kept == 9


def test_a_log_without_a_query_is_refused(corpus, tmp_path):
    (tmp_path / "queries.log").write_text("a@b.org\n")
    with pytest.raises(DataError, match="none of 1 lines is a query without personal data"):
        sample_log(corpus, tmp_path / "made", LogOptions(log=tmp_path / "queries.log"))
