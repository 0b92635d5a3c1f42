"""Measure retrievers on collections, with confidence intervals and tests of differences.

All measures use the same ranking. Ties of similarity are broken by passage id, the higher id first, as in trec_eval.
Queries without a relevant passage in the qrels count as 0, as in trec_eval. The average over several collections is
the mean of their means, as in BEIR.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from numpy.typing import NDArray

from labelkit.corpora.benchmarks import NANOBEIR
from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.qrels import Qrels
from labelkit.corpora.runs import RankedRun
from labelkit.corpora.words import share, words
from labelkit.pooling.sharing import sharing
from labelkit.statistics.intervals import UNIT, Estimate, mean_of_means
from labelkit.statistics.paired import PairedTest, compare
from labelkit.storage.names import inside
from trainer.retrieval.contenders import Contender, first_stage_of, load_contender, rank, refuse_dense_options
from trainer.retrieval.leaks import training_queries_in, warn_of_training_queries
from trainer.retrieval.options import EvaluateOptions
from trainer.retrieval.search import Collection, read_collections

JUDGED = 10
"""Number of first ranks in which the share of unjudged passages is measured."""
OVERLAPS = ("low overlap", "high overlap")
"""Names of the two halves of the queries, split by their word overlap with their relevant passages."""
AVERAGE = "average"
"""Name of the average over all collections."""
WHOLE_NANOBEIR = "NanoBEIR"
"""Name of the average over the 13 collections of NanoBEIR, if other collections are measured beside them."""

PerQuery = dict[str, dict[str, float]]
"""Measure -> query id -> value."""


@dataclass(frozen=True)
class Measured:
    """The measures of a model on a collection, or their average over several collections."""

    model: str
    data: str
    """Name of the collection, or `AVERAGE` or `WHOLE_NANOBEIR`."""
    means: dict[str, Estimate]
    """Measure -> estimate."""
    by_overlap: dict[str, dict[str, Estimate]]
    """Name in `OVERLAPS` -> measure -> estimate; empty if a half has no queries, and for the average."""
    unjudged: float | None
    """Share of unjudged passages in the first ten ranks, which count as not relevant; None for the average."""
    per_query: PerQuery
    """Values per query; empty for the average."""
    training_queries: int | None = None
    """Number of the measured queries that the model was trained on; None for the average, and if it is unknown."""


@dataclass(frozen=True)
class Compared:
    """The differences of the first model minus another model, paired by query."""

    model: str
    against: str
    data: str
    tests: dict[str, PairedTest]
    """Measure -> test, with Holm's correction over all comparisons and measures of the result."""


@dataclass(frozen=True)
class CollectionFacts:
    """Description of a collection that models are measured on."""

    name: str
    folder: str
    split: str
    queries: int
    queries_without_relevant: int
    """Number of queries without a passage of `relevant_grade` or above; they count in every mean."""
    overlap: dict[str, float]
    """Query id -> share of its words that occur in a relevant passage, averaged over its relevant passages."""


@dataclass(frozen=True)
class EvalResult:
    """The result of `evaluate`."""

    relevant_grade: int
    index: str
    collections: tuple[CollectionFacts, ...]
    models: tuple[str, ...]
    """Names of the evaluated model and of the models that it is compared with, in this order."""
    measured: tuple[Measured, ...]
    compared: tuple[Compared, ...]

    def to_json(self) -> dict[str, Any]:
        """Convert the result to plain dicts and lists for `json.dumps`; estimates have the keys mean, low and high."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def of(self, model: str, data: str) -> Measured:
        """Return the measures of a model on a collection."""
        return next(entry for entry in self.measured if (entry.model, entry.data) == (model, data))


def evaluate(
    model: Path | str,
    data: Sequence[Path | str],
    options: EvaluateOptions = EvaluateOptions(),  # noqa: B008 (a frozen record)
    *,
    progress: Callable[[str], None] = lambda words: None,
) -> EvalResult:
    """Measure nDCG@10, RR@10, AP and Recall of a model on one or several collections, and compare it with other models.

    The gain of nDCG is the grade. AP is computed to the deepest cutoff of Recall. A warning is logged for each model of
    `trainer fit` that was trained on some of the queries.

    Args:
        model: sentence-transformers folder or name on the Hub; a cross-encoder reranks a first stage.
        data: collections: folders in any layout that is read, s3://, gs://, hf://, irds:, nanobeir:NAME, mteb:NAME, or
            nanobeir for all collections of NanoBEIR.
        options: other models, cutoffs, lengths in tokens, index.
        progress: called with a line of text for each model and collection.

    Returns:
        Means with 95% jackknife confidence intervals over queries, values per query, and paired permutation tests of
        the model against each other model.

    Raises:
        UsageError: a model or index does not exist.
        DataError: a file is malformed or contains unknown ids.
    """
    # All data and models are read first, so that a wrong name is reported before any long computation.
    collections = read_collections(
        data, options.split, scale=options.scale, fields=options.fields, skip_unknown=options.skip_unknown
    )
    trusted = options.trust_remote_code
    with sharing() as first:
        if first:
            warn_of_training_queries(map(str, (model, *options.compare)), collections)
        contenders = [load_contender(str(name), trust_remote_code=trusted) for name in (model, *options.compare)]
        if not first:
            options, progress = options.model_copy(update={"runs": None}), lambda words: None
        return compare_contenders(contenders, collections, options, progress=progress)


def compare_contenders(
    contenders: Sequence[Contender],
    collections: Sequence[Collection],
    options: EvaluateOptions = EvaluateOptions(),  # noqa: B008 (a frozen record)
    *,
    progress: Callable[[str], None] = lambda words: None,
) -> EvalResult:
    """Measure loaded models, and compare the first model with each other model.

    Cross-encoders are also compared with the first stage that they rerank.
    """
    refuse_dense_options(contenders, options)
    contenders = [*contenders, *first_stage_of(contenders, options)]
    relevant_grade, cutoffs, runs = options.relevant_grade, options.recall, options.runs
    names = tuple(contender.name for contender in contenders)
    tags = run_tags(names)
    files = {(data.name, tag): run_file(runs, data.name, tag) for data in collections for tag in tags}
    facts = [_facts(collection, relevant_grade) for collection in collections]
    measured: list[Measured] = []
    for contender, tag in zip(contenders, tags, strict=True):
        name, _, folder = contender
        for collection, fact in zip(collections, facts, strict=True):
            run = rank(contender, collection, options, depth=max(JUDGED, *cutoffs))
            if path := files[collection.name, tag]:
                write_run(path, run, tag)
            per_query = measure(collection.qrels, run, relevant_grade, cutoffs=cutoffs)
            entry = _measured(name, collection, fact, run=run, per_query=per_query)
            measured.append(replace(entry, training_queries=training_queries_in(folder, collection)))
            progress(f"{name} on {collection.name}: nDCG@10 {measured[-1].means['nDCG@10'].value:.3f}")
        own = {entry.data: entry for entry in measured[-len(collections) :]}
        for average, parts in averages(list(own)).items():
            measured.append(_average(name, average, [own[part] for part in parts]))
    return EvalResult(
        relevant_grade=relevant_grade,
        index=options.index,
        collections=tuple(facts),
        models=names,
        measured=tuple(measured),
        compared=tuple(compare_models(measured, names)),
    )


def measures(relevant_grade: int = 1, cutoffs: Sequence[int] = (100,)) -> dict[str, Any]:
    """Make the measures: displayed name -> measure of ir_measures."""
    deepest = max(cutoffs)
    return {
        "nDCG@10": ir_measures.nDCG @ 10,
        "RR@10": ir_measures.RR(rel=relevant_grade) @ 10,
        f"AP@{deepest}": ir_measures.AP(rel=relevant_grade) @ deepest,
        **{f"R@{cutoff}": ir_measures.R(rel=relevant_grade) @ cutoff for cutoff in cutoffs},
    }


def measure(qrels: Qrels, run: RankedRun, relevant_grade: int = 1, cutoffs: Sequence[int] = (100,)) -> PerQuery:
    """Compute all measures of a run, measure -> query id -> value, for every query of the qrels.

    A query without a value from ir_measures has 0.
    """
    names = {what: label for label, what in measures(relevant_grade, cutoffs).items()}
    values = {label: dict.fromkeys(qrels, 0.0) for label in names.values()}
    ranked = {qid: {name: -float(rank) for rank, name in enumerate(best)} for qid, best in run.items()}
    for metric in ir_measures.iter_calc(list(names), qrels, ranked):
        values[names[metric.measure]][metric.query_id] = float(metric.value)
    return values


def compare_models(measured: Sequence[Measured], names: Sequence[str]) -> list[Compared]:
    """Test the first model against each other model, on every collection and on the averages, in every measure.

    Holm's correction treats all these tests as one family, because their results are read together.
    """
    found = {(entry.model, entry.data): entry for entry in measured}
    collections = list(dict.fromkeys(entry.data for entry in measured if entry.per_query))
    parts = {name: [name] for name in collections} | averages(collections)
    keys = [(other, data, label) for other in names[1:] for data in parts for label in measured[0].means]
    gaps = [
        [_gap(found[names[0], part].per_query[label], found[other, part].per_query[label]) for part in parts[data]]
        for other, data, label in keys
    ]
    tests = dict(zip(keys, compare(gaps), strict=True))
    return [
        Compared(names[0], other, data, tests={label: tests[other, data, label] for label in measured[0].means})
        for other in names[1:]
        for data in parts
    ]


def averages(collections: Sequence[str]) -> dict[str, list[str]]:
    """List the averages over several collections: name -> names of the collections."""
    nano = [name for name in collections if name in NANOBEIR.values()]
    found = {WHOLE_NANOBEIR: nano} if len(NANOBEIR) == len(nano) < len(collections) else {}
    return found | ({AVERAGE: list(collections)} if len(collections) > 1 else {})


def write_run(path: Path, run: RankedRun, tag: str) -> None:
    """Write a TREC run with the columns query id, Q0, passage id, rank from 1, similarity, tag."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for query_id, best in run.items():
            for rank, (passage_id, score) in enumerate(best.items(), start=1):
                file.write(f"{query_id} Q0 {passage_id} {rank} {score!r} {tag}\n")


def run_file(runs: Path | None, data: str, tag: str) -> Path | None:
    """The file of a run; None where none is kept. Raises `ArtifactError` for a name that leads out of the folder."""
    return inside(runs, f"{data}.{tag}.run") if runs else None


def run_tags(names: Sequence[str]) -> list[str]:
    """Make a unique tag from each model's name, for its run and the file name of the run."""
    tags: dict[str, str] = {}
    for name in dict.fromkeys(names):
        word = re.sub(r"[^\w.-]+", "_", name).strip("_")
        numbered = (word, *(f"{word}_{number}" for number in range(2, len(names) + 1)))
        tags[name] = next(tag for tag in numbered if tag not in tags.values())
    return [tags[name] for name in names]


def unjudged_share(qrels: Qrels, run: RankedRun) -> float:
    """Compute the share of unjudged passages in the first ten ranks of all queries, from 0 to 1."""
    top = [(query_id, name) for query_id, best in run.items() for name in list(best)[:JUDGED]]
    return sum(name not in qrels[query_id] for query_id, name in top) / max(1, len(top))


def lexical_overlap(collection: Collection, relevant_grade: int) -> dict[str, float]:
    """Compute the word overlap of each query with its relevant passages: query id -> mean share of its words.

    Queries without a relevant passage are left out.
    """
    relevant: dict[str, list[str]] = {}
    for query_id, graded in collection.qrels.items():
        for passage_id, grade in graded.items():
            if grade >= relevant_grade:
                relevant.setdefault(passage_id, []).append(query_id)
    asked = {query_id: words(query.text) for query_id, query in collection.queries.items()}
    shares: dict[str, list[float]] = {}
    for _, passage_id, title, text in corpus_rows(*collection.layout.corpus, fields=collection.fields):
        for query_id in relevant.get(passage_id, ()):
            shares.setdefault(query_id, []).append(share(asked[query_id], f"{title} {text}"))
    return {query_id: float(np.mean(each)) for query_id, each in sorted(shares.items())}


def halves(overlap: Mapping[str, float]) -> dict[str, list[str]]:
    """Split queries by their overlap: name in `OVERLAPS` -> ids of the queries up to the median, or above it.

    Returns an empty dict if a half has no queries.
    """
    middle = float(np.median(list(overlap.values()))) if overlap else 0.0
    low = [query_id for query_id, share in overlap.items() if share <= middle]
    high = [query_id for query_id, share in overlap.items() if share > middle]
    return dict(zip(OVERLAPS, (low, high), strict=True)) if low and high else {}


def _facts(collection: Collection, relevant_grade: int) -> CollectionFacts:
    return CollectionFacts(
        name=collection.name,
        folder=str(collection.folder),
        split=collection.split,
        queries=len(collection.qrels),
        queries_without_relevant=sum(max(graded.values()) < relevant_grade for graded in collection.qrels.values()),
        overlap=lexical_overlap(collection, relevant_grade),
    )


def _measured(
    name: str, collection: Collection, fact: CollectionFacts, run: RankedRun, per_query: PerQuery
) -> Measured:
    return Measured(
        model=name,
        data=collection.name,
        means={label: mean_of_means([_values(values, values)], UNIT) for label, values in per_query.items()},
        by_overlap={
            half: {label: mean_of_means([_values(values, ids)], UNIT) for label, values in per_query.items()}
            for half, ids in halves(fact.overlap).items()
        },
        unjudged=unjudged_share(collection.qrels, run),
        per_query=per_query,
    )


def _average(name: str, average: str, entries: Sequence[Measured]) -> Measured:
    means = {
        label: mean_of_means([_values(entry.per_query[label], entry.per_query[label]) for entry in entries], UNIT)
        for label in entries[0].means
    }
    return Measured(name, average, means, by_overlap={}, unjudged=None, per_query={})


def _gap(values: Mapping[str, float], others: Mapping[str, float]) -> NDArray[np.float64]:
    return _values(values, values) - _values(others, values)


def _values(values: Mapping[str, float], query_ids: Sequence[str] | Mapping[str, float]) -> NDArray[np.float64]:
    return np.array([values[query_id] for query_id in query_ids])


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {"mean": value.value, "low": value.low, "high": value.high}
    if isinstance(value, PairedTest):
        needed = value.queries_needed
        return _plain(value.difference) | {
            "p": value.p,
            "p_holm": value.p_holm,
            "queries_needed": needed and needed.value,
            "queries_needed_low": needed and needed.low,
            "queries_needed_high": needed and needed.high,
        }
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
