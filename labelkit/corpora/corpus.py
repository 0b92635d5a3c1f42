"""Read the passages of a `corpus.jsonl` (`_id`, `title`, `text`)."""

from collections.abc import Iterator
from pathlib import Path

from labelkit.corpora.rows import _json, lines, text_of
from labelkit.errors import DataError
from labelkit.records import Passage


def read_corpus(path: Path) -> dict[str, Passage]:
    """Read passages by id, in file order. Raises `DataError`."""
    corpus: dict[str, Passage] = {}
    for where, passage_id, title, text in corpus_rows(path):
        if passage_id in corpus:
            raise DataError(f"{where}: passage id {passage_id!r} is duplicated")
        corpus[passage_id] = Passage(passage_id=passage_id, title=title, text=text)
    if not corpus:
        raise DataError(f"{path}: the corpus is empty")
    return corpus


def corpus_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield `file:line`, id, title and text of each passage in file order; duplicated ids are not detected."""
    for where, raw in lines(path):
        yield where, *corpus_row(raw, where)


def corpus_row(raw: bytes, where: str) -> tuple[str, str, str]:
    """Return id, title and text of a line. Raises `DataError`."""
    row = _json(raw, where)
    title = text_of(row, "title", where) if row.get("title") is not None else ""
    return text_of(row, "_id", where), title, text_of(row, "text", where)
