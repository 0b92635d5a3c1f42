"""Prepares the sections of the report for the template."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from markupsafe import Markup

from labelkit.errors import DataError
from labelkit.quality.agreement import Agreement, Comparison
from labelkit.quality.agreement_metrics import FIGURES, GRADES
from labelkit.quality.bias import Biases
from labelkit.quality.by_hand import ENOUGH, FOLDER, review_command
from labelkit.quality.calibration.figures import LABELS
from labelkit.quality.calibration.label_quality import in_words
from labelkit.quality.calibration.models import read_calibration
from labelkit.quality.disagreements import short
from labelkit.quality.raters import Rater
from labelkit.statistics.charts import COLOURS, NAMES, Interval, bars, curve, grid, intervals
from labelkit.statistics.intervals import Estimate, few_queries
from labelkit.storage import folders
from labelkit.storage.manifest import DatasetFacts

SHOWN = ("kappa", "kappa_1", "kappa_2", "kappa_3", "kappa_quadratic", "alpha_ordinal", "auc", "precision", "recall")
"""Figures of the agreement chart; all are between -1 and 1."""
SCORE_BINS = 12
SCALE = list(map(str, range(GRADES)))


def histograms(rater: Rater) -> list[dict[str, Any]]:
    """Draw histograms of a rater's grades, and of its scores if there are any."""
    name = Path(rater.name).name
    counts = np.bincount(rater.grade[rater.graded], minlength=GRADES).tolist()
    caption = f"{name}{method_of(rater)}: number of pairs by grade"
    charts = [{"svg": bars(SCALE, counts, "grade", title=caption), "caption": caption}] if sum(counts) else []
    scores = rater.score[rater.answered & ~np.isnan(rater.score)]
    if len(np.unique(scores)) > GRADES:
        least = float(scores.min())
        step = (float(scores.max()) - least) / SCORE_BINS
        places = np.minimum(SCORE_BINS - 1, ((scores - least) / step).astype(np.int64))
        labels = [f"{least + step * place:.1f}" if place % 3 == 0 else "" for place in range(SCORE_BINS)]
        caption = f"{name}{method_of(rater)}: number of pairs by score"
        counts = np.bincount(places, minlength=SCORE_BINS).tolist()
        charts.append({"svg": bars(labels, counts, "score", title=caption), "caption": caption})
    return charts


def method_of(rater: Rater) -> str:
    """Return the method of a judge, which distinguishes judges with the same model."""
    return "" if rater.kind == "human" else f", {rater.rater_id.partition('-')[0]}"


def dataset_section(folder: Path, facts: DatasetFacts) -> dict[str, Any]:
    """Prepare the counts of the manifest, and charts of positives per query by source."""
    sources = folders.read_table(folder, "train", columns=["positive_sources"]).column(0).combine_chunks()
    query, named = pc.list_parent_indices(sources).to_numpy(), sources.flatten().to_numpy(zero_copy_only=False)
    charts = []
    for source in sorted(set(named)):
        numbers = np.bincount(query[named == source], minlength=len(sources))
        most = int(numbers.max())
        top = min(most, 9)
        labels = [f"{number}+" if number == top and most > top else str(number) for number in range(top + 1)]
        counts = np.bincount(np.minimum(numbers, top), minlength=top + 1).tolist()
        caption = f"Number of queries by positives from source {source}; mean {int(numbers.sum()) / len(numbers):.2f}"
        charts.append({"svg": bars(labels, counts, "positives per query", title=caption), "caption": caption})
    numbers_of = {name: value for name, value in facts.as_json().items() if type(value) in (int, float)}
    shown = [(name.replace("_", " "), f"{value:,}") for name, value in numbers_of.items()]
    return {"counts": shown, "charts": charts}


def agreement_section(agreement: Agreement, people: str) -> list[dict[str, Any]]:
    """Prepare the comparison of every judge with the first person."""
    return [
        {
            "title": f"{short(one.judge_id, one.judge)} compared with {one.reference}: {one.pairs:,} pairs, "
            f"{one.queries:,} queries",
            "svg": intervals(
                [Interval(FIGURES[name].label, *one.figures[name]) for name in SHOWN],
                -0.5,
                1,
                title=f"Agreement of {one.judge}",
            ),
            "confusion": grid(SCALE, SCALE, one.confusion, title="Number of pairs by grade", form="count"),
            "reference": one.reference,
            "judge": short(one.judge_id, one.judge),
            "advice": told(one),
        }
        for one in agreement.comparisons
        if one.reference == people and one.judge_kind != "human" and one.pairs
    ]


def verdict(agreement: Agreement | None, people: str | None, folders: Sequence[Path]) -> str:
    """Say in two sentences how far the labels can be trusted and what to do next.

    The words for kappa follow Landis and Koch (1977), applied to the lower end of the confidence interval.
    """
    compared = agreement.comparisons if agreement else []
    known = [
        one
        for one in compared
        if one.reference == people and one.judge_kind != "human" and one.figures["kappa_2"].value is not None
    ]
    if not known:
        return (
            "No grade in this report was compared with a person's grade on relevance, so nothing is known about the "
            f"errors of the labels. Grade {ENOUGH} of the pairs by hand ({review_command(folders)}), then run this "
            f"report with --human {FOLDER}."
        )
    best = max(known, key=lambda one: one.figures["kappa_2"].value or 0.0)
    kappa = best.figures["kappa_2"]
    low = -1.0 if kappa.low is None else kappa.low
    words, todo = next((words, todo) for least, words, todo in TRUST if low >= least)
    return (
        f"{short(best.judge_id, best.judge)} agrees best with {best.reference} on which passages are relevant (Cohen's "
        f"kappa, grade >= 2: {kappa}, {best.pairs:,} pairs): {words}. {todo}"
    )


TRUST = (
    (
        0.6,
        "the agreement is substantial",
        "Calibrate the judge (labelkit calibrate) and mix its labels (labelkit mix).",
    ),
    (
        0.2,
        "the agreement is fair to moderate",
        "Calibrate the judge (labelkit calibrate), raise mix --llm-positive to the precision that you need, and keep "
        "people's grades for the evaluation.",
    ),
    (
        -1.0,
        "the agreement may be slight or no better than chance",
        "Grade more pairs by hand to narrow the interval, or try another judge, method or prompt (labelkit tune), "
        "before you train on these labels.",
    ),
)
"""Lowest lower end of the interval of kappa -> words, and the next step."""


def told(one: Comparison) -> str:
    """Describe the figures of a comparison that the chart does not show."""
    figures = one.figures
    return (
        f"Judge minus reference: {figures['bias']} grades on average; mean absolute error {figures['mae']} grades; "
        f"{figures['selected']} pairs with grade >= 2 per query; {one.failures:,} pairs without a grade. "
        f"{f'{one.advice}.' if one.advice else ''}"
    )


def alpha_line(agreement: Agreement) -> str | None:
    """Describe the agreement of all raters together; None for fewer than three."""
    if agreement.raters < 3:
        return None
    who = f"all {agreement.raters} raters on {agreement.units:,} pairs"
    return f"Krippendorff's ordinal alpha of {who}: {agreement.alpha}."


def query_warning(agreement: Agreement | None) -> str | None:
    """Warn if the comparison with the fewest queries has too few of them."""
    least = min((one.queries for one in agreement.comparisons if one.pairs), default=0) if agreement else 0
    return few_queries(least)


def calibration_section(path: Path) -> dict[str, Any]:
    """Prepare the figures of judges and calibration on held-out queries."""
    calibration = read_calibration(path)
    found = calibration.report
    if not found:
        raise DataError(f"{path} has no report; make it again with labelkit calibrate")
    named = {short(judge_id, found["judges"][judge_id]): part for judge_id, part in found["before"].items()}
    parts = {**named, "calibrated": found["after"]}
    series: dict[str, list[tuple[float, float]]] = {
        name: [(one["said"], one["was"]) for one in part["reliability"]]
        for name, part in parts.items()
        if "reliability" in part
    }
    said = found["estimate"]
    judges = found["judges"]
    features = [one.kind if one.kind != "judge" else short(one.name, judges[one.name]) for one in calibration.features]
    return {
        "summary": f"Model {calibration.model}, fitted to {found['pairs']:,} pairs of {found['queries']} queries. "
        f"Features: {', '.join(features)}.{verdict_of(found)}",
        "series": list(series),
        "svg": curve(series, "predicted", "observed", title="Reliability diagram", diagonal=True),
        "columns": list(parts),
        "rows": [
            (label, [str(Estimate(**part[name])) if name in part else "" for part in parts.values()])
            for name, label in LABELS.items()
            if name in found["after"]
        ],
        "estimate": f"{in_words(said)}.",
        "command": found["command"],
    }


def verdict_of(report: Mapping[str, Any]) -> str:
    """Describe the gain of calibrated over raw grades on held-out queries; empty for reports of older versions."""
    if "verdict" not in report:
        return ""
    kappa = Estimate(**report["gain"]["kappa"])
    return f" Calibrated grades on held-out queries: {report['verdict']} (kappa, calibrated minus raw: {kappa})."


def bias_section(found: Biases, graded: bool) -> dict[str, Any]:
    """Prepare the effects with their curves, and the consistency of orders."""
    between = "passages of one query with the same human grade" if graded else "passages of one query"
    rows = [Interval(f"{short(one.judge_id, one.judge)}, {one.name}", *one.slope) for one in found.effects]
    reach = max([0.1, *(abs(value) for row in rows for value in row[1:] if value is not None)])
    charts = []
    for name in dict.fromkeys(one.name for one in found.effects):
        mine = [one for one in found.effects if one.name == name]
        lines = {short(one.judge_id, one.judge): [(at["property"], at["score"]) for at in one.curve] for one in mine}
        key = "; ".join(f"{NAMES[n % COLOURS]}: {judge}" for n, judge in enumerate(lines))
        charts.append(
            {
                "svg": curve(lines, name, "relative score", title=f"Score by {name}", diagonal=False),
                "caption": f"Score relative to comparable passages. Axis: {AXES[name]}, by fifths of the pairs. {key}",
            }
        )
    for one in found.consistency:
        line = {one.judge: [(at["place"], at["relevant"]) for at in one.by_place]}
        svg = curve(line, "place in the list (0: first)", "share relevant", title="Relevant by place", diagonal=True)
        caption = f"{short(one.judge_id, one.judge)}: share of relevant judgments by place in the list"
        charts.append({"svg": svg, "caption": caption})
    return {
        "summary": f"Rise of the judge's score, in standard deviations of its scores, between {between}: for twice "
        "as many words (length), for 10% more of the query's words (overlap), from the first to the last place "
        "(position), and for a passage written by the judge (own). An unbiased judge has 0.",
        "svg": intervals(rows, -round(reach + 0.05, 1), round(reach + 0.05, 1), title="Biases") if rows else "",
        "charts": charts,
        "lines": [
            f"{short(one.judge_id, one.judge)}: {one.orders} orders agree on a share of {one.same} of {one.pairs:,} "
            "pairs."
            for one in found.consistency
        ],
    }


AXES = {
    "length": "number of words (logarithm to base 2)",
    "overlap": "share of the query's words in the passage, in tenths",
    "own": "passage by another author (0) or by the judge (1)",
    "position": "place in the list from first (0) to last (1)",
}


def attack_section(path: Path) -> dict[str, Any]:
    """Prepare the success of attacks by class, prompt and defence, and the agreement that defences cost."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        prompts = list(dict.fromkeys(row["prompt"] for row in found["attacks"]))
        rates = {(row["prompt"], row["attack"], row["defence"]): row["rate"]["value"] for row in found["attacks"]}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is not a file of labelkit redteam; give its attacks.json") from None
    least, most = (pick(row["attempts"] for row in found["attacks"]) for pick in (min, max))
    return {
        "summary": f"{Path(found['model']).name}, engine {found['engine']}. Success rate: share of passages with human "
        f"grade 0 and judge's grade 0 or 1 that the judge graded 2 or 3 when attacked; {least} to {most} attempts per "
        "cell.",
        "charts": [{"caption": f"Prompt {prompt}", "svg": attack_grid(prompt, rates)} for prompt in prompts],
        "clean": [
            [row["prompt"], row["defence"], f"{row['pairs']:,}"]
            + [str(Estimate(**row[name])) for name in ("kappa", "auc", "kappa_lost")]
            for row in found["clean"]
        ],
        "command": found["command"],
    }


def attack_grid(prompt: str, rates: Mapping[tuple[str, str, str], float | None]) -> Markup:
    """Draw the attack success under one prompt, with a row per attack class and a column per defence."""
    names, defences = (list(dict.fromkeys(key[part] for key in rates if key[0] == prompt)) for part in (1, 2))
    cells = [[rates.get((prompt, name, defence)) for defence in defences] for name in names]
    heads = [defence.replace("+", "+\n") for defence in defences]
    return grid(names, heads, cells, title=f"Attack success, {prompt}", form="share")
