"""Encode a collection and search it: every query's best passages.

The corpus is read, encoded and searched a chunk at a time and then dropped, so that memory does not grow with it.
A passage whose id is the query's own is kept: BEIR removes it for some collections, so compare figures for those
(ArguAna, Quora) only with figures made in the same way.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor

from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.qrels import Qrels, qrels_path, read_qrels
from labelkit.corpora.queries import read_queries
from labelkit.corpora.runs import RankedRun
from labelkit.errors import DataError, MissingPackageError, UnknownNameError, UsageError
from labelkit.pooling.dense import encode_passages
from labelkit.pooling.model_loading import load_encoder
from labelkit.records import Passage, Query
from trainer.objectives.batch import key_of
from trainer.objectives.contrast import SIMILARITIES

CHUNK = 50_000
"""Passages encoded and searched at a time."""
QUERY_TILE = 256
"""Queries scored at a time against a chunk."""
CACHED_CHUNKS = 20
"""Chunks whose embeddings by an untrained model are kept for the next time: a larger corpus would fill the disk."""


class Collection(NamedTuple):
    """The queries of a split and their qrels; the corpus stays in its file."""

    folder: Path
    split: str
    queries: dict[str, Query]
    qrels: Qrels

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return self.folder.name

    def chunks(self) -> Iterator[Sequence[Passage]]:
        """The corpus, in the order of the file."""
        rows = corpus_rows(self.folder / "corpus.jsonl")
        passages = (Passage(passage_id=name, title=title, text=text) for _, name, title, text in rows)
        while chunk := list(islice(passages, CHUNK)):
            yield chunk


class Lengths(NamedTuple):
    """Tokens that the encoder reads; None for the model's own limit."""

    query: int | None = None
    passage: int | None = None


OWN_LENGTHS = Lengths()


def read_collection(folder: Path, split: str) -> Collection:
    """The queries that a split of a BEIR folder judges. Raises `DataError` as `read_data` does."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give a BEIR folder with corpus.jsonl and queries.jsonl")
    if not (folder / "corpus.jsonl").is_file():
        raise DataError(f"{folder / 'corpus.jsonl'} does not exist")
    path = qrels_path(folder, split)
    qrels, queries = read_qrels(path), read_queries(folder / "queries.jsonl")
    for query_id in qrels:
        if query_id not in queries:
            raise DataError(f"{path}: query id {query_id!r} is not in queries.jsonl")
    return Collection(folder, split, {query_id: queries[query_id] for query_id in qrels}, qrels)


def read_collections(folders: Sequence[Path], split: str) -> list[Collection]:
    """The same for several folders, whose names must differ."""
    names = [folder.name for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two of the data folders are called {name}; rename one, or measure them one by one")
    return [read_collection(folder, split) for folder in folders]


def load_model(name: str, *, trust_remote_code: bool = False) -> SentenceTransformer:
    """A model from a local folder or the Hub; code that comes with it is run only with `trust_remote_code`.

    Raises `UsageError` where there is none, or where its similarity is neither cosine nor dot.
    """
    model: SentenceTransformer = load_encoder(name, trust_remote_code=trust_remote_code)
    if model.similarity_fn_name not in SIMILARITIES:
        raise UsageError(
            f"the model {name!r} compares by {model.similarity_fn_name} similarity; "
            "set similarity_fn_name in its config_sentence_transformers.json to cosine or dot"
        )
    return model


def search(
    model: SentenceTransformer,
    name: str | None,
    collection: Collection,
    *,
    index: str = "exact",
    depth: int = 100,
    lengths: Lengths = OWN_LENGTHS,
) -> RankedRun:
    """The `depth` best passages of every query with their similarities, in rank order.

    Similarity is the model's own: cosine unless it says otherwise. Computed in float32 on the model's device. Equal
    similarities are ranked by passage id, the higher id first, as trec_eval does. `name` is where the model was loaded
    from, None for one whose embeddings are not to be kept. Raises `DataError` where the qrels name a passage that the
    corpus does not hold, or a passage id stands twice.
    """
    if index not in INDEXES:
        raise UnknownNameError("index", index, INDEXES)
    prepare = SIMILARITIES[model.similarity_fn_name]
    query_ids = list(collection.queries)
    texts = [collection.queries[query_id].text for query_id in query_ids]
    with limited(model, lengths.query):
        queries = prepare(model.encode_query(texts, convert_to_tensor=True, show_progress_bar=False).float())
    found = INDEXES[index](queries, depth)
    wanted = {name for graded in collection.qrels.values() for name in graded}
    keys = []
    with limited(model, lengths.passage):
        for number, chunk in enumerate(collection.chunks()):
            # The trec_eval order of ties is by id, downwards: with passages so sorted, the lower row wins a tie.
            passages = sorted(chunk, key=lambda passage: passage.passage_id, reverse=True)
            kept = name if number < CACHED_CHUNKS else None
            vectors = encode_passages(model, kept, [passage.full_text for passage in passages])
            ids = [passage.passage_id for passage in passages]
            found.add(ids, prepare(torch.from_numpy(vectors).to(queries.device)))
            wanted.difference_update(ids)
            keys.append(np.fromiter(map(key_of, ids), dtype=np.int64, count=len(ids)))
    _check(collection, wanted, keys)
    return {
        query_id: dict(sorted(best, key=lambda pair: (pair[1], pair[0]), reverse=True))
        for query_id, best in zip(query_ids, found.best(), strict=True)
    }


@contextmanager
def limited(model: SentenceTransformer, length: int | None) -> Iterator[None]:
    """Have the model read no more than so many tokens."""
    before = model.max_seq_length
    if length is not None:
        model.max_seq_length = length
    try:
        yield
    finally:
        if length is not None:
            model.max_seq_length = before


def _check(collection: Collection, missing: set[str], keys: Sequence[NDArray[np.int64]]) -> None:
    every = np.concatenate(keys) if keys else np.zeros(0, dtype=np.int64)
    if not len(every):
        raise DataError(f"{collection.folder / 'corpus.jsonl'}: the corpus is empty")
    if len(np.unique(every)) < len(every):
        raise DataError(f"{collection.folder / 'corpus.jsonl'}: a passage id stands twice")
    if missing:
        raise DataError(
            f"qrels of {collection.folder}, {collection.split}: passage id {min(missing)!r} is not in corpus.jsonl"
        )


class Index(Protocol):
    """What finds the best passages of `queries` `[Q, D]` by dot product."""

    def __init__(self, queries: Tensor, depth: int) -> None: ...

    def add(self, ids: Sequence[str], passages: Tensor) -> None:
        """Passages `[N, D]`, in the order in which equal similarities are ranked."""

    def best(self) -> list[list[tuple[str, float]]]:
        """For each query its best passages and their similarities."""


class Exact:
    """Every query against every passage, in tiles; keeps the best of each query only."""

    def __init__(self, queries: Tensor, depth: int) -> None:
        self.queries, self.depth = queries, depth
        self.scores = queries.new_empty((len(queries), 0))
        self.ids: NDArray[np.object_] = np.empty((len(queries), 0), dtype=object)

    def add(self, ids: Sequence[str], passages: Tensor) -> None:
        names = np.array(ids, dtype=object)
        tiles = [best_first(tile @ passages.T, self.depth) for tile in torch.split(self.queries, QUERY_TILE)]
        found = names[torch.cat([rows for _, rows in tiles]).cpu().numpy()]
        scores = torch.cat([self.scores, torch.cat([values for values, _ in tiles])], dim=1)
        every = np.concatenate([self.ids, found], axis=1)
        # Passages of several chunks: in the order of their ids, downwards, before the best are taken.
        by_id = np.argsort(np.unique(every, return_inverse=True)[1].reshape(every.shape), axis=1)[:, ::-1].copy()
        by_id_of_scores = torch.from_numpy(by_id).to(scores.device)
        self.scores, order = best_first(scores.gather(1, by_id_of_scores), self.depth)
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
    return values, columns.gather(1, order)


class Faiss:
    """FAISS's HNSW graph over inner products: approximate, in memory."""

    def __init__(self, queries: Tensor, depth: int) -> None:
        try:
            import faiss
        except ImportError:
            raise MissingPackageError("faiss", "ann") from None
        self.queries, self.depth, self.ids = queries, depth, list[str]()
        self.index: Any = faiss.IndexHNSWFlat(queries.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efSearch = 2 * depth

    def add(self, ids: Sequence[str], passages: Tensor) -> None:
        self.index.add(passages.cpu().numpy())
        self.ids += ids

    def best(self) -> list[list[tuple[str, float]]]:
        scores, rows = self.index.search(self.queries.cpu().numpy(), self.depth)
        return [
            [(self.ids[row], float(score)) for row, score in zip(*each, strict=True) if row >= 0]
            for each in zip(rows.tolist(), scores.tolist(), strict=True)
        ]


class Usearch:
    """usearch's HNSW graph over inner products: approximate, in memory."""

    def __init__(self, queries: Tensor, depth: int) -> None:
        try:
            from usearch.index import Index as Graph
        except ImportError:
            raise MissingPackageError("usearch", "ann") from None
        self.queries, self.depth, self.ids = queries, depth, list[str]()
        self.index: Any = Graph(ndim=queries.shape[1], metric="ip", dtype="f32", expansion_search=2 * depth)

    def add(self, ids: Sequence[str], passages: Tensor) -> None:
        self.index.add(np.arange(len(self.ids), len(self.ids) + len(ids)), passages.cpu().numpy())
        self.ids += ids

    def best(self) -> list[list[tuple[str, float]]]:
        found = []
        for query in self.queries.cpu().numpy():
            matches = self.index.search(query, self.depth)
            pairs = zip(matches.keys.tolist(), matches.distances.tolist(), strict=True)
            found.append([(self.ids[row], 1 - distance) for row, distance in pairs])
        return found


INDEXES: dict[str, Callable[[Tensor, int], Index]] = {"exact": Exact, "faiss": Faiss, "usearch": Usearch}
