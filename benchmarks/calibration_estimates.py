"""Simulate two choices of `labelkit calibrate`: how label quality is estimated, and when a calibration is refused.

    python benchmarks/calibration_estimates.py [estimates] [verdicts] [--trials 40] [--seed 0]

A world has queries with 30 judged pairs each. The relevance of a pair is the sum of an effect of the query and an
effect of the pair. Human grades and the judge's scores are noisy measurements of it, and the judge has a bias on each
query. The functions of `labelkit.quality.calibration` fit a calibration to the labels of some of the queries.

`estimates`: some of 100 judged queries are labelled, for a share of their pairs. The true values are precision and
recall, over all 3,000 pairs, of the pairs that the fit calls positive. With 20 or more labelled queries, the most
flexible model (isotonic, scores within queries) is fitted, which overfits most. Prints root mean square errors of these
rules:

- count: count among the labelled pairs
- cross: prediction-powered inference, the rule of the product; pairs of a labelled query have the probabilities of a
  fit without that query
- mixed: probabilities of the full fit for all pairs, corrected by the labelled pairs; the correction uses probabilities
  and decisions of fits without the query

`covers`: share of the intervals that contain the true value, and share of the trials without an interval.

`verdicts`: the change of Cohen's kappa on 200 new queries by a calibration, and whether a rule on its held-out gain
refuses the calibration. A good rule refuses the calibrations that lower kappa and few others. `change`: mean change
under the rule, 0 for refused calibrations. The rule of the product is "value below 0".
"""

import argparse
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np

from labelkit.quality.agreement_metrics import FIGURES, GRADES, RELEVANT, Floats, Ints, rated_columns
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
from labelkit.quality.calibration.label_quality import Judged, label_quality
from labelkit.quality.calibration.models import by_grade, grades_of, predict, relevance
from labelkit.statistics.intervals import Estimate, estimate, ratio

FLEXIBLE: Choice = ("isotonic", True)
FEATURES = (Feature("judge", "simulated"),)
PAIRS = 30
"""Judged pairs per query."""
JUDGED, NEW = 100, 200
"""Number of queries of `estimates`, and of new queries of `verdicts`."""
LABELLED = (100, 20, 10, 5)
"""Numbers of labelled queries in `estimates`."""
FITTED = (5, 10, 20)
"""Numbers of labelled queries in `verdicts`."""
SHARES = (0.3, 1.0)
HUMAN_CUTS = np.array([0.2, 1.0, 1.7])
QUALITY = {"weak": 1.6, "strong": 0.5}
"""Standard deviation of a judge's noise; relevance within a query has standard deviation 1."""
LENIENT = {"fair": 0.0, "lenient": 0.8, "coarse": 0.0}
"""Shift of a judge's grades upward; a coarse judge gives no score besides its grade."""
LINE = 0.5
FIGURE_NAMES = ("precision", "recall")


class World(NamedTuple):
    """Judged pairs with the grades of people and of a judge, and the judge's scores."""

    query: Ints
    human: Ints
    grades: Ints
    scores: Floats
    views: Floats
    """`[2, n, 1]` scores, absolute and within queries."""

    @property
    def pair(self) -> Ints:
        """Number of each pair."""
        return np.arange(len(self.query))

    def part(self, rows: Ints) -> LabelledPairs:
        """Select some of the pairs as labelled pairs."""
        return LabelledPairs(self.pair[rows], self.views[:, rows], self.human[rows], self.query[rows])


def world(draw: np.random.Generator, queries: int, quality: str, style: str) -> World:
    """Simulate people and a judge on a number of queries."""
    query = np.repeat(np.arange(queries), PAIRS)
    relevant = 0.7 * draw.normal(size=queries)[query] + draw.normal(size=len(query))
    human = (relevant + 0.5 * draw.normal(size=len(query)))[:, None] > HUMAN_CUTS
    noise = QUALITY[quality] * draw.normal(size=len(query)) + 0.4 * draw.normal(size=queries)[query]
    # The scale of the judge is normalised, so that noise does not lead to more extreme grades.
    seen = (relevant + noise) / np.sqrt(1 + QUALITY[quality] ** 2 / 1.5) + LENIENT[style]
    grades = (seen[:, None] > HUMAN_CUTS).sum(1)
    scores = grades.astype(float) if style == "coarse" else 3 / (1 + np.exp(1 - 1.5 * seen))
    return World(query, human.sum(1), grades, scores, both_views(scores[:, None], query))


def model(labelled: int) -> list[Choice]:
    """Choose the model that `estimates` fits to a number of labelled queries."""
    return [FIXED if labelled < ENOUGH_QUERIES else FLEXIBLE]


def counted(found: World, taken: Floats, rows: Ints) -> dict[str, Estimate]:
    """Estimate precision and recall by counting among the labelled pairs, with intervals over their queries."""
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
    """Run one trial: true precision and recall, estimates by each rule, and whether intervals contain the truth."""
    found = world(draw, JUDGED, quality, "fair")
    some = np.isin(found.query, draw.choice(JUDGED, labelled, replace=False))
    rows = np.flatnonzero(some & (draw.random(len(found.query)) < share))
    fitted = best_fit(found.part(rows), FEATURES, model(labelled))
    held = held_out(found.part(rows), FEATURES, model(labelled))
    said = relevance(predict(fitted, found.views))
    cross = cross_fitted(JudgedPairs(found.pair, found.query, found.views), held, fitted)
    taken, relevant = said >= LINE, found.human >= RELEVANT
    if not taken.any():
        return estimates_once(draw, labelled, share, quality)
    labels = np.full(len(relevant), np.nan)
    labels[rows] = relevant[rows]
    count = counted(found, taken.astype(float), rows)
    every = np.ones(len(relevant))
    power = label_quality(Judged(found.query, taken, cross, blind=cross >= LINE, relevant=labels, weight=every))
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
    """Return 1 if an interval contains a value, 0 if it does not, and nan for no interval."""
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
    """Format the share of intervals that contain the truth, and the share of trials without an interval, if any."""
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
"""Rule -> function from the held-out gain in kappa to whether a calibration is refused."""


def graded(labelled: LabelledPairs, grades: Ints, scores: Floats) -> Graded:
    return Graded(labelled.query, labelled.grades, grades, scores, None, np.zeros(len(grades)))


def kappa(world: World, grades: Ints) -> float:
    pairs = rated_columns(np.zeros(len(grades), dtype=np.int64), world.human, grades, grades.astype(float))
    return float(FIGURES["kappa"].of(pairs.count(np.ones(1, dtype=np.int64))))


def verdict_once(draw: np.random.Generator, labelled: int, quality: str, style: str) -> tuple[Estimate, float]:
    """Run one trial: the held-out gain in kappa, and the change of kappa on new queries."""
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
