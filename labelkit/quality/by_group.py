"""Agreement on groups of pairs: by length, source, list position, word overlap or language of the passage."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labelkit.corpora.beir import check_ids, read_data
from labelkit.corpora.words import overlap
from labelkit.errors import MissingPackageError, UsageError
from labelkit.pooling.pool import read_pool
from labelkit.quality.agreement import Comparison, Rater, compare
from labelkit.records import PairIds

Groups = dict[str, set[PairIds]]
"""Name of a group -> its pairs; groups may overlap."""


class GroupInputs(NamedTuple):
    """The judge, texts and pool from which groups are made."""

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
    for name, pairs in BY[by](material).items():
        found = compare(reference, material.judge, pairs)
        if found.pairs:
            parts.append(Part(by, name, found))
    return parts


def by_length(material: GroupInputs) -> Groups:
    texts = texts_of(material, "length")
    return thirds({pair: len(text.split()) for pair, (_, text) in texts.items()}, "words")


def by_overlap(material: GroupInputs) -> Groups:
    texts = texts_of(material, "overlap")
    return thirds({pair: overlap(query, text) for pair, (query, text) in texts.items()}, "of the query's words")


def by_position(material: GroupInputs) -> Groups:
    places = {pair: row.position for pair, row in material.judge.judgements.items() if row.position is not None}
    if not places:
        raise UsageError("--by position needs labels by a listwise method with one order: these have no positions")
    return thirds(places, "place")


def by_source(material: GroupInputs) -> Groups:
    if material.pool is None:
        raise UsageError("--by source needs the pool that was judged: give it with --pool")
    groups: Groups = {}
    for candidate in read_pool(material.pool).candidates:
        for origin in candidate.sources:
            groups.setdefault(origin.name, set()).add((candidate.query_id, candidate.passage_id))
    return dict(sorted(groups.items()))


def by_language(material: GroupInputs) -> Groups:
    try:
        from py3langid import classify
    except ImportError:
        raise MissingPackageError("py3langid", "report") from None
    groups: Groups = {}
    for pair, (_, text) in texts_of(material, "language").items():
        groups.setdefault(str(classify(text)[0]), set()).add(pair)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


BY: dict[str, Callable[[GroupInputs], Groups]] = {
    "length": by_length,
    "source": by_source,
    "position": by_position,
    "overlap": by_overlap,
    "language": by_language,
}


def texts_of(material: GroupInputs, by: str) -> dict[PairIds, tuple[str, str]]:
    """Return the texts (query, passage) of every pair that the judge judged."""
    if material.data is None:
        raise UsageError(f"--by {by} needs the texts: give the BEIR folder with --data")
    data = read_data(material.data)
    pairs: dict[str, list[str]] = {}
    for query_id, passage_id in material.judge.judgements:
        pairs.setdefault(query_id, []).append(passage_id)
    check_ids(pairs, data.queries, data.corpus, where=material.judge.name)
    return {
        (query_id, pid): (data.queries[query_id].text, data.corpus[pid].full_text)
        for query_id, pid in material.judge.judgements
    }


def thirds(values: Mapping[PairIds, float], what: str) -> Groups:
    """Split pairs by a number into three groups of about equal size; pairs with equal numbers are in the same group."""
    low, high = np.quantile(list(values.values()), (1 / 3, 2 / 3)) if values else (0.0, 0.0)
    bounds = {f"up to {low:.3g} {what}": (-np.inf, low), f"to {high:.3g}": (low, high), "above": (high, np.inf)}
    groups = {
        name: {pair for pair, value in values.items() if least < value <= most}
        for name, (least, most) in bounds.items()
    }
    return {name: pairs for name, pairs in groups.items() if pairs}
