"""Two choices of `labelkit calibrate`, made by simulation: how label quality is estimated, and when not to apply.

    python benchmarks/calibration_estimates.py [estimates] [verdicts] [--trials 40] [--seed 0]

A world has queries with 30 judged pairs each. Relevance has a part of the query and a part of the pair; people's grades
and the judge's scores are noisy views of it, and the judge has a bias of its own on each query. The real functions of
`labelkit.quality.calibration` fit it, from the labels of some of the queries.

`estimates`: of 100 judged queries some have labels, for a share of their pairs. The truth is the precision and recall,
over all 3,000 pairs, of the pairs that the fit takes as positive. From 20 labelled queries on, the most flexible model
(isotonic, scores within queries) is fitted, which has the most to lose on labels that it has seen. Root mean square
errors of these rules:

- count: counted among the labelled pairs
- cross: prediction-powered inference; all pairs of a labelled query have the probabilities of the fold that the query
  is held out of (the rule of the product)
- mixed: the probabilities of the full fit for all pairs, corrected by the labelled pairs with the probabilities of
  their fold, which also decides whether a labelled pair is taken

`covers`: share of the intervals that hold the truth, and share of the trials without an interval.

`verdicts`: the change of Cohen's kappa on 200 new queries that a calibration brings, and whether a rule on its held-out
gain refuses it. A good rule refuses calibrations that harm, and few others. `change`: mean change under the rule, 0
where it refuses. The rule of the product is "value below 0".
"""

import argparse
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np

from labelkit.quality.agreement_metrics import FIGURES, GRADES, RELEVANT, Floats, GradedPair, Ints, rated
from labelkit.quality.calibration.features import Feature, both_views
from labelkit.quality.calibration.figures import Graded, gain
from labelkit.quality.calibration.fit import (
    ENOUGH_QUERIES,
    FIXED,
    Choice,
    HeldOut,
    JudgedPairs,
    LabelledPairs,
    best_fit,
    choices,
    cross_fitted,
    held_out,
)
from labelkit.quality.calibration.label_quality import label_quality
from labelkit.quality.calibration.models import by_grade, grades_of, predict, relevance
from labelkit.records import PairIds
from labelkit.statistics.intervals import Estimate, estimate, ratio

FLEXIBLE: Choice = ("isotonic", True)
FEATURES = (Feature("judge", "simulated"),)
PAIRS = 30
"""Judged pairs of a query."""
JUDGED, NEW = 100, 200
"""Queries that the estimates are about, and those that a calibration is applied to."""
LABELLED = (100, 20, 10, 5)
"""Labelled queries of `estimates`."""
FITTED = (5, 10, 20)
"""Labelled queries of `verdicts`."""
SHARES = (0.3, 1.0)
HUMAN_CUTS = np.array([0.2, 1.0, 1.7])
QUALITY = {"weak": 1.6, "strong": 0.5}
"""Standard deviation of a judge's noise; that of relevance within a query is 1."""
LENIENT = {"fair": 0.0, "lenient": 0.8, "coarse": 0.0}
"""How far a judge moves its grades up; a coarse judge gives no score besides its grade."""
LINE = 0.5
FIGURE_NAMES = ("precision", "recall")


class World(NamedTuple):
    """Judged pairs with the grades of people and of a judge, and the judge's scores."""

    query: Ints
    human: Ints
    grades: Ints
    scores: Floats
    pairs: list[PairIds]
    views: Floats
    """`[2, n, 1]` scores, absolute and within queries."""

    def part(self, rows: Ints) -> LabelledPairs:
        """Some of the pairs as labelled ones."""
        names, query = np.unique(self.query[rows], return_inverse=True)
        pairs = [self.pairs[row] for row in rows]
        return LabelledPairs(pairs, self.views[:, rows], self.human[rows], query, len(names))


def world(draw: np.random.Generator, queries: int, quality: str, style: str) -> World:
    """Simulate people and a judge on so many queries."""
    query = np.repeat(np.arange(queries), PAIRS)
    relevant = 0.7 * draw.normal(size=queries)[query] + draw.normal(size=len(query))
    human = (relevant + 0.5 * draw.normal(size=len(query)))[:, None] > HUMAN_CUTS
    noise = QUALITY[quality] * draw.normal(size=len(query)) + 0.4 * draw.normal(size=queries)[query]
    # The judge's own scale: its noise does not make it use the ends of the scale more.
    seen = (relevant + noise) / np.sqrt(1 + QUALITY[quality] ** 2 / 1.5) + LENIENT[style]
    grades = (seen[:, None] > HUMAN_CUTS).sum(1)
    scores = grades.astype(float) if style == "coarse" else 3 / (1 + np.exp(1 - 1.5 * seen))
    names = [f"q{number:03}" for number in query]
    pairs = [(name, f"p{row}") for row, name in enumerate(names)]
    return World(query, human.sum(1), grades, scores, pairs, both_views(scores[:, None], names))


def model(labelled: int) -> list[Choice]:
    """The model that `estimates` fits with so many labelled queries."""
    return [FIXED if labelled < ENOUGH_QUERIES else FLEXIBLE]


def counted(found: World, taken: Floats, rows: Ints) -> dict[str, Estimate]:
    """Precision and recall among the labelled pairs, with intervals over their queries."""
    relevant = (found.human[rows] >= RELEVANT).astype(float)
    names, query = np.unique(found.query[rows], return_inverse=True)
    parts = (relevant * taken[rows], taken[rows], relevant)
    hits, positives, relevant_pairs = (np.bincount(query, weights=part) for part in parts)
    return {
        "precision": estimate(lambda draws: ratio(float(draws @ hits), float(draws @ positives)), len(names)),
        "recall": estimate(lambda draws: ratio(float(draws @ hits), float(draws @ relevant_pairs)), len(names)),
    }


def estimates_once(
    draw: np.random.Generator, labelled: int, share: float, quality: str
) -> dict[str, tuple[float, ...]]:
    """One trial: precision and recall by each rule, and the truth; `covered` has 1 where the interval holds it."""
    found = world(draw, JUDGED, quality, "fair")
    some = np.isin(found.query, draw.choice(JUDGED, labelled, replace=False))
    rows = np.flatnonzero(some & (draw.random(len(found.query)) < share))
    fitted = best_fit(found.part(rows), FEATURES, model(labelled))
    held = held_out(found.part(rows), FEATURES, model(labelled))
    said = relevance(predict(fitted, found.views))
    cross = cross_fitted(JudgedPairs(found.pairs, found.views), held, fitted)
    taken, relevant = said >= LINE, found.human >= RELEVANT
    if not taken.any():
        return estimates_once(draw, labelled, share, quality)
    labels = {found.pairs[row]: bool(relevant[row]) for row in rows}
    count = counted(found, taken.astype(float), rows)
    power = label_quality(found.pairs, taken, cross, blind=cross >= LINE, relevant=labels)
    off = relevant[rows] - cross[rows]
    mixed = (said * taken).mean() + (off * (cross[rows] >= LINE)).mean()
    truth = {"precision": float(relevant[taken].mean()), "recall": float(taken[relevant].mean())}
    return {
        "truth": tuple(truth.values()),
        "count": tuple(number(count[name]) for name in truth),
        "cross": tuple(number(power[name]) for name in truth),
        "mixed": (float(np.clip(mixed / taken.mean(), 0, 1)), float(np.clip(mixed / (said.mean() + off.mean()), 0, 1))),
        "count covers": tuple(holds(count[name], value) for name, value in truth.items()),
        "cross covers": tuple(holds(power[name], value) for name, value in truth.items()),
    }


def number(found: Estimate) -> float:
    return np.nan if found.value is None else found.value


def holds(found: Estimate, value: float) -> float:
    """1 where the interval contains a value, 0 where it does not, nan where there is none."""
    return np.nan if found.low is None or found.high is None else float(found.low <= value <= found.high)


def estimates(trials: int, seed: int) -> None:
    """Print root mean square errors of the rules in every setting."""
    rules, covers = ("count", "cross", "mixed"), ("count covers", "cross covers")
    columns = [f"{what} {rule}" for what in FIGURE_NAMES for rule in (*rules, *covers)]
    print("labelled queries | share of their pairs | judge | " + " | ".join(columns), flush=True)
    for labelled, share, quality in product(LABELLED, SHARES, QUALITY):
        source = np.random.default_rng([seed, labelled, round(10 * share), len(quality)])
        runs = [estimates_once(source, labelled, share, quality) for _ in range(trials)]
        values = {rule: np.array([run[rule] for run in runs]) for rule in runs[0]}
        cells = []
        for column in range(len(FIGURE_NAMES)):
            off = [values[rule][:, column] - values["truth"][:, column] for rule in rules]
            cells += [f"{np.sqrt(np.nanmean(one**2)):.3f}" for one in off]
            cells += [share_of(values[rule][:, column]) for rule in covers]
        print(f"{labelled} | {share} | {quality} | " + " | ".join(cells), flush=True)


def share_of(covered: Floats) -> str:
    """The share of the intervals that contain the truth, and that of trials without an interval where there are any."""
    none = np.isnan(covered)
    share = "-" if none.all() else f"{covered[~none].mean():.2f}"
    return share + (f", none {none.mean():.2f}" if none.any() else "")


Rule = Callable[[Estimate], bool]
RULES: dict[str, Rule] = {
    "never": lambda found: False,
    "interval below 0": lambda found: found.high is not None and found.high < 0,
    "value below 0": lambda found: found.value is not None and found.value < 0,
    "interval not above 0": lambda found: found.low is None or found.low <= 0,
}
"""When a calibration is refused, from its held-out gain in kappa."""


def graded(labelled: LabelledPairs, grades: Ints, scores: Floats) -> Graded:
    names = [query_id for query_id, _ in labelled.pairs]
    return Graded(names, labelled.grades, grades, scores, None, np.zeros(len(names)))


def kappa(world: World, grades: Ints) -> float:
    pairs = rated(map(GradedPair, ["q"] * len(grades), world.human.tolist(), grades.tolist(), grades.tolist()))
    return FIGURES["kappa"].of(pairs, np.ones(1, dtype=np.int64))


def verdict_once(draw: np.random.Generator, labelled: int, quality: str, style: str) -> tuple[Estimate, float]:
    """One trial: the held-out gain in kappa, and the change on new queries."""
    seen, new = world(draw, labelled, quality, style), world(draw, NEW, quality, style)
    pairs = seen.part(np.arange(len(seen.query)))
    held: HeldOut = held_out(pairs, FEATURES, choices(labelled))
    calibrated = graded(pairs, held.grades, by_grade(held.above) @ np.arange(GRADES))
    promised = gain(calibrated, graded(pairs, seen.grades, seen.scores), ["kappa"])["kappa"]
    fitted = best_fit(pairs, FEATURES, choices(labelled))
    after = grades_of(fitted, predict(fitted, new.views))
    return promised, kappa(new, after) - kappa(new, new.grades)


def verdicts(trials: int, seed: int) -> None:
    """Print how each rule decides in every setting."""
    print("labelled queries | judge | " + " | ".join(f"{rule}: harm applied, gain refused, change" for rule in RULES))
    for labelled, quality, style in product(FITTED, QUALITY, LENIENT):
        source = np.random.default_rng([seed, labelled, len(quality), len(style)])
        runs = [verdict_once(source, labelled, quality, style) for _ in range(trials)]
        cells = []
        for rule in RULES.values():
            refused = np.array([rule(promised) for promised, _ in runs])
            change = np.array([change for _, change in runs])
            harm, lost = np.mean(~refused & (change < 0)), np.mean(refused & (change > 0))
            cells.append(f"{harm:.2f} {lost:.2f} {np.mean(np.where(refused, 0, change)):+.3f}")
        print(f"{labelled} | {quality}, {style} | " + " | ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["estimates", "verdicts"], help="estimates, verdicts, or both")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tables = {"estimates": estimates, "verdicts": verdicts}
    for part in options.parts:
        tables[part](options.trials, options.seed)


if __name__ == "__main__":
    main()
