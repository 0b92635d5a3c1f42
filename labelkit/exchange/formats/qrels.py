"""Formats of test collections: BEIR, TREC qrels and runs, and MS MARCO files with triples of ids.

Each qrels line contains a grade, so grades are preserved. Columns are separated by tabs or spaces: an id that contains
one is refused. In the text columns of MS MARCO, a tab or line break becomes a space, which is counted.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import IO

from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.files import file_rows, form_of
from labelkit.corpora.layout import layout_of
from labelkit.corpora.qrels import qrels_rows
from labelkit.corpora.queries import query_rows
from labelkit.errors import DataError
from labelkit.exchange.formats.base import View, Written, write_json_lines, write_lines
from labelkit.exchange.formats.collecting import Collector, Grading
from labelkit.judging.human_answers import NOTES
from labelkit.storage.names import inside


def write_beir(view: View, folder: Path) -> Written:
    """Write `corpus.jsonl`, `queries.jsonl`, and `qrels/train.tsv` with one line per positive or negative."""
    left_out = {"ignored passages": 0, "labels without a grade": 0}
    corpus = ({"_id": pid, "title": title, "text": text} for pid, title, text in view.passages())
    queries = ({"_id": row["query_id"], "text": row["text"]} for row in view.rows("queries"))
    rows = {
        "corpus.jsonl": write_json_lines(folder / "corpus.jsonl", corpus),
        "queries.jsonl": write_json_lines(folder / "queries.jsonl", queries),
        "qrels/train.tsv": write_lines(folder / "qrels" / "train.tsv", qrels_lines(view, "beir", left_out)) - 1,
    }
    return Written(rows, left_out)


def qrels_lines(view: View, style: str, left_out: dict[str, int]) -> Iterator[str]:
    """Yield the lines of a qrels file in a style: beir (with a header), trec or msmarco. Counts labels that are left
    out.
    """
    form = {"beir": "{}\t{}\t{}", "trec": "{} 0 {} {}", "msmarco": "{}\t0\t{}\t{}"}[style]
    if style == "beir":
        yield "query-id\tcorpus-id\tscore"
    for group in view.groups():
        query_id = plain(group.query_id)
        left_out["ignored passages"] += group.ignored
        for passage_id, grade, *_ in group.positives + group.negatives:
            if grade is None:
                left_out["labels without a grade"] += 1
            else:
                yield form.format(query_id, plain(passage_id), grade)


def write_judged(view: View, folder: Path) -> Written:
    """Write the grades of each judge of a dataset or labels folder as `JUDGE.tsv`, in BEIR's form of qrels, and the
    notes of annotators as `notes/notes.jsonl`.
    """
    left_out = {"judgements without a grade": 0}
    rows: dict[str, int] = {}
    with ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for row in view.rows("judgements"):
            if row["grade"] is None:
                left_out["judgements without a grade"] += 1
                continue
            name = f"{row['judge_id']}.tsv"
            if name not in files:
                path = inside(folder, name)
                files[name] = stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
                files[name].write("query-id\tcorpus-id\tscore\n")
            files[name].write(f"{plain(row['query_id'])}\t{plain(row['passage_id'])}\t{row['grade']}\n")
            rows[name] = rows.get(name, 0) + 1
    if view.has(NOTES):
        rows["notes/notes.jsonl"] = write_json_lines(folder / "notes" / "notes.jsonl", view.rows(NOTES))
    return Written(rows, left_out)


def plain(name: str) -> str:
    """Return an id unchanged. Raises `DataError` if it contains a space, tab or quote."""
    if name.split() != [name] or '"' in name:
        raise DataError(f"the id {name!r} contains a space or a quote, which this format cannot store; rename it first")
    return name


def read_beir(path: Path, collector: Collector, grading: Grading) -> list[Path]:
    """Read a collection in any layout with all its qrels, or with the qrels of one split. Grades below
    `grading.positive_grade` become negatives.
    """
    layout = layout_of(path)
    if not layout.qrels:
        raise DataError(f"{path} has no qrels/*.tsv and so no labels")
    splits = [layout.files_of(grading.split)] if grading.split else list(layout.qrels.values())
    files = [file for paths in splits for file in paths]
    for where, passage_id, title, text in corpus_rows(*layout.corpus):
        collector.passage(passage_id, title, text, where=where)
    for where, query_id, text in query_rows(*layout.queries):
        collector.query(query_id, text, where)
    for file in files:
        add_qrels(collector, file, grading)
    collector.only_labelled = True
    return [*layout.corpus, *layout.queries, *files]


def add_qrels(collector: Collector, path: Path, grading: Grading) -> None:
    """Add the labels of a qrels file; a pair that already has a side keeps it."""
    for row in qrels_rows(path, scale=grading.scale):
        side = "positive" if row.grade >= grading.positive_grade else "negative"
        collector.graded(row.query_id, row.passage_id, side, grade=row.grade, raw_grade=row.raw_grade)


def write_trec(view: View, folder: Path) -> Written:
    """Write `qrels.train.txt`, and for each judge with scores a run, `runs/<judge>.run`, with passages by score."""
    left_out = {"ignored passages": 0, "labels without a grade": 0, "judgements without a score": 0}
    rows = {"qrels.train.txt": write_lines(folder / "qrels.train.txt", qrels_lines(view, "trec", left_out))}
    with ExitStack() as stack:
        runs: dict[str, IO[str]] = {}
        for query_id, scored in scores_by_query(view, left_out):
            for judge_id, ranked in scored.items():
                name = f"runs/{judge_id}.run"
                if name not in runs:
                    path = inside(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    runs[name] = stack.enter_context(path.open("w", encoding="utf-8"))
                for rank, (score, passage_id) in enumerate(sorted(ranked), 1):
                    runs[name].write(f"{query_id} Q0 {plain(passage_id)} {rank} {-score!r} {plain(judge_id)}\n")
                rows[name] = rows.get(name, 0) + len(ranked)
    return Written(rows, left_out)


def scores_by_query(view: View, left_out: dict[str, int]) -> Iterator[tuple[str, dict[str, list[tuple[float, str]]]]]:
    """Yield each query with the scores of every judge as (negative score, passage id), which sorts in the order of a
    run. The table `judgements` is sorted by query.
    """
    rows = (
        row
        for batch in view.batches("judgements", ["query_id", "passage_id", "judge_id", "score"])
        for row in zip(*(column.to_pylist() for column in batch), strict=True)
    )
    for query_id, judged in groupby(rows, key=lambda row: row[0]):
        scored: dict[str, list[tuple[float, str]]] = {}
        for _, passage_id, judge_id, score in judged:
            if score is None:
                left_out["judgements without a score"] += 1
            else:
                scored.setdefault(judge_id, []).append((-score, passage_id))
        yield plain(query_id), scored


def write_msmarco(view: View, folder: Path) -> Written:
    """Write `collection.tsv`, `queries.train.tsv`, `qrels.train.tsv`, and `qidpidtriples.train.tsv` with every positive
    and every negative of a query.
    """
    left_out = {"ignored passages": 0, "labels without a grade": 0, "tabs and line ends": 0}

    def cell(text: str) -> str:
        flat = " ".join(text.replace("\t", "\n").replace("\r", "\n").split("\n"))
        left_out["tabs and line ends"] += flat != text
        return flat

    corpus = (f"{plain(pid)}\t{cell(f'{title} {text}'.strip())}" for pid, title, text in view.passages())
    queries = (f"{plain(row['query_id'])}\t{cell(row['text'])}" for row in view.rows("queries"))
    triples = (
        f"{group.query_id}\t{positive}\t{negative}"
        for group in view.groups()
        for positive, *_ in group.positives
        for negative, *_ in group.negatives
    )
    lines = {
        "collection.tsv": corpus,
        "queries.train.tsv": queries,
        "qrels.train.tsv": qrels_lines(view, "msmarco", left_out),
        "qidpidtriples.train.tsv": triples,
    }
    return Written({name: write_lines(folder / name, content) for name, content in lines.items()}, left_out)


def read_msmarco(path: Path, collector: Collector, grading: Grading) -> list[Path]:
    """Read a folder with `collection.tsv`, `queries*.tsv`, and `qidpidtriples*.tsv` or `qrels*.tsv` or both, or a file
    of text triples (query, positive, negative).

    Triples decide the side of a passage. Qrels give its grade, and decide its side if no triple does.
    """
    if path.is_file():
        for where, row in file_rows(path, ("query", "positive", "negative")):
            query_id = collector.query(None, row["query"], where)
            for side in ("positive", "negative"):
                collector.label(query_id, collector.passage(None, "", row[side], where=where), side)
        return [path]
    texts = layout_of(path)
    triples, graded = (of_split_or_all(path, name, grading.split) for name in ("qidpidtriples", "qrels"))
    if not triples and not graded:
        raise DataError(f"{path} has neither qidpidtriples*.tsv nor qrels*.tsv and so no labels")
    for where, passage_id, title, text in corpus_rows(*texts.corpus):
        collector.passage(passage_id, title, text, where=where)
    for where, query_id, text in query_rows(*texts.queries):
        collector.query(query_id, text, where)
    for file in triples:
        for _, row in file_rows(file, ("query", "positive", "negative")):
            collector.label(row["query"], row["positive"], "positive")
            collector.label(row["query"], row["negative"], "negative")
    for file in graded:
        add_qrels(collector, file, grading)
    collector.only_labelled = True
    return [*texts.corpus, *texts.queries, *triples, *graded]


def of_split_or_all(path: Path, name: str, split: str | None) -> list[Path]:
    """Return the files of a folder whose name begins with `name`, all of them or only one split."""
    found = [file for file in sorted(path.glob(f"{name}*")) if form_of(file) == ".tsv"]
    return found if split is None else [file for file in found if f".{split}." in file.name]
