"""Checks of `labelkit audit` for biases: labels that depend on shared words, length, list position or model family.

Words and lengths are measured on a sample of the labels of each source and role, drawn by hash.
"""

from statistics import fmean

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.words import share, words
from labelkit.datasets.audit_findings import ITEMS, AuditScope
from labelkit.datasets.policies import RELEVANT
from labelkit.engines.model_families import families
from labelkit.records import RERANKERS
from labelkit.storage import tables

LEANING_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("role", pa.string()),
        ("labels", pa.int64()),
        ("words", pa.float64()),
        ("overlap", pa.float64()),
    ]
)
SAMPLE = 20_000
"""Largest number of labels in the sample of a source and role."""
MORE_OVERLAP = 0.1
"""Largest allowed difference between the shares of query words in a source's positives and in human positives."""
LONGER = 1.5
"""Largest allowed ratio of the mean lengths of positives and negatives."""
BY_PLACE = 0.1
"""Largest allowed difference between the shares of relevant passages in the first and second half of a list."""
FEWEST = 50
"""Labels that each side of a comparison needs."""
SURE = 3.0
"""Standard errors from which a difference counts."""


def lexical_overlap(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find sources whose positives contain more of the query's words than human positives do."""
    sample_table(db)
    return f"""
        SELECT NULL AS query_id, NULL AS passage_id,
               printf('%s: positives contain %.0f%% of the words of the query, human positives %.0f%%',
                      m.source, 100 * m.overlap, 100 * h.overlap) AS note
        FROM leanings m JOIN leanings h ON h.source = 'human' AND h.role = 'positive'
        WHERE m.source <> 'human' AND m.role = 'positive' AND least(m.labels, h.labels) >= {FEWEST}
          AND m.overlap - h.overlap > {MORE_OVERLAP}
    """


def length_bias(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find sources whose positives are much longer than their negatives, or much shorter."""
    sample_table(db)
    return f"""
        SELECT NULL AS query_id, NULL AS passage_id,
               printf('%s: positives have %.0f words on average, negatives %.0f', p.source, p.words, n.words) AS note
        FROM leanings p JOIN leanings n ON n.source = p.source AND n.role = 'negative'
        WHERE p.role = 'positive' AND least(p.labels, n.labels) >= {FEWEST}
          AND greatest(p.words / n.words, n.words / p.words) > {LONGER}
    """


def sample_table(db: DuckDBPyConnection) -> None:
    """Make the table `leanings`. For each source and role it has the number of sampled labels, the mean share of the
    query's words in their passages, and the mean number of words of the passages.
    """
    if tables.row(db, "SELECT 1 FROM duckdb_tables() WHERE table_name = 'leanings'"):
        return
    drawn = db.execute(
        f"""
        WITH sizes AS (
            SELECT source, role, greatest(1, count(*) // {SAMPLE}) AS one_in FROM labels GROUP BY source, role
        ), drawn AS (
            SELECT query_id, passage_id, source, role FROM labels JOIN sizes USING (source, role)
            WHERE role <> 'ignored' AND hash(query_id || ' ' || passage_id) % one_in = 0
        )
        SELECT source, role, q.text, title || ' ' || c.text
        FROM drawn JOIN corpus c USING (passage_id) JOIN queries q USING (query_id)
        """
    )
    lengths: dict[tuple[str, str], list[int]] = {}
    overlaps: dict[tuple[str, str], list[float]] = {}
    while rows := drawn.fetchmany(tables.ROWS_AT_ONCE):
        for source, role, query, passage in rows:
            lengths.setdefault((source, role), []).append(len(passage.split()))
            if asked := words(query):
                overlaps.setdefault((source, role), []).append(share(asked, passage))
    means = (
        (*key, len(each), fmean(each), fmean(overlaps[key]) if key in overlaps else None)
        for key, each in lengths.items()
    )
    tables.stage(db, "leanings", LEANING_SCHEMA, rows=means)


def position_bias(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find judges that call more passages relevant in one half of their lists than in the other.

    Lists are in random order, so positions do not depend on relevance. A z-test compares the two proportions.
    """
    return f"""
        WITH placed AS (
            SELECT judge_id, grade >= {RELEVANT} AS relevant,
                   position <= max(position) OVER (PARTITION BY judge_id, query_id) / 2 AS early
            FROM judgements WHERE position IS NOT NULL AND grade IS NOT NULL
        ), shares AS (
            SELECT judge_id, avg(relevant::INT) AS base,
                   avg(relevant::INT) FILTER (early) AS early, count(*) FILTER (early) AS earlies,
                   avg(relevant::INT) FILTER (NOT early) AS late, count(*) FILTER (NOT early) AS lates
            FROM placed GROUP BY judge_id
        )
        SELECT NULL AS query_id, NULL AS passage_id,
               printf('%s: %.0f%% relevant in the first half of the lists, %.0f%% in the second',
                      judge_id, 100 * early, 100 * late) AS note
        FROM shares
        WHERE least(earlies, lates) >= {FEWEST} AND abs(early - late) > {BY_PLACE}
          AND abs(early - late) > {SURE} * sqrt(base * (1 - base) * (1 / earlies + 1 / lates))
    """


def one_family(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find judges and retrievers of the same model family, which may share their errors."""
    judges = db.execute("SELECT judge_id, name, family FROM judges WHERE kind <> 'human' ORDER BY judge_id").fetchall()
    found = [
        (None, None, f"{judge_id} and {model}: {family}")
        for judge_id, name, known in judges
        for model in scope.models
        for family in sorted((families(name) | set((known or "").split(", "))) & families(model))
    ]
    tables.stage(db, "relatives", ITEMS, rows=found)
    return "FROM relatives"


def rerankers(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find judges that are rerankers, with the family of each model."""
    return f"""
        SELECT NULL AS query_id, NULL AS passage_id,
               printf('%s: reranker %s, family %s', judge_id, name, coalesce(family, 'unknown')) AS note
        FROM judges WHERE method IN {RERANKERS}
    """
