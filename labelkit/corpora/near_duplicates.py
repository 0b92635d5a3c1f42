"""Which texts are copies of each other: exactly, but for case and punctuation, or nearly.

Texts are normalised (NFKC, lower case, runs of anything but letters, marks and digits as one space) and cut into all
runs of five bytes, so that languages without spaces are served too. The similarity of two texts is the Jaccard index of
their runs; from `NEAR` on they are near-duplicates. MinHash signatures (Broder, 1997), by rensa, find candidates, and
the index itself decides, so that nothing below the line is ever reported.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from labelkit.errors import MissingPackageError

NEAR = 0.8
RUN = 5
"""Bytes of a shingle; a shorter text is padded to one shingle."""
SLOTS, BANDS = 64, 16
"""Of a signature. Bands have four slots: texts of similarity 0.8 share one with probability 0.9998."""
LIKELY = 0.55
"""Share of equal slots from which the index is computed: five standard errors below `NEAR`."""
SEED = 1
TEXTS_AT_ONCE = 2_048
"""What numpy works on then stays in the processor's cache: five times the speed of large batches."""


class Copy(NamedTuple):
    """A text that repeats a known one."""

    name: str
    known: str
    how: Literal["exact", "normalised", "near"]
    similarity: float


class KnownTexts:
    """Texts that others are compared with. They are held in memory, about 1 KB more than the text each."""

    def __init__(self, names: Sequence[str], texts: Sequence[str]) -> None:
        self._names = names
        self._exact = {text: place for place, text in reversed(list(enumerate(texts)))}
        self._texts: list[str] = normalised(pa.array(texts, pa.string())).to_pylist()
        self._normalised = {text: place for place, text in reversed(list(enumerate(self._texts))) if text}
        self._signatures = signatures(pa.array(self._texts, pa.string()))
        keys = band_keys(self._signatures)
        self._order = np.argsort(keys, axis=0, kind="stable")
        self._keys = np.take_along_axis(keys, self._order, axis=0)

    def copies(self, names: pa.Array, texts: pa.Array) -> Iterator[Copy]:
        """The texts that repeat a known one, each with the most similar; of equals the first."""
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
        """Row -> similarity and place of the most similar known text, where one is near."""
        mine = signatures(texts)
        rows, places = self._candidates(band_keys(mine))
        likely = (mine[rows] == self._signatures[places]).mean(axis=1) >= LIKELY
        found: dict[int, tuple[float, int]] = {}
        for row, place in zip(rows[likely].tolist(), places[likely].tolist(), strict=True):
            similarity = jaccard(texts[row].as_py(), self._texts[place])
            if similarity >= NEAR and similarity > found.get(row, (0.0, 0))[0]:
                found[row] = similarity, place
        return found

    def _candidates(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and places of all pairs that share a band, in order."""
        codes = []
        for band in range(BANDS):
            first = np.searchsorted(self._keys[:, band], keys[:, band], "left")
            counts = np.searchsorted(self._keys[:, band], keys[:, band], "right") - first
            rows = np.repeat(np.arange(len(keys)), counts)
            within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            places = self._order[np.repeat(first, counts) + within, band]
            codes.append(rows * len(self._keys) + places)
        return np.divmod(np.unique(np.concatenate(codes)), max(1, len(self._keys)))


def normalised(texts: pa.Array) -> pa.Array:
    """The texts as they are compared."""
    plain = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(plain, r"[^\pL\pM\pN]+", " "))


def signatures(texts: pa.Array) -> NDArray[np.uint32]:
    """MinHash signatures of normalised texts: [texts, `SLOTS`]."""
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
    """The hashed shingles of normalised texts, one text after the other, and where each text starts: [texts + 1].

    Five bytes are a number of 40 bits; an odd factor spreads it over 64 and keeps different shingles different.
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
    """One number a band, equal where the slots of the band are: [texts, `BANDS`]."""
    words = np.ascontiguousarray(made).view(np.uint64).reshape(len(made), BANDS, -1)
    keys: NDArray[np.uint64] = words[..., 0] * np.uint64(0x9E3779B97F4A7C15) ^ words[..., 1]
    return keys


def jaccard(one: str, other: str) -> float:
    """The share of the shingles of either normalised text that both have."""
    mine, theirs = (
        {padded[place : place + RUN] for place in range(len(padded) - RUN + 1)}
        for padded in (text.ljust(RUN, "\0").encode() for text in (one, other))
    )
    return len(mine & theirs) / len(mine | theirs)
