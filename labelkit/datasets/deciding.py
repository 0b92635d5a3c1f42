"""Makes `train` from judgements: decides labels, drops findings, writes rows and counts them.

A DuckDB session has the tables `judgements`, `judges` and `queries`; results are written to a draft of the dataset.
"""

from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from labelkit.corpora.evaluation_sets import read_evaluation
from labelkit.datasets.audit_checks import DROPS, LEAKS, open_train, run_checks
from labelkit.datasets.audit_findings import AuditScope
from labelkit.datasets.labels_in_sql import open_labels, write_examples
from labelkit.datasets.options import MixOptions, MixRules
from labelkit.datasets.stored_examples import label_counts
from labelkit.errors import DataError
from labelkit.storage import folders, tables

SCRATCH = ".scratch"
"""Folder in a draft for the session and for large arrays."""


def decide(
    db: DuckDBPyConnection, draft: folders.Draft, options: MixOptions, *, scored_by: str | None = None
) -> dict[str, Any]:
    """Write `train`, and for the policy `staged` the tables of the stages. Returns the counts.

    `scored_by`: id of the judge whose scores become the scores of all labels; None for the scores of their own judges.
    """
    open_labels(db, options, scored_by)
    write_examples(db, draft, options)
    found = clean(db, draft, options) if options.drop or options.eval else {}
    dropped = {name: count for name, count in found.items() if name in options.drop}
    leaked = {name.replace("-", "_"): found[name] for name in LEAKS if name in found and name not in dropped}
    return counts(db, draft.path / "train.parquet") | {"dropped": dropped} | leaked


def clean(db: DuckDBPyConnection, draft: folders.Draft, options: MixOptions) -> dict[str, int]:
    """Find items to drop in the written examples, and write the examples again without them. Returns the number of
    items by finding.

    Raises `DataError` for leaks that are neither dropped nor allowed.
    """
    known = [
        read_evaluation(path, options.eval_split, scale=options.eval_scale, fields=options.fields)
        for path in options.eval
    ]
    scope = AuditScope(options, draft.path / SCRATCH, evaluations=known)
    # Queries without positives or negatives are known only when everything else has been dropped.
    last = [name for name in options.drop if name in ("no-positives", "no-negatives")]
    first = [name for name in DROPS if (name in options.drop or name in LEAKS) and name not in last]
    for names in (first, last):
        open_train(db, draft.path)
        run_checks(db, scope, names)
        refuse_leaks(db, options)
        wanted = ", ".join(f"'{name}'" for name in names if name in options.drop)
        if wanted:
            db.execute(f"INSERT INTO drops SELECT DISTINCT query_id, passage_id FROM found WHERE finding IN ({wanted})")
            write_examples(db, draft, options)
    return dict(db.execute("SELECT finding, count(*) FROM found GROUP BY finding ORDER BY finding").fetchall())


def refuse_leaks(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Raise `DataError` if training queries repeat evaluation queries and are neither dropped nor allowed."""
    if rules.allow_leaks or "leaked-queries" in rules.drop:
        return
    leaked = "SELECT query_id, note FROM found WHERE finding = 'leaked-queries'"
    if count := tables.value(db, f"SELECT count(*) FROM ({leaked})"):
        query_id, note = db.execute(f"{leaked} ORDER BY ALL LIMIT 1").fetchall()[0]
        raise DataError(
            f"{count} training queries repeat an evaluation query ({query_id}: {note}); give --drop leaked-queries or "
            "--allow-leaks"
        )


def counts(db: DuckDBPyConnection, train: Path) -> dict[str, Any]:
    """Count queries, labels and conflicts, for the manifest and the screen."""
    found = label_counts(db, train)
    by_source = found.pop("positives_per_query")
    between = db.execute("SELECT between, count(*) FROM conflicts GROUP BY between ORDER BY between").fetchall()
    return {
        **found,
        "conflicts": sum(count for _, count in between),
        "conflicts_between": dict(between),
        "judged_by_both": tables.value(db, "SELECT sum(pairs)::BIGINT FROM shared") or 0,
        "failed_judgements": tables.value(db, "SELECT count(*) FROM judgements WHERE failure IS NOT NULL"),
        "positives_per_query": by_source,
        "human_queries_set_aside": tables.value(db, "SELECT count(*) FROM set_aside"),
    }
