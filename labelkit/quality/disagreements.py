"""Chooses the pairs on which judges and people disagree most, for the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.quality.raters import Rater
from labelkit.quality.texts import texts_of

SHOWN = 20
"""Number of pairs that are shown."""
LONGEST = 700
"""Number of characters of a passage that are shown."""


def disagreements(db: DuckDBPyConnection, people: Rater, judges: Sequence[Rater]) -> list[dict[str, Any]]:
    """Choose the pairs with the largest disagreements, queries and judges in turn, without duplicates.

    Within a query and judge, pairs are sorted by the difference of grades, then by the judge's confidence.
    """
    wrong = [judge.take(disagrees(people, judge)) for judge in judges]
    names = sorted({judge.rater_id for judge in judges})
    number = np.repeat(np.arange(len(wrong)), [len(one.pair) for one in wrong])
    name = np.array([names.index(one.rater_id) for one in wrong], dtype=np.int64)[number]
    pair, query = (np.concatenate([getattr(one, column) for one in wrong]) for column in ("pair", "query"))
    gap = np.concatenate([np.abs(people.grades_of(one.pair) - one.grade) for one in wrong])
    sure = np.concatenate([np.abs(one.belief - 0.5) for one in wrong])
    order = np.lexsort((pair, -sure, -gap, query, name))
    starts = np.append(True, (np.diff(name[order]) != 0) | (np.diff(query[order]) != 0))[: len(order)]
    first = np.flatnonzero(starts)
    turn = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    order = order[np.argsort(turn, kind="stable")[: SHOWN * len(judges)]]
    chosen: dict[int, int] = {}
    for place in order.tolist():
        chosen.setdefault(int(pair[place]), int(number[place]))
    return [
        told_apart(db, people, wrong[judge].only(np.array([place]))) for place, judge in list(chosen.items())[:SHOWN]
    ]


def disagrees(people: Rater, judge: Rater) -> NDArray[np.bool_]:
    """Return for which of its `[n]` judgements a judge's grade differs from the human grade."""
    theirs = people.grades_of(judge.pair)
    found: NDArray[np.bool_] = (theirs >= 0) & judge.graded & (theirs != judge.grade)
    return found


def told_apart(db: DuckDBPyConnection, people: Rater, judgement: Rater) -> dict[str, Any]:
    """Prepare one disagreement with its texts; `judgement` has one row."""
    ((query_id, passage_id),) = judgement.pairs.ids(judgement.pair)
    query, passage = texts_of(db, query_id, passage_id)
    relevance = float(judgement.relevance[0])
    return {
        "query_id": query_id,
        "query": query,
        "passage_id": passage_id,
        "passage": passage if len(passage) <= LONGEST else f"{passage[:LONGEST]} … ({len(passage):,} characters)",
        "reference": people.name,
        "reference_grade": int(people.grades_of(judgement.pair)[0]),
        "judge": short(judgement.rater_id, judgement.name),
        "grade": int(judgement.grade[0]),
        "sure": None if np.isnan(relevance) else f"P(grade >= 2) {relevance:.2f}",
    }


def short(judge_id: str, name: str) -> str:
    """Return a short name of a judge: model (method)."""
    return f"{Path(name).name} ({judge_id.partition('-')[0]})"
