"""Chooses thresholds between grades, on the scale of expected grades, for the greatest agreement with people."""

from itertools import combinations

import numpy as np

from labelkit.quality.agreement_metrics import GRADES, Floats, Ints

CUTS = range(1, GRADES)
"""The grades 1, 2 and 3. For each there is a probability of at least this grade, and a threshold below it."""
PLACES = 40
"""Number of candidates for a threshold, at quantiles of the expected grades."""
SEPARATION = 0.01
"""Smallest distance of two thresholds, in grades."""
LEAST_SHARE = 0.25
"""A grade is given often enough if its number is at least this share of its number among human grades."""
MIDDLES = (0.5, 1.5, 2.5)
"""Thresholds that round expected grades."""


def choose_thresholds(expected: Floats, grades: Ints) -> tuple[float, ...]:
    """Choose three increasing thresholds of `[n]` expected grades, so that the grades agree best with human grades,
    `[n]`.

    All triples of candidates are compared by these criteria in order: how many of the grades that people used are given
    at all, how many are given often enough (`LEAST_SHARE`), Cohen's kappa, and the smallest distance of two thresholds.
    No two thresholds are closer than `SEPARATION`. If there are fewer distinct scores than human grades, some grades
    are never given.
    """
    places = candidate_places(expected)
    triples = np.array(list(combinations(range(len(places)), len(CUTS))))  # [T, 3]
    gaps = np.diff(places[triples], axis=1).min(1)
    # The distance of two floats may be too small by a rounding error.
    apart = gaps >= SEPARATION - 1e-9
    triples, gaps = triples[apart], gaps[apart]
    confusion = confusions(expected, grades, places)[:, triples]  # [4, T, 3]: human grade, triple, pairs above
    edges = np.concatenate(
        [np.bincount(grades, minlength=GRADES)[:, None, None] + 0 * confusion[:, :, :1], confusion], 2
    )
    cells = -np.diff(edges, axis=2, append=0)  # [4, T, 4] pairs by human grade, triple and given grade
    used, given = cells.sum(2).T, cells.sum(0)  # [T, 4] pairs by human grade, and by given grade
    present = ((used > 0) & (given > 0)).sum(1)
    often = ((used > 0) & (given >= LEAST_SHARE * used)).sum(1)
    best = np.lexsort((gaps, np.round(kappas(cells), 9), often, present))[-1]
    return tuple(float(place) for place in places[triples[best]])


def candidate_places(expected: Floats) -> Floats:
    """List candidate thresholds: at most `PLACES` midpoints between neighbouring expected grades, and `MIDDLES`."""
    values = np.unique(expected)
    if len(values) > PLACES + 1:
        rows = np.unique(np.searchsorted(values, np.quantile(expected, np.linspace(0, 1, PLACES + 2)[1:-1])))
        rows = rows[rows < len(values) - 1]
    else:
        rows = np.arange(len(values) - 1)
    places = (values[rows] + values[rows + 1]) / 2
    if len(values) < GRADES:
        # With fewer values than grades, close thresholds allow a value to skip a grade.
        places = np.concatenate([places - SEPARATION, places, places + SEPARATION])
    return np.unique(np.concatenate([places, MIDDLES]))


def confusions(expected: Floats, grades: Ints, places: Floats) -> Floats:
    """Count `[4, P]` pairs of each human grade whose expected grade is above each candidate threshold."""
    above = (expected[None, :] > places[:, None]).astype(float)  # [P, n]
    return np.stack([above[:, grades == grade].sum(1) for grade in range(GRADES)])


def kappas(cells: Floats) -> Floats:
    """Compute `[T]` Cohen's kappa of `[4, T, 4]` counts; -1 if it is undefined."""
    total = cells.sum((0, 2))
    agreed = np.einsum("gtg->t", cells) / total
    expected = (cells.sum(2) * cells.sum(0).T).sum(0) / total**2
    found: Floats = np.where(expected < 1, (agreed - expected) / np.where(expected < 1, 1 - expected, 1.0), -1.0)
    return found


def graded(expected: Floats, thresholds: tuple[float, ...]) -> Ints:
    """Compute `[n]` grades: the number of thresholds below each expected grade."""
    grades: Ints = (expected[:, None] > np.array(thresholds)).sum(1)
    return grades
