"""Encode texts with a sentence-transformers model, keeping the embeddings of passages on disk per model and text.

Encoding a corpus is the most expensive step of dense pooling and of evaluation, and the same untrained model is used
for many comparisons. So embeddings are kept under a key over the model's files, or its commit on the Hub, and under the
text. A trained model, another length limit or a changed passage has another key, so that no outdated embedding is used.
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelkit.corpora.words import beginning
from labelkit.errors import ArtifactError
from labelkit.pooling.model_loading import hub_commit
from labelkit.pooling.sharing import encode_shared, is_first, of_first
from labelkit.pooling.stages import LoggedStages, Report, Stage
from labelkit.pooling.vector_cache import VectorCache
from labelkit.storage import folders
from labelkit.storage.cache_folder import cache_folder

BATCH = 32
FEW = 1_000
"""Most texts for which no progress bar is shown."""
ENCODE = {"document": "encode passages", "query": "encode queries"}
"""Task -> name of the stage."""
BLOCK = 8_192
"""Texts that are encoded before their embeddings are written to disk."""


class CachedEncoder:
    """Encodes texts with a model, and keeps the embeddings on disk if the model's files are known."""

    def __init__(
        self,
        encoder: Any,
        model: str | None,
        report: Report | None = None,
        *,
        total: int | None = None,
        task: str = "document",
    ) -> None:
        """`model` is the local folder or Hub id from which `encoder`, a `SentenceTransformer`, was loaded. Embeddings
        of a model without a name (None), or of a Hub id whose commit is unknown, have no key and are not kept.
        `total` is the number of texts that will be encoded, for `report`; `task` is document or query.
        """
        self._encoder, self._model = encoder, model
        self._report, self._done, self._total = report or LoggedStages(), 0, total
        self._task = task
        key = key_of(model, encoder, task) if model is not None else None
        self._keeps = key is not None
        folder = cache_folder() / "embeddings" / str(key)
        self._cache = VectorCache(folder) if self._keeps and is_first() else None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return embeddings of `texts` in their order: [texts, dimensions], float32.

        Raises `ArtifactError` if an embedding is not finite.
        """
        if not self._keeps:
            return _encode(self._encoder, self._model, texts, task=self._task)
        known = of_first(self._cache.find(texts) if self._cache else None)
        assert known is not None
        vectors = known.vectors
        for start in range(0, len(known.missing), BLOCK):
            numbers = known.missing[start : start + BLOCK]
            made = _encode(self._encoder, self._model, [texts[number] for number in numbers], task=self._task)
            if vectors.shape[1:] != made.shape[1:]:
                vectors = np.zeros((len(texts), *made.shape[1:]), np.float32)
            vectors[numbers] = made
            if self._cache:
                self._cache.add([texts[number] for number in numbers], made)
                self._report(Stage(ENCODE[self._task], self._done + start + len(numbers), self._total, items="texts"))
        self._done += len(texts)
        return vectors[known.first]


def encode_passages(encoder: Any, model: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return embeddings of `texts` in their order, as `CachedEncoder` does: [texts, dimensions], float32."""
    return CachedEncoder(encoder, model).encode(texts)


def encode_queries(encoder: Any, model: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return embeddings of queries: [texts, dimensions], float32. Raises `ArtifactError` if one is not finite."""
    return _encode(encoder, model, texts, task="query")


def _encode(encoder: Any, model: str | None, texts: Sequence[str], task: str = "document") -> NDArray[np.float32]:
    from labelkit.pooling.encoding import encode

    def compute(read: Sequence[str]) -> NDArray[np.float32]:
        shown = len(read) > FEW and sys.stderr.isatty()
        vectors = encode(encoder, read, task, shown=shown)
        if vectors is None:
            own = encoder.encode_query if task == "query" else encoder.encode_document
            vectors = own(read, batch_size=BATCH, convert_to_numpy=True, show_progress_bar=shown)
        return np.asarray(vectors, dtype=np.float32)

    return finite(encode_shared(_reach(encoder, texts), compute), model, texts)


def _reach(encoder: Any, texts: Sequence[str]) -> list[str]:
    """Return the part of each text that the encoder's limit can reach, so that it does not tokenise megabytes."""
    limit = encoder.max_seq_length
    return list(texts) if limit is None else [beginning(text, limit) for text in texts]


def finite(vectors: NDArray[np.float32], model: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return embeddings [texts, dimensions] unchanged. Raises `ArtifactError` if a number is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ArtifactError(
            f"{model or 'the model'}: {len(bad):,} of {len(texts):,} embeddings are not finite, the first one for "
            f"{texts[bad[0]][:60]!r}; its weights are damaged or too large: train it again with a lower learning rate, "
            "or fetch it again"
        )
    return vectors


def key_of(model: str, encoder: Any, task: str) -> str | None:
    """Return the sha256 over the model's files, or its commit on the Hub, its limits of length and dimensions, and the
    task; None for a Hub id whose commit is unknown.
    """
    digest = hashlib.sha256(f"{encoder.max_seq_length} {encoder.truncate_dim} {task}\n".encode())
    if not Path(model).is_dir():
        commit = hub_commit(model)
        digest.update(f"{model} {commit}\n".encode())
        return digest.hexdigest() if commit else None
    for name, sha256 in sorted(folders.known_sha256(Path(model)).items()):
        if not name.endswith(".md"):  # a model card changes no vector
            digest.update(f"{name} {sha256}\n".encode())
    return digest.hexdigest()
