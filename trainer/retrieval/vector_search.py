"""Search a corpus exactly by sparse vectors, or by the vectors of tokens (late interaction), in blocks of passages.

The scores are the dot product and MaxSim, as in training. Every query is compared with every passage.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from torch import Tensor

from labelkit.corpora.runs import RankedRun
from labelkit.corpora.words import beginning
from labelkit.errors import ArtifactError
from labelkit.pooling.dense_search import Exact, Lengths, limited
from labelkit.records import Passage

log = logging.getLogger(__name__)

BLOCK = 2_048
"""Passages that are encoded and compared with all queries at a time."""

VectorEncoder = SparseEncoder | MultiVectorEncoder


class SparseVectors(NamedTuple):
    """Sparse vectors of some texts, `[N, V]`."""

    rows: csr_matrix

    def scores(self, queries: Tensor, others: "SparseVectors", passages: Tensor) -> Tensor:
        """Compute the dot products of some rows with rows of other vectors, `[Q, P]`."""
        found = self.rows[queries.numpy()] @ others.rows[passages.numpy()].T
        return torch.from_numpy(found.toarray())

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.rows.data).all())

    @property
    def width(self) -> float:
        """Mean number of words per text."""
        return float(self.rows.nnz / max(1, self.rows.shape[0]))


class TokenVectors(NamedTuple):
    """The vectors of the tokens of some texts, each `[T, D]`."""

    texts: list[Tensor]
    model: MultiVectorEncoder

    def scores(self, queries: Tensor, others: "TokenVectors", passages: Tensor) -> Tensor:
        """Compute the MaxSim of some texts with other texts, `[Q, P]`."""
        near = [self.texts[row] for row in queries.tolist()]
        far = [others.texts[row] for row in passages.tolist()]
        return self.model.similarity(near, far).float().cpu()

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(text).all()) for text in self.texts)

    @property
    def width(self) -> float:
        """Mean number of vectors per text."""
        return sum(len(text) for text in self.texts) / max(1, len(self.texts))


def vectors_of(model: VectorEncoder, texts: Sequence[str], task: str) -> Any:
    """Encode texts; `task` is query or document. Raises `ArtifactError` if a number is not finite."""
    reach = model.max_seq_length
    read = list(texts) if reach is None else [beginning(text, reach) for text in texts]
    encode = model.encode_query if task == "query" else model.encode_document
    found: SparseVectors | TokenVectors
    if isinstance(model, MultiVectorEncoder):
        found = TokenVectors(list(encode(read, show_progress_bar=False)), model)
    else:
        sparse = encode(read, convert_to_sparse_tensor=True, save_to_cpu=True, show_progress_bar=False)
        together = sparse.float().coalesce()
        found = SparseVectors(csr_matrix((together.values(), tuple(together.indices())), shape=tuple(together.shape)))
    if not found.finite:
        raise ArtifactError(f"vectors of {len(texts):,} texts are not finite, the first text is {texts[0][:60]!r}")
    return found


@contextmanager
def reading(model: VectorEncoder, task: str, length: int | None) -> Iterator[None]:
    """Limit a model to `length` tokens inside the block; `task` is query or document.

    A model for late interaction may have a limit of its own for each task, in place of which `length` counts, as in
    training.
    """
    first: Any = model[0]
    name = f"{task}_length"
    own = getattr(first, name, None)
    with limited(model, length):
        if own is not None and length is not None:
            setattr(first, name, length)
        try:
            yield
        finally:
            if own is not None:
                setattr(first, name, own)


def vector_search(
    model: VectorEncoder, queries: Mapping[str, str], passages: Iterable[Passage], *, depth: int, lengths: Lengths
) -> RankedRun:
    """Find the `depth` best passages of every query (id -> text) with their scores, in rank order.

    Equal scores are ranked by passage id in descending order, as in trec_eval. Raises `ArtifactError` if a vector is
    not finite.
    """
    with reading(model, "query", lengths.query):
        near = vectors_of(model, list(queries.values()), "query")
    left, widths, far = iter(passages), list[float](), near
    # Rows of queries and of passages stand for their vectors.
    found = Exact(torch.arange(len(queries)), depth, lambda rows, others: near.scores(rows, far, others))
    with reading(model, "document", lengths.passage):
        while block := list(islice(left, BLOCK)):
            far = vectors_of(model, [passage.full_text for passage in block], "document")
            widths.append(far.width)
            found.add([passage.passage_id for passage in block], torch.arange(len(block)))
    what = "words" if isinstance(model, SparseEncoder) else "vectors"
    log.info(f"{what} per query {near.width:.0f}, per passage {np.mean(widths) if widths else 0:.0f}")
    return {
        query_id: dict(sorted(best, key=lambda pair: (pair[1], pair[0]), reverse=True))
        for query_id, best in zip(queries, found.best(), strict=True)
    }
