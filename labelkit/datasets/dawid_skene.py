"""How far each judge is right, learnt from all judges together (Dawid and Skene, Applied Statistics 28, 1979).

A judge is a confusion matrix over the grades 0 to 3: how often it says each where each is true. Expectation
maximisation fits the matrices on a sample of pairs, until no probability moves; where people graded, their grade is
taken for the truth. The probability of a pair depends on nothing but who said what, its pattern, and there are few
patterns: the fit runs over patterns with their counts.
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
"""Converged: no probability of a pattern moves by more in one step."""
MOST_STEPS = 100_000
LEAST = 1e-10
"""Least probability of an error or a grade, so that what was never seen is unlikely and not impossible."""
PAIRS_TO_FIT = 100_000
"""Drawn by hash, of those that several judges graded; a confusion matrix has 16 cells."""
VOTES = """list_transform(list_filter(said, lambda x: x.grade IS NOT NULL),
    lambda x: {judge_id: x.judge_id, kind: x.kind, grade: x.grade})"""
POSTERIOR_SCHEMA = pa.schema([("pattern", pa.string()), ("posterior", pa.float64())])
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PairVotes = list[dict[str, Any]]
"""judge_id, kind and grade of each judge of a pair; people first."""
Errors = dict[tuple[str, int], dict[int, float]]
"""Judge and grade given -> true grade -> how often the judge gives it then."""


def learn_posteriors(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Table `posteriors`: the probability that a pair is relevant, by the pattern of its judgements.

    Raises `UsageError` where no pair has grades of two judges.
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
            "no pair has grades of two judges, so nothing can be learnt about them; use policy human-first"
        )
    errors, priors = fit(sample)
    patterns = db.execute("SELECT DISTINCT pattern, votes FROM patterns ORDER BY pattern").fetchall()
    rows = ((pattern, posterior(votes, errors, priors, rules)) for pattern, votes in patterns)
    tables.stage(db, "posteriors", POSTERIOR_SCHEMA, rows)


class Votes(NamedTuple):
    """Different patterns of judgements and how often each was given."""

    counts: Floats
    """`[patterns]`"""
    said: Floats
    """`[patterns, judges * 4]` 1 where the pattern has that judge give that grade."""
    known: Ints
    """`[patterns]` grade by a person, -1 where nobody graded."""
    judges: list[str]


def fit(sample: list[PairVotes]) -> tuple[Errors, dict[int, float]]:
    """Learn the errors of the judges, and how frequent each true grade is, from pairs that several judges graded.

    Raises `UsageError` where no judge but people graded.
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
    """Count the different patterns of a sample; pairs that only people graded are left out."""
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
    return Votes(np.array(list(found.values()), dtype=float), said, known, judges)


def converge(votes: Votes) -> tuple[Floats, Floats]:
    """Run expectation maximisation from the shares of the votes until no probability moves.

    Returns errors `[judges * 4, 4]`, the probability that a judge gives a grade by the true grade, and priors `[4]`.
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
        log.warning(f"Dawid-Skene had not converged after {MOST_STEPS:,} steps; its probabilities may still move")
    return maximise(belief, votes)


def settle(belief: Floats, votes: Votes) -> Floats:
    """Put the grades of people in place of what is believed, `[patterns, 4]`."""
    return np.where(votes.known[:, None] >= 0, np.eye(GRADES)[votes.known], belief)


def maximise(belief: Floats, votes: Votes) -> tuple[Floats, Floats]:
    """Compute errors `[judges * 4, 4]` and priors `[4]` from what is believed of each pattern."""
    weighted = belief * votes.counts[:, None]
    mass = (votes.said.T @ weighted).reshape(-1, GRADES, GRADES)  # [judges, given, true]
    total = mass.sum(1, keepdims=True)
    shares = np.divide(mass, total, out=np.full_like(mass, 1 / GRADES), where=total > 0)
    errors = np.maximum(shares, LEAST).reshape(-1, GRADES)
    # A grade that no pair has stays less likely than a grade that a judge never gave.
    priors = np.maximum(weighted.sum(0) / votes.counts.sum(), LEAST**3)
    return errors, priors


def posterior(votes: PairVotes, errors: Errors, priors: dict[int, float], rules: MixRules) -> float | None:
    """The probability that a pair is relevant: 1 or 0 where a person graded it, None where nobody did.

    Bayes' rule over the true grades, the judges' errors being independent. A judge that graded no pair together with
    another tells nothing.
    """
    if not votes:
        return None
    if votes[0]["kind"] == "human":
        return float(votes[0]["grade"] >= rules.positive_grade)
    said = [errors[key] for vote in votes if (key := (vote["judge_id"], vote["grade"])) in errors]
    joint = {grade: prior * prod(error[grade] for error in said) for grade, prior in priors.items()}
    return sum(mass for grade, mass in joint.items() if grade >= RELEVANT) / sum(joint.values())
