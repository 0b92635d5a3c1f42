"""Find texts that are copies of each other: exactly, except for case and punctuation, or nearly.

Texts are normalised (NFKC, lower case, anything but letters, marks and digits replaced by one space) and cut into all
sequences of five bytes (shingles), which works for languages without spaces, too. The similarity of two texts is the
Jaccard index of their shingles; texts with a similarity of `NEAR` or more are near-duplicates. MinHash signatures
(Broder, 1997), by rensa, find candidates, and the exact index decides, so that no pair below the threshold is reported.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray

from labelkit.errors import MissingPackageError

NEAR = 0.8
RUN = 5
"""Bytes per shingle; a shorter text is padded to one shingle."""
SLOTS, BANDS = 64, 16
"""Slots and bands of a signature. With four slots per band, texts of similarity 0.8 share a band with probability
0.9998.
"""
LIKELY = 0.55
"""Smallest share of equal slots for which the exact index is computed: five standard errors below `NEAR`."""
SEED = 1
TEXTS_AT_ONCE = 2_048
"""Texts per batch; such batches fit the processor's cache, which is five times faster than with large batches."""

PAIRS_AT_ONCE = 1 << 20
"""Pairs that share a band in memory at once, unless a single text has more."""


class Copy(NamedTuple):
    """A text that repeats a known one."""

    name: str
    known: str
    how: Literal["exact", "normalised", "near"]
    similarity: float


class KnownTexts:
    """Texts with which others are compared. They are kept in memory, each with about 1 KB in addition to its text."""

    def __init__(self, names: Sequence[str], texts: Sequence[str]) -> None:
        self._names = names
        self._exact = {text: place for place, text in reversed(list(enumerate(texts)))}
        self._texts: list[str] = normalised(pa.array(texts, pa.string())).to_pylist()
        self._normalised = {text: place for place, text in reversed(list(enumerate(self._texts))) if text}
        self._signatures = signatures(pa.array(self._texts, pa.string()))
        self._bands = BandIndex(band_keys(self._signatures))

    def copies(self, names: pa.Array, texts: pa.Array) -> Iterator[Copy]:
        """Yield the texts that repeat a known text, each with the most similar known text; the first one in a tie."""
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = texts.slice(start, TEXTS_AT_ONCE)
            clean = normalised(part)
            near = self._near(clean)
            rows = zip(names.slice(start, TEXTS_AT_ONCE).to_pylist(), part.to_pylist(), clean.to_pylist(), strict=True)
            for row, (name, text, plain) in enumerate(rows):
                if (place := self._exact.get(text)) is not None:
                    yield Copy(name, self._names[place], "exact", similarity=1.0)
                elif (place := self._normalised.get(plain)) is not None:
                    yield Copy(name, self._names[place], "normalised", similarity=1.0)
                elif plain and row in near:
                    similarity, place = near[row]
                    yield Copy(name, self._names[place], "near", similarity=similarity)

    def _near(self, texts: pa.Array) -> dict[int, tuple[float, int]]:
        """Return the rows that have a near-duplicate: row -> similarity and place of the most similar known text."""
        mine = signatures(texts)
        found: dict[int, tuple[float, int]] = {}
        for rows, places in self._bands.candidates(band_keys(mine)):
            likely = (mine[rows] == self._signatures[places]).mean(axis=1) >= LIKELY
            for row, place in zip(rows[likely].tolist(), places[likely].tolist(), strict=True):
                similarity = jaccard(texts[row].as_py(), self._texts[place])
                if similarity >= NEAR and similarity > found.get(row, (0.0, 0))[0]:
                    found[row] = similarity, place
        return found


Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows, and a place for each."""


class BandIndex:
    """The texts that share a band with others, found by binary search in the sorted keys of each band.

    Keys and places take 256 bytes per text, in memory, or in files of a folder.
    """

    def __init__(self, keys: NDArray[np.uint64], folder: Path | None = None) -> None:
        self._count = len(keys)
        self._keys = space("keys", np.uint64, self._count, folder=folder)
        self._places = space("places", np.int64, self._count, folder=folder)
        for band in range(BANDS):
            order = np.argsort(keys[:, band], kind="stable")
            self._places[band] = order
            self._keys[band] = keys[:, band][order]

    def candidates(self, keys: NDArray[np.uint64], most: int | None = None) -> Iterator[Pairs]:
        """Yield pairs of a row of `keys` and the place of a text with a band in common, in order, without repetition
        and with all pairs of a row together.

        With `most`, only the first texts with a band count, so that many similar texts do not make many more pairs.
        """
        first = np.stack([np.searchsorted(self._keys[band], keys[:, band], "left") for band in range(BANDS)])
        last = np.stack([np.searchsorted(self._keys[band], keys[:, band], "right") for band in range(BANDS)])
        counts = last - first if most is None else np.minimum(last - first, most)
        blocks = np.cumsum(counts.sum(axis=0)) // PAIRS_AT_ONCE
        for block in np.unique(blocks):
            rows = np.flatnonzero(blocks == block)
            yield self._pairs(rows, first[:, rows], counts[:, rows])

    def _pairs(self, rows: NDArray[np.int64], first: NDArray[np.int64], counts: NDArray[np.int64]) -> Pairs:
        """Return the pairs of some rows; first place and number of texts with the same key: [`BANDS`, rows]."""
        codes = []
        for band in range(BANDS):
            repeated = np.repeat(rows, counts[band])
            within = np.arange(len(repeated)) - np.repeat(np.cumsum(counts[band]) - counts[band], counts[band])
            places = self._places[band][np.repeat(first[band], counts[band]) + within]
            codes.append(repeated * self._count + places)
        found, places = np.divmod(np.unique(np.concatenate(codes)), max(1, self._count))
        return found, places


def space(name: str, kind: DTypeLike, count: int, *, folder: Path | None) -> NDArray[Any]:
    """Return an empty array `[BANDS, count]`, in memory or in a file of a folder."""
    if folder is None or not count:
        return np.empty((BANDS, count), kind)
    return np.memmap(folder / name, kind, "w+", shape=(BANDS, count))


def normalised(texts: pa.Array) -> pa.Array:
    """Return texts in their normalised form for comparison."""
    plain = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(plain, r"[^\pL\pM\pN]+", " "))


def signatures(texts: pa.Array) -> NDArray[np.uint32]:
    """Return MinHash signatures of normalised texts: [texts, `SLOTS`], uint32."""
    try:
        from rensa import RMinHash
    except ImportError:
        raise MissingPackageError("rensa", "audit") from None
    made = np.zeros((len(texts), SLOTS), np.uint32)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        hashes, starts = shingles(texts.slice(start, TEXTS_AT_ONCE))
        rows = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts, SLOTS, SEED).to_rows()
        made[start : start + len(rows)] = rows
    return made


def shingles(texts: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the hashed shingles of normalised texts in one array, and the start of each text in it: [texts + 1].

    Five bytes are a number of 40 bits; an odd factor spreads it over 64 bits and keeps different shingles different.
    """
    padded = pc.utf8_rpad(texts, RUN, "\0")
    offsets = np.frombuffer(padded.buffers()[1], np.int32)[padded.offset : padded.offset + len(padded) + 1]
    content = np.frombuffer(padded.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64)
    offsets = offsets - offsets[0]
    hashes = np.zeros(len(content) - RUN + 1, np.uint64)
    for place in range(RUN):
        hashes <<= np.uint64(8)
        hashes |= content[place : place + len(hashes)]
    hashes *= np.uint64(0x9E3779B97F4A7C15)
    whole = np.ones(len(hashes), bool)
    for back in range(1, RUN):
        ends = offsets[1:] - back
        whole[ends[ends < len(whole)]] = False
    starts = np.concatenate([[0], np.cumsum(whole)])[np.minimum(offsets, len(whole))]
    return hashes[whole], starts.astype(np.uint64)


def band_keys(made: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return one number per band, equal for bands with equal slots: [texts, `BANDS`], uint64."""
    words = np.ascontiguousarray(made).view(np.uint64).reshape(len(made), BANDS, -1)
    keys: NDArray[np.uint64] = words[..., 0] * np.uint64(0x9E3779B97F4A7C15) ^ words[..., 1]
    return keys


def jaccard(one: str, other: str) -> float:
    """Return the Jaccard index of the shingles of two normalised texts, from 0 to 1."""
    mine, theirs = (
        {padded[place : place + RUN] for place in range(len(padded) - RUN + 1)}
        for padded in (text.ljust(RUN, "\0").encode() for text in (one, other))
    )
    return len(mine & theirs) / len(mine | theirs)
