"""Encode texts with a sentence-transformers model: queries anew, passages once a model and corpus.

Encoding a corpus is the dearest step of dense pooling and of evaluation, and the same untrained model is compared
again and again. So the embeddings are kept in a cache folder under a key over the model's files and the texts: a
trained model, another length or a changed passage never meets old vectors.
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
"""Texts up to which no progress is shown."""
LARGEST_CACHED = 1 << 30
"""Bytes of embeddings above which nothing is cached: large corpora would fill a home folder."""


def encode_passages(encoder: Any, model: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of `texts` in their order: [texts, dimensions], float32, from the cache where they are there.

    `model` is the local folder or Hub id that `encoder`, a `SentenceTransformer`, was loaded from; models of the Hub
    are not cached, since their files can change under a name, and neither is one without a name. Raises `ArtifactError`
    where a number of an embedding is not finite.
    """
    if model is None or not Path(model).is_dir():
        return _encode(encoder, model, texts)
    # Kept in sorted order, so that the order in which somebody holds the corpus does not matter.
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ordered = [texts[row] for row in order]
    path = cache_folder() / "embeddings" / f"{_key(model, encoder, ordered)}.npy"
    kept = _load(path, len(texts))
    if kept is None:
        kept = _encode(encoder, model, ordered)
        if kept.nbytes <= LARGEST_CACHED:
            _save(path, kept)
    vectors: NDArray[np.float32] = np.empty(kept.shape, dtype=np.float32)
    vectors[order] = kept
    return vectors


def encode_queries(encoder: Any, model: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of queries: [texts, dimensions], float32. Raises as `encode_passages` does."""
    read = _reach(encoder, texts)
    vectors = encoder.encode_query(read, batch_size=BATCH, convert_to_numpy=True, show_progress_bar=False)
    return finite(np.asarray(vectors, dtype=np.float32), model, texts)


def _encode(encoder: Any, model: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    shown = len(texts) > FEW and sys.stderr.isatty()
    read = _reach(encoder, texts)
    vectors = encoder.encode_document(read, batch_size=BATCH, convert_to_numpy=True, show_progress_bar=shown)
    return finite(np.asarray(vectors, dtype=np.float32), model, texts)


def _reach(encoder: Any, texts: Sequence[str]) -> list[str]:
    """The part of each text that the encoder's limit can reach: it would tokenise megabytes to cut them."""
    limit = encoder.max_seq_length
    return list(texts) if limit is None else [beginning(text, limit) for text in texts]


def finite(vectors: NDArray[np.float32], model: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """The embeddings `[texts, dimensions]` as they are. Raises `ArtifactError` where a number is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ArtifactError(
            f"{model or 'the model'}: {len(bad):,} of {len(texts):,} embeddings are not finite, first that of "
            f"{texts[bad[0]][:60]!r}; its weights are damaged or too large: train it again with a lower learning rate, "
            "or fetch it again"
        )
    return vectors


def _key(model: str, encoder: Any, texts: Sequence[str]) -> str:
    """sha256 over the model's files, its length limit, and the texts with their boundaries."""
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
    """What is cached, or None where that is nothing or damaged."""
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
