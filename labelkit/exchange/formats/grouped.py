"""Formats with one JSON object per query: Tevatron (old and current) and FlagEmbedding.

None of them can store grades. Queries without positives are left out, because the trainers of these formats fail on
them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labelkit.corpora.layout import stem_of
from labelkit.corpora.rows import id_of, text_of
from labelkit.errors import DataError
from labelkit.exchange.formats.base import LabelledQuery, View, Written, write_json_lines
from labelkit.exchange.formats.collecting import Collector, Grading
from labelkit.exchange.formats.sources import data_files, first_of, list_of, of_split, rows_in, tables_in, title_of

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


def read_tevatron(path: Path, collector: Collector, grading: Grading) -> list[Path]:
    """Read a folder with a corpus (`docid`, `text`) and one or more other files, such as `train.jsonl`."""
    tables = tables_in(path)
    corpus = [file for file in tables if stem_of(file) == "corpus"]
    files = of_split(path, [file for file in tables if file not in corpus], grading.split)
    if not corpus or not files:
        raise DataError(f"{path} needs corpus.jsonl and a file such as train.jsonl")
    for where, row in rows_in(corpus):
        name, text = first_of(row, ("docid", "document_id")), first_of(row, ("text", "document_text"))
        passage_id, title = id_of(row, name, where), title_of(row, where)
        collector.passage(passage_id, title, text_of(row, text, where), where=where)
    for where, row in rows_in(files):
        query_id = collector.query(id_of(row, "query_id", where), query_text(row, where), where)
        for side in LABELS:
            for passage_id in list_of(row, f"{side}_document_ids", "an id", where=where):
                collector.label(query_id, str(passage_id), side)
    return [*corpus, *files]


def read_tevatron_classic(path: Path, collector: Collector, grading: Grading) -> list[Path]:
    """Read rows with `positive_passages` and `negative_passages`, each with `docid`, `title` and `text`."""
    files = data_files(path, grading.split)
    for where, row in rows_in(files):
        query_id = collector.query(id_of(row, "query_id", where), query_text(row, where), where)
        for side in LABELS:
            for passage in list_of(row, f"{side}_passages", "an object", where=where):
                name, text = id_of(passage, "docid", where), text_of(passage, "text", where)
                collector.label(query_id, collector.passage(name, title_of(passage, where), text, where=where), side)
    return files


def read_dpr(path: Path, collector: Collector, grading: Grading) -> list[Path]:
    """Read the training files of DPR: JSON arrays with `question`, `positive_ctxs`, `hard_negative_ctxs` and
    `negative_ctxs`, of which any may be absent. Queries have no ids there, and early releases name the id of a passage
    `psg_id`.
    """
    files = data_files(path, grading.split)
    for where, row in rows_in(files):
        query_id = collector.query(None, text_of(row, "question", where), where)
        for key, side in (("positive", "positive"), ("hard_negative", "negative"), ("negative", "negative")):
            for passage in list_of(row, f"{key}_ctxs", "an object", where=where) if row.get(f"{key}_ctxs") else ():
                named = first_of(passage, ("passage_id", "psg_id"))
                name = id_of(passage, named, where) if passage.get(named) is not None else None
                title, text = title_of(passage, where), text_of(passage, "text", where)
                collector.label(query_id, collector.passage(name, title, text, where=where), side)
    return files


def read_flag_embedding(path: Path, collector: Collector, grading: Grading) -> list[Path]:
    """Read rows with `query`, `pos` and `neg`. If all scores of the files lie between 0 and 1 they are probabilities,
    too; otherwise, such as with the logits of a reranker, they are only kept as scores.
    """
    files = data_files(path, grading.split)
    for where, row in rows_in(files):
        query_id = collector.query(None, text_of(row, "query", where), where)
        for key, side in (("pos", "positive"), ("neg", "negative")):
            texts = list_of(row, key, "a text", where=where)
            scores = list_of(row, f"{key}_scores", "a finite number", where=where) if row.get(f"{key}_scores") else []
            if scores and len(scores) != len(texts):
                raise DataError(f"{where}: {len(texts)} texts in {key!r} and {len(scores)} scores")
            for text, score in zip(texts, scores or [None] * len(texts), strict=True):
                collector.label(query_id, collector.passage(None, "", text, where=where), side, score=score)
    return files


def query_text(row: Mapping[str, Any], where: str) -> str:
    """Return the query of a Tevatron row; the two formats name the field differently."""
    return text_of(row, first_of(row, ("query_text", "query")), where)
