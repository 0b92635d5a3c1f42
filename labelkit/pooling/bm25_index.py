"""Build the BM25 index of a corpus in a stream, and keep it in the cache folder.

An index is a folder in bm25s's own format (`bm25s.BM25.load` reads it), under a name made of a hash of the texts, their
terms and the parameters, so that no outdated index is used. It is memory-mapped. While it is built, only the vocabulary
and a block of postings are in memory.
"""

import hashlib
import json
import logging
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from labelkit.pooling.languages import Terms, described
from labelkit.pooling.stages import Report, Stage
from labelkit.storage.cache_folder import cache_folder

log = logging.getLogger(__name__)

K1, B = 1.5, 0.75
"""Parameters of BM25, bm25s's defaults."""
METHOD = "lucene"
BLOCK = 16_384
"""Passages whose terms are counted together."""
POSTINGS = 32 << 20
"""Most postings in memory while they are sorted by term: 256 MB."""
PARAMETERS = "params.index.json"


class Postings(NamedTuple):
    """An index: memory-mapped postings by term, and the vocabulary."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int32]
    starts: NDArray[np.int64]
    """Start of each term's postings, and the end of the last one's: [V + 1]."""
    vocabulary: dict[str, int]
    passages: int


class Corpus(NamedTuple):
    """The texts of a corpus, which can be read several times, and their hash."""

    texts: Callable[[], Iterable[str]]
    digest: str
    passages: int


def digest_of(texts: Iterable[str]) -> str:
    """Return the sha256 over texts with their boundaries."""
    digest = hashlib.sha256()
    for text in texts:
        update(digest, text)
    return digest.hexdigest()


def update(digest: Any, text: str) -> None:
    """Add a text with its boundary to a hash."""
    encoded = text.encode()
    digest.update(b"%d\n" % len(encoded))
    digest.update(encoded)


def open_index(corpus: Corpus, terms: Terms, report: Report) -> Postings:
    """Open the index of a corpus from the cache, and build it if it is missing or damaged.

    If another process builds it, wait for that.
    """
    import bm25s

    document = {"corpus": corpus.digest, "k1": K1, "b": B, "method": METHOD, "bm25s": bm25s.__version__}
    name = hashlib.sha256(json.dumps(document | described(terms), sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / "bm25" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if kept := load(folder):
            return kept
        aside = folder.with_name(f"{name}.unfinished")
        for left in (aside, folder):
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir()
        build(corpus, terms, aside, report=report)
        aside.rename(folder)
    made = load(folder)
    assert made is not None, f"the index in {folder} cannot be read back"
    return made


def load(folder: Path) -> Postings | None:
    """Open an index; None if it is missing or damaged."""
    try:
        parameters = json.loads((folder / PARAMETERS).read_text(encoding="utf-8"))
        vocabulary = json.loads((folder / "vocab.index.json").read_text(encoding="utf-8"))
        arrays = [np.load(folder / f"{name}.csc.index.npy", mmap_mode="r") for name in ("data", "indices", "indptr")]
    except (OSError, ValueError, EOFError):
        return None
    scores, rows, starts = map(np.asarray, arrays)  # plain arrays over the same pages, which numba knows
    if len(starts) != len(vocabulary) + 1 or not len(scores) == len(rows) == starts[-1]:
        return None
    return Postings(scores, rows, starts, vocabulary=vocabulary, passages=parameters["num_docs"])


class Words(dict[str, int]):
    """Word -> number of its term; -1 for a stop word. A new word gets the number of its stem, or the next number."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(dict.fromkeys(terms.stop_words, -1))
        self.vocabulary: dict[str, int] = {}
        self._stem = terms.stem

    def __missing__(self, word: str) -> int:
        term = word if self._stem is None else self._stem(word)
        number = self[word] = self.vocabulary.setdefault(term, len(self.vocabulary))
        return number


class Counted(NamedTuple):
    """The counted terms of a corpus: files in passage order, and counts per passage and per term."""

    distinct: Path
    counts: Path
    places: "array[int]"
    """Number of distinct terms of each passage."""
    lengths: "array[int]"
    frequencies: NDArray[np.int64]
    """Number of passages with each term."""


def build(corpus: Corpus, terms: Terms, folder: Path, report: Report) -> None:
    """Write the index of a corpus to a folder."""
    import bm25s

    words = Words(terms)
    counted = count(corpus, words, terms, folder=folder, report=report)
    starts = np.concatenate([[0], np.cumsum(counted.frequencies)])
    write_postings(counted, starts, folder)
    for path in (counted.distinct, counted.counts):
        path.unlink()
    np.save(folder / "indptr.csc.index.npy", starts)
    with (folder / "vocab.index.json").open("w", encoding="utf-8") as file:
        json.dump(words.vocabulary, file, ensure_ascii=False)
    parameters = bm25s.BM25(k1=K1, b=B, method=METHOD)
    names = ("k1", "b", "delta", "method", "idf_method", "dtype", "int_dtype", "backend")
    document = {name: getattr(parameters, name) for name in names}
    document |= {"num_docs": len(counted.lengths), "version": bm25s.__version__}
    (folder / PARAMETERS).write_text(json.dumps(document, indent=4), encoding="utf-8")


def count(corpus: Corpus, words: Words, terms: Terms, *, folder: Path, report: Report) -> Counted:
    """Count the terms of every passage, and write them to two files in passage order."""
    from labelkit.pooling.bm25_kernels import count_terms

    nothing: NDArray[np.int64] = np.zeros(0, np.int64)
    made = Counted(folder / "terms", folder / "counts", array("i"), lengths=array("i"), frequencies=nothing)
    with made.distinct.open("wb") as distinct, made.counts.open("wb") as counts:
        left = iter(corpus.texts())
        while texts := list(islice(left, BLOCK)):
            numbers, sizes = array("i"), array("i")
            for text in texts:
                found = terms.cut(text.lower())
                numbers.extend(map(words.__getitem__, found))
                sizes.append(len(found))
            grown = np.zeros(len(words.vocabulary) - len(made.frequencies), np.int64)
            made = made._replace(frequencies=np.concatenate([made.frequencies, grown]))
            known, ends = without_stop_words(np.array(numbers, np.int32), np.array(sizes, np.int64))
            one, many, places = count_terms(known, ends, made.frequencies)
            one.tofile(distinct)
            many.tofile(counts)
            made.lengths.extend(np.diff(ends, prepend=0).tolist())
            made.places.extend(np.diff(places, prepend=0).tolist())
            report(Stage("BM25: count terms", len(made.lengths), corpus.passages, items="passages"))
    return made


def without_stop_words(
    numbers: NDArray[np.int32], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Remove the stop words, -1, from the numbers of passages of these `sizes`; also return each passage's end."""
    kept = numbers >= 0
    before = np.concatenate([[0], np.cumsum(kept)])
    return numbers[kept], before[np.cumsum(sizes)]


def write_postings(counted: Counted, starts: NDArray[np.int64], folder: Path) -> None:
    """Sort the counted terms by term, as many terms at a time as fit in memory, and write their scores and rows."""
    from labelkit.pooling.bm25_kernels import idf_of, place_postings

    passages = len(counted.lengths)
    lengths = np.array(counted.lengths, np.int32)
    mean = float(lengths.mean(dtype=np.float64)) if passages else 0.0
    idf = idf_of(counted.frequencies, passages)
    total = int(starts[-1])
    scores_file = array_file(folder / "data.csc.index.npy", np.float32, total)
    rows_file = array_file(folder / "indices.csc.index.npy", np.int32, total)
    with scores_file, rows_file:
        for first, last in groups(starts):
            scores = np.empty(starts[last] - starts[first], np.float32)
            rows = np.empty(len(scores), np.int32)
            heads = starts[first:last] - starts[first]
            for passage, distinct, counts, places in blocks(counted):
                place_postings(
                    distinct,
                    counts,
                    places,
                    lengths=lengths[passage : passage + len(places)],
                    first_passage=passage,
                    first_term=first,
                    heads=heads,
                    idf=idf,
                    mean_length=mean,
                    k1=K1,
                    b=B,
                    scores=scores,
                    rows=rows,
                )
            scores.tofile(scores_file)
            rows.tofile(rows_file)


def groups(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last term, exclusive, of groups of terms with at most `POSTINGS` postings or one term."""
    first, terms = 0, len(starts) - 1
    while first < terms:
        last = int(np.searchsorted(starts, starts[first] + POSTINGS, side="right")) - 1
        last = min(max(last, first + 1), terms)
        yield first, last
        first = last


def blocks(counted: Counted) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]]:
    """Read the counted terms in blocks of passages: the first passage's row, terms, counts, and ends of passages."""
    with counted.distinct.open("rb") as distinct, counted.counts.open("rb") as counts:
        for first in range(0, len(counted.places), BLOCK):
            places = np.cumsum(counted.places[first : first + BLOCK], dtype=np.int64)
            size = int(places[-1])
            yield first, np.fromfile(distinct, np.int32, size), np.fromfile(counts, np.int32, size), places


def array_file(path: Path, kind: type[np.generic], length: int) -> IO[bytes]:
    """Open a file of NumPy's format for a vector, to which its numbers are appended."""
    file = path.open("wb")
    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
    return file


def cores() -> int:
    """Return the number of cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
