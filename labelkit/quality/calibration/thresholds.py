"""Thresholds between grades on the scale of expected grades, chosen for the greatest agreement with people."""

from itertools import combinations

import numpy as np

from labelkit.quality.agreement_metrics import GRADES, Floats, Ints

CUTS = range(1, GRADES)
"""A probability is that of a grade at or above each of these; a threshold lies below each of them."""
PLACES = 40
"""Places that are tried for a threshold, at quantiles of the expected grades."""
SEPARATION = 0.01
"""Least distance of two thresholds, in grades."""
LEAST_SHARE = 0.25
"""A grade that people used is given often enough from this share of their number on."""
MIDDLES = (0.5, 1.5, 2.5)
"""Thresholds of an expected grade that is rounded."""


def choose_thresholds(expected: Floats, grades: Ints) -> tuple[float, ...]:
    """Three rising thresholds for `[n]` expected grades, so that the grades agree best with people's, `[n]`.

    All triples of places are compared: first by how many of the grades that people used are given at all, then by how
    many are given often enough (`LEAST_SHARE`), then by Cohen's kappa, then by the least distance of two thresholds.
    Two thresholds are never closer than `SEPARATION`. Scores with fewer values than people have grades leave some
    grades out.
    """
    places = candidate_places(expected)
    triples = np.array(list(combinations(range(len(places)), len(CUTS))))  # [T, 3]
    gaps = np.diff(places[triples], axis=1).min(1)
    # Sums of nearby floats may fall short of the distance by a rounding error.
    apart = gaps >= SEPARATION - 1e-9
    triples, gaps = triples[apart], gaps[apart]
    confusion = confusions(expected, grades, places)[:, triples]  # [4, T, 3] pairs of a human grade above each place
    edges = np.concatenate(
        [np.bincount(grades, minlength=GRADES)[:, None, None] + 0 * confusion[:, :, :1], confusion], 2
    )
    cells = -np.diff(edges, axis=2, append=0)  # [4, T, 4] human grade, triple, grade given
    used, given = cells.sum(2).T, cells.sum(0)  # [T, 4] pairs of each human grade, and of each grade given
    present = ((used > 0) & (given > 0)).sum(1)
    often = ((used > 0) & (given >= LEAST_SHARE * used)).sum(1)
    best = np.lexsort((gaps, np.round(kappas(cells), 9), often, present))[-1]
    return tuple(float(place) for place in places[triples[best]])


def candidate_places(expected: Floats) -> Floats:
    """Midpoints between neighbouring expected grades, at most `PLACES` of them, and `MIDDLES`."""
    values = np.unique(expected)
    if len(values) > PLACES + 1:
        rows = np.unique(np.searchsorted(values, np.quantile(expected, np.linspace(0, 1, PLACES + 2)[1:-1])))
        rows = rows[rows < len(values) - 1]
    else:
        rows = np.arange(len(values) - 1)
    places = (values[rows] + values[rows + 1]) / 2
    if len(values) < GRADES:
        # Too few values for all grades: thresholds side by side let a value skip a grade.
        places = np.concatenate([places - SEPARATION, places, places + SEPARATION])
    return np.unique(np.concatenate([places, MIDDLES]))


def confusions(expected: Floats, grades: Ints, places: Floats) -> Floats:
    """`[4, P]` pairs of each human grade whose expected grade is above each place."""
    above = (expected[None, :] > places[:, None]).astype(float)  # [P, n]
    return np.stack([above[:, grades == grade].sum(1) for grade in range(GRADES)])


def kappas(cells: Floats) -> Floats:
    """`[T]` Cohen's kappa of `[4, T, 4]` counts; -1 where it is undefined."""
    total = cells.sum((0, 2))
    agreed = np.einsum("gtg->t", cells) / total
    expected = (cells.sum(2) * cells.sum(0).T).sum(0) / total**2
    found: Floats = np.where(expected < 1, (agreed - expected) / np.where(expected < 1, 1 - expected, 1.0), -1.0)
    return found


def graded(expected: Floats, thresholds: tuple[float, ...]) -> Ints:
    """`[n]` grades: how many thresholds each expected grade is above."""
    grades: Ints = (expected[:, None] > np.array(thresholds)).sum(1)
    return grades
