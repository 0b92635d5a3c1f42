"""The checks of `labelkit audit`, in one table.

A check reads the session's tables `corpus`, `queries`, `judgements`, `judges`, `train` and `labels` (one row per label
of `train`: query_id, role, passage_id, source). It returns an SQL statement whose rows are the items found: query_id,
passage_id and a note. An item is a label, or a whole query if passage_id is NULL; `labelkit mix --drop` ignores such a
label and leaves such a query out. If both are NULL, the note is about the dataset.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.near_duplicates import KnownTexts
from labelkit.datasets.audit_biases import length_bias, lexical_overlap, one_family, position_bias, rerankers
from labelkit.datasets.audit_findings import ITEMS, AuditCheck, AuditScope
from labelkit.datasets.duplicate_passages import FULL_TEXT, find_twins
from labelkit.datasets.labels_in_sql import BETWEEN, pair_table, slices
from labelkit.datasets.options import MixRules
from labelkit.datasets.policies import RELEVANT
from labelkit.records import ROLES
from labelkit.storage import tables


def leaked_queries(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find training queries that repeat an evaluation query."""
    stage_copies(
        db,
        "leaked_queries",
        "SELECT query_id, query FROM train",
        known=[one.queries for one in scope.evaluations],
        scope=scope,
    )
    return "SELECT name AS query_id, NULL AS passage_id, note FROM leaked_queries"


def leaked_passages(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find positives that repeat a relevant passage of an evaluation query."""
    positives = "SELECT passage_id FROM labels WHERE role = 'positive'"
    texts = f"SELECT passage_id, {FULL_TEXT} FROM corpus WHERE passage_id IN ({positives})"
    stage_copies(db, "leaked_passages", texts, known=[one.passages for one in scope.evaluations], scope=scope)
    leaked = "SELECT name AS passage_id, note FROM leaked_passages"
    return f"SELECT query_id, passage_id, note FROM labels JOIN ({leaked}) USING (passage_id) WHERE role = 'positive'"


def stage_copies(
    db: DuckDBPyConnection, table: str, texts: str, known: Sequence[dict[str, str]], scope: AuditScope
) -> None:
    """Make a table (name, note) of the texts of a statement that repeat a text of an evaluation set."""
    names = [f"{one.name} {name}" for one, part in zip(scope.evaluations, known, strict=True) for name in part]
    against = KnownTexts(names, [text for part in known for text in part.values()])
    found = [
        (copy.name, f"{copy.how} copy of {copy.known}" + (f", {copy.similarity:.2f}" if copy.how == "near" else ""))
        for batch in db.sql(texts).to_arrow_reader(tables.ROWS_AT_ONCE)
        for copy in against.copies(batch.column(0), batch.column(1))
    ]
    tables.stage(db, table, pa.schema([("name", pa.string()), ("note", pa.string())]), rows=found)


def twins(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find negatives that repeat a positive of the same query."""
    found = [
        (query_id, negative, f"copy of the positive {positive}, {similarity:.2f}")
        for query_id, positive, negative, similarity in find_twins(db, scope.scratch)
    ]
    tables.stage(db, "twins", ITEMS, rows=found)
    return "SELECT query_id, passage_id, min(note) AS note FROM twins GROUP BY query_id, passage_id"


def contradictions(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find labels of pairs that one judge calls relevant and another irrelevant, by the thresholds of the mix."""
    dispute_table(db, scope.rules)
    return (
        "SELECT query_id, passage_id, between AS note FROM disputes JOIN labels USING (query_id, passage_id) "
        "WHERE role <> 'ignored' AND between IS NOT NULL"
    )


def false_negatives(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find negatives that a model judged as relevant: grade 2 or more, or a probability of at least 0.5."""
    dispute_table(db, scope.rules)
    return (
        "SELECT query_id, passage_id, 'relevant according to ' || believer AS note "
        "FROM disputes JOIN labels USING (query_id, passage_id) WHERE role = 'negative' AND believer IS NOT NULL"
    )


def dispute_table(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Make the table `disputes` of pairs on which judges contradict each other, or that a model judged as relevant."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS disputes (query_id VARCHAR, passage_id VARCHAR, between VARCHAR, believer VARCHAR)"
    )
    if tables.row(db, "FROM disputes"):
        return
    believer = f"""list_filter(said, lambda x: x.kind <> 'human' AND (x.grade >= {RELEVANT} OR x.probability >= 0.5))"""
    for part in slices(db):
        pair_table(db, part, rules)
        db.execute(
            f"""
            INSERT INTO disputes
            FROM (SELECT query_id, passage_id, {BETWEEN} AS between, {believer}[1].judge_id AS believer FROM pairs)
            WHERE between IS NOT NULL OR believer IS NOT NULL
            """
        )


def without(role: str) -> Callable[[DuckDBPyConnection, AuditScope], str]:
    """Make a check that finds queries without a label of a role."""
    return lambda db, scope: f"SELECT query_id, NULL AS passage_id, query AS note FROM train WHERE len({role}_ids) = 0"


WORDS = r"\W+(\w+\W+){0,4}"
"""Regular expression for up to four words between two other words."""
TOLD = rf"(previous|prior|above|earlier|given|all|your){WORDS}"
RULES = r"(instructions?|rules|prompts?|guidelines)\b"
TEXT = r"(passage|document|text|answer|page)\b"
INJECTIONS = {
    "an instruction": "|".join(
        [
            rf"\b(ignore|disregard|forget){WORDS}{TOLD}{RULES}",
            rf"\b(ignore|disregard|forget){WORDS}{RULES}{WORDS}(previously|before|above|earlier|given)\b",
            rf"\b(reply|respond|answer)\W+(only\W+)?with{WORDS}([0-9]|yes|relevant)\b",
            rf"\b(choose|select|pick|rank|rate|grade|score|judge|mark|label)\W+(only\W+)?this\W+{TEXT}",
            r"\b(rate|grade|score|mark)\W+(it|this)\W+(as\W+|with\W+|a\W+)?([0-9]|relevant|highly|perfect(ly)?)\b",
            rf"\bdecode{WORDS}base64\b",
        ]
    ),
    "a suggested grade": "|".join(
        [
            r"\b(final|relevance|overall|correct|expected)\W+(score|grade|rating|label|reply|answer)\W{0,3}(is|of|=|:)"
            r"\W{0,3}([0-9]|yes)\b",
            rf"\bthis\W+{TEXT}\W+(is|was){WORDS}(perfectly|highly|fully|extremely)\W+relevant\b",
            rf"\bother\W+passages{WORDS}(outdated|wrong|must\W+not)\b",
        ]
    ),
    "chat markup": "|".join(
        [
            r"<\|[a-z_ ]{1,40}\|>|\[/?INST\]|<</?SYS>>|<(start|end)_of_turn>|</?passage>",
            r"(^|\n)\s*(system|assistant)\s*:",
            r"\"role\"\s*:\s*\"(system|assistant|user)\"",
        ]
    ),
    "hidden or disguised letters": "|".join(
        [
            r"[\x{202A}-\x{202E}\x{2060}-\x{2064}\x{2066}-\x{2069}\x{E0000}-\x{E007F}]",
            r"(\pL\x{200B}){3}",
            r"[A-Za-z]\p{Cyrillic}+[A-Za-z]|\p{Cyrillic}[A-Za-z]+\p{Cyrillic}",
        ]
    ),
}
"""Kind of text that manipulates a judge -> regular expression that recognises it (RE2, case-insensitive)."""


def injections(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find labels by models of passages whose text addresses a judge, and positives that repeat the whole query at
    least twice.
    """
    cases = " ".join(
        f"WHEN regexp_matches({FULL_TEXT}, {tables.text(pattern)}, 'is') THEN {tables.text(f'contains {name}')}"
        for name, pattern in INJECTIONS.items()
    )
    # One pass searches for all patterns together; only the few matches are searched for each pattern.
    anything = tables.text("|".join(f"({pattern})" for pattern in INJECTIONS.values()))
    some = f"regexp_matches({FULL_TEXT}, {anything}, 'is')"
    flagged = f"SELECT passage_id, CASE {cases} END AS note FROM corpus WHERE {some}"
    return f"""
        SELECT query_id, passage_id, note FROM labels JOIN ({flagged}) USING (passage_id)
        WHERE role <> 'ignored' AND source <> 'human'
        UNION
        SELECT query_id, passage_id, 'repeats the query' AS note
        FROM labels JOIN (SELECT passage_id, lower({FULL_TEXT}) AS text FROM corpus) USING (passage_id)
             JOIN (SELECT query_id, lower(trim(text)) AS asked FROM queries) USING (query_id)
        WHERE role = 'positive' AND source <> 'human' AND len(string_split(asked, ' ')) > 2
          AND length(text) - length(replace(text, asked, '')) >= 2 * length(asked)
    """


def no_licence(db: DuckDBPyConnection, scope: AuditScope) -> str:
    """Find whether the licence of the texts is unknown."""
    return f"SELECT NULL AS query_id, NULL AS passage_id, 'licence unknown' AS note WHERE {scope.licence is None}"


CHECKS: dict[str, AuditCheck] = {
    "leaked-queries": AuditCheck(
        leaked_queries,
        "error",
        "queries that repeat an evaluation query",
        cure="mix --drop leaked-queries",
        needs="evaluations",
    ),
    "leaked-passages": AuditCheck(
        leaked_passages,
        "warning",
        "positives that repeat a relevant passage of an evaluation query",
        cure="mix --drop leaked-passages; not needed if both share a corpus by design",
        needs="evaluations",
    ),
    "twins": AuditCheck(
        twins, "warning", "negatives that repeat a positive of the same query", cure="mix --drop twins"
    ),
    "contradictions": AuditCheck(
        contradictions,
        "warning",
        "labels of pairs that one judge calls relevant and another irrelevant",
        cure="mix --drop contradictions, or --policy agreement, weighted or dawid-skene",
    ),
    "false-negatives": AuditCheck(
        false_negatives, "warning", "negatives that a model calls relevant", cure="mix --drop false-negatives"
    ),
    "no-positives": AuditCheck(
        without("positive"), "note", "queries without a positive", cure="mix --drop no-positives"
    ),
    "no-negatives": AuditCheck(
        without("negative"), "note", "queries without a negative", cure="mix --drop no-negatives"
    ),
    "injections": AuditCheck(
        injections,
        "warning",
        "labels of passages whose text addresses a judge",
        cure="mix --drop injections, or annotate again with a defence",
    ),
    "lexical-overlap": AuditCheck(
        lexical_overlap,
        "warning",
        "sources whose positives contain more of the query's words than human positives do",
        cure="pool also from a dense model (pool --dense), calibrate the judge, or raise mix --llm-positive",
    ),
    "length-bias": AuditCheck(
        length_bias,
        "warning",
        "sources whose positives are much longer or shorter than their negatives",
        cure="cut all passages to the same length (annotate --passage-tokens), or raise mix --llm-positive",
    ),
    "position-bias": AuditCheck(
        position_bias,
        "warning",
        "judges that prefer a position in the list",
        cure="annotate --permutations 3, or annotate with a pointwise method",
    ),
    "one-family": AuditCheck(
        one_family,
        "warning",
        "judges of the same model family as a retriever that is trained or evaluated",
        cure="use a judge of another family, or human labels for the evaluation",
        needs="models",
    ),
    "rerankers": AuditCheck(
        rerankers,
        "note",
        "judges that are rerankers, with the family of the model",
        cure="evaluate with human labels: a retriever that learns from a reranker learns its errors, too",
    ),
    "no-licence": AuditCheck(no_licence, "warning", "texts of unknown licence", cure="mix --license"),
}
"""Finding -> its check."""

DROPS = tuple(name for name, check in CHECKS.items() if f"--drop {name}" in check.cure)
"""Findings that `mix --drop` accepts."""
LEAKS = ("leaked-queries",)
"""Findings that make every figure on the evaluation set meaningless."""


def run_checks(db: DuckDBPyConnection, scope: AuditScope, names: Sequence[str]) -> None:
    """Run checks and insert their items into the table `found`."""
    db.execute("CREATE TABLE IF NOT EXISTS found (finding VARCHAR, query_id VARCHAR, passage_id VARCHAR, note VARCHAR)")
    for name in names:
        check = CHECKS[name]
        if check.needs is None or getattr(scope, check.needs):
            items = check.find(db, scope)
            db.execute(f"INSERT INTO found SELECT '{name}', query_id, passage_id, note FROM ({items})")


def open_train(db: DuckDBPyConnection, folder: Path) -> None:
    """Make views of `train` and `corpus` in a folder, and the table `labels`."""
    for name in ("train", "corpus"):
        db.execute(f"CREATE OR REPLACE VIEW {name} AS FROM {tables.parquet(folder / f'{name}.parquet')}")
    columns = "unnest({0}_ids) AS passage_id, unnest({0}_sources) AS source"
    parts = [f"SELECT query_id, '{role}' AS role, {columns.format(role)} FROM train" for role in ROLES]
    db.execute(f"CREATE OR REPLACE TABLE labels AS {' UNION ALL '.join(parts)}")
