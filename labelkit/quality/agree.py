"""The results of `labelkit agree`: agreement of judges, rankings of systems, and agreement by group of pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import UnknownNameError
from labelkit.quality.agreement import Agreement, agreement_of, plain, raters_of
from labelkit.quality.by_group import BY, GroupInputs, Part, break_down
from labelkit.quality.options import AgreeOptions
from labelkit.quality.system_rankings import SystemAgreement, compare_systems


class AgreementReport(NamedTuple):
    """Agreement of raters (judges and people) on all pairs, on rankings of systems, and on groups of pairs."""

    agreement: Agreement
    systems: list[SystemAgreement]
    """Correlations of system rankings; empty without runs."""
    by: list[Part]
    """Agreement on each group of pairs; empty without a breakdown."""

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
    found = agreement_of(labels, options.human, options.scale)
    reference, *judges = raters_of(labels, options.human, options.scale)
    graders = [judge for judge in judges if not judge.score_only] if options.run else []
    systems = [row for judge in graders for row in compare_systems(reference, judge, options.run)]
    parts = [
        part
        for judge in judges
        for name in options.by
        for part in break_down(reference, GroupInputs(judge, options.data, options.pool), name)
    ]
    return AgreementReport(found, systems, parts)
