"""Explain a dataset with few positives: the probabilities and grades of each judge, and the option that changes it."""

import math
from collections.abc import Iterator
from typing import Any

from duckdb import DuckDBPyConnection

from labelkit.datasets.labels_in_sql import JUDGED
from labelkit.datasets.options import MixRules
from labelkit.datasets.policies import side_of
from labelkit.storage import tables

LEAST = 0.5
"""Lowest threshold that `--llm-positive` accepts."""
MOST = 0.5
"""Highest threshold that `--llm-negative` accepts."""


def explanations(db: DuckDBPyConnection, rules: MixRules, *, none: bool) -> Iterator[str]:
    """Yield a line for each judge that is heard: its values, the threshold, and the option that makes positives.

    With `none`, the dataset has no positives at all; otherwise a judge is left out whose grades give some.
    """
    judged = JUDGED.format(condition="true")
    db.execute(f"CREATE OR REPLACE TEMP TABLE heard AS SELECT *, {side_of(rules)} AS side FROM ({judged})")
    found = db.execute(
        """
        SELECT judge_id, name, kind, count(*) AS pairs, count(probability) AS probable,
               count(*) FILTER (side = 'positive') AS positive, count(*) FILTER (side = 'negative') AS negative,
               histogram(grade) AS grades,
               quantile_cont(probability, [0.0, 0.25, 0.5, 0.75, 1.0]) AS quartiles
        FROM heard JOIN judges USING (judge_id, kind) GROUP BY ALL ORDER BY name
        """
    )
    names = [column[0] for column in found.description or ()]
    for row in found.fetchall():
        judge = dict(zip(names, row, strict=True))
        by_probability = judge["kind"] != "human" and rules.by == "probability" and judge["probable"]
        if not judge["grades"]:
            why = (
                f"none of its {judge['pairs']:,} judgments has a grade; if they have scores, draw the thresholds with "
                "labelkit calibrate"
            )
        elif judge["positive"] and not none and not by_probability:
            continue
        elif judge["positive"] and none:
            why = (
                f"{judge['positive']:,} of its {judge['pairs']:,} judgments reach the threshold, but --policy "
                f"{rules.policy} or --drop leaves none of them"
            )
        else:
            why = of_probabilities(db, judge, rules) if by_probability else of_grades(judge, rules)
        yield f"{judge['name']}: {why}"


def of_probabilities(db: DuckDBPyConnection, judge: dict[str, Any], rules: MixRules) -> str:
    """Compare the probabilities of a judge with their threshold."""
    low, first, middle, third, high = judge["quartiles"]
    said = (
        f"P(grade >= 2) of {judge['probable']:,} judgments: lowest {low:.2f}, quartiles {first:.2f}, {middle:.2f} and "
        f"{third:.2f}, highest {high:.2f}; --llm-positive is {rules.llm_positive:g}"
    )
    if high < LEAST:
        return f"{said} and cannot be below {LEAST}: calibrate the judge (labelkit calibrate), or use --by grade"
    other = max(LEAST, math.floor(third * 100) / 100)
    of_judge = f"judge_id = {tables.text(judge['judge_id'])}"
    count = tables.value(db, f"SELECT count(*) FROM heard WHERE {of_judge} AND probability >= {other}")
    said = f"{said}; --llm-positive {other:g} would make {count:,} pairs positive"
    if judge["negative"]:
        return said
    other = min(MOST, math.ceil(first * 100) / 100)
    count = tables.value(db, f"SELECT count(*) FROM heard WHERE {of_judge} AND probability <= {other}")
    said = f"{said}; --llm-negative is {rules.llm_negative:g}"
    return f"{said}; --llm-negative {other:g} would make {count:,} pairs negative"


def of_grades(judge: dict[str, Any], rules: MixRules) -> str:
    """Compare the grades of a judge with their threshold."""
    human = judge["kind"] == "human"
    flag, limit = (
        ("--positive-grade", rules.positive_grade) if human else ("--llm-positive-grade", rules.llm_positive_grade)
    )
    counted = ", ".join(f"{count:,} of grade {grade}" for grade, count in sorted(judge["grades"].items()))
    best = max(judge["grades"])
    if best < 1:
        return f"{counted}; no passage has a higher grade: pool other passages (labelkit pool)"
    return f"{counted}; {flag} is {limit}; {flag} {best} would make {judge['grades'][best]:,} pairs positive"
