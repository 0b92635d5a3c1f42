"""From judgements to the rows of `train`: each pair gets its label by the policy, each query its lists.

SQL over a session that has the tables `judgements`, `judges`, `queries`, `set_aside` (queries whose human labels are
not used) and `drops` (pairs to ignore; queries to leave out, where `passage_id` is NULL). A slice of the queries is
decided at a time.
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
"""Of a pair: people and models gave it a grade."""
STAGES = {dataset.OF_MODELS: "kind <> 'human'", dataset.OF_PEOPLE: "kind = 'human'"}
"""Tables of the policy `staged` -> the judges whose labels they hold."""


def open_labels(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Make the tables that every slice needs: queries set aside, pairs to drop, and what Dawid and Skene learn."""
    set_aside(db, rules)
    db.execute("CREATE TABLE drops (query_id VARCHAR, passage_id VARCHAR)")
    if rules.policy == "dawid-skene":
        from labelkit.datasets.dawid_skene import learn_posteriors

        learn_posteriors(db, rules)


def write_examples(db: DuckDBPyConnection, draft: folders.Draft, rules: MixRules) -> None:
    """Write `train` and the tables of the stages, as far as there are."""
    db.execute("CREATE OR REPLACE TABLE conflicts (between VARCHAR)")
    db.execute("CREATE OR REPLACE TABLE shared (pairs BIGINT)")
    draft.write_batches("train", EXAMPLE_SCHEMA, examples(db, rules))
    if rules.policy == "staged":
        for table, judges in STAGES.items():
            draft.write_batches(table, EXAMPLE_SCHEMA, examples(db, rules, judges))


def set_aside(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Table `set_aside`: the queries whose human labels are not used. They are drawn by hash: another seed draws
    others, and what a smaller share keeps a larger one keeps too.
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
    """The rows of `train`, by query id; with a condition on the judges, of their labels alone.

    The conflicts among all judges go into the table `conflicts` on the way, and how many pairs have grades of people
    and of models into `shared`.
    """
    for part in slices(db):
        pair_table(db, part, rules, judges=judges or "true")
        label_table(db, rules)
        if judges is None:
            db.execute("INSERT INTO conflicts SELECT between FROM mixed WHERE between IS NOT NULL")
            db.execute(f"INSERT INTO shared SELECT count(*) FROM pairs WHERE {BY_BOTH}")
        yield from example_rows(db, rules)


def slices(db: DuckDBPyConnection) -> list[dict[str, str]]:
    """First and last query id of slices that cover all judged queries."""
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
    """Table `pairs` of a slice: all that was said of each pair, as the policies read it, by the judges of a condition.

    Judgements without probabilities, or whose judge names no grades for them, have none.
    """
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE pairs AS
        WITH graded AS (
            SELECT query_id, passage_id, judge_id, kind, weight, grade,
                   list_sum(list_transform(list_zip(probs, relevant), lambda x: x[1] * x[2])) AS probability
            FROM judgements JOIN judges USING (judge_id)
            WHERE query_id BETWEEN $first AND $last AND speaks AND ({judges})
              AND NOT (kind = 'human' AND query_id IN (FROM set_aside))
        ), sided AS (
            SELECT *, {side_of(rules)} AS side FROM graded
        )
        SELECT query_id, passage_id,
               list({{judge_id: judge_id, kind: kind, grade: grade, probability: probability, side: side,
                      weight: weight}} ORDER BY grade IS NULL, kind <> 'human', judge_id) AS said
        FROM sided GROUP BY query_id, passage_id
        """,
        part,
    )


def label_table(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Table `mixed` of the slice in `pairs`: side, probability and speaker of each pair, best place first.

    The speaker is the first judge on the side that was decided, or, where none is, the first judge. Positives stand
    human before LLM, then by grade and probability; negatives hardest first, by the same two; ties by passage id.
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
"""Who said what of a pair, in one string."""
SIDES = "list_distinct(list_filter(list_transform(said, lambda x: x.side), lambda x: x <> 'ignored'))"
BETWEEN = f"""if(len({SIDES}) < 2, NULL, array_to_string(list_sort(list_distinct(list_transform(
    list_filter(said, lambda x: x.side <> 'ignored'), lambda x: x.kind))), '/'))"""
"""The kinds of the judges of a pair that fall on different sides; NULL where none do."""


def example_rows(db: DuckDBPyConnection, rules: MixRules) -> Iterator[pa.RecordBatch]:
    """Rows of `train` from the slice in `mixed`, by query id."""
    fields = {"passage_id": "passage_id", "grade": "speaker.grade", "source": "speaker.kind",
              "judge_id": "speaker.judge_id", "weight": "1.0", "probability": "probability"}  # fmt: skip
    label = ", ".join(f"{name}: {value}" for name, value in fields.items())
    # Passage ids order what is ignored: positives over the cap are among them.
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
        FROM (SELECT query_id, {lists} FROM mixed
              WHERE NOT (side = 'negative' AND place > {rules.max_negatives or NO_CAP})
              GROUP BY query_id)
        JOIN queries USING (query_id)
        WHERE query_id NOT IN (SELECT query_id FROM drops WHERE passage_id IS NULL)
        ORDER BY query_id
        """,
        EXAMPLE_SCHEMA,
    )
