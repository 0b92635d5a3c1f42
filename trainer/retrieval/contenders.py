"""Load the models that are measured, and rank passages with them: by search, or by reranking a first stage."""

from collections.abc import Sequence
from typing import NamedTuple

from sentence_transformers import CrossEncoder, SentenceTransformer

from labelkit.corpora.runs import RankedRun
from labelkit.errors import UsageError
from labelkit.pooling.dense_search import Lengths
from trainer.retrieval.options import RERANKED, EvaluateOptions
from trainer.retrieval.rerank import FirstStage, Reranking, first_stage, is_cross_encoder, load_cross_encoder
from trainer.retrieval.search import Collection, Encoder, load_any_encoder, search, without_itself
from trainer.retrieval.vector_search import VectorEncoder


class Contender(NamedTuple):
    """A loaded model to be measured, or the first stage that cross-encoders rerank."""

    name: str
    encoder: Encoder | CrossEncoder | FirstStage
    kept: str | None = None
    """The name or folder it was loaded from, the key of its cached embeddings; None caches no embeddings."""


def load_contender(name: str, *, trust_remote_code: bool = False) -> Contender:
    """Load a model from a local folder or the Hub, for measuring."""
    if is_cross_encoder(name):
        return Contender(name, load_cross_encoder(name, trust_remote_code=trust_remote_code), name)
    return Contender(name, load_any_encoder(name, trust_remote_code=trust_remote_code), name)


def refuse_dense_options(contenders: Sequence[Contender], options: EvaluateOptions) -> None:
    """Raise `UsageError` for options that have no effect on the vectors of a sparse encoder or of tokens."""
    for contender in contenders:
        if not isinstance(contender.encoder, VectorEncoder):
            continue
        if options.dimensions is not None or options.index != "exact":
            name = "--index" if options.index != "exact" else "--dimensions"
            kind = type(contender.encoder).__name__
            raise UsageError(f"{contender.name} is a {kind}, which is searched exactly and in full; remove {name}")


def first_stage_of(contenders: Sequence[Contender], options: EvaluateOptions) -> list[Contender]:
    """Make the contender of the first stage if one of the models is a cross-encoder.

    Raises `UsageError` for options without an effect on the first of the models.
    """
    if not any(isinstance(contender.encoder, CrossEncoder) for contender in contenders):
        if options.rerank is not None:
            raise UsageError("none of the models is a cross-encoder, so nothing is reranked; remove --rerank")
        return []
    first = contenders[0]
    given = {"dimensions": options.dimensions, "max_query_length": options.max_query_length}
    for name in (name for name, value in given.items() if value is not None):
        if isinstance(first.encoder, CrossEncoder):
            raise UsageError(f"{first.name} is a cross-encoder, on which {name} has no effect; remove it")
    stage = first_stage(options.rerank or RERANKED)
    known = any(contender.encoder == stage for contender in contenders)
    return [] if known else [Contender(str(stage), stage)]


def rank(contender: Contender, collection: Collection, options: EvaluateOptions, *, depth: int) -> RankedRun:
    """Rank passages for every query: by a search to `depth`, by a cross-encoder over its first stage, or by the first
    stage.
    """
    encoder = contender.encoder
    if isinstance(encoder, FirstStage):
        return without_itself(encoder.run(collection), collection)
    if not isinstance(encoder, Encoder):
        stage = first_stage(options.rerank or RERANKED)
        ranked = Reranking(collection, stage)(encoder, max_length=options.max_passage_length)
        return without_itself(ranked, collection)
    if isinstance(encoder, SentenceTransformer):
        encoder.truncate_dim = options.dimensions
    kept = contender.kept if options.dimensions is None else None
    lengths = Lengths(options.max_query_length, options.max_passage_length)
    return search(encoder, kept, collection, index=options.index, depth=depth, lengths=lengths)
