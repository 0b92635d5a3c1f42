"""Compares how judges and people rank retrieval systems by nDCG@10: Kendall's tau, tau_ap and Spearman's rho.

The best systems are also reported separately: a judge may distinguish good systems from bad ones, but not the best
systems from each other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labelkit.corpora.qrels import Qrels
from labelkit.corpora.runs import RankedRun, read_run
from labelkit.errors import DataError, MissingPackageError, UsageError
from labelkit.quality.agreement_metrics import Floats, dense
from labelkit.quality.raters import Numbers, Rater
from labelkit.statistics.intervals import RANK_GROUPS, SIGNED, Draws, Estimate, estimate

BEST = 10
LEAST = 3
"""Smallest number of systems for a correlation."""
QUERIES_AT_ONCE = 4_096
"""Number of queries whose grades are in memory at a time."""


class SystemAgreement(NamedTuple):
    """The correlations between two raters' rankings of systems."""

    reference: str
    judge: str
    systems: int
    which: str
    """`all`, or `best 10` (by the reference's grades)."""
    queries: int
    kendall: Estimate
    """Kendall's tau-b."""
    tau_ap: Estimate
    """Kendall's tau with more weight on the systems that the judge ranks first."""
    spearman: Estimate


def compare_systems(reference: Rater, judge: Rater, files: Sequence[Path]) -> list[SystemAgreement]:
    """Compute the correlations over all systems and over the best ten, on the pairs that both raters graded; none
    without run files.

    Raises `UsageError` for fewer than three run files, and `DataError` if they find no relevant passage.
    """
    if not files:
        return []
    if len(files) < LEAST:
        raise UsageError(f"a correlation of systems needs at least {LEAST} --run files; {len(files)} given")
    common = judge.pair[judge.graded & (reference.grades_of(judge.pair) >= 0)]
    runs = {path.name: read_run(path) for path in files}
    if len(runs) < len(files):
        raise UsageError("two --run files have the same name; rename one")
    theirs, judged = (scores(rater, common, runs) for rater in (reference, judge))
    if not theirs.any():
        raise DataError("the run files find no relevant passage of the reference; give runs of the judged queries")
    order = np.argsort(-theirs.mean(1), kind="stable")
    parts = {"all": order} | ({f"best {BEST}": order[:BEST]} if len(order) > BEST else {})
    return [
        SystemAgreement(
            reference.name,
            judge.name,
            len(rows),
            which=which,
            queries=theirs.shape[1],
            **{name: correlate(name, theirs[rows], judged[rows]) for name in CORRELATIONS},
        )
        for which, rows in parts.items()
    ]


def scores(rater: Rater, pair: Numbers, runs: Mapping[str, RankedRun]) -> Floats:
    """Compute `[systems, queries]` nDCG@10 by a rater's grades of some pairs, given by their numbers, with 0 for
    queries missing in a run.
    """
    try:
        import ir_measures
    except ImportError:
        raise MissingPackageError("ir-measures", "report") from None
    query, queries = dense(rater.pairs.query[pair])
    values = np.zeros((len(runs), queries))
    bounds = np.searchsorted(query, np.arange(0, queries + QUERIES_AT_ONCE, QUERIES_AT_ONCE))
    for start, end in pairwise(bounds.tolist()):
        qrels = qrels_of(rater, pair[start:end])
        places = {query_id: place for place, query_id in enumerate(qrels, int(query[start]))}
        for row, run in enumerate(runs.values()):
            found = {query_id: run[query_id] for query_id in qrels if query_id in run}
            for metric in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, found):
                values[row, places[metric.query_id]] = metric.value
    return values


def qrels_of(rater: Rater, pair: Numbers) -> Qrels:
    """Return the grades of a rater on some pairs as qrels."""
    qrels: Qrels = {}
    for (query_id, passage_id), grade in zip(rater.pairs.ids(pair), rater.grades_of(pair).tolist(), strict=True):
        qrels.setdefault(query_id, {})[passage_id] = grade
    return qrels


def kendall(reference: Floats, judged: Floats) -> float:
    """Compute Kendall's tau-b of two scorings of the same systems."""
    from scipy.stats import kendalltau

    return float(kendalltau(reference, judged).statistic)


def spearman(reference: Floats, judged: Floats) -> float:
    """Compute Spearman's rho of two scorings of the same systems."""
    from scipy.stats import spearmanr

    return float(spearmanr(reference, judged).statistic)


def tau_ap(reference: Floats, judged: Floats) -> float:
    """Compute the AP correlation of two scorings of the same systems (Yilmaz, Aslam and Robertson, SIGIR 2008).

    For each system except the judge's first, takes the share of the systems ranked above it that the reference also
    prefers to it. Their mean is scaled to -1 to 1. For systems that the judge ties, the mean over all their orders is
    taken (Urbano and Marrero, ICTIR 2017). A tie of the reference counts half.
    """
    above = judged[None, :] > judged[:, None]  # [system, other]: the judge ranks the other above the system
    agrees = (1 + np.sign(reference[None, :] - reference[:, None])) / 2
    right = (above * agrees).sum(axis=1)
    total = 0.0
    for score in np.unique(judged):
        tied = judged == score
        first = int((judged > score).sum())
        for ahead in range(int(tied.sum())):  # tied systems ranked above; on average half are correct
            if first + ahead:
                total += (right[tied].mean() + ahead / 2) / (first + ahead)
    return 2 * total / (len(judged) - 1) - 1


CORRELATIONS: dict[str, Callable[[Floats, Floats], float]] = {
    "kendall": kendall,
    "tau_ap": tau_ap,
    "spearman": spearman,
}
"""Name of a field in `SystemAgreement` -> correlation of two scorings `[systems]`, the reference's first."""


def correlate(name: str, reference: Floats, judged: Floats) -> Estimate:
    """Estimate a correlation of mean scores, `[systems, queries]` each, with its confidence interval over queries."""

    def of(draws: Draws) -> float:
        left, right = reference @ draws, judged @ draws
        if np.ptp(left) == 0 or np.ptp(right) == 0:
            return math.nan
        return CORRELATIONS[name](left, right)

    return estimate(of, reference.shape[1], SIGNED, groups=RANK_GROUPS)
