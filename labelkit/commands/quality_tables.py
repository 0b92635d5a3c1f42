"""Tables of agreement, bias, calibration, attacks and system rankings, on standard output."""

from collections.abc import Mapping, Sequence
from typing import Any

from labelkit.quality.agreement import Agreement, Comparison, JudgeDifference
from labelkit.quality.agreement_metrics import FIGURES, GRADES
from labelkit.quality.bias import Biases
from labelkit.quality.by_group import Part
from labelkit.quality.calibration.figures import COMPARED, LABELS, WORSE
from labelkit.quality.calibration.fit import ENOUGH_QUERIES
from labelkit.quality.calibration.label_quality import in_words
from labelkit.quality.calibration.models import Calibration
from labelkit.quality.system_rankings import SystemAgreement
from labelkit.statistics.intervals import Estimate, few_queries

BY_GROUP = ("kappa", "kappa_2", "bias", "auc")
"""Figures that a breakdown shows for each group."""


def print_agreement(agreement: Agreement) -> None:
    """Print the comparisons of raters as tables."""
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
    """Build the tables of one comparison: its figures, and the number of pairs by both grades."""
    from rich.table import Table

    title = f"{comparison.judge} compared with {comparison.reference}: {comparison.pairs:,} pairs of "
    table = Table("figure", "value [95%]", "range over queries", title=f"{title}{comparison.queries:,} queries")
    for name, figure in FIGURES.items():
        spread = comparison.spread.get(name)
        between = f"{spread.least:.3f} to {spread.most:.3f}, median {spread.median:.3f}" if spread else ""
        table.add_row(figure.label, str(comparison.figures[name]), between)
    table.add_row("pairs without a grade", str(comparison.failures), "")
    matrix = Table("reference \\ judge", *map(str, range(GRADES)), title="number of pairs by grade")
    for grade, row in enumerate(comparison.confusion):
        matrix.add_row(str(grade), *map(str, row))
    return [table, matrix]


def difference_table(difference: JudgeDifference) -> Any:
    """Build the table of figures of one judge minus those figures of another, both compared with the same person."""
    from rich.table import Table

    names = f"{difference.judge} minus {difference.other}"
    counts = f"{difference.pairs:,} pairs of {difference.queries:,} queries"
    table = Table("figure", "difference [95%]", title=f"{names}, compared with {difference.reference}: {counts}")
    table.caption = "intervals are not corrected for multiple comparisons"
    for name, figure in FIGURES.items():
        table.add_row(figure.label, difference.figures[name].shown("+.3f"))
    return table


def print_biases(found: Biases) -> None:
    """Print the biases and the drift of judges."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    out = Terminal()
    title = "effects on the score between otherwise comparable passages"
    table = Table("judge", "effect", "rise of the score, in standard deviations", "pairs", title=title)
    for one in found.effects:
        table.add_row(one.judge_id, one.unit, str(one.slope), f"{one.pairs:,}")
    out.print(table)
    for row in found.consistency:
        out.print(f"{row.judge_id}: {row.orders} orders agree on a share of {row.same} of {row.pairs:,} pairs")
    for again in found.drift:
        told = f"a share of {again.same} of {again.pairs:,} pairs got the same grade, scores changed by {again.shift}"
        out.print(f"drift of {again.judge}: {told} standard deviations")


def print_parts(parts: Sequence[Part]) -> None:
    """Print the agreement on each group of pairs as a table."""
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
    """Print the figures on held-out queries, of each judge and of the calibration, as tables."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    report = calibration.report
    columns = report["before"]
    title = f"{report['pairs']:,} pairs of {report['queries']} queries, each query scored by a fit to other queries"
    table = Table("figure", *columns, "calibrated", title=title)
    for name, label in LABELS.items():
        shown = [
            str(Estimate(**found[name])) if name in found else "" for found in (*columns.values(), report["after"])
        ]
        table.add_row(label, *shown)
    diagram = Table("predicted", "observed", "pairs", title="calibrated P(grade >= 2) on held-out queries")
    for one in report["after"]["reliability"]:
        diagram.add_row(f"{one['said']:.3f}", f"{one['was']:.3f}", str(one["pairs"]))
    out = Terminal()
    out.print(table)
    out.print(diagram)
    if report["queries"] < ENOUGH_QUERIES:
        out.print(
            f"With {report['queries']} queries the model is fixed; with {ENOUGH_QUERIES} or more it is chosen by "
            "cross-validation."
        )
    if warning := few_queries(report["queries"]):
        out.print(f"{warning}.")
    out.print(in_words(report["estimate"]))
    print_verdict(report)


def print_verdict(report: Mapping[str, Any]) -> None:
    """Print the gain of a calibration over its best judge on held-out queries, and whether to apply it."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    out = Terminal()
    if "gain" not in report:
        out.print("The judges give scores without grades: no raw grades can be compared with the calibrated grades.")
        return
    change = report["gain"]
    name = report["judges"][change["over"]]
    table = Table("figure", "calibrated minus raw [95%]", title=f"gain over {name} on held-out queries")
    for figure in COMPARED:
        table.add_row(LABELS[figure], Estimate(**change[figure]).shown("+.3f"))
    out.print(table)
    out.print(f"Calibrated grades: {report['verdict']} (kappa {Estimate(**change['kappa']).shown('+.3f')})")
    if report["verdict"] == WORSE:
        out.print("calibrate --apply and mix --calibration refuse this calibration unless --apply-anyway is given.")


def print_attacks(found: Mapping[str, Any]) -> None:
    """Print the success of attacks, and the agreement that each defence costs, as tables."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    beside = any(row["others_rise"]["value"] is not None for row in found["attacks"])
    rises = ("score_rise", "others_rise") if beside else ("score_rise",)
    names = ("rise of the attacked score", "rise of the other passages' scores")[: len(rises)]
    table = Table("prompt", "defence", "attack", "successes", "attempts", "rate", *names)
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
    """Print the correlations of system rankings as a table."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    if not rows:
        return
    table = Table("judge", "systems", "Kendall's tau", "tau_ap", "Spearman's rho", title="systems ranked by nDCG@10")
    for row in rows:
        figures = map(str, (row.kendall, row.tau_ap, row.spearman))
        table.add_row(row.judge, f"{row.which} ({row.systems})", *figures)
    Terminal().print(table)
