"""Dense search: the passages of a corpus that an encoder finds nearest to each query.

The corpus is encoded and searched a chunk at a time and then dropped, so that memory does not grow with it.
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
"""Passages encoded and searched at a time."""
QUERY_TILE = 256
"""Queries scored at a time against a chunk."""
CACHED_CHUNKS = 20
"""Chunks whose embeddings by an untrained model are kept for the next time: a larger corpus would fill the disk."""


def _cosine(embeddings: Tensor) -> Tensor:
    return normalize(embeddings, dim=-1)


def _dot(embeddings: Tensor) -> Tensor:
    return embeddings


SIMILARITIES: dict[str, Callable[[Tensor], Tensor]] = {"cosine": _cosine, "dot": _dot}
"""Name of a similarity -> function applied to embeddings before their dot product is taken."""


class Lengths(NamedTuple):
    """Tokens that the encoder reads; None for the model's own limit."""

    query: int | None = None
    passage: int | None = None


OWN_LENGTHS = Lengths()


class Index(Protocol):
    """Finds the best passages of `queries` `[Q, D]` by dot product."""

    def __init__(self, queries: Tensor, depth: int) -> None: ...

    def add(self, ids: Sequence[str], passages: Tensor) -> None:
        """Add passages `[N, D]`, in the order in which equal similarities are ranked: the higher id first."""

    def best(self) -> list[list[tuple[str, float]]]:
        """Return for each query its best passages and their similarities."""


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

    Similarity is the encoder's own, computed in float32 on its device, by `Exact` search unless `index` names another.
    Equal similarities are ranked by passage id, the higher id first, as trec_eval does. `name` is the folder or Hub id
    that `encoder`, a `SentenceTransformer`, was loaded from; None for one whose embeddings are not to be kept. Raises
    `ArtifactError` where an embedding or a similarity is not finite.
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
            # With passages so sorted, the lower row wins a tie.
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
    """Have the encoder read no more than `length` tokens."""
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
    """Every query against every passage, in tiles; keeps the best of each query. Equal scores are ranked as trec_eval
    ranks them, by id downwards.
    """

    def __init__(
        self, queries: Tensor, depth: int, similarity: Callable[[Tensor, Tensor], Tensor] = _dot_products
    ) -> None:
        self.queries, self.depth, self.similarity = queries, depth, similarity
        self.scores = queries.new_empty((len(queries), 0))
        self.ids: NDArray[np.object_] = np.empty((len(queries), 0), dtype=object)

    def add(self, ids: Sequence[str], passages: Tensor) -> None:
        names: NDArray[np.object_] = np.array(ids, dtype=object)
        downwards = np.argsort(names, kind="stable")[::-1].copy()
        names, passages = names[downwards], passages[torch.from_numpy(downwards).to(passages.device)]
        tiles = [
            best_first(self.similarity(tile, passages), self.depth) for tile in torch.split(self.queries, QUERY_TILE)
        ]
        found = names[torch.cat([columns for _, columns in tiles]).cpu().numpy()]
        scores = torch.cat([self.scores, torch.cat([values for values, _ in tiles])], dim=1)
        every = np.concatenate([self.ids, found], axis=1)
        # Passages of several chunks: in the order of their ids, downwards, before the best are taken.
        by_id = np.argsort(np.unique(every, return_inverse=True)[1].reshape(every.shape), axis=1)[:, ::-1].copy()
        self.scores, order = best_first(scores.gather(1, torch.from_numpy(by_id).to(scores.device)), self.depth)
        self.ids = np.take_along_axis(np.take_along_axis(every, by_id, axis=1), order.cpu().numpy(), axis=1)

    def best(self) -> list[list[tuple[str, float]]]:
        pairs = zip(self.ids.tolist(), self.scores.tolist(), strict=True)
        return [list(zip(ids, scores, strict=True)) for ids, scores in pairs]


def best_first(scores: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Find the `depth` highest scores in each row of `[Q, N]`, highest first, and their columns; ties to the lower.

    `topk` alone keeps any of equal scores, and which it keeps changes with the shape of the matrix.
    """
    depth = min(depth, scores.shape[1])
    values, columns = scores.topk(depth, dim=1)
    if depth < scores.shape[1]:
        cut = (scores >= values[:, -1:]).sum(dim=1) > depth  # rows that lose some of the scores equal to their last
        if cut.any():
            columns[cut] = scores[cut].sort(dim=1, descending=True, stable=True).indices[:, :depth]
    columns = columns.sort(dim=1).values
    order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    columns = columns.gather(1, order)
    return scores.gather(1, columns), columns
