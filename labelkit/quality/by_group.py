"""Agreement on groups of pairs: by length, source, list position, word overlap or language of the passage."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.errors import MissingPackageError, UsageError
from labelkit.quality.agreement import Comparison, compare
from labelkit.quality.rater_reading import numbers_in
from labelkit.quality.raters import Numbers, Rater
from labelkit.quality.texts import check_texts, lengths, of_passages, open_texts, overlaps
from labelkit.storage import folders, tables
from labelkit.storage.manifest import POOL

Groups = Iterator[tuple[str, Numbers]]
"""Name of each group with the numbers of its pairs, increasing; groups may overlap."""


class GroupInputs(NamedTuple):
    """The judge, texts and pool from which groups are made."""

    db: DuckDBPyConnection
    """The session in which the judge was read."""
    judge: Rater
    data: Path | None
    """BEIR folder with the texts."""
    pool: Path | None


class Part(NamedTuple):
    """A group of pairs and the agreement on it."""

    by: str
    group: str
    comparison: Comparison


def break_down(reference: Rater, material: GroupInputs, by: str) -> list[Part]:
    """Compare judge and reference on each group of pairs, without groups that have no common pair."""
    parts = []
    for name, pairs in BY[by](material):
        found = compare(reference, material.judge, pairs)
        if found.pairs:
            parts.append(Part(by, name, found))
    return parts


def by_length(material: GroupInputs) -> Groups:
    judge = with_texts(material, "length")
    return thirds(judge, lengths(material.db, judge.pairs)[judge.pairs.passage[judge.pair]], "words")


def by_overlap(material: GroupInputs) -> Groups:
    judge = with_texts(material, "overlap")
    return thirds(judge, overlaps(material.db, judge.pairs)[judge.pair], "of the query's words")


def by_position(material: GroupInputs) -> Groups:
    placed = material.judge.take(material.judge.position > 0)
    if not len(placed.pair):
        raise UsageError("--by position needs labels by a listwise method with one order: these have no positions")
    return thirds(placed, placed.position, "place")


def by_source(material: GroupInputs) -> Groups:
    if material.pool is None:
        raise UsageError("--by source needs the pool that was judged: give it with --pool")
    folders.read_manifest(material.pool, POOL)
    listed = "unnest(list_transform(sources, lambda x: x.name)) AS name"
    candidates = f"(SELECT *, {listed} FROM {tables.parquet(material.pool / 'candidates.parquet')})"
    for (name,) in material.db.execute(f"SELECT DISTINCT name FROM {candidates} ORDER BY name").fetchall():
        pairs, _ = numbers_in(material.db, material.judge.pairs, f"{candidates} WHERE name = {tables.text(name)}")
        yield name, np.unique(pairs)


def by_language(material: GroupInputs) -> Groups:
    try:
        from py3langid import classify
    except ImportError:
        raise MissingPackageError("py3langid", "report") from None
    judge = with_texts(material, "language")
    codes: dict[str, int] = {}
    found = of_passages(material.db, judge.pairs, lambda text: codes.setdefault(str(classify(text)[0]), len(codes)))
    language = found[judge.pairs.passage[judge.pair]]
    names, first, sizes = np.unique(language, return_index=True, return_counts=True)
    of = dict(zip(codes.values(), codes, strict=True))
    for place in np.lexsort((first, -sizes)).tolist():
        yield of[int(names[place])], judge.pair[language == names[place]]


BY: dict[str, Callable[[GroupInputs], Groups]] = {
    "length": by_length,
    "source": by_source,
    "position": by_position,
    "overlap": by_overlap,
    "language": by_language,
}


def with_texts(material: GroupInputs, by: str) -> Rater:
    """Open the texts of every pair that the judge judged, and return the judge."""
    if material.data is None:
        raise UsageError(f"--by {by} needs the texts: give the BEIR folder with --data")
    open_texts(material.db, material.data)
    check_texts(material.db, material.judge.pairs, material.judge.pair, where=material.judge.name)
    return material.judge


def thirds(judge: Rater, values: NDArray[Any], what: str) -> Groups:
    """Split a judge's pairs by a number, `[n]`, into three groups of about equal size; pairs with equal numbers are in
    the same group.
    """
    low, high = np.quantile(values, (1 / 3, 2 / 3)) if len(values) else (0.0, 0.0)
    bounds = {f"up to {low:.3g} {what}": (-np.inf, low), f"to {high:.3g}": (low, high), "above": (high, np.inf)}
    for name, (least, most) in bounds.items():
        pairs = judge.pair[(least < values) & (values <= most)]
        if len(pairs):
            yield name, pairs
