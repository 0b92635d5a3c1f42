"""Makes the rows of `train` from judgements: decides the label of each pair by the policy, and lists labels by query.

The SQL needs a session with the tables `judgements`, `judges`, `queries`, `set_aside` (queries whose human labels are
not used), `drops` (pairs to ignore, or queries to leave out if `passage_id` is NULL) and `scored_by` (the judge that
gives all labels their scores). Queries are processed in slices.
"""

from collections.abc import Iterator

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.datasets.options import MixRules
from labelkit.datasets.policies import policy_named, side_of
from labelkit.records import EXAMPLE_SCHEMA, LABEL_COLUMNS, ROLES
from labelkit.storage import dataset, folders, tables

QUERIES_AT_ONCE = 16_384
NO_CAP = 2**31
BY_BOTH = """len(list_distinct(list_transform(
    list_filter(said, lambda x: x.grade IS NOT NULL), lambda x: x.kind = 'human'))) = 2"""
"""SQL condition: both people and models graded the pair."""
STAGES = {dataset.OF_MODELS: "kind <> 'human'", dataset.OF_PEOPLE: "kind = 'human'"}
"""Table of the policy `staged` -> SQL condition on the judges whose labels it has."""


JUDGED = """
    SELECT query_id, passage_id, judge_id, kind, weight, grade, score,
           list_sum(list_transform(list_zip(probs, relevant), lambda x: x[1] * x[2])) AS probability
    FROM judgements JOIN judges USING (judge_id)
    WHERE speaks AND ({condition}) AND NOT (kind = 'human' AND query_id IN (FROM set_aside))
"""
"""SQL of the judgements that count, under a further condition. The probability is NULL if a judgement has no label
probabilities or its judge names no grades for the labels.
"""


def open_labels(db: DuckDBPyConnection, rules: MixRules, scored_by: str | None = None) -> None:
    """Make the tables that every slice needs: queries set aside, pairs to drop, the judge that gives all labels
    their scores (`scored_by`, or none), and posteriors of Dawid and Skene.
    """
    set_aside(db, rules)
    db.execute("CREATE TABLE scored_by AS SELECT judge_id FROM judges WHERE judge_id = $judge", {"judge": scored_by})
    db.execute("CREATE TABLE drops (query_id VARCHAR, passage_id VARCHAR)")
    if rules.policy == "dawid-skene":
        from labelkit.datasets.dawid_skene import learn_posteriors

        learn_posteriors(db, rules)


def write_examples(db: DuckDBPyConnection, draft: folders.Draft, rules: MixRules) -> None:
    """Write `train`, and for the policy `staged` the tables of the stages."""
    db.execute("CREATE OR REPLACE TABLE conflicts (between VARCHAR)")
    db.execute("CREATE OR REPLACE TABLE shared (pairs BIGINT)")
    draft.write_batches("train", EXAMPLE_SCHEMA, examples(db, rules))
    if rules.policy == "staged":
        for table, judges in STAGES.items():
            draft.write_batches(table, EXAMPLE_SCHEMA, examples(db, rules, judges))


def set_aside(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Make the table `set_aside` of the queries whose human labels are not used.

    Queries are chosen by a hash with the seed. The human labels that a smaller share keeps are also kept by a larger
    one.
    """
    db.execute(
        f"""
        CREATE TABLE set_aside AS
        WITH graded AS (SELECT DISTINCT query_id FROM judgements JOIN judges USING (judge_id) WHERE kind = 'human')
        SELECT query_id FROM graded ORDER BY md5('{rules.seed} ' || query_id), query_id
        OFFSET (SELECT round({rules.human_fraction} * count(*))::BIGINT FROM graded)
        """
    )


def examples(db: DuckDBPyConnection, rules: MixRules, judges: str | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `train` by query id; with an SQL condition on the judges, only of their labels.

    Also inserts the conflicts among all judges into the table `conflicts`, and the number of pairs graded by both
    people and models into `shared`.
    """
    for part in slices(db):
        pair_table(db, part, rules, judges=judges or "true")
        label_table(db, rules)
        raw_score_table(db, part)
        if judges is None:
            db.execute("INSERT INTO conflicts SELECT between FROM mixed WHERE between IS NOT NULL")
            db.execute(f"INSERT INTO shared SELECT count(*) FROM pairs WHERE {BY_BOTH}")
        yield from example_rows(db, rules)


def slices(db: DuckDBPyConnection) -> list[dict[str, str]]:
    """Split the judged queries into slices; returns the first and last query id of each."""
    found = db.execute(
        f"""
        SELECT min(query_id), max(query_id)
        FROM (SELECT query_id, row_number() OVER (ORDER BY query_id) - 1 AS place
              FROM (SELECT DISTINCT query_id FROM judgements))
        GROUP BY place // {QUERIES_AT_ONCE} ORDER BY ALL
        """
    ).fetchall()
    return [{"first": first, "last": last} for first, last in found]


def pair_table(db: DuckDBPyConnection, part: dict[str, str], rules: MixRules, *, judges: str = "true") -> None:
    """Make the table `pairs` of a slice: a list of judgements per pair, by the judges of an SQL condition."""
    condition = f"query_id BETWEEN $first AND $last AND ({judges})"
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE pairs AS
        WITH graded AS ({JUDGED.format(condition=condition)}), sided AS (
            SELECT *, {side_of(rules)} AS side FROM graded
        )
        SELECT query_id, passage_id,
               list({{judge_id: judge_id, kind: kind, grade: grade, probability: probability, side: side,
                      weight: weight, score: score}} ORDER BY grade IS NULL, kind <> 'human', judge_id) AS said
        FROM sided GROUP BY query_id, passage_id
        """,
        part,
    )


def raw_score_table(db: DuckDBPyConnection, part: dict[str, str]) -> None:
    """Make the table `raw` of a slice: the scores of the judge in `scored_by`, if there is one."""
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE raw AS
        SELECT query_id, passage_id, score FROM judgements JOIN scored_by USING (judge_id)
        WHERE query_id BETWEEN $first AND $last
        """,
        part,
    )


def label_table(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Make the table `mixed` from `pairs`: side, probability, speaker and place of each pair. Place 1 is the best.

    The speaker is the first judge on the decided side, or the first judge if none is on it. Positives by people come
    before positives by models, then both are ordered by grade and probability. Negatives are ordered by grade and
    probability, the hardest first. Ties are ordered by passage id.
    """
    policy = policy_named(rules)
    posteriors = "LEFT JOIN posteriors USING (pattern)" if rules.policy == "dawid-skene" else ""
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE mixed AS
        WITH decided AS (
            SELECT *, {policy.side} AS side FROM (SELECT *, {PATTERN} AS pattern FROM pairs) {posteriors}
        ), spoken AS (
            SELECT query_id, passage_id, {policy.probability} AS probability,
                   if(d.query_id IS NULL, side, 'ignored') AS side,
                   coalesce(list_filter(said, lambda x: x.side = decided.side)[1], said[1]) AS speaker,
                   {BETWEEN} AS between
            FROM decided LEFT JOIN drops d USING (query_id, passage_id)
        ), placed AS (
            SELECT *, row_number() OVER (
                PARTITION BY query_id, side
                ORDER BY side = 'positive' AND speaker.kind <> 'human',
                         if(side = 'ignored', 0, coalesce(speaker.grade, 0)) DESC,
                         if(side = 'ignored', 0, coalesce(probability, 0)) DESC, passage_id) AS place
            FROM spoken
        )
        SELECT query_id, passage_id, probability, speaker, between, place,
               if(side = 'positive' AND place > {rules.max_positives or NO_CAP}, 'ignored', side) AS side
        FROM placed
        """
    )


PATTERN = "array_to_string(list_transform(said, lambda x: x.judge_id || '=' || coalesce(x.grade::VARCHAR, '')), ' ')"
"""SQL expression of the judges and grades of a pair as one string."""
SIDES = "list_distinct(list_filter(list_transform(said, lambda x: x.side), lambda x: x <> 'ignored'))"
BETWEEN = f"""if(len({SIDES}) < 2, NULL, array_to_string(list_sort(list_distinct(list_transform(
    list_filter(said, lambda x: x.side <> 'ignored'), lambda x: x.kind))), '/'))"""
"""SQL expression of the kinds of the judges that contradict each other on a pair; NULL if none do."""


def example_rows(db: DuckDBPyConnection, rules: MixRules) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `train` from the slice in `mixed`, by query id."""
    fields = {"passage_id": "passage_id", "grade": "speaker.grade", "source": "speaker.kind",
              "judge_id": "speaker.judge_id", "weight": "1.0", "probability": "probability",
              "score": "if(EXISTS (FROM scored_by), raw.score, speaker.score)"}  # fmt: skip
    label = ", ".join(f"{name}: {value}" for name, value in fields.items())
    # Ignored passages are ordered by id, since positives over the cap are among them.
    lists = ", ".join(
        f"coalesce(list({{{label}}} ORDER BY {'passage_id' if role == 'ignored' else 'place'}) "
        f"FILTER (side = '{role}'), []) AS {role}"
        for role in ROLES
    )
    columns = ", ".join(
        f"list_transform({role}, lambda x: x.{attribute}) AS {role}_{suffix}"
        for role in ROLES
        for suffix, (attribute, _) in LABEL_COLUMNS.items()
    )
    return tables.rows_of(
        db,
        f"""
        SELECT query_id, text AS query, {columns}
        FROM (SELECT query_id, {lists} FROM mixed LEFT JOIN raw USING (query_id, passage_id)
              WHERE NOT (side = 'negative' AND place > {rules.max_negatives or NO_CAP})
              GROUP BY query_id)
        JOIN queries USING (query_id)
        WHERE query_id NOT IN (SELECT query_id FROM drops WHERE passage_id IS NULL)
        ORDER BY query_id
        """,
        EXAMPLE_SCHEMA,
    )
