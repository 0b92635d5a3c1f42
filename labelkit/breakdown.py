"""Agreement by what a pair looks like: by length, source, position, overlap or language of the passage."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labelkit import sources
from labelkit.agree import Comparison, Pair, Rater, compare
from labelkit.errors import MissingPackageError, UsageError
from labelkit.pool import read_pool

Groups = dict[str, set[Pair]]
"""Name of a group -> its pairs; a pair may stand in several."""


class Material(NamedTuple):
    """What groups are made from."""

    judge: Rater
    data: Path | None
    """BEIR folder with the texts."""
    pool: Path | None


class Part(NamedTuple):
    """One group of pairs and the agreement on it."""

    by: str
    group: str
    comparison: Comparison


def break_down(reference: Rater, material: Material, by: str) -> list[Part]:
    """The comparison on each group of pairs, groups without a common pair left out."""
    parts = []
    for name, pairs in BY[by](material).items():
        found = compare(reference, material.judge, pairs)
        if found.pairs:
            parts.append(Part(by, name, found))
    return parts


def by_length(material: Material) -> Groups:
    texts = texts_of(material, "length")
    return thirds({pair: len(text.split()) for pair, (_, text) in texts.items()}, "words")


def by_overlap(material: Material) -> Groups:
    texts = texts_of(material, "overlap")
    return thirds({pair: overlap(query, text) for pair, (query, text) in texts.items()}, "of the query's words")


def by_position(material: Material) -> Groups:
    places = {pair: row.position for pair, row in material.judge.judgements.items() if row.position is not None}
    if not places:
        raise UsageError("--by position is for one order of a listwise method: these judgements have no positions")
    return thirds(places, "place")


def by_source(material: Material) -> Groups:
    if material.pool is None:
        raise UsageError("--by source needs the pool that was judged: give --pool")
    groups: Groups = {}
    for candidate in read_pool(material.pool).candidates:
        for origin in candidate.sources:
            groups.setdefault(origin.name, set()).add((candidate.query_id, candidate.passage_id))
    return dict(sorted(groups.items()))


def by_language(material: Material) -> Groups:
    try:
        from py3langid import classify
    except ImportError:
        raise MissingPackageError("py3langid", "report") from None
    groups: Groups = {}
    for pair, (_, text) in texts_of(material, "language").items():
        groups.setdefault(str(classify(text)[0]), set()).add(pair)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


BY: dict[str, Callable[[Material], Groups]] = {
    "length": by_length,
    "source": by_source,
    "position": by_position,
    "overlap": by_overlap,
    "language": by_language,
}


def texts_of(material: Material, by: str) -> dict[Pair, tuple[str, str]]:
    """Query and passage of every pair that the judge was asked about."""
    if material.data is None:
        raise UsageError(f"--by {by} needs the texts: give --data, the BEIR folder")
    data = sources.read_data(material.data)
    pairs: dict[str, list[str]] = {}
    for query_id, passage_id in material.judge.judgements:
        pairs.setdefault(query_id, []).append(passage_id)
    sources.check_ids(pairs, data.queries, data.corpus, material.judge.name)
    return {
        (query_id, pid): (data.queries[query_id].text, data.corpus[pid].full_text)
        for query_id, pid in material.judge.judgements
    }


def overlap(query: str, passage: str) -> float:
    """Share of the query's different words that stand in the passage."""
    wanted, found = (set(re.findall(r"\w+", text.casefold())) for text in (query, passage))
    return len(wanted & found) / len(wanted) if wanted else 0.0


def thirds(values: Mapping[Pair, float], what: str) -> Groups:
    """Three groups of about equal size by a number; equal numbers stay together."""
    low, high = np.quantile(list(values.values()), (1 / 3, 2 / 3)) if values else (0.0, 0.0)
    bounds = {f"up to {low:.3g} {what}": (-np.inf, low), f"to {high:.3g}": (low, high), "above": (high, np.inf)}
    groups = {
        name: {pair for pair, value in values.items() if least < value <= most}
        for name, (least, most) in bounds.items()
    }
    return {name: pairs for name, pairs in groups.items() if pairs}


FIGURES = ("kappa", "kappa_2", "bias", "auc")
"""What a breakdown shows to people."""


def print_parts(parts: Sequence[Part]) -> None:
    """The groups as a table for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not parts:
        return
    table = Table("judge", "by", "group", "pairs", "kappa", "kappa, grade >= 2", "bias", "AUC")
    for part in parts:
        figures = (str(part.comparison.figures[name]) for name in FIGURES)
        table.add_row(
            escape(part.comparison.judge), part.by, escape(part.group), f"{part.comparison.pairs:,}", *figures
        )
    Console().print(table)
