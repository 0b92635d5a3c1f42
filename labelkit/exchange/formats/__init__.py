"""The dataset formats of other tools, in one table.

Each writer streams a dataset to files; each reader returns the records of a dataset. `lacks` lists the information that
a format cannot store: `labelkit export` prints it and writes it to the README of the export.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.answers import READERS
from labelkit.corpora.files import column_names
from labelkit.corpora.layout import stem_of
from labelkit.errors import DataError, UsageError
from labelkit.exchange.formats import grouped, people, qrels, tuples
from labelkit.exchange.formats.base import View, Written
from labelkit.exchange.formats.collecting import Collector, Grading
from labelkit.exchange.formats.scored import IDS
from labelkit.exchange.formats.sources import data_files, rows_in, tables_in
from labelkit.storage.names import missing

ORIGINS = "the origin of labels (judges, sources, weights)"


class Format(NamedTuple):
    """The writer and the reader of a format, and the information that is lost."""

    write: Callable[[View, Path], Written] | None
    """None if the format can only be read."""
    read: Callable[[Path, Collector, Grading], list[Path]] | None
    """Collects the contents of a path and returns the files that were read; None if no dataset can be imported."""
    configs: dict[str, str]
    """Configuration for `datasets.load_dataset` -> file."""
    lacks: tuple[str, ...]
    labels: bool = False
    """Whether a labels folder can be written too, and not only a dataset."""


FORMATS = {
    "beir": Format(
        qrels.write_beir,
        qrels.read_beir,
        {"corpus": "corpus.jsonl", "queries": "queries.jsonl"},
        lacks=(
            ORIGINS,
            "probabilities",
            "the thresholds between positive, negative and ignored: a reader has to set them by grade",
        ),
    ),
    "trec": Format(
        qrels.write_trec,
        None,
        {},
        lacks=(
            ORIGINS,
            "texts",
            "the thresholds between positive, negative and ignored: a reader has to set them by grade",
        ),
    ),
    "qrels": Format(
        qrels.write_judged,
        None,
        {},
        lacks=("texts", "scores and probabilities", "failures", "the judges, except for their ids"),
        labels=True,
    ),
    "msmarco": Format(
        qrels.write_msmarco,
        qrels.read_msmarco,
        {},
        lacks=(ORIGINS, "probabilities", "titles apart from texts", "tabs and line ends in texts", "ignored passages"),
    ),
    "tevatron": Format(
        grouped.write_tevatron,
        grouped.read_tevatron,
        {"train": "train.jsonl", "corpus": "corpus.jsonl"},
        lacks=(ORIGINS, "grades", "probabilities", "titles apart from texts", "ignored passages"),
    ),
    "tevatron-classic": Format(
        grouped.write_tevatron_classic,
        grouped.read_tevatron_classic,
        {"train": "train.jsonl"},
        lacks=(ORIGINS, "grades", "probabilities", "ignored passages", "passages without a label"),
    ),
    "dpr": Format(None, grouped.read_dpr, {}, lacks=()),
    "flag-embedding": Format(
        grouped.write_flag_embedding,
        grouped.read_flag_embedding,
        {"train": "train.jsonl"},
        lacks=(ORIGINS, "grades", "ids", "titles apart from texts", "ignored passages", "passages without a label"),
    ),
    "st-triplet": Format(
        tuples.write_triplets,
        tuples.read_tuples,
        {"train": "train.parquet"},
        lacks=(ORIGINS, "grades", "probabilities", "ids", "titles apart from texts", "ignored passages"),
    ),
    "st-ntuple": Format(
        tuples.write_tuples,
        tuples.read_tuples,
        {"train": "train.parquet"},
        lacks=(ORIGINS, "grades", "probabilities", "ids", "titles apart from texts", "ignored passages"),
    ),
    "st-labeled-list": Format(
        tuples.write_lists,
        tuples.read_lists,
        {"train": "train.parquet"},
        lacks=(ORIGINS, "probabilities", "ids", "titles apart from texts", "ignored passages"),
    ),
    "argilla": Format(
        people.write_argilla,
        None,
        {"records": "records.json"},
        lacks=(
            "the dataset's thresholds, weights and unjudged passages",
            "titles apart from texts",
            "names of people (only their ids)",
        ),
    ),
    "label-studio": Format(
        people.write_label_studio,
        None,
        {"tasks": "tasks.json"},
        lacks=("the dataset's thresholds, weights and unjudged passages", "titles apart from texts"),
    ),
}
"""Name of a format -> its writer and reader."""

GRADES = READERS
"""Format from which human grades can be imported -> its reader (path, name of the judges, scale)."""
SCORES = "scored-ids"
"""Format from which the scores of a reranker can be imported."""
BY_KEY = {
    "positive_passages": "tevatron-classic",
    "positive_ctxs": "dpr",
    "pos": "flag-embedding",
    "docs": "st-labeled-list",
    **dict.fromkeys(tuples.POSITIVES, "st-ntuple"),
}
"""Key of a row -> format, the first key that a row has counts."""


def writable(name: str) -> bool:
    """Return whether datasets can be exported in a format."""
    return name in FORMATS and FORMATS[name].write is not None


def readable(name: str) -> bool:
    """Return whether datasets can be imported from a format."""
    return name in FORMATS and FORMATS[name].read is not None


def recognised(path: Path) -> str:
    """Recognise the format of a dataset by its files and the keys of its first row.

    Raises `UsageError` if the format cannot be read, or has several configurations or splits.
    """
    if path.is_dir():
        stems = {stem_of(file) for file in path.iterdir()}
        if {"corpus", "queries", "qrels"} <= stems:
            return "beir"
        if "collection" in stems:
            return "msmarco"
        if any("docid" in column_names(file) for file in tables_in(path) if stem_of(file) == "corpus"):
            return "tevatron"
    try:
        keys = set(next(rows_in(data_files(path)[:1]))[1])
    except (DataError, StopIteration):
        keys = set()
    if found := next((name for key, name in BY_KEY.items() if key in keys), None):
        return found
    if IDS in keys:
        raise UsageError(f"{path} has scores and no labels; import them: labelkit import {path} --from {SCORES}")
    known = ", ".join(filter(readable, FORMATS))
    raise UsageError(f"{path} is neither a labelkit dataset nor in a format that can be read: {known}")


def collected(path: Path, name: str, collector: Collector, grading: Grading) -> list[Path]:
    """Collect a dataset at `path` in the format `name`, and return the files that were read.

    Raises `UsageError` if the format contains no texts.
    """
    read = FORMATS[name].read
    if read is None:
        raise UsageError(f"{name} has no texts, so it cannot become a dataset; import its grades as a labels folder")
    if not path.exists():
        raise DataError(missing(path))
    return read(path, collector, grading)
