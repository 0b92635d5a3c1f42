"""Features of pairs for a calibration: the scores of judges and of retrievers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labelkit.corpora.beir import Data, check_ids, read_data
from labelkit.errors import UsageError
from labelkit.pooling.dense import encode_passages
from labelkit.pooling.model_loading import load_encoder
from labelkit.quality.agreement import Rater
from labelkit.quality.agreement_metrics import Floats
from labelkit.records import PairIds


class Feature(NamedTuple):
    """A feature of pairs: the score of a judge or of a retriever."""

    kind: str
    """Kind of feature: judge, bm25 or dense."""
    name: str
    """Id of the judge, or name of the dense model; empty for BM25."""


def features_of(raters: Sequence[Rater], *, bm25: bool, dense: Sequence[str]) -> list[Feature]:
    """List the features: every judge, then the retrievers."""
    judges = [Feature("judge", rater.rater_id) for rater in raters]
    return judges + ([Feature("bm25", "")] if bm25 else []) + [Feature("dense", model) for model in dense]


def matrix(
    features: Sequence[Feature], pairs: Sequence[PairIds], raters: Mapping[str, Rater], data: Path | None
) -> Floats:
    """Compute `[pairs, features]` scores, nan for a judge without a grade. `raters`: name of a judge's feature ->
    judge.

    Raises `UsageError` if a retriever needs texts and `data` is None.
    """
    retrievers = [feature for feature in features if feature.kind != "judge"]
    if retrievers and data is None:
        raise UsageError(f"the scores of {retrievers[0].kind} need the texts: give the BEIR folder with --data")
    texts = read_data(data) if retrievers and data else None
    if texts:
        by_query: dict[str, list[str]] = {}
        for query_id, passage_id in pairs:
            by_query.setdefault(query_id, []).append(passage_id)
        check_ids(by_query, texts.queries, texts.corpus, where="the judged pairs")
    columns = []
    for feature in features:
        if feature.kind == "judge":
            columns.append(judge_scores(raters[feature.name], pairs))
        elif texts:
            scores = bm25_scores if feature.kind == "bm25" else dense_scores
            columns.append(scores(texts, pairs, feature.name))
    return np.array(columns, dtype=float).T.reshape(len(pairs), len(features))


def both_views(scores: Floats, query_ids: Sequence[str]) -> Floats:
    """Compute `[2, pairs, features]` both views of scores `[pairs, features]`: unchanged, and minus the query's mean.

    Queries differ in their share of relevant passages, which scores do not reflect. Differences within a query may be
    more reliable.
    """
    _, query = np.unique(np.array(query_ids, dtype=object), return_inverse=True)
    known = np.isfinite(scores)
    sums, counts = np.zeros((2, query.max(initial=-1) + 1, scores.shape[1]))
    np.add.at(sums, query, np.where(known, scores, 0.0))
    np.add.at(counts, query, known)
    return np.stack([scores, scores - (sums / np.maximum(counts, 1))[query]])


def judge_scores(rater: Rater, pairs: Iterable[PairIds]) -> list[float]:
    """Return the judge's score of each pair: its grade if it has no score, nan if it has no grade."""
    rows = [rater.judgements.get(pair) for pair in pairs]
    given = [row if row is None or row.grade is not None else None for row in rows]
    return [np.nan if row is None else row.rank_score for row in given]


def bm25_scores(data: Data, pairs: Sequence[PairIds], name: str) -> list[float]:
    """Compute the BM25 score of each pair over the whole collection, as in `pool`; 0 without shared words."""
    from labelkit.pooling.pool import bm25_run

    asked = {query_id: data.queries[query_id] for query_id, _ in pairs}
    run = bm25_run(data.corpus, asked, len(data.corpus))
    return [run.get(query_id, {}).get(passage_id, 0.0) for query_id, passage_id in pairs]


def dense_scores(data: Data, pairs: Sequence[PairIds], name: str) -> list[float]:
    """Compute the similarity of each pair by a sentence-transformers model, with the model's own measure."""
    encoder = load_encoder(name)
    passages = sorted({passage_id for _, passage_id in pairs})
    queries = sorted({query_id for query_id, _ in pairs})
    shown = encode_passages(encoder, name, [data.corpus[passage_id].full_text for passage_id in passages])
    asked = encoder.encode_query([data.queries[query_id].text for query_id in queries], show_progress_bar=False)
    rows = [queries.index(query_id) for query_id, _ in pairs]
    places = {passage_id: place for place, passage_id in enumerate(passages)}
    columns = [places[passage_id] for _, passage_id in pairs]
    similar = encoder.similarity_pairwise(asked[rows], shown[columns])
    return [float(value) for value in similar]
