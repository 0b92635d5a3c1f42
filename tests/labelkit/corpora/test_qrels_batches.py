"""Lines parsed together give the rows, the warnings and the errors of lines parsed one by one."""

import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelkit.corpora import qrels_batches as batches
from labelkit.corpora.qrels import qrels_rows
from labelkit.errors import DataError

HEADER = "query-id\tcorpus-id\tscore"
IDS = st.sampled_from(["q1", "q2", "12", "é", "a b", "", "0", "x-y", "\u2003z", '"q"', "a,b"])
GRADES = st.sampled_from(["0", "1", "2", "3", "1.0", "-1", "-2", "4", "x", " 1", "1 "])
USUAL = st.sampled_from(["0", "1", "2", "3", "-1", "-2"])
LINES = st.one_of(
    st.tuples(IDS, IDS, GRADES).map("\t".join),
    st.tuples(IDS, IDS, GRADES).map(lambda row: f"{row[0]} 0 {row[1]} {row[2]}"),
    st.tuples(st.sampled_from(["q1", "q2"]), st.sampled_from(["p1", "p2"]), USUAL).map("\t".join),
    st.tuples(st.sampled_from(["q1", "q2"]), st.sampled_from(["p1", "p2"]), USUAL).map(" ".join),
    st.sampled_from(["", "  ", "\t\t", HEADER, "q p", "a\rb\tc\t1", "q\x0bp 1", "a\x00\tb\t1"]),
)


def rows_of(read, path: Path, caplog: pytest.LogCaptureFixture):
    """The rows up to an error, the error, and the warnings."""
    caplog.clear()
    found = []
    try:
        for row in read(path):
            found.append(row)
    except DataError as error:
        return found, str(error), []
    return found, None, [record.getMessage() for record in caplog.records]


def together(path: Path):
    for batch in batches.qrels_batches(path):
        yield from (tuple(row.values()) for row in batch.to_pylist())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.booleans(),
    lines=st.lists(LINES, max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
    mark=st.sampled_from(["", "\ufeff"]),
    block=st.sampled_from([4, 40, 4000]),
)
def test_any_file_gives_the_same(header, lines, end, ended, mark, block, tmp_path, caplog, monkeypatch):
    path = tmp_path / "qrels.tsv"
    text = end.join([HEADER, *lines] if header else lines) + (end if ended else "")
    path.write_bytes((mark + text).encode())
    monkeypatch.setattr(batches, "BLOCK", block)
    with caplog.at_level(logging.WARNING):
        one, error, warnings = rows_of(lambda path: (tuple(row[1:]) for row in qrels_rows(path)), path, caplog)
        several, same_error, same_warnings = rows_of(together, path, caplog)
    assert (same_error, same_warnings) == (error, warnings)
    assert error is not None or several == one


def test_plain_lines_are_parsed_together(tmp_path, monkeypatch):
    """No line of such a file is parsed alone."""
    path = tmp_path / "qrels.tsv"
    path.write_text(HEADER + "\n" + "".join(f"q{n}\tp{n}\t{n % 4}\n" for n in range(1000)))
    monkeypatch.setattr(batches, "BLOCK", 999)
    monkeypatch.delattr(batches, "qrels_row")
    assert [row[2] for row in together(path)] == [n % 4 for n in range(1000)]
