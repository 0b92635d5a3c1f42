"""Folder names are literal: no command takes `[ ] * ?`, quotes, `%`, `~` or `=` in a path for anything but itself."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from present import present

from labelkit.errors import UsageError
from labelkit.storage import tables

NAMES = ("lab[1]*?", '~/query_id=7/it\'s "100%s"\nstraße 漢字 {0}')
MATCHED = "lab1xy"
"""Another folder, which the first name would match as a pattern."""


def whole_job(call: Callable[..., Any], folder: Path, beir: Path) -> None:
    """Every command that takes a path, inside `folder`."""
    shutil.copytree(beir, folder / "beir")
    data, qrels, labels, made = folder / "beir", folder / "beir/qrels/test.tsv", folder / "labels", folder / "made"
    judge = ("--engine", "scripted", "--model", "overlap")
    for command in (
        ("pool", data, "--human", qrels, "-o", folder / "pool"),
        ("plan", folder / "pool", *judge),
        ("annotate", folder / "pool", "-o", labels, *judge, "--cache", folder / "cache"),
        ("annotate", folder / "pool", "-o", folder / "listed", *judge, "--method", "relsel", "--permutations", 2),
        ("import", qrels, "--judge", "ann", "--kind", "human", "-o", folder / "people"),
        ("agree", labels, "--human", qrels, "--by", "source", "--pool", folder / "pool", "--data", data),
        ("bias", labels, "--human", qrels, "--data", data),
        ("replay", labels),
        (
            *("mix", "--data", data, "--human", folder / "people", "--llm", labels, "--llm", folder / "listed"),
            *("--positive-grade", 1, "-o", made),
        ),
        ("audit", made, "--eval", data, "--model", folder / "pool"),
        ("replay", made),
        ("show", made, "--query", "q1"),
        ("export", made, "--to", "beir", "-o", folder / "export"),
        ("export", made, "--to", "st-labeled-list", "-o", folder / "tuples"),
        ("import", folder / "tuples", "--from", "st-labeled-list", "--judge", "j", "-o", folder / "again"),
        ("publish", made, "org/set", "--dry-run", "--license", "mit", "--allow", "leaking"),
        ("report", made, "-o", folder / "report.html"),
        ("tidy", data, "-o", folder / "tidy"),
        ("verify", made),
        ("verify", labels),
    ):
        called = call(*command)
        assert called.code == 0, (command, called.err)


def tables_in(folder: Path) -> dict[str, bytes]:
    """The tables below a folder, but for those that say when a reply came."""
    paths = [path for path in folder.rglob("*.parquet") if path.name != "replies.parquet"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_every_command_reads_and_writes_the_folder_that_is_named(labelkit, beir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole_job(labelkit, Path("plain"), beir)
    expected = tables_in(Path("plain"))
    shutil.copytree("plain", MATCHED)
    for name in expected:
        pq.write_table(pa.table({"another": [1]}), Path(MATCHED) / name)
    other = tables_in(Path(MATCHED))
    for name in NAMES:
        whole_job(labelkit, Path(name), beir)
        assert tables_in(Path(name)) == expected, name
    assert tables_in(Path(MATCHED)) == other


def test_a_pattern_reads_no_other_labels(labelkit, beir, pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, model in (("lab1", "garbage"), ("lab[1]", "overlap")):
        assert labelkit("annotate", "pool", "-o", folder, "--engine", "scripted", "--model", model).code == 0
    assert labelkit("mix", "--data", "beir", "--llm", "lab[1]", "-o", "made").code == 0
    ((judge,),) = present(duckdb.sql("SELECT DISTINCT judge_id FROM 'made/judgements.parquet'")).fetchall()
    assert "overlap" in judge


def test_a_name_that_duckdb_cannot_be_given_is_refused_in_one_line(labelkit, beir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = labelkit("mix", "--data", "beir", "--human", "beir/qrels/test.tsv", "-o", "back\\slash")
    assert called.code == 2
    assert "back\\\\slash" in called.err
    assert "rename" in called.err
    with pytest.raises(UsageError, match="not UTF-8"):
        tables.parquet(Path("a\udcffb.parquet"))


def test_an_argument_that_is_not_utf8_is_refused_in_one_line(beir, tmp_path):
    arguments = [b"pool", bytes(beir), b"-o", bytes(tmp_path) + b"/\xff"]
    run = subprocess.run([sys.executable, "-m", "labelkit", *arguments], capture_output=True, check=False)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert b"UTF-8" in run.stderr
