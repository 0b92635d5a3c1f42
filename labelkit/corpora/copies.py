"""Find the texts of a set that repeat each other, with texts and signatures on disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelkit.corpora.near_duplicates import (
    BANDS,
    LIKELY,
    NEAR,
    SLOTS,
    TEXTS_AT_ONCE,
    BandIndex,
    band_keys,
    jaccard,
    normalised,
    signatures,
)
from labelkit.storage.sqlite_file import digest_of
from labelkit.storage.text_file import TextFile

FIRST = 32
"""Texts with a band in common, of those that come first, with which a text is compared by `repeated`: of many texts
that repeat each other, the first is kept and is among them.
"""
ROWS = 512
"""Texts for which candidates are searched at once."""
TextOf = Callable[[int], str]
"""Function from the number of a text to the text."""
Alike = Callable[[int, int], bool]
"""Function that decides whether two texts, given by their numbers, may be near-duplicates."""
How = Literal["exact", "normalised", "near"]


class Repeated(NamedTuple):
    """A text that repeats an earlier one that is kept."""

    number: int
    kept: int
    how: How
    similarity: float
    """Jaccard index of their shingles, from 0 to 1."""


class Sketches:
    """Signatures of texts, one byte per slot, and their bands, in files of a folder; digests of the normalised texts in
    memory, 16 bytes per text.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self._count, self._folder = count, folder
        shape = max(1, count)
        self.slots: NDArray[np.uint8] = np.memmap(folder / "slots", np.uint8, "w+", shape=(shape, SLOTS))
        self.keys: NDArray[np.uint64] = np.memmap(folder / "bands", np.uint64, "w+", shape=(shape, BANDS))
        self._digests = np.zeros(count, np.uint64)

    def plain(self, text_of: TextOf) -> Iterator[str]:
        """Compute the signatures of all texts, and yield the texts in their normalised form, or as they are if that is
        empty. Call `index` afterwards.
        """
        for start in range(0, self._count, TEXTS_AT_ONCE):
            stop = min(start + TEXTS_AT_ONCE, self._count)
            texts = [text_of(number) for number in range(start, stop)]
            made = normalised(pa.array(texts, pa.string()))
            signed = signatures(made)
            self.slots[start:stop] = signed.astype(np.uint8)
            self.keys[start:stop] = band_keys(signed)
            found = [plain or text for plain, text in zip(made.to_pylist(), texts, strict=True)]
            self._digests[start:stop] = [int.from_bytes(digest_of(text)[:8], "little") for text in found]
            yield from found

    def index(self) -> None:
        """Sort the bands and digests."""
        _, first, inverse = np.unique(self._digests, return_index=True, return_inverse=True)
        self.first: NDArray[np.int64] = first[inverse]
        """Number of the first text with the same normalised text."""
        self._bands = BandIndex(self.keys[: self._count], self._folder)

    def likely(self, start: int, stop: int, most: int | None = None) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the numbers of a range that have candidates, each with the earlier texts that are likely to be near."""
        for rows, places in self._bands.candidates(np.asarray(self.keys[start:stop]), most):
            earlier = places < rows + start
            rows, places = rows[earlier], places[earlier]
            near = (self.slots[rows + start] == self.slots[places]).mean(axis=1) >= LIKELY
            rows, places = rows[near], places[near]
            numbers, begins = np.unique(rows, return_index=True)
            ends = np.append(begins, len(rows))[1:]
            for row, begin, end in zip(numbers.tolist(), begins, ends[: len(numbers)], strict=True):
                yield row + start, places[begin:end]


def repeated(count: int, text_of: TextOf, folder: Path, *, alike: Alike) -> Iterator[Repeated]:
    """Yield the texts that repeat an earlier text that is kept, in order: the most similar one, the first in a tie.

    A text that repeats only texts that are not kept is kept itself.

    Args:
        count: number of texts.
        text_of: function from the number of a text to the text.
        folder: folder for temporary files, about 500 bytes per text.
        alike: function that decides whether two texts that are similar may count as near-duplicates.
    """
    sketches = Sketches(count, folder)
    with TextFile(sketches.plain(text_of), folder) as plain:
        sketches.index()
        kept = np.arange(count)
        for start in range(0, count, ROWS):
            stop = min(start + ROWS, count)
            likely = dict(sketches.likely(start, stop, FIRST))
            for number in range(start, stop):
                first = int(sketches.first[number])
                known = [int(kept[first])] if first < number else []
                near = likely.get(number, np.empty(0, np.int64)).tolist()
                known += [place for place in near if kept[place] == place and alike(number, place)]
                if best := nearest(number, known, plain):
                    similarity, kept[number] = best
                    same: How = "exact" if text_of(number) == text_of(int(kept[number])) else "normalised"
                    how: How = same if similarity == 1 and plain[number] == plain[kept[number]] else "near"
                    yield Repeated(number, int(kept[number]), how, similarity=similarity)


def nearest(number: int, known: list[int], plain: TextFile) -> tuple[float, int] | None:
    """Return the similarity and number of the most similar known text that a text repeats; None if there is none."""
    best = None
    text = plain[number] if known else ""
    for place in known:
        other = plain[place]
        similarity = 1.0 if text == other else jaccard(text, other)
        if similarity >= NEAR and (best is None or similarity > best[0]):
            best = similarity, place
    return best


def groups(count: int, text_of: TextOf, folder: Path) -> list[int]:
    """Return the group of each text, named by its first text: near-duplicates are in one group, and so are the texts
    that a chain of near-duplicates connects.

    Args:
        count: number of texts.
        text_of: function from the number of a text to the text.
        folder: folder for temporary files, about 500 bytes per text.
    """
    sketches = Sketches(count, folder)
    group = list(range(count))
    with TextFile(sketches.plain(text_of), folder) as plain:
        sketches.index()
        for number in range(count):
            join(group, number, int(sketches.first[number]))
        for start in range(0, count, ROWS):
            for number, places in sketches.likely(start, min(start + ROWS, count)):
                for place in places.tolist():
                    apart = top(group, number) != top(group, place)
                    if apart and jaccard(plain[number], plain[place]) >= NEAR:
                        join(group, number, place)
    return [top(group, number) for number in range(count)]


def top(group: list[int], number: int) -> int:
    """Return the first member of a group."""
    while group[number] != number:
        group[number] = group[group[number]]
        number = group[number]
    return number


def join(group: list[int], one: int, other: int) -> None:
    """Unite the groups of two members."""
    first, second = sorted((top(group, one), top(group, other)))
    group[second] = first
