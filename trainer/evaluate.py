"""Measure retrievers on a BEIR folder: encode, search exactly, score, and say how sure the numbers are.

The ranking of a query holds the whole corpus's best passages by similarity. A passage whose id is the query's
own is kept: BEIR removes it for some collections, so compare figures for those (ArguAna, Quora) only with
figures made in the same way. Equal similarities are ranked by passage id, the higher id first, as trec_eval
does; every measure sees that one ranking. Queries that the qrels judge without calling anything relevant
count with 0, as in trec_eval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor

from labelkit.encode import encode_passages, load_encoder
from labelkit.errors import UsageError
from labelkit.schema import Passage
from labelkit.sources import Data, Qrels, Run, read_data
from trainer.contrast import SIMILARITIES

RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
DEPTH = 100
"""Passages ranked for a query: as many as the deepest measure looks at."""
CHUNK = 50_000
"""Passages encoded and searched at a time. Their embeddings are dropped then, so memory stays flat."""
QUERY_TILE = 256
"""Queries scored at a time against a chunk."""


@dataclass(frozen=True)
class Estimate:
    """A mean over queries and its 95% bootstrap interval: percentiles of 10,000 resamples of the queries."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ModelResult:
    """One model's measures."""

    model: str
    means: dict[str, Estimate]
    """Measure -> estimate."""
    per_query: dict[str, dict[str, float]]
    """Measure -> query id -> value."""


@dataclass(frozen=True)
class Difference:
    """One model minus another, query by query, so that the interval is a paired one."""

    model: str
    against: str
    means: dict[str, Estimate]


@dataclass(frozen=True)
class EvalResult:
    """What `evaluate` found; the first model is the one asked about, the others those it is compared with."""

    data: str
    split: str
    relevant_grade: int
    passages: int
    queries: int
    queries_without_relevant: int
    """Queries that have no passage of `relevant_grade` or above; they stay in every mean."""
    models: tuple[ModelResult, ...]
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists, for `json.dumps`."""
        return asdict(self)


def evaluate(
    model: str,
    data_folder: Path,
    split: str = "test",
    *,
    compare: Sequence[str] = (),
    relevant_grade: int = 1,
) -> EvalResult:
    """nDCG@10, RR@10 and Recall@100 of a model and those it is compared with, on one split of a BEIR folder.

    `relevant_grade` is the lowest grade that RR and Recall call relevant; nDCG takes the grade as its gain.
    Raises `DataError` for malformed data and `UsageError` for a
    model that cannot be used.
    """
    data = read_data(data_folder, split)
    names = (model, *compare)
    encoders = [load_model(name) for name in names]  # all of them first: a wrong name should not cost an hour
    results = []
    for name, encoder in zip(names, encoders, strict=True):
        run = search(encoder, name, data)
        per_query = measure(data.qrels, run, relevant_grade)
        means = {label: bootstrap(_in_order(values, data.qrels)) for label, values in per_query.items()}
        results.append(ModelResult(name, means, per_query))
    return EvalResult(
        data=str(data_folder),
        split=split,
        relevant_grade=relevant_grade,
        passages=len(data.corpus),
        queries=len(data.qrels),
        queries_without_relevant=sum(max(graded.values()) < relevant_grade for graded in data.qrels.values()),
        models=tuple(results),
        differences=tuple(difference(results[0], other, list(data.qrels)) for other in results[1:]),
    )


def load_model(name: str) -> SentenceTransformer:
    """A model from a local folder or the Hub.

    Raises `UsageError` where there is none, or where its similarity is neither cosine nor dot.
    """
    model: SentenceTransformer = load_encoder(name)
    if model.similarity_fn_name not in SIMILARITIES:
        raise UsageError(
            f"the model {name!r} compares by {model.similarity_fn_name} similarity; "
            "set similarity_fn_name in its config_sentence_transformers.json to cosine or dot"
        )
    return model


def search(model: SentenceTransformer, name: str, data: Data) -> Run:
    """The `DEPTH` best passages of every query by exact search, in rank order; the scores are minus the rank.

    Similarity is the model's own: cosine unless it says otherwise. Computed in float32 on the model's device.
    """
    prepare = SIMILARITIES[model.similarity_fn_name]
    query_ids = list(data.queries)
    texts = [data.queries[query_id].text for query_id in query_ids]
    queries = prepare(model.encode_query(texts, convert_to_tensor=True, show_progress_bar=False).float())
    # The trec_eval order of ties is by id, downwards: with passages so sorted, the lower row wins a tie.
    passages = sorted(data.corpus.values(), key=lambda passage: passage.passage_id, reverse=True)
    best_scores = queries.new_empty((len(query_ids), 0))
    best_rows = torch.empty((len(query_ids), 0), dtype=torch.int64, device=queries.device)
    for start, chunk in _chunks(passages):
        vectors = encode_passages(model, name, [passage.full_text for passage in chunk])
        embeddings = prepare(torch.from_numpy(vectors).to(queries.device))
        scores, rows = _top(queries, embeddings)
        best_scores = torch.cat([best_scores, scores], dim=1)
        best_rows = torch.cat([best_rows, rows + start], dim=1)
        order = _by_score_then_row(best_scores, best_rows)[:, :DEPTH]
        best_scores, best_rows = best_scores.gather(1, order), best_rows.gather(1, order)
    return {
        query_id: {passages[row].passage_id: -float(rank) for rank, row in enumerate(rows, 1)}
        for query_id, rows in zip(query_ids, best_rows.tolist(), strict=True)
    }


def _chunks(passages: Sequence[Passage]) -> Iterator[tuple[int, Sequence[Passage]]]:
    for start in range(0, len(passages), CHUNK):
        yield start, passages[start : start + CHUNK]


def _top(queries: Tensor, passages: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and rows of the `DEPTH` best passages: `[Q, D]`, `[N, D]` -> two `[Q, min(DEPTH, N)]`."""
    depth = min(DEPTH, len(passages))
    tiles = [(tile @ passages.T).topk(depth, dim=1) for tile in torch.split(queries, QUERY_TILE)]
    return torch.cat([tile.values for tile in tiles]), torch.cat([tile.indices for tile in tiles])


def _by_score_then_row(scores: Tensor, rows: Tensor) -> Tensor:
    """`[Q, K]` positions, highest score first and among equals lowest row first."""
    by_row = rows.argsort(dim=1, stable=True)
    by_score = scores.gather(1, by_row).argsort(dim=1, descending=True, stable=True)
    return by_row.gather(1, by_score)


def measures(relevant_grade: int = 1) -> dict[str, Any]:
    """Name that people read -> measure of ir_measures."""
    return {
        "nDCG@10": ir_measures.nDCG @ 10,
        "RR@10": ir_measures.RR(rel=relevant_grade) @ 10,
        "R@100": ir_measures.R(rel=relevant_grade) @ 100,
    }


def measure(qrels: Qrels, run: Run, relevant_grade: int = 1) -> dict[str, dict[str, float]]:
    """Measure -> query id -> value, for every query of the qrels; a query that a measure leaves out has 0."""
    names = {what: label for label, what in measures(relevant_grade).items()}
    values = {label: dict.fromkeys(qrels, 0.0) for label in names.values()}
    for metric in ir_measures.iter_calc(list(names), qrels, run):
        values[names[metric.measure]][metric.query_id] = float(metric.value)
    return values


def difference(model: ModelResult, against: ModelResult, query_ids: Sequence[str]) -> Difference:
    """`model` minus `against` on the same queries."""
    means = {
        label: bootstrap(_in_order(values, query_ids) - _in_order(against.per_query[label], query_ids))
        for label, values in model.per_query.items()
    }
    return Difference(model.model, against.model, means)


def bootstrap(values: NDArray[np.float64]) -> Estimate:
    """Mean of `[n]` values and the 2.5% and 97.5% percentiles of the means of resamples, with a fixed seed.

    Values of the same length are resampled alike, so intervals of models and differences belong together.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 500):
        rows = generator.integers(len(values), size=(500, len(values)))
        means[start : start + 500] = values[rows].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(values.mean()), float(low), float(high))


def _in_order(values: dict[str, float], query_ids: Sequence[str] | Qrels) -> NDArray[np.float64]:
    return np.array([values[query_id] for query_id in query_ids])
