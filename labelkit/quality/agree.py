"""Everything that `labelkit agree` says of judges: agreement, rankings of systems, and agreement by group."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import UnknownNameError
from labelkit.quality.agreement import Agreement, agreement_of, plain, raters_of
from labelkit.quality.by_group import BY, GroupInputs, Part, break_down
from labelkit.quality.options import AgreeOptions
from labelkit.quality.system_rankings import SystemAgreement, compare_systems


class AgreementReport(NamedTuple):
    """How far raters agree, on pairs, on systems, and by group of pairs."""

    agreement: Agreement
    systems: list[SystemAgreement]
    """Correlations of system rankings; empty where no runs were given."""
    by: list[Part]
    """Agreement on each group of pairs; empty where no breakdown was asked for."""

    def to_json(self) -> Any:
        """Plain dicts and lists, for `json.dumps`."""
        return plain(self.agreement._asdict() | {"systems": self.systems, "by": self.by})


def agree(
    labels: Sequence[Path],
    options: AgreeOptions = AgreeOptions(),  # noqa: B008 (a frozen record)
) -> AgreementReport:
    """Compare judges with people and with each other: kappa, alpha, AUC and more, with 95% confidence intervals.

    Args:
        labels: labels folders or a dataset; every judge in them is a rater.
        options: human qrels, runs of systems, and breakdowns.

    Returns:
        A comparison of every two raters on the pairs that both graded, clustered by query; precision, recall and AUC
        take the first rater, a person where there is one, for the truth.

    Raises:
        UsageError: fewer than two raters, an unknown breakdown, or one whose texts or pool are missing.
        DataError: no two raters graded the same pair.
    """
    if unknown := set(options.by) - set(BY):
        raise UnknownNameError("breakdown", min(unknown), BY)
    found = agreement_of(labels, options.human)
    reference, *judges = raters_of(labels, options.human)
    systems = [row for judge in judges for row in compare_systems(reference, judge, options.run)] if options.run else []
    parts = [
        part
        for judge in judges
        for name in options.by
        for part in break_down(reference, GroupInputs(judge, options.data, options.pool), name)
    ]
    return AgreementReport(found, systems, parts)
