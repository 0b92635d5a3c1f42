"""Error rates of each judge, learnt from all judges together (Dawid and Skene, Applied Statistics 28, 1979).

A judge is described by a confusion matrix over the grades 0 to 3: how often it gives each grade for each true grade.
Expectation maximisation fits the matrices to a sample of pairs until no probability changes. Human grades are taken as
true. The probability of a pair depends only on its pattern: which judge gave which grade. There are few patterns, so
the fit runs over patterns with their counts.
"""

import logging
from collections import Counter
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.datasets.labels_in_sql import PATTERN, pair_table, slices
from labelkit.datasets.options import MixRules
from labelkit.datasets.policies import RELEVANT
from labelkit.errors import UsageError
from labelkit.records import MAX_GRADE
from labelkit.storage import tables

log = logging.getLogger(__name__)

GRADES = MAX_GRADE + 1
STILL = 1e-9
"""The fit has converged if no probability of a pattern changes by more than this in one step."""
MOST_STEPS = 100_000
LEAST = 1e-10
"""Smallest probability of an error or a grade, so that unseen grades are unlikely but not impossible."""
PAIRS_TO_FIT = 100_000
"""Largest number of pairs to fit to, drawn by hash from the pairs with several grades. A matrix has 16 cells."""
VOTES = """list_transform(list_filter(said, lambda x: x.grade IS NOT NULL),
    lambda x: {judge_id: x.judge_id, kind: x.kind, grade: x.grade})"""
POSTERIOR_SCHEMA = pa.schema([("pattern", pa.string()), ("posterior", pa.float64())])
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PairVotes = list[dict[str, Any]]
"""The judge_id, kind and grade of each judge of a pair; people first."""
Errors = dict[tuple[str, int], dict[int, float]]
"""(judge, given grade) -> true grade -> probability that the judge gives the grade if that grade is true."""


def learn_posteriors(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Make the table `posteriors`: the probability that a pair is relevant, by the pattern of its judgements.

    Raises `UsageError` if no pair has grades from two judges.
    """
    kinds = "STRUCT(judge_id VARCHAR, kind VARCHAR, grade TINYINT)[]"
    db.execute(f"CREATE TABLE patterns (pattern VARCHAR, votes {kinds})")
    db.execute(f"CREATE TABLE sample (drawn VARCHAR, votes {kinds})")
    for part in slices(db):
        pair_table(db, part, rules)
        db.execute(f"INSERT INTO patterns SELECT DISTINCT {PATTERN}, {VOTES} FROM pairs")
        db.execute(
            f"INSERT INTO sample SELECT md5(query_id || ' ' || passage_id), {VOTES} FROM pairs WHERE len({VOTES}) > 1"
        )
        db.execute(f"CREATE OR REPLACE TABLE sample AS FROM sample ORDER BY ALL LIMIT {PAIRS_TO_FIT}")
    sample = [votes for (votes,) in db.execute("SELECT votes FROM sample ORDER BY ALL").fetchall()]
    if not sample:
        raise UsageError(
            "no pair has grades from two judges, so their error rates cannot be learnt; use policy human-first"
        )
    errors, priors = fit(sample)
    patterns = db.execute("SELECT DISTINCT pattern, votes FROM patterns ORDER BY pattern").fetchall()
    rows = ((pattern, posterior(votes, errors, priors, rules=rules)) for pattern, votes in patterns)
    tables.stage(db, "posteriors", POSTERIOR_SCHEMA, rows=rows)


class Votes(NamedTuple):
    """The different patterns of judgements, with their counts."""

    counts: Floats
    """`[patterns]` number of pairs with each pattern."""
    said: Floats
    """`[patterns, judges * 4]` 1 if the judge gives the grade in the pattern, else 0."""
    known: Ints
    """`[patterns]` grade by a person, -1 if no person graded."""
    judges: list[str]


def fit(sample: list[PairVotes]) -> tuple[Errors, dict[int, float]]:
    """Estimate the errors of the judges and the frequency of each true grade from pairs with several grades.

    Raises `UsageError` if only people graded.
    """
    votes = patterns_of(sample)
    if not votes.judges:
        raise UsageError("only people graded; use policy human-first or weighted")
    errors, priors = converge(votes)
    return (
        {
            (judge, grade): dict(enumerate(errors[place * GRADES + grade].tolist()))
            for place, judge in enumerate(votes.judges)
            for grade in range(GRADES)
        },
        dict(enumerate(priors.tolist())),
    )


def patterns_of(sample: list[PairVotes]) -> Votes:
    """Count the patterns of a sample of pairs, without pairs that only people graded."""
    found: Counter[tuple[int, tuple[tuple[str, int], ...]]] = Counter()
    for votes in sample:
        given = tuple((vote["judge_id"], vote["grade"]) for vote in votes if vote["kind"] != "human")
        if given:
            found[votes[0]["grade"] if votes[0]["kind"] == "human" else -1, given] += 1
    judges = sorted({judge for _, given in found for judge, _ in given})
    place = {judge: number for number, judge in enumerate(judges)}
    said = np.zeros((len(found), len(judges) * GRADES))
    for row, (_, given) in enumerate(found):
        said[row, [place[judge] * GRADES + grade for judge, grade in given]] = 1
    known = np.array([grade for grade, _ in found], dtype=int)
    return Votes(np.array(list(found.values()), dtype=float), said, known, judges=judges)


def converge(votes: Votes) -> tuple[Floats, Floats]:
    """Run expectation maximisation, starting from the shares of the votes, until no probability changes.

    Returns errors `[judges * 4, 4]`, the probability that a judge gives a grade for each true grade, and priors `[4]`.
    """
    shares = votes.said.reshape(len(votes.said), -1, GRADES).sum(1)
    belief = settle(shares / shares.sum(1, keepdims=True), votes)
    for _ in range(MOST_STEPS):
        errors, priors = maximise(belief, votes)
        likelihood = votes.said @ np.log(errors) + np.log(priors)
        likelihood = np.exp(likelihood - likelihood.max(1, keepdims=True))
        before, belief = belief, settle(likelihood / likelihood.sum(1, keepdims=True), votes)
        if np.abs(belief - before).max() <= STILL:
            break
    else:
        log.warning(f"Dawid-Skene has not converged after {MOST_STEPS:,} steps; its probabilities may be inaccurate")
    return maximise(belief, votes)


def settle(belief: Floats, votes: Votes) -> Floats:
    """Replace the estimated probabilities, `[patterns, 4]`, by human grades where there are any."""
    return np.where(votes.known[:, None] >= 0, np.eye(GRADES)[votes.known], belief)


def maximise(belief: Floats, votes: Votes) -> tuple[Floats, Floats]:
    """Compute errors `[judges * 4, 4]` and priors `[4]` from the probabilities of each pattern's true grade."""
    weighted = belief * votes.counts[:, None]
    mass = (votes.said.T @ weighted).reshape(-1, GRADES, GRADES)  # [judges, given, true]
    total = mass.sum(1, keepdims=True)
    shares = np.divide(mass, total, out=np.full_like(mass, 1 / GRADES), where=total > 0)
    errors = np.maximum(shares, LEAST).reshape(-1, GRADES)
    # A true grade that no pair has must be less likely than a grade that a judge never gave.
    priors = np.maximum(weighted.sum(0) / votes.counts.sum(), LEAST**3)
    return errors, priors


def posterior(votes: PairVotes, errors: Errors, priors: dict[int, float], rules: MixRules) -> float | None:
    """Compute the probability that a pair is relevant: 1 or 0 if a person graded it, None if nobody did.

    Applies Bayes' rule over the true grades, with independent errors of the judges. A judge that shares no graded pair
    with another judge is not used.
    """
    if not votes:
        return None
    if votes[0]["kind"] == "human":
        return float(votes[0]["grade"] >= rules.positive_grade)
    said = [errors[key] for vote in votes if (key := (vote["judge_id"], vote["grade"])) in errors]
    joint = {grade: prior * prod(error[grade] for error in said) for grade, prior in priors.items()}
    return sum(mass for grade, mass in joint.items() if grade >= RELEVANT) / sum(joint.values())
