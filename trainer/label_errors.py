"""Find probable label errors: labels that models trained on other queries disagree with.

The queries are split into folds. The labelled passages of each fold are scored by a model trained on the other folds,
so that no model scores its own training queries. The doubt of a positive is high if other passages score above it, and
the doubt of a negative is high if it scores above positives.
"""

import csv
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from labelkit.errors import LabelkitError, UsageError
from labelkit.pooling.dense import encode_passages, encode_queries
from labelkit.pooling.dense_search import SIMILARITIES, limited
from labelkit.records import Example, Label
from labelkit.storage import folders, tables
from labelkit.storage.manifest import MODEL, SUSPECTS, SuspectsFacts
from labelkit.storage.outputs import claimed
from trainer.config.fit_config import FitConfig
from trainer.data.draws import draw
from trainer.data.foreign import our_dataset
from trainer.data.store import Store, open_store
from trainer.data.training_sets import fold_of
from trainer.retrieval.search import load_model
from trainer.training.checkpoints import difference_to, refuse_other_run
from trainer.training.fit import HARMLESS, inputs_of, train
from trainer.training.soundness import LOWER

log = logging.getLogger(__name__)

KIND = SUSPECTS
BACKGROUND = 200
"""Number of random labelled passages that the positives of every query are compared with, besides its negatives."""
BLOCK = 256
"""Number of queries scored at a time."""
TEXTS_AT_ONCE = 2_048
"""Number of labels with texts in memory."""
LINE = 0.5
"""Labels with a doubt above this are counted."""
DOUBT_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("query_id", pa.string()),
        ("passage_id", pa.string()),
        ("side", pa.string()),
        ("doubt", pa.float64()),
        ("grade", pa.int8()),
        ("source", pa.string()),
        ("judge_id", pa.string()),
    ]
)
"""Columns of doubts on disk: the row of the query in the store, and the fields of `Suspect` without texts."""


class Suspects(NamedTuple):
    """The result of a search for label errors; all labels are in `suspects.tsv`."""

    labels: int
    """Number of labels."""
    worst: "list[Suspect]"
    """The most doubted labels, most doubted first."""
    by_source: dict[str, tuple[int, int]]
    """Source and side of labels, such as `llm negative` -> number of labels, and number with a doubt above 0.5."""


@dataclass(frozen=True)
class Suspect:
    """A label and its doubt, the disagreement of a model that was trained without the query."""

    query_id: str
    passage_id: str
    side: str
    """positive or negative"""
    doubt: float
    """Mean probability that the label is wrong in a comparison of two passages, 0 to 1. The positive of a comparison is
    wrong with probability sigmoid((s_other - s_positive) / temperature). A positive is compared with passages that are
    not positive, a negative with the positives.
    """
    grade: int | None
    source: str
    judge_id: str
    query: str
    passage: str


def suspects(
    dataset: Path | str,
    output: Path | str,
    config: FitConfig,
    *,
    folds: int = 5,
    show: int = 20,
    command: str = "trainer.suspects",
) -> Suspects:
    """Rank labels by the disagreement of models that were trained on other queries.

    Args:
        dataset: folder of `labelkit mix`, or data in a format of `labelkit.exchange.formats`.
        output: folder of `suspects.tsv`, with all labels, and `suspects.run`, a TREC run for `labelkit pool --run`.
            Finished folds are kept in `OUTPUT.folds`, so that the same call resumes.
        config: settings of the models, one per fold.
        folds: number of parts of the queries, at least 2.
        show: number of the most doubted labels to return.
        command: the command line that the manifest records as the origin of the folder.

    Returns:
        The most doubted labels, and the numbers of labels and of doubted labels by source. `suspects.tsv` has every
        label with its doubt, from 0 to 1, most doubted first.

    Raises:
        UsageError: fewer than 2 folds, or a cross-encoder.
        LabelkitError: the errors of `fit`.
    """
    if folds < 2:
        raise UsageError(f"folds = {folds}: the model of a fold is trained on the other folds; set at least 2 folds")
    if config.architecture != "dense":
        raise UsageError(
            f"suspects compares embeddings of a dense encoder; set architecture to dense, not {config.architecture}"
        )
    dataset, output = Path(dataset), Path(output)
    with claimed(output, KIND) as place:
        store = open_store(our_dataset(dataset), config.pool)
        settings = config.model_dump(mode="json", exclude=set(HARMLESS)) | {"folds": folds}
        refuse_other_run(output, KIND, settings, keys=store.keys)
        models = place.beside(".folds")
        background = draw(labelled_ids(store), BACKGROUND, (config.seed, "background"))
        files = [models / f"doubts-{fold}.parquet" for fold in range(folds)]
        for fold, file in enumerate(files):
            of_fold = FitConfig.model_validate(config.model_dump(exclude_unset=True) | {"held_out": (fold, folds)})
            folder = models / f"fold-{fold}-of-{folds}"
            if not _is_made(folder, of_fold, store):
                train(dataset, folder, of_fold, command=command)
            model = load_model(str(folder), trust_remote_code=config.trust_remote_code)
            rows = np.flatnonzero(fold_of(store.query_keys, folds) == fold)
            _write_doubts(file, doubts(model, store, rows, background=background, config=of_fold))
            log.info(f"fold {fold + 1}/{folds}: {len(rows):,} queries scored by the model of the other folds")
        with folders.writing(output, KIND, command) as draft:
            found = _write(draft.path, files, store, show=show)
            draft.inputs |= inputs_of(store, dataset, config)
            draft.rows["suspects"] = found.labels
            draft.facts = SuspectsFacts(config=config.model_dump(mode="json"), folds=folds)
        shutil.rmtree(models)
    return found


def labelled_ids(store: Store) -> Iterator[str]:
    """Yield the ids of all labelled passages."""
    for start in range(0, len(store.labelled), tables.ROWS_AT_ONCE):
        rows = store.labelled[start : start + tables.ROWS_AT_ONCE]
        yield from store.corpus["passage_id"].take(pa.array(rows)).to_pylist()


def doubts(
    model: SentenceTransformer, store: Store, rows: NDArray[np.int64], *, background: list[str], config: FitConfig
) -> Iterator[tuple[Any, ...]]:
    """Compute the doubt of every label of some queries of a store: yields rows of `DOUBT_SCHEMA`."""
    for start in range(0, len(rows), BLOCK):
        examples = [store.example(int(row)) for row in rows[start : start + BLOCK]]
        names = list(dict.fromkeys([*background, *(label.passage_id for one in examples for label in _labels(one))]))
        scores = _scores(
            model, [one.query for one in examples], [store.passages[name] for name in names], config=config
        )
        place = {name: number for number, name in enumerate(names)}
        for row, example, each in zip(rows[start : start + BLOCK].tolist(), examples, scores, strict=True):
            for found in _of_query(example, each, place, background=background, store=store):
                yield row, *found


def _write_doubts(file: Path, rows: Iterator[tuple[Any, ...]]) -> None:
    """Write rows of `DOUBT_SCHEMA` to a file, in batches."""
    with pq.ParquetWriter(file.absolute(), DOUBT_SCHEMA) as writer:
        for batch in tables.batches_of(DOUBT_SCHEMA, rows):
            writer.write_batch(batch)


def _of_query(
    example: Example, scores: NDArray[np.float64], place: dict[str, int], background: list[str], store: Store
) -> Iterator[tuple[Any, ...]]:
    """Compute the doubt of the labels of one query from the scores of all passages `[passages]`.

    Yields rows of `DOUBT_SCHEMA` without the first column.
    """
    same = store.same
    texts = {same.get(label.passage_id, label.passage_id) for label in (*example.positives, *example.ignored)}
    negatives = [one for one in example.negatives if same.get(one.passage_id, one.passage_id) not in texts]
    others = {one.passage_id for one in negatives} | {name for name in background if same.get(name, name) not in texts}
    against = scores[[place[name] for name in sorted(others)]]
    good = scores[[place[one.passage_id] for one in example.positives]]
    for side, labels, rivals, sign in (("positive", example.positives, against, 1), ("negative", negatives, good, -1)):
        for label in labels if len(rivals) else ():
            gaps = sign * (rivals - scores[place[label.passage_id]])
            doubt = float((0.5 * (1 + np.tanh(gaps / 2))).mean())
            ids = (example.query_id, label.passage_id)
            yield *ids, side, doubt, label.grade, label.source, label.judge_id


def _labels(example: Example) -> tuple[Label, ...]:
    return (*example.positives, *example.negatives)


def _scores(
    model: SentenceTransformer, queries: list[str], passages: list[str], config: FitConfig
) -> NDArray[np.float64]:
    """Compute similarities divided by the temperature, `[queries, passages]`. Raises `LabelkitError` for NaN."""
    prepare = SIMILARITIES[model.similarity_fn_name]
    with limited(model, config.max_query_length):
        near = prepare(torch.from_numpy(encode_queries(model, None, queries)))
    with limited(model, config.max_passage_length):
        far = prepare(torch.from_numpy(encode_passages(model, None, passages)))
    scores: NDArray[np.float64] = (near @ far.T / config.temperature).double().numpy()
    if not np.isfinite(scores).all():
        raise LabelkitError(f"the model of a fold gives a similarity that is not finite; {LOWER}")
    return scores


def _is_made(folder: Path, settings: FitConfig, store: Store) -> bool:
    """Check that a fold's model exists and was trained with these settings on this dataset."""
    if not (folder / folders.MANIFEST).is_file():
        return False
    folders.read_manifest(folder, MODEL)
    return difference_to(folder, MODEL, settings.model_dump(mode="json"), keys=store.keys) is None


def _write(folder: Path, files: Sequence[Path], store: Store, *, show: int) -> Suspects:
    """Write `suspects.tsv` and `suspects.run` from files of doubts."""
    worst: list[Suspect] = []
    ranks: Counter[str] = Counter()
    with (
        tables.temporary() as db,
        (folder / "suspects.tsv").open("w", encoding="utf-8", newline="") as table,
        (folder / "suspects.run").open("w", encoding="utf-8", newline="\n") as run,
    ):
        db.execute(f"CREATE VIEW doubts AS {' UNION ALL '.join(f'FROM {tables.parquet(path)}' for path in files)}")
        writer = csv.writer(table, delimiter="\t", lineterminator="\n")
        writer.writerow(field.name for field in fields(Suspect))
        for one in _sorted(db, store):
            writer.writerow(astuple(one))
            ranks[one.query_id] += 1
            run.write(f"{one.query_id} Q0 {one.passage_id} {ranks[one.query_id]} {one.doubt!r} suspects\n")
            if len(worst) < show:
                worst.append(one)
        counts = f"SELECT source || ' ' || side AS name, count(*), count(*) FILTER (doubt > {LINE}) FROM doubts"
        counted = db.execute(f"{counts} GROUP BY name ORDER BY name").fetchall()
    return Suspects(sum(ranks.values()), worst, {name: (every, doubted) for name, every, doubted in counted})


def _sorted(db: DuckDBPyConnection, store: Store) -> Iterator[Suspect]:
    """Yield all labels in the view `doubts` with their texts, most doubted first."""
    queries = store.labels["train"]["query"]
    ordered = db.sql("FROM doubts ORDER BY doubt DESC, query_id, passage_id, side")
    for batch in ordered.to_arrow_reader(TEXTS_AT_ONCE):
        for row, *values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            found: dict[str, Any] = dict(zip(DOUBT_SCHEMA.names[1:], values, strict=True))
            yield Suspect(**found, query=queries[row].as_py(), passage=store.passages[found["passage_id"]])
