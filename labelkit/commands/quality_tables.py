"""Tables on standard output: agreement, bias, calibration, attacks, system rankings."""

from collections.abc import Mapping, Sequence
from typing import Any

from labelkit.quality.agreement import Agreement, Comparison, JudgeDifference
from labelkit.quality.agreement_metrics import FIGURES, GRADES
from labelkit.quality.bias import Biases
from labelkit.quality.by_group import Part
from labelkit.quality.calibration.figures import COMPARED, LABELS, WORSE
from labelkit.quality.calibration.fit import ENOUGH_QUERIES
from labelkit.quality.calibration.models import Calibration
from labelkit.quality.system_rankings import SystemAgreement
from labelkit.statistics.intervals import Estimate, few_queries

BY_GROUP = ("kappa", "kappa_2", "bias", "auc")
"""Figures of each group in a breakdown."""


def print_agreement(agreement: Agreement) -> None:
    """Tables for people."""
    from labelkit.commands.terminal import Terminal

    out = Terminal()
    for comparison in agreement.comparisons:
        for table in tables_of(comparison):
            out.print(table)
        if warning := few_queries(comparison.queries):
            out.print(f"{warning}.")
        if comparison.advice:
            out.print(f"{comparison.advice}.")
    for difference in agreement.differences:
        out.print(difference_table(difference))
    if agreement.raters > 2:
        out.print(
            f"Krippendorff's ordinal alpha of all {agreement.raters} raters on {agreement.units:,} pairs: "
            f"{agreement.alpha}"
        )


def tables_of(comparison: Comparison) -> list[Any]:
    """One comparison: its figures, and the pairs by grade."""
    from rich.table import Table

    title = f"{comparison.judge} against {comparison.reference}: {comparison.pairs:,} pairs of "
    table = Table("figure", "value [95%]", "query by query", title=f"{title}{comparison.queries:,} queries")
    for name, figure in FIGURES.items():
        spread = comparison.spread.get(name)
        between = f"{spread.least:.3f} to {spread.most:.3f}, median {spread.median:.3f}" if spread else ""
        table.add_row(figure.label, str(comparison.figures[name]), between)
    table.add_row("pairs without a grade", str(comparison.failures), "")
    matrix = Table("reference \\ judge", *map(str, range(GRADES)), title="pairs by grade")
    for grade, row in enumerate(comparison.confusion):
        matrix.add_row(str(grade), *map(str, row))
    return [table, matrix]


def difference_table(difference: JudgeDifference) -> Any:
    """Two judges against one person: every figure of the first minus that of the second."""
    from rich.table import Table

    counts = f"{difference.pairs:,} pairs of {difference.queries:,} queries"
    title = f"{difference.judge} minus {difference.other}, against {difference.reference}: {counts}"
    table = Table("figure", "difference [95%]", title=title)
    table.caption = "each interval by itself, not corrected for being several"
    for name, figure in FIGURES.items():
        table.add_row(figure.label, difference.figures[name].shown("+.3f"))
    return table


def print_biases(found: Biases) -> None:
    """Tables for people."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    out = Terminal()
    table = Table("judge", "the score rises", "by, in its standard deviations", "pairs", title="between equals")
    for one in found.effects:
        table.add_row(one.judge_id, one.unit, str(one.slope), f"{one.pairs:,}")
    out.print(table)
    for row in found.consistency:
        out.print(f"{row.judge_id}: {row.orders} orders agree on {row.same} of {row.pairs:,} pairs")
    for again in found.drift:
        told = f"same grade {again.same} of {again.pairs:,}, score moved {again.shift}"
        out.print(f"{again.judge}, judged again: {told}")


def print_parts(parts: Sequence[Part]) -> None:
    """The groups as a table for people."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    if not parts:
        return
    table = Table("judge", "by", "group", "pairs", "kappa", "kappa, grade >= 2", "bias", "AUC")
    for part in parts:
        figures = (str(part.comparison.figures[name]) for name in BY_GROUP)
        table.add_row(part.comparison.judge, part.by, part.group, f"{part.comparison.pairs:,}", *figures)
    Terminal().print(table)


def print_calibration(calibration: Calibration) -> None:
    """Before and after on held-out queries, for people."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    report = calibration.report
    columns = report["before"]
    title = f"{report['pairs']:,} pairs of {report['queries']} queries, each query scored by a fit on the others"
    table = Table("figure", *columns, "calibrated", title=title)
    for name, label in LABELS.items():
        shown = [
            str(Estimate(**found[name])) if name in found else "" for found in (*columns.values(), report["after"])
        ]
        table.add_row(label, *shown)
    diagram = Table("said", "was", "pairs", title="calibrated P(grade >= 2), held out")
    for one in report["after"]["reliability"]:
        diagram.add_row(f"{one['said']:.3f}", f"{one['was']:.3f}", str(one["pairs"]))
    out = Terminal()
    out.print(table)
    out.print(diagram)
    if report["queries"] < ENOUGH_QUERIES:
        out.print(f"{report['queries']} queries: the model is fixed; from {ENOUGH_QUERIES} queries on it is chosen.")
    if warning := few_queries(report["queries"]):
        out.print(f"{warning}.")
    found = report["estimate"]
    out.print(
        f"Of {found['judged']:,} judged pairs {found['positives']:,} have P(grade >= 2) >= {found['line']}: precision "
        f"{Estimate(**found['precision'])}, recall {Estimate(**found['recall'])}, corrected by {found['labelled']:,} "
        "human labels"
    )
    print_verdict(report)


def print_verdict(report: Mapping[str, Any]) -> None:
    """How much a calibration gains over its best judge on held-out queries, and whether to apply it."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    change = report["gain"]
    name = report["judges"][change["over"]]
    table = Table("figure", "calibrated minus raw", title=f"gain over {name} on held-out queries")
    for figure in COMPARED:
        table.add_row(LABELS[figure], signed(Estimate(**change[figure])))
    out = Terminal()
    out.print(table)
    out.print(f"Calibrated grades: {report['verdict']} (kappa {signed(Estimate(**change['kappa']))})")
    if report["verdict"] == WORSE:
        out.print("--apply and mix --calibration refuse this calibration unless told --apply-anyway.")


def signed(found: Estimate) -> str:
    """A difference with its interval; plus signs included."""
    return found.shown("+.3f")


def print_attacks(found: Mapping[str, Any]) -> None:
    """The attack table and the price of each defence, for people."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    beside = any(row["others_rise"]["value"] is not None for row in found["attacks"])
    rises = ("score_rise", "others_rise") if beside else ("score_rise",)
    names = ("score rose by", "those beside it")[: len(rises)]
    table = Table("prompt", "defence", "attack", "fooled", "of", "rate", *names)
    for row in found["attacks"]:
        figures = (str(Estimate(**row[name])) for name in ("rate", *rises))
        counts = (str(row["successes"]), str(row["attempts"]))
        table.add_row(row["prompt"], row["defence"], row["attack"], *counts, *figures)
    honest = Table("prompt", "defence", "clean pairs", "kappa", "AUC", "kappa lost", "AUC lost")
    for row in found["clean"]:
        figures = (str(Estimate(**row[name])) for name in ("kappa", "auc", "kappa_lost", "auc_lost"))
        honest.add_row(row["prompt"], row["defence"], str(row["pairs"]), *figures)
    out = Terminal()
    out.print(table)
    out.print(honest)


def print_systems(rows: Sequence[SystemAgreement]) -> None:
    """The correlations as a table for people."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    if not rows:
        return
    table = Table("judge", "systems", "Kendall's tau", "tau_ap", "Spearman's rho", title="systems ranked by nDCG@10")
    for row in rows:
        figures = map(str, (row.kendall, row.tau_ap, row.spearman))
        table.add_row(row.judge, f"{row.which} ({row.systems})", *figures)
    Terminal().print(table)
