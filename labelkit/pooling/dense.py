"""Encode texts with a sentence-transformers model, caching the embeddings of passages per model and corpus.

Encoding a corpus is the most expensive step of dense pooling and of evaluation, and the same untrained model is used
for many comparisons. So embeddings are cached in a folder under a key over the model's files and the texts. A trained
model, another length limit or a changed passage has another key, so that no outdated embedding is used.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelkit.corpora.words import beginning
from labelkit.errors import ArtifactError
from labelkit.storage import folders
from labelkit.storage.cache_folder import cache_folder

BATCH = 32
FEW = 1_000
"""Most texts for which no progress bar is shown."""
LARGEST_CACHED = 1 << 30
"""Most bytes of embeddings that are cached, so that large corpora do not fill a home folder."""


def encode_passages(encoder: Any, model: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return embeddings of `texts` in their order, from the cache if available: [texts, dimensions], float32.

    `model` is the local folder or Hub id from which `encoder`, a `SentenceTransformer`, was loaded. Embeddings are
    cached for local folders only: the files of a Hub id can change, and a model without a name (None) has no key.
    Raises `ArtifactError` if an embedding is not finite.
    """
    from labelkit.pooling.sharing import is_first, of_first

    if model is None or not Path(model).is_dir():
        return _encode(encoder, model, texts)
    # Cached in sorted order, so that the order of the corpus does not matter.
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ordered = [texts[row] for row in order]
    path = cache_folder() / "embeddings" / f"{_key(model, encoder, ordered)}.npy"
    kept = of_first(_load(path, len(texts)) if is_first() else None)
    if kept is None:
        kept = _encode(encoder, model, ordered)
        if kept.nbytes <= LARGEST_CACHED and is_first():
            _save(path, kept)
    vectors: NDArray[np.float32] = np.empty(kept.shape, dtype=np.float32)
    vectors[order] = kept
    return vectors


def encode_queries(encoder: Any, model: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return embeddings of queries: [texts, dimensions], float32. Raises `ArtifactError` if one is not finite."""
    return _encode(encoder, model, texts, task="query")


def _encode(encoder: Any, model: str | None, texts: Sequence[str], task: str = "document") -> NDArray[np.float32]:
    from labelkit.pooling.encoding import encode
    from labelkit.pooling.sharing import encode_shared

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


def _key(model: str, encoder: Any, texts: Sequence[str]) -> str:
    """Return the sha256 over the model's files, its length limit, and the texts with their boundaries."""
    digest = hashlib.sha256(f"{encoder.max_seq_length}\n".encode())
    for name, sha256 in sorted(folders.known_sha256(Path(model)).items()):
        if not name.endswith(".md"):  # a model card changes no vector
            digest.update(f"{name} {sha256}\n".encode())
    for text in texts:
        encoded = text.encode()
        digest.update(f"{len(encoded)}\n".encode())
        digest.update(encoded)
    return digest.hexdigest()


def _load(path: Path, rows: int) -> NDArray[np.float32] | None:
    """Return cached embeddings; None if they are missing or damaged."""
    try:
        kept: NDArray[np.float32] = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    whole = kept.ndim == 2 and len(kept) == rows and kept.dtype == np.float32 and np.isfinite(kept).all()
    return kept if whole else None


def _save(path: Path, vectors: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        np.save(file, vectors)
    aside.replace(path)
