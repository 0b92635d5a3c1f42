"""Search a corpus for the passages that are most similar to each query by an encoder.

The corpus is encoded and searched in chunks that are then discarded, so that memory does not grow with the corpus.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from labelkit.corpora.runs import RankedRun
from labelkit.errors import ArtifactError
from labelkit.pooling.dense import encode_passages, encode_queries
from labelkit.records import Passage

CHUNK = 50_000
"""Passages per chunk that is encoded and searched."""
QUERY_TILE = 256
"""Queries that are scored together against a chunk."""
CACHED_CHUNKS = 20
"""Most chunks per corpus whose embeddings are cached, so that a large corpus does not fill the disk."""


def _cosine(embeddings: Tensor) -> Tensor:
    return normalize(embeddings, dim=-1)


def _dot(embeddings: Tensor) -> Tensor:
    return embeddings


SIMILARITIES: dict[str, Callable[[Tensor], Tensor]] = {"cosine": _cosine, "dot": _dot}
"""Name of a similarity -> function that is applied to embeddings before their dot product."""


class Lengths(NamedTuple):
    """Most tokens that the encoder reads of a query and of a passage; None for the model's own limit."""

    query: int | None = None
    passage: int | None = None


OWN_LENGTHS = Lengths()


class Index(Protocol):
    """Interface of indexes that find the best passages of `queries` [Q, D] by dot product."""

    def __init__(self, queries: Tensor, depth: int) -> None: ...

    def add(self, ids: Sequence[str], passages: Tensor) -> None:
        """Add passages [N, D], sorted by id in descending order, which is the rank order of equal similarities."""

    def best(self) -> list[list[tuple[str, float]]]:
        """Return the best passages of each query with their similarities."""


def dense_search(
    encoder: Any,
    name: str | None,
    queries: Mapping[str, str],
    passages: Iterable[Passage],
    *,
    depth: int,
    lengths: Lengths = OWN_LENGTHS,
    index: Callable[[Tensor, int], Index] | None = None,
) -> RankedRun:
    """Find the `depth` best passages of every query (id -> text) with their similarities, in rank order.

    The similarity is the encoder's own, computed in float32 on its device by `Exact` or by another `index`. Equal
    similarities are ranked by passage id in descending order, as in trec_eval. `name` is the folder or Hub id from
    which `encoder`, a `SentenceTransformer`, was loaded; with None, embeddings are not cached. Raises `ArtifactError`
    if an embedding or a similarity is not finite.
    """
    prepare = SIMILARITIES.get(encoder.similarity_fn_name, _dot)
    if index is None:
        plain = encoder.similarity_fn_name in SIMILARITIES
        index = Exact if plain else partial(Exact, similarity=encoder.similarity)
    with limited(encoder, lengths.query):
        near = torch.from_numpy(encode_queries(encoder, name, list(queries.values())))
    found = index(prepare(near.to(encoder.device)), depth)
    left = iter(passages)
    with limited(encoder, lengths.passage):
        number = 0
        while chunk := list(islice(left, CHUNK)):
            # In this order, the lower row wins a tie.
            chunk.sort(key=lambda passage: passage.passage_id, reverse=True)
            kept = name if number < CACHED_CHUNKS else None
            vectors = encode_passages(encoder, kept, [passage.full_text for passage in chunk])
            far = prepare(torch.from_numpy(vectors).to(encoder.device))
            found.add([passage.passage_id for passage in chunk], far)
            number += 1
    return {
        query_id: dict(sorted(_finite(best, query_id, name), key=lambda pair: (pair[1], pair[0]), reverse=True))
        for query_id, best in zip(queries, found.best(), strict=True)
    }


def _finite(best: list[tuple[str, float]], query_id: str, name: str | None) -> list[tuple[str, float]]:
    for passage_id, score in best:
        if not np.isfinite(score):
            raise ArtifactError(
                f"{name or 'the model'}: the similarity of query {query_id!r} and passage {passage_id!r} is {score}; "
                "its weights are damaged or too large: train it again with a lower learning rate, or fetch it again"
            )
    return best


@contextmanager
def limited(encoder: Any, length: int | None) -> Iterator[None]:
    """Limit the encoder to `length` tokens inside the block; None keeps its own limit."""
    before = encoder.max_seq_length
    if length is not None:
        encoder.max_seq_length = length
    try:
        yield
    finally:
        if length is not None:
            encoder.max_seq_length = before


def _dot_products(queries: Tensor, passages: Tensor) -> Tensor:
    return queries @ passages.T


class Exact:
    """Compares every query with every passage, in tiles, and keeps the best passages of each query.

    Equal scores are ranked by id in descending order, as in trec_eval.
    """

    def __init__(
        self, queries: Tensor, depth: int, similarity: Callable[[Tensor, Tensor], Tensor] = _dot_products
    ) -> None:
        self.queries, self.depth, self.similarity = queries, depth, similarity
        self.scores = queries.new_empty((len(queries), 0))
        self.places: NDArray[np.int64] = np.empty((len(queries), 0), dtype=np.int64)
        self.added = 0
        self.names: dict[int, str] = {}
        """Place of each kept passage among all that were added -> its id."""

    def add(self, ids: Sequence[str], passages: Tensor) -> None:
        names: NDArray[np.object_] = np.array(ids, dtype=object)
        downwards = np.argsort(names, kind="stable")[::-1].copy()
        names, passages = names[downwards], passages[torch.from_numpy(downwards).to(passages.device)]
        tiles = [
            best_first(self.similarity(tile, passages), self.depth) for tile in torch.split(self.queries, QUERY_TILE)
        ]
        found = self.added + torch.cat([columns for _, columns in tiles]).cpu().numpy()
        scores = torch.cat([self.scores, torch.cat([values for values, _ in tiles])], dim=1)
        every = np.concatenate([self.places, found], axis=1)
        used, which = np.unique(every, return_inverse=True)
        named = [names[place - self.added] if place >= self.added else self.names[place] for place in used.tolist()]
        # Sort passages of several chunks by id in descending order before the best are selected.
        rank = np.empty(len(named), dtype=np.int64)
        rank[np.argsort(np.array(named, dtype=object), kind="stable")] = np.arange(len(named))
        by_id = np.argsort(rank[which].reshape(every.shape), axis=1)[:, ::-1].copy()
        self.scores, order = best_first(scores.gather(1, torch.from_numpy(by_id).to(scores.device)), self.depth)
        self.places = np.take_along_axis(np.take_along_axis(every, by_id, axis=1), order.cpu().numpy(), axis=1)
        kept = np.searchsorted(used, np.unique(self.places)).tolist()
        self.names = {int(used[place]): named[place] for place in kept}
        self.added += len(names)

    def best(self) -> list[list[tuple[str, float]]]:
        pairs = zip(self.places.tolist(), self.scores.tolist(), strict=True)
        return [[(self.names[place], score) for place, score in zip(*each, strict=True)] for each in pairs]


def best_first(scores: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Return the `depth` highest scores in each row of [Q, N], highest first, and their columns; ties prefer the lower.

    `topk` alone keeps an arbitrary one of equal scores, depending on the shape of the matrix.
    """
    depth = min(depth, scores.shape[1])
    values, columns = scores.topk(depth, dim=1)
    if depth < scores.shape[1]:
        cut = (scores >= values[:, -1:]).sum(dim=1) > depth  # rows that lose some scores equal to their last one
        if cut.any():
            columns[cut] = scores[cut].sort(dim=1, descending=True, stable=True).indices[:, :depth]
    columns = columns.sort(dim=1).values
    order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    columns = columns.gather(1, order)
    return scores.gather(1, columns), columns
