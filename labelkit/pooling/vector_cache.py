"""Keep the embeddings of one model on disk, by the text of each passage.

Embeddings are added in files that are complete when they have their name, so that a killed run loses only the block
that it was encoding. A changed corpus needs only the embeddings of its new passages.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

FREE = 0.1
"""Share of the disk that stays free: below it, nothing is added."""


class Known(NamedTuple):
    """The embeddings of some texts, as far as they are on disk."""

    vectors: NDArray[np.float32]
    """[texts, dimensions]; without any known text, dimensions is 0."""
    missing: list[int]
    """Numbers of the texts whose rows are not on disk, for texts that occur several times the first one."""
    first: NDArray[np.int64]
    """Number of the first text that is equal to each text: [texts]."""


class VectorCache:
    """The embeddings in a folder: memory-mapped, with an index of 16 bytes per text in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[NDArray[np.void]] = []
        self._full = False
        for path in sorted(folder.glob("*.npy")):
            try:
                self._files.append(np.load(path, mmap_mode="r"))
            except (OSError, ValueError, EOFError):
                path.unlink(missing_ok=True)  # damaged
        whole = [file for file in self._files if file.dtype.names == ("key", "check", "vector")]
        self._files = [file for file in whole if file.dtype == whole[0].dtype]
        keys = [np.ascontiguousarray(file["key"]) for file in self._files]
        every: NDArray[np.uint64] = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
        self._order = np.argsort(every, kind="stable")
        self._keys = every[self._order]
        self._starts = np.cumsum([0, *map(len, keys)])

    def find(self, texts: Sequence[str]) -> Known:
        """Return the embeddings of texts that are on disk. Embeddings that are not finite count as missing."""
        keys = keys_of(texts)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        first = first[inverse.reshape(-1)]
        if not self._files:
            return Known(np.zeros((len(texts), 0), np.float32), np.unique(first).tolist(), first)
        vectors = np.zeros((len(texts), *self._files[0].dtype["vector"].shape), np.float32)
        places = np.minimum(np.searchsorted(self._keys, keys[:, 0]), len(self._keys) - 1)
        found = np.flatnonzero(self._keys[places] == keys[:, 0])
        rows = self._order[places[found]]
        which = np.searchsorted(self._starts, rows, side="right") - 1
        known = np.zeros(len(texts), bool)
        for number in np.unique(which).tolist():
            wanted, row = found[which == number], rows[which == number] - self._starts[number]
            kept = self._files[number][row]
            vectors[wanted] = kept["vector"]
            known[wanted] = (kept["check"] == keys[wanted, 1]) & np.isfinite(kept["vector"]).all(axis=1)
        return Known(vectors, np.unique(first[~known]).tolist(), first)

    def add(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add the embeddings of texts: [texts, dimensions]; nothing, with a warning, if the disk is nearly full."""
        self._folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(self._folder)
        if disk.free - vectors.nbytes < FREE * disk.total:
            if not self._full:
                log.warning(f"{self._folder}: the disk is nearly full, so that further embeddings are not kept")
            self._full = True
            return
        keys = keys_of(texts)
        kind = np.dtype([("key", "<u8"), ("check", "<u8"), ("vector", "<f4", vectors.shape[1:])])
        rows = np.empty(len(texts), kind)
        rows["key"], rows["check"], rows["vector"] = keys[:, 0], keys[:, 1], vectors
        path = self._folder / f"{hashlib.sha256(keys.tobytes()).hexdigest()}.npy"
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        with aside.open("wb") as file:
            np.save(file, rows)
        aside.replace(path)


def keys_of(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return the hash of each text as two numbers: [texts, 2]."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, "<u8").reshape(-1, 2)
