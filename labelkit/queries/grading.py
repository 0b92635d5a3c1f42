"""Let a judge grade each written query with its passages, by the same machinery as every other pair."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from labelkit.judging.annotate import Outcome, annotate
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.progress import ShowProgress
from labelkit.pooling.pool import KIND, write_tables
from labelkit.queries.drafts import Draft
from labelkit.records import Candidate, Judge, Origin, PairIds, Passage, Query
from labelkit.storage import folders
from labelkit.storage.labels import read_labels

log = logging.getLogger(__name__)

LEAST_GRADE = 2
"""Lowest grade of every passage of a query that is kept."""


class Graded(NamedTuple):
    """The drafts with their grades, their judge, and the outcome of its run; no judge if there was nothing to grade."""

    drafts: list[Draft]
    judge: Judge | None = None
    outcome: Outcome | None = None


def write_pool(drafts: Iterable[Draft], target: Path, command: str, *, inputs: Mapping[str, str]) -> None:
    """Write the pool of the pairs to grade: the kept drafts with their passages."""
    kept = [draft for draft in drafts if draft.reason is None]
    queries = {draft.query_id: Query(query_id=draft.query_id, text=draft.text) for draft in kept}
    passages: dict[str, Passage] = {one.passage_id: one for draft in kept for one in draft.slot.passages}
    candidates = []
    for draft in kept:
        origins = tuple(Origin(name, rank, 1 / rank) for name, rank in draft.ranks.items() if rank is not None)
        for passage in draft.slot.passages:
            pair = {"query_id": draft.query_id, "passage_id": passage.passage_id}
            candidates.append(Candidate(**pair, sources=(Origin("written for", 1, 1.0), *origins)))
    with folders.writing(target, KIND, command) as pool:
        write_tables(pool, candidates, queries=queries, passages=passages)
        pool.inputs = dict(inputs)


def graded(
    drafts: list[Draft], pool: Path, labels: Path, *, options: AnnotateOptions, command: str, progress: ShowProgress
) -> Graded:
    """Grade the pairs of a pool, and drop the drafts with a passage below `LEAST_GRADE` or without a grade.

    Raises the errors of `annotate`, and `BudgetError` if the caps leave pairs unjudged.
    """
    if all(draft.reason is not None for draft in drafts):
        return Graded(drafts)
    outcome = annotate(pool, labels, options, command=command, progress=progress)
    for line in outcome.lines(labels):
        log.info(line)
    outcome.check()
    judgements, judges, _ = read_labels(labels)
    grades = {(row.query_id, row.passage_id): row.grade for row in judgements if row.judge_id == outcome.judge_id}
    found = [draft if draft.reason is not None else with_grades(draft, grades) for draft in drafts]
    judge = next(judge for judge in judges if judge.judge_id == outcome.judge_id)
    return Graded(found, judge, outcome)


def with_grades(draft: Draft, grades: Mapping[PairIds, int | None]) -> Draft:
    """Record the grades of a draft's passages, and drop it below `LEAST_GRADE`."""
    found = tuple(grades.get((draft.query_id, passage.passage_id)) for passage in draft.slot.passages)
    marked = draft._replace(grades=found)
    if None in found:
        return marked.but("the judge gave no grade")
    lowest = min(grade for grade in found if grade is not None)
    return marked if lowest >= LEAST_GRADE else marked.but(f"the judge gave grade {lowest}")
