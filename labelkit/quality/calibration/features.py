"""Features of pairs for a calibration: the scores of judges and of retrievers."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labelkit.corpora.beir import check_ids
from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.layout import layout_of
from labelkit.corpora.queries import read_queries
from labelkit.errors import DataError, UsageError
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.bm25_index import Corpus, update
from labelkit.pooling.dense import encode_passages
from labelkit.pooling.model_loading import load_encoder
from labelkit.quality.agreement import Rater
from labelkit.quality.agreement_metrics import Floats
from labelkit.records import PairIds, full_text


class Feature(NamedTuple):
    """A feature of pairs: the score of a judge or of a retriever."""

    kind: str
    """Kind of feature: judge, bm25 or dense."""
    name: str
    """Id of the judge, name of the dense model, or language of BM25, which is empty for its default."""


class Texts(NamedTuple):
    """The texts of judged pairs, and the collection that they are part of."""

    queries: dict[str, str]
    """Id -> text of each judged query."""
    passages: dict[str, str]
    """Id -> full text of each judged passage."""
    rows: dict[str, int]
    """Id of each judged passage -> its place in the collection."""
    collection: Corpus


def features_of(
    raters: Sequence[Rater], *, bm25: bool, dense: Sequence[str], language: str | None = None
) -> list[Feature]:
    """List the features: every judge, then the retrievers."""
    judges = [Feature("judge", rater.rater_id) for rater in raters]
    words = [Feature("bm25", language or "")] if bm25 else []
    return judges + words + [Feature("dense", model) for model in dense]


def matrix(
    features: Sequence[Feature], pairs: Sequence[PairIds], raters: Mapping[str, Rater], data: Path | None
) -> Floats:
    """Compute `[pairs, features]` scores, nan for a judge without an answer. `raters`: name of a judge's feature ->
    judge.

    Raises `UsageError` if a retriever needs texts and `data` is None.
    """
    retrievers = [feature for feature in features if feature.kind != "judge"]
    if retrievers and data is None:
        raise UsageError(f"the scores of {retrievers[0].kind} need the texts: give the BEIR folder with --data")
    texts = read_texts(data, pairs) if retrievers and data else None
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
    """Return the judge's score of each pair: its grade if it has no score, nan if it failed."""
    rows = [rater.judgements.get(pair) for pair in pairs]
    return [np.nan if row is None or row.failure is not None else row.rank_score for row in rows]


def read_texts(folder: Path, pairs: Sequence[PairIds]) -> Texts:
    """Read the texts of judged pairs from a collection; the other passages are not kept in memory.

    Raises `DataError` for a judged query or passage that is missing, or a judged passage that is duplicated.
    """
    layout = layout_of(folder)
    wanted: dict[str, list[str]] = {}
    for query_id, passage_id in pairs:
        wanted.setdefault(query_id, []).append(passage_id)
    judged = {passage_id for ids in wanted.values() for passage_id in ids}
    passages: dict[str, str] = {}
    rows: dict[str, int] = {}
    digest, count = hashlib.sha256(), 0
    for where, passage_id, title, text in corpus_rows(*layout.corpus):
        update(digest, full_text(title, text))
        if passage_id in judged:
            if passage_id in rows:
                raise DataError(f"{where}: passage id {passage_id!r} is duplicated")
            passages[passage_id], rows[passage_id] = full_text(title, text), count
        count += 1
    queries = read_queries(*layout.queries)
    check_ids(wanted, queries, passages, where="the judged pairs")
    collection = Corpus(
        lambda: (full_text(title, text) for _, _, title, text in corpus_rows(*layout.corpus)), digest.hexdigest(), count
    )
    return Texts({query_id: queries[query_id].text for query_id in wanted}, passages, rows, collection=collection)


def bm25_scores(texts: Texts, pairs: Sequence[PairIds], language: str) -> list[float]:
    """Compute the BM25 score of each pair over the whole collection, as in `pool`; 0 without shared words."""
    engine = Bm25(texts.collection, language or None)
    numbers = {query_id: number for number, query_id in enumerate(texts.queries)}
    places = [(numbers[query_id], texts.rows[passage_id]) for query_id, passage_id in pairs]
    return [float(score) for score in engine.scores(list(texts.queries.values()), places)]


def dense_scores(texts: Texts, pairs: Sequence[PairIds], name: str) -> list[float]:
    """Compute the similarity of each pair by a sentence-transformers model, with the model's own measure."""
    encoder = load_encoder(name)
    passages = sorted({passage_id for _, passage_id in pairs})
    queries = sorted({query_id for query_id, _ in pairs})
    shown = encode_passages(encoder, name, [texts.passages[passage_id] for passage_id in passages])
    asked = encoder.encode_query([texts.queries[query_id] for query_id in queries], show_progress_bar=False)
    numbers = {query_id: number for number, query_id in enumerate(queries)}
    rows = [numbers[query_id] for query_id, _ in pairs]
    places = {passage_id: place for place, passage_id in enumerate(passages)}
    columns = [places[passage_id] for _, passage_id in pairs]
    similar = encoder.similarity_pairwise(asked[rows], shown[columns])
    return [float(value) for value in similar]
