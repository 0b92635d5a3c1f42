"""Features of pairs for a calibration: the scores of judges and of retrievers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection

from labelkit.errors import UsageError
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.dense import encode_passages
from labelkit.pooling.model_loading import load_encoder
from labelkit.quality.agreement_metrics import Floats, Ints, dense
from labelkit.quality.calibration.collection import Collection, open_collection
from labelkit.quality.raters import Numbers, Pairs, Rater

PASSAGES_AT_ONCE = 65_536
"""Number of passages that are encoded together."""


class Feature(NamedTuple):
    """A feature of pairs: the score of a judge or of a retriever."""

    kind: str
    """Kind of feature: judge, bm25 or dense."""
    name: str
    """Id of the judge, name of the dense model, or language of BM25, which is empty for its default."""


def features_of(
    raters: Sequence[Rater], *, bm25: bool, dense: Sequence[str], language: str | None = None
) -> list[Feature]:
    """List the features: every judge, then the retrievers."""
    judges = [Feature("judge", rater.rater_id) for rater in raters]
    words = [Feature("bm25", language or "")] if bm25 else []
    return judges + words + [Feature("dense", model) for model in dense]


class Scored(NamedTuple):
    """Pairs whose scores are computed, and the session in which their judges were read."""

    db: DuckDBPyConnection
    pairs: Pairs
    pair: Numbers
    """`[n]` numbers of the pairs."""
    data: Path | None
    """BEIR folder with the texts."""

    @property
    def query(self) -> Numbers:
        """`[n]` number of each pair's query."""
        return self.pairs.query[self.pair]


def matrix(features: Sequence[Feature], scored: Scored, raters: Mapping[str, Rater]) -> Floats:
    """Compute `[n, features]` scores of pairs, nan for a judge without an answer. `raters`: name of a judge's feature
    -> judge.

    Raises `UsageError` if a retriever needs texts and there are none.
    """
    retrievers = [feature for feature in features if feature.kind != "judge"]
    if retrievers and scored.data is None:
        raise UsageError(f"the scores of {retrievers[0].kind} need the texts: give the BEIR folder with --data")
    texts = None
    if retrievers and scored.data:
        kept = any(feature.kind == "dense" for feature in retrievers)
        texts = open_collection(scored.db, scored.pairs, scored.pair, folder=scored.data, texts=kept)
    found = np.full((len(scored.pair), len(features)), np.nan)
    for place, feature in enumerate(features):
        if feature.kind == "judge":
            found[:, place] = judge_scores(raters[feature.name], scored.pair)
        elif texts:
            scores = bm25_scores if feature.kind == "bm25" else dense_scores
            found[:, place] = scores(scored, texts, feature.name)
    return found


def both_views(scores: Floats, query: Ints) -> Floats:
    """Compute `[2, n, features]` both views of scores `[n, features]`: unchanged, and minus the query's mean.

    Queries differ in their share of relevant passages, which scores do not reflect. Differences within a query may be
    more reliable. `query`: `[n]` number of each pair's query.
    """
    own, queries = dense(query)
    views = np.stack([scores, scores])
    for column in views[1].T:
        known = np.isfinite(column)
        sums = np.bincount(own, weights=np.where(known, column, 0.0), minlength=queries)
        counts = np.bincount(own[known], minlength=queries)
        column -= (sums / np.maximum(counts, 1))[own]
    return views


def judge_scores(rater: Rater, pair: Ints) -> Floats:
    """Return the judge's score of each of `[n]` pairs: its grade if it has no score, nan if it failed."""
    rows = rater.rows(pair)
    found = np.full(len(pair), np.nan)
    judged = rows >= 0
    found[judged] = np.where(rater.answered, rater.rank_score, np.nan)[rows[judged]]
    return found


def bm25_scores(scored: Scored, texts: Collection, language: str) -> Floats:
    """Compute the BM25 score of each pair over the whole collection, as in `pool`; 0 without shared words."""
    queries, place = texts.queries()
    pairs = np.stack([place, texts.rows[scored.pairs.passage[scored.pair]]], axis=1)
    engine = Bm25(texts.corpus, language or None)
    return engine.scores(queries, pairs).astype(float)  # type: ignore[arg-type]


def dense_scores(scored: Scored, texts: Collection, name: str) -> Floats:
    """Compute the similarity of each pair by a sentence-transformers model, with the model's own measure."""
    encoder = load_encoder(name)
    queries, place = texts.queries()
    asked = encoder.encode_query(queries, show_progress_bar=False)
    passage = scored.pairs.passage[scored.pair]
    found = np.zeros(len(passage))
    order = np.argsort(passage, kind="stable")
    for numbers, passages in texts.passages(PASSAGES_AT_ONCE):
        rows = order[slice(*np.searchsorted(passage[order], [numbers[0], numbers[-1] + 1]))]
        shown = encode_passages(encoder, name, passages)
        columns = np.searchsorted(numbers, passage[rows])
        found[rows] = encoder.similarity_pairwise(asked[place[rows]], shown[columns])
    return found
