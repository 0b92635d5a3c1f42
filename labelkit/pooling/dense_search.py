"""Search a corpus for the passages that are most similar to each query by an encoder.

The corpus is encoded and searched in chunks that are then discarded, so that memory does not grow with the corpus.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from labelkit.corpora.runs import RankedRun
from labelkit.errors import ArtifactError
from labelkit.pooling.dense import CachedEncoder, encode_queries
from labelkit.pooling.stages import Report
from labelkit.records import Passage

CHUNK = 50_000
"""Passages per chunk that is encoded and searched."""
QUERY_TILE = 256
"""Queries that are scored together against a chunk."""
CACHED = 4_096
"""Passages that are scored together on a CPU: 4 MB of scores, which stay in its cache."""
KEPT_CHUNKS = 20
"""Most chunks per corpus whose embeddings an evaluation keeps, so that many models do not fill the disk."""


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
    if index is None:
        index = partial(Exact, similarity=similarity_of(encoder))
    found = index(encoded_queries(encoder, name, list(queries.values()), length=lengths.query), depth)
    left = iter(passages)
    number = 0
    with limited(encoder, lengths.passage):
        kept, unkept = CachedEncoder(encoder, name), CachedEncoder(encoder, None)
        while chunk := list(islice(left, CHUNK)):
            # In this order, the lower row wins a tie.
            chunk.sort(key=lambda passage: passage.passage_id, reverse=True)
            texts = [passage.full_text for passage in chunk]
            far = prepared(encoder, (kept if number < KEPT_CHUNKS else unkept).encode(texts))
            found.add([passage.passage_id for passage in chunk], far)
            number += 1
    return {
        query_id: dict(sorted(_finite(best, query_id, name), key=lambda pair: (pair[1], pair[0]), reverse=True))
        for query_id, best in zip(queries, found.best(), strict=True)
    }


class Chunk(NamedTuple):
    """Passages that are encoded and searched together."""

    rows: NDArray[np.int64]
    """Number of each passage; of equal similarities, the higher number ranks first."""
    texts: list[str]


def nearest(
    encoder: Any,
    name: str,
    queries: Sequence[str],
    *,
    chunks: Iterable[Chunk],
    passages: int,
    depth: int,
    report: Report,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the numbers of the `depth` best passages of every query and their similarities, best first.

    As `dense_search`, for `passages` passages that are numbered; all embeddings are kept on disk. `chunks` is read
    once. Raises `ArtifactError` if an embedding or a similarity is not finite.
    """
    if not queries:
        return
    found = ExactRows(kept_queries(encoder, name, queries, report=report), depth, similarity_of(encoder))
    kept = CachedEncoder(encoder, name, report, total=passages)
    for chunk in chunks:
        order = np.argsort(chunk.rows)[::-1]
        found.add(chunk.rows[order], prepared(encoder, kept.encode([chunk.texts[place] for place in order])))
    for query, (rows, scores) in zip(queries, found.best(), strict=True):
        for row, score in zip(rows[~np.isfinite(scores)], scores[~np.isfinite(scores)], strict=True):
            raise not_finite(query, str(row), score, name=name)
        yield rows, scores


def kept_queries(encoder: Any, name: str, queries: Sequence[str], *, report: Report) -> Tensor:
    """Return the prepared embeddings of queries [Q, D], of which each is in memory once; all are kept on disk."""
    kept = CachedEncoder(encoder, name, report, total=len(queries), task="query")
    blocks = (prepared(encoder, kept.encode(queries[start : start + CHUNK])) for start in range(0, len(queries), CHUNK))
    first = next(blocks)
    if len(first) == len(queries):
        return first
    near = first.new_empty((len(queries), first.shape[1]))
    for number, block in enumerate(chain([first], blocks)):
        near[number * CHUNK : number * CHUNK + len(block)] = block
    return near


def prepared(encoder: Any, vectors: NDArray[np.float32]) -> Tensor:
    """Return embeddings [N, D] on the encoder's device, normalised if its similarity is the cosine."""
    return SIMILARITIES.get(encoder.similarity_fn_name, _dot)(torch.from_numpy(vectors).to(encoder.device))


def similarity_of(encoder: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the similarity of prepared embeddings [Q, D] and [N, D]: [Q, N]."""
    similarity: Callable[[Tensor, Tensor], Tensor] = encoder.similarity
    return _dot_products if encoder.similarity_fn_name in SIMILARITIES else similarity


def encoded_queries(encoder: Any, name: str | None, queries: Sequence[str], *, length: int | None = None) -> Tensor:
    """Return the prepared embeddings of queries: [Q, D]."""
    with limited(encoder, length):
        return prepared(encoder, encode_queries(encoder, name, queries))


def _finite(best: list[tuple[str, float]], query_id: str, name: str | None) -> list[tuple[str, float]]:
    for passage_id, score in best:
        if not np.isfinite(score):
            raise not_finite(query_id, passage_id, score, name=name)
    return best


def not_finite(query: str, passage: str, score: float, *, name: str | None) -> ArtifactError:
    """Return the error for a similarity that is not a finite number."""
    return ArtifactError(
        f"{name or 'the model'}: the similarity of query {query!r} and passage {passage!r} is {score}; "
        "its weights are damaged or too large: train it again with a lower learning rate, or fetch it again"
    )


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


class ExactRows:
    """Compares every query with every passage, in tiles, and keeps the best passages of each query.

    A passage is a number; of equal scores, the one with the higher number ranks first. Memory does not grow with the
    passages, and with the queries only by their vectors and their best passages.
    """

    def __init__(
        self, queries: Tensor, depth: int, similarity: Callable[[Tensor, Tensor], Tensor] = _dot_products
    ) -> None:
        self.queries, self.depth, self.similarity = queries, depth, similarity
        # Queries may also be row numbers of vectors that `similarity` looks up.
        kind = queries.dtype if queries.is_floating_point() else torch.float32
        self.scores = torch.empty((len(queries), 0), dtype=kind, device=queries.device)
        self.rows = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)

    def add(self, rows: NDArray[np.int64], passages: Tensor) -> None:
        """Compare all queries with the passages [N, D], whose numbers are `rows` [N], in descending order."""
        width = min(self.depth, self.scores.shape[1] + len(rows))
        numbers = torch.from_numpy(rows).to(self.queries.device)
        scores = self.scores.new_empty((len(self.queries), width))
        kept = self.rows.new_empty((len(self.queries), width))
        for start in range(0, len(self.queries), QUERY_TILE):
            tile = slice(start, start + QUERY_TILE)
            marks, columns = self._candidates(tile, passages)
            found, places = best_first(marks, self.depth)
            every = torch.cat([self.rows[tile], numbers[columns][places]], dim=1)
            every, order = every.sort(dim=1, descending=True)
            scores[tile], order = best_first(torch.cat([self.scores[tile], found], dim=1).gather(1, order), width)
            kept[tile] = every.gather(1, order)
        self.scores, self.rows = scores, kept

    def _candidates(self, tile: slice, passages: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores [Q, M] and the places [M] of passages that one of some queries may keep."""
        queries = self.queries[tile]
        if self.scores.shape[1] < self.depth:
            return self.similarity(queries, passages), torch.arange(len(passages), device=passages.device)
        least, scores, places = self.scores[tile, -1:], [], []
        size = CACHED if passages.device.type == "cpu" else len(passages)
        for start in range(0, len(passages), size):
            found = self.similarity(queries, passages[start : start + size])
            columns = (~(found < least)).any(dim=0).nonzero()[:, 0]  # NaN is kept, and reported later
            scores.append(found[:, columns])
            places.append(columns + start)
        return torch.cat(scores, dim=1), torch.cat(places)

    def best(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield the numbers and the scores of each query's best passages, best first."""
        for start in range(0, len(self.queries), QUERY_TILE):
            tile = slice(start, start + QUERY_TILE)
            yield from zip(self.rows[tile].cpu().numpy(), self.scores[tile].cpu().numpy(), strict=True)


class Exact:
    """Exact search of passages with ids. Equal scores are ranked by id in descending order, as in trec_eval."""

    def __init__(
        self, queries: Tensor, depth: int, similarity: Callable[[Tensor, Tensor], Tensor] = _dot_products
    ) -> None:
        self._found = ExactRows(queries, depth, similarity)
        self._names: NDArray[np.object_] = np.empty(0, dtype=object)
        """Ids of the kept passages; a passage's number in `_found` is its place here."""

    def add(self, ids: Sequence[str], passages: Tensor) -> None:
        """Compare all queries with the passages [N, D]."""
        # Numbers follow the ids' order among the kept and the new passages.
        every = np.concatenate([self._names, np.array(ids, dtype=object)])
        order = np.argsort(every, kind="stable")
        numbers = np.empty(len(every), dtype=np.int64)
        numbers[order] = np.arange(len(every))
        found = self._found
        found.rows = torch.from_numpy(numbers).to(found.rows.device)[found.rows]
        new = numbers[len(self._names) :]
        downwards = np.argsort(new)[::-1].copy()
        found.add(new[downwards], passages[torch.from_numpy(downwards).to(passages.device)])
        kept, places = torch.unique(found.rows, return_inverse=True)
        self._names, found.rows = every[order][kept.cpu().numpy()], places

    def best(self) -> list[list[tuple[str, float]]]:
        """Return the best passages of each query with their similarities."""
        return [
            list(zip(self._names[rows].tolist(), scores.tolist(), strict=True)) for rows, scores in self._found.best()
        ]


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
