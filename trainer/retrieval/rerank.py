"""Rerank the first passages of a first stage, which is BM25 or a TREC run, with a cross-encoder.

A passage that the first stage does not find is not ranked, so that its Recall is an upper bound.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from labelkit.corpora.runs import RankedRun, read_run
from labelkit.errors import DataError, LabelkitError, UsageError, first_line
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.bm25_index import Corpus, update
from labelkit.pooling.model_loading import config_of, hide_loading_bars, saved_kind
from labelkit.pooling.model_safety import refuse_code
from labelkit.pooling.options import with_depth
from trainer.retrieval.options import BM25
from trainer.retrieval.search import Collection, checked_passages

log = logging.getLogger(__name__)


class FirstStage(NamedTuple):
    """A ranking whose first passages are reranked."""

    source: str
    """`BM25`, or the path of a TREC run."""
    depth: int
    """Number of passages per query."""

    def __str__(self) -> str:
        return f"{self.source}:{self.depth}"

    def run(self, collection: Collection) -> RankedRun:
        """Rank the passages of a collection. Raises `DataError` for a run without any query of the collection."""
        if self.source == BM25:
            return bm25_ranking(collection, self.depth)
        found = read_run(Path(self.source))
        missing = [query_id for query_id in collection.queries if query_id not in found]
        if len(missing) == len(collection.queries):
            raise DataError(f"{self.source} has no query of {collection.name}; give a run of its split")
        if missing:
            log.warning(f"{self.source} lacks {len(missing)} queries of {collection.name}; they count as 0")
        asked = (query_id for query_id in collection.queries if query_id in found)
        return {query_id: dict(list(found[query_id].items())[: self.depth]) for query_id in asked}


def first_stage(text: str) -> FirstStage:
    """Parse `bm25:N` or `RUN:N`. Raises `UsageError` for any other text, and for a missing run."""
    stage = FirstStage(*with_depth(text, "--rerank"))
    if stage.source != BM25 and not Path(stage.source).is_file():
        raise UsageError(f"--rerank {text}: there is no file {stage.source}; give bm25:N or a TREC run as FILE:N")
    return stage


def bm25_ranking(collection: Collection, depth: int) -> RankedRun:
    """Rank the `depth` best passages of every query by BM25, with title and text as one field."""
    digest, ids = hashlib.sha256(), []
    for passage in checked_passages(collection):
        update(digest, passage.full_text)
        ids.append(passage.passage_id)
    texts = Corpus(lambda: (one.full_text for one in collection.passages()), digest.hexdigest(), len(ids))
    return Bm25(texts).run(ids, {name: query.text for name, query in collection.queries.items()}, depth)


class Reranking:
    """A first stage of a collection with the texts of its passages, for one or several cross-encoders."""

    def __init__(self, collection: Collection, stage: FirstStage) -> None:
        """Rank the passages, and read their texts. Raises `DataError` for a passage outside the corpus."""
        self.collection = collection
        self.first = stage.run(collection)
        wanted = {passage_id for ranked in self.first.values() for passage_id in ranked}
        read = checked_passages(collection)
        self.texts = {one.passage_id: one.full_text for one in read if one.passage_id in wanted}
        if missing := wanted - self.texts.keys():
            raise DataError(f"{stage.source}: passage {min(missing)!r} is not in the corpus of {collection.name}")

    def __call__(self, model: CrossEncoder, *, max_length: int | None = None) -> RankedRun:
        """Rank the passages of the first stage by the scores of a cross-encoder, ties by passage id, higher id first.

        `max_length` is the maximum number of tokens of query and passage together.
        """
        names = [(query_id, passage_id) for query_id, ranked in self.first.items() for passage_id in ranked]
        pairs = [(self.collection.queries[query_id].text, self.texts[name]) for query_id, name in names]
        run: dict[str, list[tuple[float, str]]] = {query_id: [] for query_id in self.first}
        for (query_id, name), score in zip(names, scores_of(model, pairs, max_length=max_length), strict=True):
            run[query_id].append((score, name))
        return {query_id: {name: score for score, name in sorted(each, reverse=True)} for query_id, each in run.items()}


def scores_of(model: CrossEncoder, pairs: Sequence[tuple[str, str]], *, max_length: int | None = None) -> list[float]:
    """Compute the logits of pairs of a query and a passage. Raises `LabelkitError` for one that is not finite."""
    if not pairs:
        return []
    limit: dict[str, Any] = {} if max_length is None else {"max_length": max_length}
    found = model.predict(list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False, **limit)
    if not np.isfinite(found).all():
        raise LabelkitError(f"{int((~np.isfinite(found)).sum()):,} of {len(pairs):,} scores of pairs are not finite")
    scores: list[float] = np.asarray(found, dtype=np.float64).tolist()
    return scores


def load_cross_encoder(name: str, *, trust_remote_code: bool = False, **kwargs: Any) -> CrossEncoder:
    """Load a cross-encoder with one output from a local folder or the Hub; an encoder gets a head with new weights.

    Raises `UsageError` if it cannot be loaded, or has several outputs.
    """
    hide_loading_bars()
    refuse_code(name, trusted=trust_remote_code)
    safe = {} if trust_remote_code else {"use_safetensors": True}
    try:
        model: CrossEncoder = CrossEncoder(name, trust_remote_code=trust_remote_code, model_kwargs=safe, **kwargs)
    except Exception as error:  # the loaders raise errors of any type for a missing or damaged folder
        raise UsageError(
            f"cannot load the model {name!r} as a cross-encoder: {first_line(error)}; give a model folder or a Hub id"
        ) from None
    if model.num_labels != 1:
        raise UsageError(f"the model {name!r} has {model.num_labels} outputs; a reranker has one")
    return model


def is_cross_encoder(name: str) -> bool:
    """Return whether a local folder or a Hub model is a cross-encoder: by the mark of sentence-transformers, or by
    being a classifier of sequences.
    """
    if (kind := saved_kind(name)) is not None:
        return kind == "CrossEncoder"
    named = config_of(name, "config.json").get("architectures")
    return any(str(one).endswith("ForSequenceClassification") for one in named or ())
