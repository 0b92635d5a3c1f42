"""How far a judge agrees with people: kappa, alpha, AUC and the confusion matrix on the pairs that both graded."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit import sources
from labelkit.annotate import read_labels
from labelkit.errors import DataError
from labelkit.schema import MAX_GRADE, Judgement

RELEVANT = 2
"""Grade from which a pair counts as relevant in the binary figures."""
GRADES = list(range(MAX_GRADE + 1))


FIGURES = {
    "kappa": "Cohen's kappa, grades 0 to 3",
    "kappa_binary": "Cohen's kappa, grade >= 2",
    "kappa_quadratic": "quadratic kappa",
    "alpha_ordinal": "Krippendorff's alpha, ordinal",
    "auc": "AUC of the score, human grade >= 2",
}
"""Field of `Agreement` -> what a reader calls it."""


class Agreement(NamedTuple):
    """Agreement of one judge with the human grades. A figure that the data cannot support is None."""

    judge_id: str
    judge_name: str
    pairs: int
    """Pairs that both graded."""
    failures: int
    """Pairs with a human grade for which the judge gave none."""
    kappa: float | None
    """Cohen's kappa on four grades."""
    kappa_binary: float | None
    """Cohen's kappa on grade >= 2."""
    kappa_quadratic: float | None
    alpha_ordinal: float | None
    """Krippendorff's alpha with the ordinal metric."""
    auc: float | None
    """Area under the ROC curve of the judge's score (its grade where it gave no score) for human grade >= 2."""
    confusion: list[list[int]]
    """Rows: human grade 0 to 3; columns: the judge's."""


def agree(labels: Path, human: Path) -> list[Agreement]:
    """Agreement of every judge in a labels folder with human qrels. Raises `DataError` where no pair is in common."""
    judgements, judges, _ = read_labels(labels)
    qrels = sources.read_qrels(human)
    found = []
    for judge in judges:
        mine = [row for row in judgements if row.judge_id == judge.judge_id]
        both = [(row, qrels[row.query_id][row.passage_id]) for row in mine if in_qrels(row, qrels)]
        if both:
            found.append(measure(judge.judge_id, judge.name, both))
    if not found:
        raise DataError(f"{labels} and {human} have no pair in common; are these the qrels of the same queries?")
    return found


def in_qrels(row: Judgement, qrels: sources.Qrels) -> bool:
    """Whether a person graded the pair."""
    return row.passage_id in qrels.get(row.query_id, {})


def measure(judge_id: str, name: str, both: Sequence[tuple[Judgement, int]]) -> Agreement:
    """Every figure for one judge, from its judgements and the human grades of the same pairs."""
    from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score

    graded = [(row, grade) for row, grade in both if row.grade is not None]
    theirs = [int(row.grade or 0) for row, _ in graded]
    humans = [grade for _, grade in graded]
    scores = [row.score if row.score is not None else float(row.grade or 0) for row, _ in graded]
    relevant = [grade >= RELEVANT for grade in humans]
    with warnings.catch_warnings():
        # A constant rater makes kappa 0/0; that is reported as None, not as a warning.
        warnings.simplefilter("ignore")
        return Agreement(
            judge_id=judge_id,
            judge_name=name,
            pairs=len(graded),
            failures=len(both) - len(graded),
            kappa=finite(cohen_kappa_score(humans, theirs)) if graded else None,
            kappa_binary=finite(cohen_kappa_score(relevant, [g >= RELEVANT for g in theirs])) if graded else None,
            kappa_quadratic=finite(cohen_kappa_score(humans, theirs, labels=GRADES, weights="quadratic"))
            if graded
            else None,
            alpha_ordinal=ordinal_alpha(humans, theirs),
            auc=finite(roc_auc_score(relevant, scores)) if len(set(relevant)) == 2 else None,
            confusion=confusion_matrix(humans, theirs, labels=GRADES).tolist() if graded else [],
        )


def ordinal_alpha(one: Sequence[int], other: Sequence[int]) -> float | None:
    """Krippendorff's ordinal alpha of two raters; None where all grades are the same."""
    import krippendorff

    if len(set(one) | set(other)) < 2:
        return None
    return finite(
        krippendorff.alpha(
            reliability_data=[list(one), list(other)], level_of_measurement="ordinal", value_domain=GRADES
        )
    )


def finite(value: Any) -> float | None:
    """A float, or None for nan."""
    number = float(value)
    return number if math.isfinite(number) else None


def print_agreement(agreement: Agreement) -> None:
    """One judge's figures as a table for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "figure",
        "value",
        title=f"{escape(agreement.judge_name)}, {agreement.pairs} pairs that a person graded too",
    )
    for name in ("kappa", "kappa_binary", "kappa_quadratic", "alpha_ordinal", "auc"):
        value = getattr(agreement, name)
        table.add_row(FIGURES[name], "undefined" if value is None else f"{value:.3f}")
    table.add_row("pairs without a grade", str(agreement.failures))
    matrix = Table("human \\ judge", "0", "1", "2", "3", title="pairs by grade")
    for grade, row in enumerate(agreement.confusion):
        matrix.add_row(str(grade), *map(str, row))
    out = Console()
    out.print(table)
    out.print(matrix)
