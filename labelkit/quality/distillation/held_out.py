"""Hold queries with human grades out of a dataset: a dataset of the other queries, and a pool of the held-out pairs."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection

from labelkit.corpora.near_duplicates import normalised
from labelkit.errors import DataError, UnknownNameError, UsageError
from labelkit.pooling.pool import Pool
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.raters import Rater
from labelkit.records import (
    EXAMPLE_SCHEMA,
    JUDGEMENT_SCHEMA,
    PASSAGE_SCHEMA,
    Candidate,
    Origin,
    PairIds,
    Passage,
    Query,
)
from labelkit.storage import folders
from labelkit.storage.manifest import DATASET

LEAST_QUERIES = 3
"""Smallest number of queries to hold out and to train on."""


class Judges(NamedTuple):
    """The people and the teacher of a dataset."""

    people: Rater
    """All people as one rater, who gave each pair their median grade."""
    teacher: Rater

    def common(self) -> list[PairIds]:
        """Return the pairs with a human grade and an answer of the teacher, by query id and passage id."""
        pair = self.teacher.pair[self.teacher.answered]
        return self.teacher.pairs.ids(pair[self.people.grades_of(pair) >= 0])


def judges_of(db: DuckDBPyConnection, dataset: Path, teacher: str | None) -> Judges:
    """Read the people and the teacher of a dataset.

    Raises `DataError` without grades of people or labels of a model, `UsageError` if the teacher is not determined.
    """
    people, *others = raters_of(db, [dataset], [dataset], consensus=True)
    models = {rater.rater_id: rater for rater in others if rater.kind != "human"}
    if not models:
        raise DataError(f"{dataset} has no labels of a model, so there is no judge to distil; mix it with --llm LABELS")
    return Judges(people, teacher_among(list(models.values()), teacher))


def teacher_among(models: list[Rater], name: str | None) -> Rater:
    """Return the model of a name or id, or the only model. Raises `UsageError` for several models or none."""
    found = [rater for rater in models if name in (None, rater.name, rater.rater_id)]
    known = [rater.rater_id for rater in models]
    if not found:
        raise UnknownNameError("teacher", str(name), known)
    if len(found) > 1:
        names = ", ".join(known)
        raise UsageError(f"the dataset has labels of {len(found)} models; name the judge to replace: --teacher {names}")
    return found[0]


def held_out_pairs(judges: Judges, share: float, seed: int) -> list[PairIds]:
    """Choose a share of the queries with human grades by a hash of their ids, and return their common pairs.

    Raises `DataError` if there are too few of these queries.
    """
    pairs = judges.common()
    queries = sorted(
        {query_id for query_id, _ in pairs}, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()
    )
    count = round(share * len(queries))
    if count < LEAST_QUERIES:
        raise DataError(
            f"{len(queries)} queries have pairs that people and {judges.teacher.name} judged, of which {share:.0%} are "
            f"{count}; at least {LEAST_QUERIES} must be held out: grade more of them (labelkit review), or raise "
            "--held-out"
        )
    chosen = set(queries[:count])
    return [pair for pair in pairs if pair[0] in chosen]


def pool_of_pairs(dataset: Path, pairs: list[PairIds]) -> Pool:
    """Make a pool of some pairs of a dataset."""
    asked, shown = ({pair[place] for pair in pairs} for place in (0, 1))
    queries = rows_among(folders.read_batches(dataset, "queries"), "query_id", asked)
    passages = rows_among(folders.read_batches(dataset, "corpus"), "passage_id", shown)
    ranks: dict[str, int] = {}
    candidates = []
    for query_id, passage_id in pairs:
        ranks[query_id] = ranks.get(query_id, 0) + 1
        origin = Origin("human grade", ranks[query_id], 1.0)
        candidates.append(Candidate(query_id=query_id, passage_id=passage_id, sources=(origin,)))
    return Pool(
        {row["query_id"]: Query(**row) for row in queries},
        {row["passage_id"]: Passage(**row) for row in passages},
        candidates,
        inputs={str(dataset): folders.file_sha256(dataset / folders.MANIFEST)},
    )


def rows_among(batches: Iterable[pa.RecordBatch], column: str, ids: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows with one of the ids."""
    wanted = pa.array(sorted(ids), pa.string())
    for batch in batches:
        yield from batch.filter(pc.is_in(batch.column(column), value_set=wanted)).to_pylist()


def write_training(dataset: Path, output: Path, held_out: set[str], *, command: str) -> dict[str, int]:
    """Write a dataset without the held-out queries and without queries of the same text; return its counts.

    Raises `DataError` if no query with a positive is left.
    """
    manifest = folders.read_manifest(dataset, DATASET, verify=False)
    train = folders.read_table(dataset, "train").select(EXAMPLE_SCHEMA.names)
    texts = normalised(train["query"].combine_chunks())
    mine = pc.is_in(train["query_id"], value_set=pa.array(sorted(held_out), pa.string())).combine_chunks()
    kept = train.filter(pc.invert(pc.is_in(texts, value_set=texts.filter(mine))))
    counts = {role: pc.sum(pc.list_value_length(kept[f"{role}_ids"])).as_py() or 0 for role in ("positive", "negative")}
    if not counts["positive"]:
        raise DataError(f"{dataset}: no query with a positive is left for the training; lower --held-out")
    names = kept["query_id"].combine_chunks()

    def judgements() -> Iterator[pa.RecordBatch]:
        for batch in folders.read_batches(dataset, "judgements"):
            yield batch.filter(pc.is_in(batch.column("query_id"), value_set=names)).select(JUDGEMENT_SCHEMA.names)

    with folders.writing(output, DATASET, command) as draft:
        draft.write_table("train", kept)
        draft.write_batches("corpus", PASSAGE_SCHEMA, folders.read_batches(dataset, "corpus"))
        queries = folders.read_table(dataset, "queries")
        draft.write_table("queries", queries.filter(pc.is_in(queries["query_id"], value_set=names)))
        draft.write_batches("judgements", JUDGEMENT_SCHEMA, judgements())
        draft.write_table("judges", folders.read_table(dataset, "judges"))
        draft.inputs = {str(dataset): folders.file_sha256(dataset / folders.MANIFEST)}
        totals = {"queries": len(kept), "positives": counts["positive"], "negatives": counts["negative"]}
        draft.facts = manifest.facts.model_copy(update=totals)
    return totals
