"""Decides from the judgments of a pool which labels change, and counts the changes.

A negative that is judged relevant becomes a positive (promote); a negative of which the judge is unsure, and a positive
that is judged irrelevant, are ignored (ignore); every other label stays (keep). A label without a grade stays, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from labelkit.datasets.inputs import register_judges
from labelkit.datasets.policies import side_of
from labelkit.relabelling.options import RelabelOptions
from labelkit.statistics.intervals import Estimate, rate
from labelkit.storage import tables
from labelkit.storage.labels import judgements_sql, judges_in

PROMOTE, IGNORE, KEEP = "promote", "ignore", "keep"


class Flips(NamedTuple):
    """The numbers of changed labels among the judged labels of one role and one source."""

    role: str
    source: str
    """Source of the old labels: human, llm, imported, or mined for unjudged negatives."""
    judged: int
    promoted: int
    ignored: int
    kept: int
    without_grade: int
    """Labels that the judge gave no grade; they are not changed, and not in `kept`."""
    promoted_share: Estimate
    """Share of the labels with a grade that became positives, with its interval over queries."""
    ignored_share: Estimate


def decide(db: DuckDBPyConnection, pool: Path, labels: Path, options: RelabelOptions, *, judge_id: str | None) -> None:
    """Make the table `decided` with a row per judged label: query_id, passage_id, role, source, place, judge_id, kind,
    grade, probability, score, action and rule.

    `judge_id`: the judge whose judgments count; None for a folder with one judgment per pair.
    """
    register_judges(db, judges_in(labels), {}, silent=[])
    said = judgements_sql(db, labels)
    by = "true" if judge_id is None else f"judge_id = {tables.text(judge_id)}"
    db.execute(
        f"""
        CREATE TABLE judged AS
        SELECT query_id, passage_id, judge_id, kind, grade, score,
               list_sum(list_transform(list_zip(probs, relevant), lambda x: x[1] * x[2])) AS probability
        FROM {said} JOIN judges USING (judge_id) WHERE {by}
        """
    )
    side, bar = side_of(options.thresholds), rule_of(options)
    candidates = tables.parquet(pool / "candidates.parquet")
    db.execute(
        f"""
        CREATE TABLE decided AS
        SELECT *, if(action = '{KEEP}', NULL, {bar}) AS rule FROM (
            SELECT *, CASE WHEN grade IS NULL THEN '{KEEP}'
                           WHEN role = 'negative' AND side = 'positive' THEN '{PROMOTE}'
                           WHEN role = 'negative' AND side = 'ignored' THEN '{IGNORE}'
                           WHEN role = 'positive' AND side = 'negative' THEN '{IGNORE}' ELSE '{KEEP}' END AS action
            FROM (SELECT pair.*, judge_id, kind, grade, probability, score, {side} AS side
                  FROM (SELECT query_id, passage_id, split_part(sources[1].name, ':', 1) AS role,
                               split_part(sources[1].name, ':', 2) AS source, sources[1].rank AS place
                        FROM {candidates}) pair
                  LEFT JOIN judged USING (query_id, passage_id)))
        """
    )


def rule_of(options: RelabelOptions) -> str:
    """Return the SQL expression of the rule that changed a label, in words."""
    rules = {
        "probability": (f">= {options.llm_positive}", f"> {options.llm_negative}", f"<= {options.llm_negative}"),
        "grade": (
            f">= {options.llm_positive_grade}",
            f"> {options.llm_negative_grade}",
            f"<= {options.llm_negative_grade}",
        ),
    }
    told = {}
    for value, (relevant, unsure, irrelevant) in rules.items():
        name = "P(grade >= 2)" if value == "probability" else "grade"
        told[value] = (
            f"CASE WHEN action = '{PROMOTE}' THEN 'negative with {name} {relevant}' "
            f"WHEN role = 'negative' THEN 'negative with {name} {unsure}' ELSE 'positive with {name} {irrelevant}' END"
        )
    by_grade = "true" if options.by == "grade" else "probability IS NULL"
    return f"CASE WHEN {by_grade} THEN {told['grade']} ELSE {told['probability']} END"


def flips_of(db: DuckDBPyConnection) -> tuple[Flips, ...]:
    """Count the changed labels by role and source, with the shares over queries."""
    kinds = db.execute("SELECT DISTINCT role, source FROM decided ORDER BY role, source").fetchall()
    return tuple(flips(db, role, source) for role, source in kinds)


def flips(db: DuckDBPyConnection, role: str, source: str) -> Flips:
    """Count the changed labels of one role and one source."""
    found: Any = db.execute(
        f"""
        SELECT count(*) AS judged, count(grade) AS graded, count(*) FILTER (action = '{PROMOTE}') AS promoted,
               count(*) FILTER (action = '{IGNORE}') AS ignored
        FROM decided WHERE role = $role AND source = $source GROUP BY query_id ORDER BY query_id
        """,
        {"role": role, "source": source},
    ).fetchnumpy()
    judged, graded, promoted, ignored = (int(found[name].sum()) for name in ("judged", "graded", "promoted", "ignored"))
    return Flips(
        role,
        source,
        judged,
        promoted=promoted,
        ignored=ignored,
        kept=graded - promoted - ignored,
        without_grade=judged - graded,
        promoted_share=rate(found["promoted"], found["graded"]),
        ignored_share=rate(found["ignored"], found["graded"]),
    )


def total(flips: Sequence[Flips], name: str) -> int:
    """Add one number over all roles and sources."""
    return sum(getattr(each, name) for each in flips)
