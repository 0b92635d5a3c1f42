"""The results of `labelkit agree`: agreement of judges, rankings of systems, and agreement by group of pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import UnknownNameError, UsageError
from labelkit.quality.agreement import NEEDS_TWO, Agreement, agree_raters, plain
from labelkit.quality.by_group import BY, GroupInputs, Part, break_down
from labelkit.quality.by_hand import grade_first
from labelkit.quality.options import AgreeOptions
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.system_rankings import SystemAgreement, compare_systems
from labelkit.storage import tables


class AgreementReport(NamedTuple):
    """Agreement of raters (judges and people) on all pairs, on rankings of systems, and on groups of pairs."""

    agreement: Agreement
    systems: list[SystemAgreement]
    """Correlations of system rankings; empty without runs."""
    by: list[Part]
    """Agreement on each group of pairs; empty without a breakdown."""
    advice: str | None = None
    """How to get human grades; None if there are some."""

    def to_json(self) -> Any:
        """Convert to plain dicts and lists, for `json.dumps`."""
        return plain(self.agreement._asdict() | {"systems": self.systems, "by": self.by})


def agree(
    labels: Sequence[Path],
    options: AgreeOptions = AgreeOptions(),  # noqa: B008 (a frozen record)
) -> AgreementReport:
    """Compare judges with people and with each other: kappa, alpha, AUC and other figures, with 95% confidence
    intervals.

    Args:
        labels: labels folders, or a dataset; every judge in them is a rater.
        options: human qrels, runs of systems, and breakdowns.

    Returns:
        A comparison of every two raters on the pairs that both graded, clustered by query. The first rater, a person if
        there is one, is the reference for precision, recall and AUC.

    Raises:
        UsageError: there are fewer than two raters, or a breakdown is unknown or lacks its texts or pool.
        DataError: no pair was graded by two raters.
    """
    if unknown := set(options.by) - set(BY):
        raise UnknownNameError("breakdown", min(unknown), BY)
    with tables.temporary() as db:
        raters = raters_of(db, labels, options.human, scale=options.scale)
        if len(raters) < 2:
            advice = "" if any(rater.kind == "human" for rater in raters) else f"; {grade_first(labels)}"
            raise UsageError(f"{NEEDS_TWO}{advice}")
        found = agree_raters(raters)
        reference, *judges = raters
        systems = [
            row for judge in judges if not judge.score_only for row in compare_systems(reference, judge, options.run)
        ]
        parts = [
            part
            for judge in judges
            for name in options.by
            for part in break_down(reference, GroupInputs(db, judge, options.data, pool=options.pool), name)
        ]
    blind = all(rater.kind != "human" for rater in raters)
    return AgreementReport(found, systems, parts, advice=grade_first(labels) if blind else None)
