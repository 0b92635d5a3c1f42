"""How far each judge is right, learnt from all judges together (Dawid and Skene, Applied Statistics 28, 1979).

A judge is a confusion matrix over the grades 0 to 3: how often it says each where each is true. crowd-kit fits the
matrices by expectation maximisation on a sample of pairs; where people graded, their grade is taken for the truth.
The probability of a pair then depends on nothing but who said what, its pattern, and there are few patterns.
"""

import warnings
from math import prod
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.datasets.labels_in_sql import PATTERN, pair_table, slices
from labelkit.datasets.options import MixRules
from labelkit.datasets.policies import RELEVANT
from labelkit.errors import MissingPackageError, UsageError
from labelkit.storage import tables

PAIRS_TO_FIT = 100_000
"""Drawn by hash, of those that several judges graded; a confusion matrix has 16 cells."""
VOTES = """list_transform(list_filter(said, lambda x: x.grade IS NOT NULL),
    lambda x: {judge_id: x.judge_id, kind: x.kind, grade: x.grade})"""
POSTERIOR_SCHEMA = pa.schema([("pattern", pa.string()), ("posterior", pa.float64())])
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


def fit(sample: list[PairVotes]) -> tuple[Errors, dict[int, float]]:
    """crowd-kit's model of the judges, and how frequent each true grade is."""
    try:
        import pandas as pd
        from crowdkit.aggregation.classification.dawid_skene import DawidSkene
    except ImportError:
        raise MissingPackageError("crowd-kit", "crowd") from None
    rows = [
        (pair, vote["judge_id"], vote["grade"])
        for pair, votes in enumerate(sample)
        for vote in votes
        if vote["kind"] != "human"
    ]
    if not rows:
        raise UsageError("only people graded; use policy human-first or weighted")
    truth = {pair: votes[0]["grade"] for pair, votes in enumerate(sample) if votes[0]["kind"] == "human"}
    model: Any = DawidSkene(n_iter=100)
    labelled = pd.DataFrame(rows, columns=["task", "worker", "label"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # crowd-kit's calls of pandas
        model.fit(labelled, pd.Series(truth, dtype="int64") if truth else None)
    return model.errors_.to_dict("index"), model.priors_.to_dict()


def posterior(votes: PairVotes, errors: Errors, priors: dict[int, float], rules: MixRules) -> float | None:
    """The probability that a pair is relevant: 1 or 0 where a person graded it, None where nobody did.

    Bayes' rule over the true grades, the judges' errors being independent.
    """
    if not votes:
        return None
    if votes[0]["kind"] == "human":
        return float(votes[0]["grade"] >= rules.positive_grade)
    joint = {
        grade: prior * prod(errors[vote["judge_id"], vote["grade"]][grade] for vote in votes)
        for grade, prior in priors.items()
    }
    return sum(mass for grade, mass in joint.items() if grade >= RELEVANT) / sum(joint.values())
