"""Decides which candidates of a ranking become hard negatives, and why each other candidate is left out.

The positive-aware threshold is that of NV-Retriever (arXiv 2407.15831, TopK-PercPos): a candidate is kept only if its
score is at most a share of the score of the query's positive. All decisions are SQL over tables on disk.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.datasets.duplicate_passages import find_twins
from labelkit.datasets.options import AGAINST, MineOptions
from labelkit.datasets.policies import RELEVANT
from labelkit.errors import DataError, UsageError
from labelkit.records import RERANKERS, ROLES
from labelkit.storage import folders, tables
from labelkit.storage.labels import judgements_sql, judges_in

REASONS = {
    "known_positive": "known positives",
    "already_labelled": "labelled or judged already",
    "twin_of_positive": "near-duplicates of a positive",
    "no_positive_score": "no positive of the query has a score above 0 in the ranking",
    "close_to_positive": "score above --max-share of the positive's score",
    "not_judged": "the candidate or all positives have no judgment of --judge",
    "judged_close_to_positive": "judgment from --judge-share of the positive's",
    "over_limit": "more than --max-negatives",
}
"""Reason why a candidate is left out, in the order in which the rules apply -> description."""
PAIR_SCHEMA = pa.schema([("query_id", pa.string()), ("passage_id", pa.string())])
JUDGED_SCHEMA = pa.schema([*PAIR_SCHEMA, ("score", pa.float64()), ("value", pa.float64())])
NO_CAP = 2**31


class Filter(NamedTuple):
    """The judge whose judgments filter candidates."""

    judge_id: str
    inputs: dict[str, str]
    """Path of an input for the manifest -> sha256."""


def stage_known(db: DuckDBPyConnection, folder: Path) -> None:
    """Make the views `train` and `corpus` of a dataset, and the tables `positives`, `labelled` (all other labelled or
    judged pairs) and `asked`. Raises `UsageError` if no query has a positive.
    """
    for name in ("train", "corpus"):
        db.execute(f"CREATE VIEW {name} AS FROM {tables.parquet(folder / f'{name}.parquet')}")
    db.execute("CREATE TABLE positives AS SELECT query_id, unnest(positive_ids) AS passage_id FROM train")
    others = " UNION ALL ".join(
        f"SELECT query_id, unnest({role}_ids) AS passage_id FROM train" for role in ROLES if role != "positive"
    )
    judged = f"SELECT query_id, passage_id FROM {tables.parquet(folder / 'judgements.parquet')}"
    db.execute(f"CREATE TABLE labelled AS SELECT DISTINCT query_id, passage_id FROM ({others} UNION ALL {judged})")
    db.execute(
        """
        CREATE TABLE asked AS SELECT row_number() OVER (ORDER BY query_id) - 1 AS number, query_id, query
        FROM train WHERE len(positive_ids) > 0
        """
    )
    if not tables.row(db, "FROM asked"):
        raise UsageError(
            f"{folder} has no positive, and a negative is hard only beside a positive: mix it again with labels that "
            "contain positives"
        )


def stage_judgments(db: DuckDBPyConnection, folder: Path | None) -> Filter | None:
    """Make the table `judged` (query_id, passage_id, score, value) of the only judge of a labels folder; an empty table
    without a folder.

    The value is P(grade >= 2) if the judge gave probabilities, else its score, else its grade. Scores that are logits
    become probabilities, because a share of a negative number means nothing. Raises `UsageError` for several judges.
    """
    if folder is None:
        tables.stage(db, "judged", JUDGED_SCHEMA, rows=())
        return None
    judges = judges_in(folder)
    if len(judges) != 1:
        names = ", ".join(judge.judge_id for judge in judges)
        raise UsageError(f"{folder} has {len(judges)} judges ({names}); give --judge a labels folder of one judge")
    (judge,) = judges
    relevant = ", ".join(str(float(grade >= RELEVANT)) for grade in judge.label_grades or ())
    probability = f"list_dot_product(probs, [{relevant}]::DOUBLE[])" if relevant else "NULL::DOUBLE"
    rows = f"""(SELECT query_id, passage_id, score, grade::DOUBLE AS grade, {probability} AS probability
        FROM {judgements_sql(db, folder)} WHERE failure IS NULL)"""
    counted = f"SELECT count(probability), count(score), min(score), max(score) FROM {rows}"
    probabilities, scores, lowest, highest = db.execute(counted).fetchall()[0]
    value = "probability" if probabilities else "score" if scores else "grade"
    if value == "score" and (lowest < 0 or (judge.method in RERANKERS and highest > 1)):
        value = "1 / (1 + exp(-score))"
    db.execute(f"CREATE TABLE judged AS SELECT query_id, passage_id, score, {value} AS value FROM {rows}")
    return Filter(judge.judge_id, {str(folder): folders.file_sha256(folder / folders.MANIFEST)})


def decide(db: DuckDBPyConnection, scratch: Path, options: MineOptions, *, name: str) -> None:
    """Make the table `decided` with a row per candidate in the rank window: query_id, passage_id, rank, score, the
    values that it was compared with, and `reason`, which is NULL for a mined negative.

    `name` is the name of the retriever. Raises `DataError` if no candidate is in the window, and `UsageError` if a
    share of the retriever's scores means nothing.
    """
    window = options.window
    db.execute(f"CREATE TABLE candidate AS FROM ranking WHERE rank BETWEEN {window.first} AND {window.last}")
    if not tables.row(db, "FROM candidate"):
        deepest = tables.value(db, "SELECT max(rank) FROM ranking")
        raise DataError(f"{name} ranks passages only up to rank {deepest}: give lower --ranks, or a deeper ranking")
    stage_twins(db, scratch)
    stage_limits(db, options)
    if options.max_share is not None:
        refuse_scores(db, name)
    order = f"md5('{options.seed} ' || query_id || ' ' || passage_id), passage_id" if options.draw else "rank"
    db.execute(
        f"""
        CREATE TABLE decided AS
        SELECT * REPLACE (if(reason IS NULL AND place > {options.max_negatives or NO_CAP}, 'over_limit', reason)
                          AS reason)
        FROM (SELECT *, row_number() OVER (PARTITION BY query_id, reason ORDER BY {order}) AS place
              FROM ({reasoned(options)}))
        """
    )


def stage_twins(db: DuckDBPyConnection, scratch: Path) -> None:
    """Make the table `twins` of the unlabelled candidates that are near-duplicates of a positive of their query."""
    db.execute(
        """
        CREATE TABLE labels AS
        SELECT query_id, passage_id, 'positive' AS role FROM positives SEMI JOIN candidate USING (query_id)
        UNION ALL
        SELECT query_id, passage_id, 'negative' FROM candidate ANTI JOIN positives USING (query_id, passage_id)
            ANTI JOIN labelled USING (query_id, passage_id)
        """
    )
    found = {(query_id, candidate) for query_id, _, candidate, _ in find_twins(db, scratch)}
    tables.stage(db, "twins", PAIR_SCHEMA, rows=sorted(found))


def stage_limits(db: DuckDBPyConnection, options: MineOptions) -> None:
    """Make the tables `limits` and `judge_limits`: the lowest or mean score of the positives of each query by the
    retriever and by the judge, over the positives to which it gave one.
    """
    combined = AGAINST[options.against]
    db.execute(f"CREATE TABLE limits AS SELECT query_id, {combined}(score) AS positive_score "
               "FROM positive_scores GROUP BY query_id")  # fmt: skip
    db.execute(f"CREATE TABLE judge_limits AS SELECT query_id, {combined}(value) AS positive_value "
               "FROM positives JOIN judged USING (query_id, passage_id) GROUP BY query_id")  # fmt: skip


def refuse_scores(db: DuckDBPyConnection, name: str) -> None:
    """Raise `UsageError` if the positives of half of the queries or more have a score that is not above 0."""
    unusable, count = db.execute("SELECT count(*) FILTER (positive_score <= 0), count(*) FROM limits").fetchall()[0]
    if unusable and 2 * unusable >= count:
        query_id, score = db.execute("FROM limits WHERE positive_score <= 0 ORDER BY query_id LIMIT 1").fetchall()[0]
        raise UsageError(
            f"--max-share needs scores above 0, but {name} gives the positives of {unusable:,} of {count:,} queries a "
            f"score of 0 or less (query {query_id!r}: {score:.3g}): leave --max-share out and filter with --judge, or "
            "give a run whose scores are probabilities, cosines or BM25 scores"
        )


def reasoned(options: MineOptions) -> str:
    """Return the SQL of the candidates with the first reason that applies to each, or NULL."""
    cases = {
        "known_positive": "p.passage_id IS NOT NULL",
        "already_labelled": "k.passage_id IS NOT NULL",
        "twin_of_positive": "t.passage_id IS NOT NULL",
    }
    if options.max_share is not None:
        cases["no_positive_score"] = "coalesce(positive_score, 0) <= 0"
        cases["close_to_positive"] = f"c.score > {options.max_share} * positive_score"
    if options.judge is not None:
        cases["not_judged"] = "j.value IS NULL OR positive_value IS NULL"
        cases["judged_close_to_positive"] = f"j.value >= {options.judge_share} * positive_value"
    said = " ".join(f"WHEN {condition} THEN '{reason}'" for reason, condition in cases.items())
    pairs = " ".join(
        f"LEFT JOIN {table} {short} ON {short}.query_id = c.query_id AND {short}.passage_id = c.passage_id"
        for table, short in (("positives", "p"), ("labelled", "k"), ("twins", "t"), ("judged", "j"))
    )
    return f"""
        SELECT c.query_id, c.passage_id, c.rank, c.score, positive_score, j.score AS judge_score,
               j.value AS judge_value, positive_value, CASE {said} END AS reason
        FROM candidate c {pairs} LEFT JOIN limits ON limits.query_id = c.query_id
        LEFT JOIN judge_limits ON judge_limits.query_id = c.query_id
    """
