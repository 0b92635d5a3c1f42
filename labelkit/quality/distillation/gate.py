"""The gate of a distilled judge: its agreement with people on held-out queries, compared with its teacher's.

Both judges are calibrated on the same pairs by the same cross-validation over queries, so that neither is judged on
queries to which its thresholds were fitted.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection

from labelkit.quality.agreement import plain
from labelkit.quality.agreement_metrics import GRADES, Floats, figure_differences, figure_intervals
from labelkit.quality.calibration.features import features_of
from labelkit.quality.calibration.figures import Graded
from labelkit.quality.calibration.fit import choices, held_out, judged_by, known_of, refuse_too_few
from labelkit.quality.calibration.models import by_grade, relevance
from labelkit.quality.distillation.held_out import teacher_among
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.raters import Rater
from labelkit.statistics.intervals import Estimate

FIGURES = ("kappa", "auc")
TOLERANCE = 0.05
"""Loss of kappa that an interval must be able to exclude."""
CHANCE = 0.5
"""AUC of random scores."""
QUANTILES = 101
"""Number of quantiles of the judge's confidence that are stored."""
RULE = (
    "the 95% confidence interval over queries of the difference from the teacher (distilled minus teacher) is not "
    "entirely below 0, in kappa and in AUC, and the interval of the AUC is entirely above 0.5"
)


class Gate(NamedTuple):
    """Agreement of the distilled judge and of its teacher with people, on the same pairs of held-out queries."""

    pairs: int
    queries: int
    distilled: dict[str, Estimate]
    """kappa and auc of cross-fitted calibrated grades and scores."""
    teacher: dict[str, Estimate]
    difference: dict[str, Estimate]
    """Distilled minus teacher."""
    confidence: tuple[float, ...]
    """Quantiles from 0 to 1 of the distilled judge's confidence, max(p, 1 - p) with p = P(grade >= 2)."""

    @property
    def faults(self) -> list[str]:
        """The conditions of `RULE` that are not met, in words."""
        # A figure that is the same without any one query has a value and no interval.
        auc = self.distilled["auc"]
        low = auc.value if auc.low is None else auc.low
        chance = low is None or low <= CHANCE
        highs = {name: one.value if one.high is None else one.high for name, one in self.difference.items()}
        worse = [name for name, high in highs.items() if high is None or high < 0]
        found = [f"its {name} is significantly lower than the teacher's ({self.difference[name]})" for name in worse]
        return found + ([f"its AUC {self.distilled['auc']} is not significantly above {CHANCE}"] if chance else [])

    @property
    def grades_needed(self) -> int | None:
        """Number of graded pairs, on as many queries in proportion, that would exclude a loss of kappa of `TOLERANCE`
        if both judges agreed equally with people; None without an interval.
        """
        low, high = self.difference["kappa"].low, self.difference["kappa"].high
        if low is None or high is None:
            return None
        return math.ceil(self.pairs * ((high - low) / 2 / TOLERANCE) ** 2)

    def to_json(self) -> dict[str, Any]:
        """Convert the figures to plain dicts and lists."""
        told = {"rule": RULE, "passed": not self.faults, "faults": self.faults, "grades_needed": self.grades_needed}
        found: dict[str, Any] = plain(self._asdict()) | told
        return found

    def lines(self) -> list[str]:
        """Return the comparison as lines for people."""
        figures = {name: (self.distilled[name], self.teacher[name], self.difference[name]) for name in FIGURES}
        rows = [
            f"{name}: distilled {own}, teacher {taught}, difference {change}"
            for name, (own, taught, change) in figures.items()
        ]
        needed = self.grades_needed
        more = (
            ""
            if needed is None
            else f"; to exclude a loss of {TOLERANCE} in kappa, about {needed:,} graded pairs are needed"
        )
        return [*rows, f"on {self.pairs:,} human grades of {self.queries:,} held-out queries{more}"]


def gate(db: DuckDBPyConnection, dataset: Path, labels: Path, *, teacher: str) -> Gate:
    """Compare the distilled judge, whose scores of held-out pairs are in `labels`, with a teacher of the dataset.

    Raises `DataError` for too few graded pairs for a calibration.
    """
    people, *others = raters_of(db, [dataset, labels], [dataset], consensus=True)
    distilled = next(rater for rater in others if rater.source == 2)
    first = [rater for rater in others if rater.kind != "human" and rater.source == 1]
    taught_by = teacher_among(first, teacher)
    common = np.intersect1d(distilled.pair[distilled.answered], taught_by.pair[taught_by.answered])
    found = [cross_fitted(rater.only(common), people, db) for rater in (distilled, taught_by)]
    rated = [each.rated() for each in found]
    confidence = [max(p, 1 - p) for p in (found[0].probability if found[0].probability is not None else [])]
    return Gate(
        pairs=len(found[0].query),
        queries=rated[0].queries,
        distilled=figure_intervals(FIGURES, rated[0]),
        teacher=figure_intervals(FIGURES, rated[1]),
        difference=figure_differences(FIGURES, *rated),
        confidence=tuple(np.round(np.quantile(confidence, np.linspace(0, 1, QUANTILES)), 4).tolist()),
    )


def cross_fitted(judge: Rater, people: Rater, db: DuckDBPyConnection) -> Graded:
    """Grade the pairs of a judge by calibrations that were fitted to the human grades of other queries."""
    features = tuple(features_of([judge], bm25=False, dense=()))
    known = known_of(judged_by([judge], features, db, data=None), people)
    refuse_too_few(known)
    held = held_out(known, features, choices(known.queries))
    scores: Floats = by_grade(held.above) @ np.arange(GRADES)
    return Graded(
        known.query, known.grades, held.grades, scores=scores, probability=relevance(held.above), base=held.base
    )
