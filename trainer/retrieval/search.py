"""Read the collections that models are measured on, and search them.

In ArguAna and Quora, the queries are passages of the corpus. A passage with the id and the words of the query is left
out of that query's ranking, as BEIR does, unless the qrels call it relevant.
"""

import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import Tensor

from labelkit.corpora.beir import SKIP, known_qrels, unknown_id
from labelkit.corpora.benchmarks import expanded, split_or_usual
from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.fields import USUAL, Fields
from labelkit.corpora.layout import Layout, layout_of
from labelkit.corpora.places import local_collection
from labelkit.corpora.qrels import Qrels, qrels_rows
from labelkit.corpora.queries import read_queries
from labelkit.corpora.runs import RankedRun
from labelkit.corpora.words import words
from labelkit.errors import DataError, MissingPackageError, UnknownNameError, UsageError
from labelkit.pooling.dense_search import OWN_LENGTHS, SIMILARITIES, Index, Lengths, dense_search
from labelkit.pooling.model_loading import DENSE, load_encoder, saved_kind
from labelkit.records import Passage, Query
from trainer.config.architectures import LATE_INTERACTION, SPARSE
from trainer.objectives.batch import key_of
from trainer.retrieval.vector_search import vector_search

CLASSES = {"dense": DENSE, SPARSE: "SparseEncoder", LATE_INTERACTION: "MultiVectorEncoder"}
"""Architecture -> class of sentence-transformers."""

log = logging.getLogger(__name__)


class Collection(NamedTuple):
    """The queries of a split and their qrels; the corpus is read from its files when it is needed."""

    layout: Layout
    split: str
    queries: dict[str, Query]
    qrels: Qrels
    fields: Fields = USUAL
    scale: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the collection."""
        return self.layout.folder

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    def passages(self) -> Iterator[Passage]:
        """Read the passages of the corpus, in the order of the files."""
        for _, name, title, text in corpus_rows(*self.layout.corpus, fields=self.fields):
            yield Passage(passage_id=name, title=title, text=text)


def read_collection(
    place: Path | str,
    split: str | None,
    *,
    scale: str | None = None,
    fields: Fields = USUAL,
    skip_unknown: bool = False,
    usual: str = "test",
) -> Collection:
    """Read the judged queries of a split of a collection: a folder, or an address as `local_collection` takes it.

    `split` is None for `usual`, or for the only split of a collection of NanoBEIR. `scale` is the text of the scale of
    the qrels' grades if they are not 0 to 3. With `skip_unknown`, pairs of the qrels with an unknown query or passage
    are left out, for which the ids of the corpus are read once more. Raises `DataError` for missing or malformed files,
    and for an unknown query.
    """
    folder = local_collection(str(place))
    layout, split = layout_of(folder), split_or_usual(folder, split, usual)
    queries = read_queries(*layout.queries, fields=fields)
    ids = {row[1] for row in corpus_rows(*layout.corpus, fields=fields)} if skip_unknown else None
    qrels = known_qrels(layout.files_of(split), queries, ids, scale=scale, skip_unknown=skip_unknown)
    asked = {query_id: queries[query_id] for query_id in qrels}
    return Collection(layout, split, asked, qrels=qrels, fields=fields, scale=scale)


def read_collections(
    places: Sequence[Path | str],
    split: str | None,
    *,
    scale: str | None = None,
    fields: Fields = USUAL,
    skip_unknown: bool = False,
) -> list[Collection]:
    """Read a split of several collections; `nanobeir` stands for all collections of NanoBEIR.

    Raises `UsageError` for two collections with the same name.
    """
    folders = [local_collection(str(place)) for place in expanded(places)]
    names = [folder.name for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two data folders have the name {name}; rename one of them, or measure them separately")
    return [read_collection(folder, split, scale=scale, fields=fields, skip_unknown=skip_unknown) for folder in folders]


Encoder = SentenceTransformer | SparseEncoder | MultiVectorEncoder


def load_any_encoder(name: str, architecture: str | None = None, *, trust_remote_code: bool = False) -> Encoder:
    """Load a model from a local folder or the Hub; without an `architecture`, its own.

    Raises `UsageError` for a missing model, one of another architecture, or a similarity other than cosine and dot for
    a dense encoder and dot for a sparse one.
    """
    kind = CLASSES[architecture] if architecture else saved_kind(name) or DENSE
    if kind not in CLASSES.values() or kind == DENSE:
        return load_model(name, trust_remote_code=trust_remote_code)
    model: Encoder = load_encoder(name, trust_remote_code=trust_remote_code, kind=kind)
    # A saved sparse encoder may be of another kind, such as a sparse autoencoder, and can be measured.
    if architecture == SPARSE and not any(isinstance(module, SpladePooling) for module in model):
        raise UsageError(
            f"the model {name!r} has no masked-language-model head, which SPLADE turns into weights of words; start "
            "from a model such as distilbert/distilbert-base-uncased, or from a trained SPLADE model"
        )
    if isinstance(model, SparseEncoder):
        refuse_similarity(name, model.similarity_fn_name, ("dot",))
    return model


def load_model(name: str, *, trust_remote_code: bool = False) -> SentenceTransformer:
    """Load a dense encoder from a local folder or the Hub; its own code is run only with `trust_remote_code`.

    Raises `UsageError` for a missing model, or a similarity other than cosine and dot.
    """
    model: SentenceTransformer = load_encoder(name, trust_remote_code=trust_remote_code)
    refuse_similarity(name, model.similarity_fn_name, tuple(SIMILARITIES))
    return model


def refuse_similarity(name: str, similarity: str, known: Sequence[str]) -> None:
    """Raise `UsageError` for a model with a similarity that is not among the known ones."""
    if similarity not in known:
        raise UsageError(
            f"the model {name!r} uses {similarity} similarity, which is not supported; set similarity_fn_name in its "
            f"config_sentence_transformers.json to {' or '.join(known)}"
        )


def search(
    model: Encoder,
    name: str | None,
    collection: Collection,
    *,
    index: str = "exact",
    depth: int = 100,
    lengths: Lengths = OWN_LENGTHS,
) -> RankedRun:
    """Find the `depth` most similar passages of every query and their similarities, in rank order.

    A passage that is the query itself is left out. `index` is a key of `INDEXES`. `name` is the folder or Hub name of
    the model, the key of its cached embeddings; None caches no embeddings. Raises `DataError` for a passage of the
    qrels outside the corpus, or a duplicated passage id.
    """
    if index not in INDEXES:
        raise UnknownNameError("index", index, INDEXES)
    texts = {query_id: query.text for query_id, query in collection.queries.items()}
    passages, deeper = checked_passages(collection), depth + 1
    if isinstance(model, SentenceTransformer):
        run = dense_search(model, name, texts, passages=passages, depth=deeper, lengths=lengths, index=INDEXES[index])
    else:
        run = vector_search(model, texts, passages, depth=deeper, lengths=lengths)
    return {query_id: dict(islice(best.items(), depth)) for query_id, best in without_itself(run, collection).items()}


def without_itself(run: RankedRun, collection: Collection) -> RankedRun:
    """Leave out of the ranking of each query the passage that is the query itself."""
    named = {query_id for query_id, best in run.items() if query_id in best}
    # Only such rankings need the texts: an equal id alone is a coincidence, as in Cranfield.
    itself = {each.passage_id for each in (collection.passages() if named else ()) if is_query(each, collection)}
    if not itself:
        return run
    log.info(f"{collection.name}: {len(itself):,} queries are passages, which are left out of their own rankings")
    return {
        query_id: {name: score for name, score in best.items() if name != query_id or name not in itself}
        for query_id, best in run.items()
    }


def is_query(passage: Passage, collection: Collection) -> bool:
    """Return whether a passage has the id and the words of a query, and is not relevant to it."""
    name = passage.passage_id
    if name not in collection.queries or collection.qrels[name].get(name, 0) > 0:
        return False
    asked = words(collection.queries[name].text)
    return asked in (words(passage.text), words(passage.full_text))


def checked_passages(collection: Collection) -> Iterator[Passage]:
    """Read the passages of a corpus. Raises `DataError` at its end for a passage of the qrels outside the corpus, or a
    duplicated passage id.
    """
    wanted = {passage_id for graded in collection.qrels.values() for passage_id in graded}
    keys = array("q")
    for passage in collection.passages():
        wanted.discard(passage.passage_id)
        keys.append(key_of(passage.passage_id))
        yield passage
    _check(collection, wanted, np.frombuffer(keys, dtype=np.int64))


def _check(collection: Collection, missing: set[str], keys: NDArray[np.int64]) -> None:
    """Raise `DataError` for an empty corpus, a duplicated passage id, or a missing passage of the qrels."""
    corpus, qrels = collection.layout.corpus, collection.layout.files_of(collection.split)
    if not len(keys):
        raise DataError(f"{corpus[0]}: the corpus is empty")
    if len(np.unique(keys)) < len(keys):
        raise DataError(f"{corpus[0]}: a passage id is duplicated")
    if missing:
        row = next(row for row in qrels_rows(*qrels, scale=collection.scale) if row.passage_id in missing)
        raise DataError(f"{row.where}: {unknown_id(row.query_id, row.passage_id, collection.queries)}; {SKIP}")


class Faiss:
    """Approximate index in memory: FAISS's HNSW graph over inner products."""

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
    """Approximate index in memory: usearch's HNSW graph over inner products."""

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


INDEXES: dict[str, Callable[[Tensor, int], Index] | None] = {"exact": None, "faiss": Faiss, "usearch": Usearch}
"""Name -> class of the index; None for the exact search of `dense_search`."""
