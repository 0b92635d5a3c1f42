"""Formats with one JSON object per query: Tevatron (old and current) and FlagEmbedding.

None of them can store grades. Queries without positives are left out, because the trainers of these formats fail on
them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from labelkit.corpora.rows import encodable, json_lines, text_of
from labelkit.errors import DataError
from labelkit.exchange.formats.base import (
    Collector,
    Found,
    Grading,
    LabelledQuery,
    View,
    Written,
    judge_of,
    write_json_lines,
)

LABELS = ("positive", "negative")


def write_tevatron(view: View, folder: Path) -> Written:
    """Write `train.jsonl` with ids, and `corpus.jsonl` with `docid` and `text`. Title and text are joined, since
    training ignores titles.
    """
    left_out = {"queries without positives": 0, "ignored passages": 0}
    groups = (
        {
            "query_id": group.query_id,
            "query_text": group.query,
            "positive_document_ids": [label[0] for label in group.positives],
            "negative_document_ids": [label[0] for label in group.negatives],
        }
        for group in with_positives(view, left_out)
    )
    corpus = ({"docid": pid, "text": f"{title} {text}".strip()} for pid, title, text in view.passages())
    rows = {
        "train.jsonl": write_json_lines(folder / "train.jsonl", groups),
        "corpus.jsonl": write_json_lines(folder / "corpus.jsonl", corpus),
    }
    return Written(rows, left_out)


def write_tevatron_classic(view: View, folder: Path) -> Written:
    """Write `train.jsonl`, which contains the passages: `docid`, `title`, `text`."""
    left_out = {"queries without positives": 0, "ignored passages": 0}
    groups = (
        {
            "query_id": group.query_id,
            "query": group.query,
            "positive_passages": [classic_passage(view, label[0]) for label in group.positives],
            "negative_passages": [classic_passage(view, label[0]) for label in group.negatives],
        }
        for group in with_positives(view, left_out)
    )
    return Written({"train.jsonl": write_json_lines(folder / "train.jsonl", groups)}, left_out)


def classic_passage(view: View, passage_id: str) -> dict[str, str]:
    """Return a passage in the old Tevatron format."""
    passage = view.passage(passage_id)
    return {"docid": passage.passage_id, "title": passage.title, "text": passage.text}


def write_flag_embedding(view: View, folder: Path) -> Written:
    """Write `train.jsonl` with the texts. If every label has a probability, the probabilities become `pos_scores` and
    `neg_scores`; else, if every label has a score of its judge, the scores as they are. Raw scores of a reranker are
    preferred to probabilities, because tools that read this format distil them.
    """
    left_out = {"queries without positives": 0, "ignored passages": 0}
    written = _written_scores(view)
    if not written:
        left_out["probabilities and scores, because some labels have none"] = 1

    def row(group: LabelledQuery) -> dict[str, Any]:
        texts = {
            "query": group.query,
            "pos": [view.passage(label[0]).full_text for label in group.positives],
            "neg": [view.passage(label[0]).full_text for label in group.negatives],
        }
        sides = (("pos_scores", group.positives), ("neg_scores", group.negatives)) if written else ()
        return texts | {name: [getattr(label, written or "") for label in labels] for name, labels in sides}

    rows = map(row, with_positives(view, left_out))
    return Written({"train.jsonl": write_json_lines(folder / "train.jsonl", rows)}, left_out)


def _written_scores(view: View) -> str | None:
    """Choose the field that every label has: probability, else score (score first if it is a reranker's); None if
    there is neither.
    """
    lacking = dict.fromkeys(("score", "probability") if view.raw else ("probability", "score"), False)
    for label in (label for group in view.groups() for label in (*group.positives, *group.negatives)):
        for name in lacking:
            lacking[name] |= getattr(label, name) is None
    return next((name for name, some in lacking.items() if not some), None)


def with_positives(view: View, left_out: dict[str, int]) -> Iterator[LabelledQuery]:
    """Yield the queries with a positive. Other queries and ignored passages are counted in `left_out`."""
    for group in view.groups():
        left_out["ignored passages"] += group.ignored
        if group.positives:
            yield group
        else:
            left_out["queries without positives"] += 1


def read_tevatron(path: Path, name: str, grading: Grading) -> Found:
    """Read a folder with `corpus.jsonl` and one or more other `*.jsonl` files, such as `train.jsonl`."""
    corpus, files = path / "corpus.jsonl", [file for file in data_files(path) if file.name != "corpus.jsonl"]
    collector = Collector()
    for where, row in json_lines(corpus):
        text = text_of(row, "text" if "text" in row else "document_text", where)
        title = text_of(row, "title", where) if row.get("title") else ""
        collector.passage(text_of(row, "docid", where), title, text, where=where)
    for where, row in (found for file in files for found in json_lines(file)):
        query_id = collector.query(text_of(row, "query_id", where), query_text(row, where), where)
        for side in LABELS:
            for passage_id in list_of(row, f"{side}_document_ids", "a text", where=where):
                collector.label(query_id, passage_id, side)
    return collector.found(judge_of([corpus, *files], name), path)


def read_tevatron_classic(path: Path, name: str, grading: Grading) -> Found:
    """Read a JSONL file, or a folder of JSONL files."""
    collector = Collector()
    files = data_files(path)
    for where, row in (found for file in files for found in json_lines(file)):
        query_id = collector.query(text_of(row, "query_id", where), query_text(row, where), where)
        for side in LABELS:
            for passage in list_of(row, f"{side}_passages", "an object", where=where):
                title = text_of(passage, "title", where) if passage.get("title") else ""
                passage_id = collector.passage(
                    text_of(passage, "docid", where), title, text_of(passage, "text", where), where=where
                )
                collector.label(query_id, passage_id, side)
    return collector.found(judge_of(files, name), path)


def read_flag_embedding(path: Path, name: str, grading: Grading) -> Found:
    """Read a JSONL file, or a folder of JSONL files. If all scores of the files lie between 0 and
    1 they are probabilities too; otherwise, such as with the logits of a reranker, they are only kept as scores.
    """
    collector = Collector()
    files = data_files(path)
    for where, row in (found for file in files for found in json_lines(file)):
        query_id = collector.query(None, text_of(row, "query", where), where)
        for key, side in (("pos", "positive"), ("neg", "negative")):
            texts = list_of(row, key, "a text", where=where)
            scores = list_of(row, f"{key}_scores", "a finite number", where=where) if row.get(f"{key}_scores") else []
            if scores and len(scores) != len(texts):
                raise DataError(f"{where}: {len(texts)} texts in {key!r} and {len(scores)} scores")
            for text, score in zip(texts, scores or [None] * len(texts), strict=True):
                collector.label(query_id, collector.passage(None, "", text, where=where), side, score=score)
    return collector.found(judge_of(files, name), path)


def data_files(path: Path) -> list[Path]:
    """List the JSONL files at a path: the file itself, or those in the folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    if not files:
        raise DataError(f"{path} is not a JSONL file and contains none")
    return files


def query_text(row: Mapping[str, Any], where: str) -> str:
    """Return the query of a Tevatron row; the two formats name the field differently."""
    return text_of(row, "query_text" if "query_text" in row else "query", where)


def list_of(row: Mapping[str, Any], key: str, kind: str, where: str) -> list[Any]:
    """Return a list field of a row. Raises `DataError` if a value is not of the kind (a key of `KINDS`)."""
    values = row.get(key)
    if not isinstance(values, list) or not all(map(KINDS[kind], values)):
        raise DataError(f"{where}: field {key!r} must be a list in which each value is {kind}")
    return values


KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str) and encodable(value),
    "a finite number": lambda value: isinstance(value, int | float) and math.isfinite(value),
    "an object": lambda value: isinstance(value, dict),
}
"""Kind of a list's values, in the words of the error -> its test."""
