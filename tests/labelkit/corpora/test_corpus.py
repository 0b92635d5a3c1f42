"""`labelkit corpus`: a folder of documents becomes a corpus whose ids stay, whatever happens to other documents."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from made_documents import pdf_file, word_file

import labelkit
from labelkit.corpora.beir import read_data
from labelkit.corpora.documents.conversion import PACKAGES
from labelkit.corpora.documents.converted import Refused
from labelkit.corpora.documents.worker import Converter
from labelkit.corpora.layout import is_collection
from labelkit.errors import ArtifactError, DataError, MissingPackageError, UsageError
from labelkit.storage.folders import read_manifest
from labelkit.storage.manifest import CORPUS

pytestmark = pytest.mark.slow  # documents are converted in another process

SENTENCES = " ".join(
    f"Sentence {n} of the handbook says how many days of leave there are in year {n}." for n in range(40)
)


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def documents(folder: Path) -> Path:
    """A document of every form, and what is no document."""
    notebook = {"cells": [{"cell_type": "markdown", "metadata": {}, "source": "# Brew\n\nHeat water."}]}
    return write(
        folder,
        {
            "a file.txt": "Opening hours are from nine to five on every day of the week.",
            "brew.ipynb": json.dumps(notebook | {"metadata": {}, "nbformat": 4, "nbformat_minor": 4}),
            "empty.md": "",
            "guide/leave.md": f"# Leave\n\n{SENTENCES}\n\n## Sick leave\n\nCall before nine.",
            "guide/page.html": "<title>Tea</title><p>Green tea is brewed with water below the boiling point.</p>",
            "guide/travel.docx": word_file(),
            "kettle.PDF": pdf_file(),
            "broken.pdf": b"%PDF-1.4 nothing",
            "notes.rst": "Notes\n=====\n\nCoffee is ground before it is brewed with hot water.",
            "picture.png": b"\x89PNG",
            ".git/config.md": "# hidden",
            "node_modules/left/README.md": "# a package",
        },
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def passages(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["_id"]: row for row in rows(folder / "corpus.jsonl")}


def by_source(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for passage_id, row in passages(folder).items():
        found.setdefault(row["metadata"]["source"], []).append(passage_id)
    return found


def test_a_folder_of_documents_is_a_collection_with_its_sources(tmp_path: Path) -> None:
    source = documents(tmp_path / "docs")
    (source / "link.md").symlink_to("/etc/hostname")
    (source / "up").symlink_to(tmp_path, target_is_directory=True)
    questions = write(tmp_path, {"questions.tsv": "q1\thow many days of leave\nq2\twater for tea\n"}) / "questions.tsv"
    made = labelkit.corpus(source, tmp_path / "data", labelkit.CorpusOptions(queries=questions, max_tokens=64))
    assert made.documents == 7
    assert made.left_out == {"damaged": 1, "empty": 1}
    assert made.skipped == {"links": 2, "hidden": 1, ".png": 1, "node_modules": 1}
    assert [(row["source"], row["kind"]) for row in rows(tmp_path / "data" / "left_out.jsonl")] == [
        ("broken.pdf", "damaged"),
        ("empty.md", "empty"),
    ]
    found = by_source(tmp_path / "data")
    assert list(found) == [
        "a file.txt",
        "brew.ipynb",
        "guide/leave.md",
        "guide/page.html",
        "guide/travel.docx",
        "kettle.PDF",
        "notes.rst",
    ]
    assert len(found["guide/leave.md"]) > 10
    last = passages(tmp_path / "data")[found["guide/leave.md"][-1]]
    assert (last["title"], last["text"]) == ("Leave > Sick leave", "Call before nine.")
    assert last["metadata"]["headings"] == ["Sick leave"]
    assert all(passage_id.startswith("a%20file.txt#") for passage_id in found["a file.txt"])
    data = read_data(tmp_path / "data")
    assert list(data.corpus) == [passage_id for ids in found.values() for passage_id in ids]
    assert data.queries["q2"].text == "water for tea"
    assert is_collection(tmp_path / "data")
    assert labelkit.verify(tmp_path / "data").kind == "corpus"
    manifest = read_manifest(tmp_path / "data", CORPUS)
    assert manifest.rows == {"corpus.jsonl": len(data.corpus), "queries.jsonl": 2}
    assert manifest.facts.max_tokens == 64
    assert manifest.facts.converters["docutils"]
    assert rows(tmp_path / "data" / "sources.jsonl")[2]["passages"] == len(found["guide/leave.md"])


def test_a_changed_document_changes_only_its_own_passages(tmp_path: Path) -> None:
    source = documents(tmp_path / "docs")
    labelkit.corpus(source, tmp_path / "one", labelkit.CorpusOptions(max_tokens=64))
    write(
        source,
        {
            "guide/leave.md": f"# Leave\n\n{SENTENCES}\n\n## Sick leave\n\nBefore ten.\n\n## Parental leave\n\nA year.",
            "guide/travel.docx": word_file(change=True),
            "new.md": "# New\n\nA document that was not there before.",
        },
    )
    (source / "notes.rst").unlink()
    labelkit.corpus(source, tmp_path / "two", labelkit.CorpusOptions(max_tokens=64))
    before, after = by_source(tmp_path / "one"), by_source(tmp_path / "two")
    changed = {"guide/leave.md", "guide/travel.docx", "new.md", "notes.rst"}
    assert {name for name in before | after if before.get(name) != after.get(name)} == changed
    assert before["guide/leave.md"][:-1] == after["guide/leave.md"][:-2]
    assert len(set(before["guide/travel.docx"]) & set(after["guide/travel.docx"])) == 1
    one, two = passages(tmp_path / "one"), passages(tmp_path / "two")
    assert all(one[name]["text"] == two[name]["text"] for name in one.keys() & two.keys())


def test_the_corpus_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    source = documents(tmp_path / "docs")
    copy = tmp_path / "elsewhere" / "copied"
    for path in sorted(source.rglob("*"), reverse=True):
        if path.is_file():
            (copy / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / path.relative_to(source))
    for folder, name in ((source, "one"), (copy, "two"), (source, "one")):
        labelkit.corpus(folder, tmp_path / name)
    for name in ("corpus.jsonl", "sources.jsonl", "left_out.jsonl", "repeated.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_repeated_passages_are_kept_once_and_named(tmp_path: Path) -> None:
    near = SENTENCES.replace("Sentence 3 ", "Sentence three ")
    files: dict[str, str | bytes] = {
        "v1/leave.md": f"# Leave\n\n{SENTENCES}",
        "v2/leave.md": f"# Leave\n\n{SENTENCES}",
        "v3/leave.md": f"# Leave\n\n{near}",
        "other.md": f"# Holidays\n\n{near}",
        "z.txt": SENTENCES,
    }
    made = labelkit.corpus(write(tmp_path / "docs", files), tmp_path / "data", labelkit.CorpusOptions(max_tokens=2048))
    found = by_source(tmp_path / "data")
    assert list(found) == ["other.md", "v1/leave.md"]
    assert made.repeated == 3
    told = rows(tmp_path / "data" / "repeated.jsonl")
    assert [(row["source"], row["kept"], row["how"]) for row in told] == [
        ("v2/leave.md", found["v1/leave.md"][0], "exact"),
        ("v3/leave.md", found["v1/leave.md"][0], "near"),
        ("z.txt", found["v1/leave.md"][0], "near"),
    ]
    assert [0.8 <= row["similarity"] < 1 for row in told] == [False, True, True]


def test_descriptions_that_differ_only_in_their_subject_are_all_kept(tmp_path: Path) -> None:
    text = "\n\n".join(f"## {name}\n\nCompresses {name} data. {SENTENCES}" for name in ("gzip", "brotli", "zstd"))
    files: dict[str, str | bytes] = {"zlib.md": f"# Zlib\n\n{text}", "copy.md": f"# Zlib\n\n{text}"}
    made = labelkit.corpus(write(tmp_path / "docs", files), tmp_path / "data", labelkit.CorpusOptions(max_tokens=2048))
    assert {row["title"] for row in passages(tmp_path / "data").values()} == {
        "Zlib > gzip",
        "Zlib > brotli",
        "Zlib > zstd",
    }
    assert made.repeated == 3


def test_an_output_inside_the_folder_is_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "docs", {"a.md": "# A\n\nSome text.", "b.md": "# B\n\nOther words."})
    monkeypatch.chdir(source)
    first = labelkit.corpus(".", "data")
    assert labelkit.corpus(".", "data") == first
    assert first.skipped == {}
    with pytest.raises(UsageError, match="is read by this command"):
        labelkit.corpus(".", ".")
    write(source, {"data/mine.md": "my own notes"})
    with pytest.raises(ArtifactError, match=r"contains mine\.md beside the corpus"):
        labelkit.corpus(".", "data")


def test_what_cannot_work_is_said_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "docs", {"a.png": b"\x89PNG", "b.c": "int x;"})
    with pytest.raises(DataError, match=r"contains no documents \(\.txt.*it contains 1 \.c, 1 \.png|1 \.png, 1 \.c"):
        labelkit.corpus(source, tmp_path / "data")
    write(source, {"a.md": ""})
    with pytest.raises(DataError, match=r"none of 1 documents can be read; the first: a\.md: the file is empty"):
        labelkit.corpus(source, tmp_path / "data")
    with pytest.raises(DataError, match=r"nothing does not exist"):
        labelkit.corpus(tmp_path / "nothing", tmp_path / "data")
    with pytest.raises(DataError, match="is a file; give the folder that contains it"):
        labelkit.corpus(source / "a.md", tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs"]
    monkeypatch.setitem(PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(MissingPackageError, match="needs no-such-package, which is not installed; run: pip install"):
        labelkit.corpus(source, tmp_path / "data")


def test_names_that_are_not_utf_8_and_pipes_are_told(tmp_path: Path) -> None:
    source = write(tmp_path / "docs", {"a.md": "# A\n\nSome text."})
    (source / os.fsdecode(b"caf\xe9.md")).write_text("# Cafe\n\nOther words.")
    os.mkfifo(source / "pipe.md")
    made = labelkit.corpus(source, tmp_path / "data")
    assert made.skipped == {"special": 1}
    assert list(by_source(tmp_path / "data")) == ["a.md", "caf\\xe9.md"]


def test_a_document_that_takes_too_long_or_ends_the_process_ends_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "# A\n\nSome text.", "deep.html": "<div>" * 200_000 + "deep"})
    with Converter(None, 256, seconds=10) as converter:
        assert len(converter.convert(tmp_path / "a.md").passages) == 1
        assert converter._child is not None
        os.kill(converter._child.pid, signal.SIGSEGV)
        with pytest.raises(Refused, match="ended with code -11"):
            converter.convert(tmp_path / "a.md")
        assert len(converter.convert(tmp_path / "a.md").passages) == 1
    with Converter(None, 256, seconds=0.01) as late, pytest.raises(Refused, match=r"takes more than 0\.01 seconds"):
        late.convert(tmp_path / "deep.html")


def test_a_document_that_needs_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "huge.md").open("wb") as file:
        file.truncate(129 << 20)
    with Converter(None, 256) as converter, pytest.raises(Refused, match="129 MB, over 128 MB"):
        converter.convert(tmp_path / "huge.md")


def test_the_command_says_what_it_did(labelkit: Any, tmp_path: Path) -> None:
    source = documents(tmp_path / "docs")
    done = labelkit("corpus", source, "-o", tmp_path / "data")
    assert done.code == 0
    assert "2 documents give no passages: 1 damaged, 1 empty" in done.err
    assert "passages of 7 documents" in done.err
