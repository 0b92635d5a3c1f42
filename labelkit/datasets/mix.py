"""Judgements from several sources -> labels -> the multi-positive dataset.

All judgements are kept, in `judgements`; how those of a pair become its label is a policy's business
(`labelkit.datasets.policies`). Pairs that nobody is sure of, or that every judge failed on, are ignored: never a
positive, never a negative. Labels are decided in sets, a slice of the queries at a time, so that memory stays flat, and
every result is ordered, so that the same inputs give the same bytes.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.evaluation_sets import files_of, read_evaluation
from labelkit.datasets.audit_checks import CHECKS, DROPS, LEAKS, open_train, run_checks
from labelkit.datasets.audit_findings import AuditScope
from labelkit.datasets.card import dataset_card
from labelkit.datasets.inputs import Inputs, check_known, check_numbers, save_judgements, save_texts, source_facts
from labelkit.datasets.labels_in_sql import example_rows, label_table, pair_table, slices
from labelkit.datasets.policies import MixRules, policy_named
from labelkit.datasets.provenance import save_provenance
from labelkit.errors import DataError, UnknownNameError, UsageError
from labelkit.records import EXAMPLE_SCHEMA
from labelkit.storage import dataset, folders, tables
from labelkit.storage.manifest import DatasetFacts
from labelkit.storage.outputs import name_of

log = logging.getLogger(__name__)

SCRATCH = ".scratch"
BY_BOTH = """len(list_distinct(list_transform(
    list_filter(said, lambda x: x.grade IS NOT NULL), lambda x: x.kind = 'human'))) = 2"""
"""Of a pair: people and models gave it a grade."""
STAGES = {dataset.OF_MODELS: "kind <> 'human'", dataset.OF_PEOPLE: "kind = 'human'"}
"""Tables of the policy `staged` -> the judges whose labels they hold."""


def mix(inputs: Inputs, rules: MixRules, target: Path, command: str) -> dict[str, Any]:
    """Write the dataset folder `target`; returns the counts that its manifest holds."""
    if inputs.human is None and not inputs.llm:
        raise UsageError("nothing to mix: give --human QRELS, --llm LABELS, or both")
    policy_named(rules)
    if unknown := set(rules.drop) - set(DROPS):
        raise UnknownNameError("finding to drop", min(unknown), DROPS)
    for name in rules.drop:
        if CHECKS[name].needs == "evaluations" and not inputs.evaluations:
            raise UsageError(f"--drop {name} needs the evaluation set: give --eval DATA")
    source = source_facts(inputs)
    with folders.writing(target, dataset.KIND, command) as draft:
        with tables.session(draft.path / SCRATCH) as db:
            save_texts(db, draft, inputs.data)
            judges, silent = save_judgements(db, draft, inputs)
            save_provenance(db, draft, inputs.labels)
            check_known(db, draft.path)
            check_numbers(db, draft.path)
            for name in ("judgements", "queries"):
                db.execute(f"CREATE VIEW {name} AS FROM {tables.parquet(draft.path / f'{name}.parquet')}")
            check_judges(db, inputs, rules)
            totals = decide(db, draft, inputs, rules)
        draft.inputs = input_hashes(inputs)
        draft.facts = DatasetFacts(
            rules=rules._asdict(),
            weights=dict(inputs.weights),
            calibrated_judges=tuple(silent),
            source=source,
            **totals,
        )
        if source.licence is None:
            log.info(
                f"{inputs.data}: no licence is known; give --license, for nobody may publish the texts without one"
            )
        card = dataset_card(name_of(target), draft.rows, draft.facts, judges, command)
        (draft.path / "README.md").write_text(card, encoding="utf-8")
    return totals


def check_judges(db: DuckDBPyConnection, inputs: Inputs, rules: MixRules) -> None:
    """Raise `UsageError` where people graded and no grade makes a positive, and for rules that these judges cannot
    follow.
    """
    highest = tables.value(db, "SELECT max(grade) FROM judgements JOIN judges USING (judge_id) WHERE kind = 'human'")
    if highest is not None and highest < rules.positive_grade:
        raise UsageError(f"no human grade reaches {rules.positive_grade}; binary qrels need --positive-grade 1")
    judges = tables.value(db, "SELECT count(*) FROM judges WHERE speaks")
    if rules.policy == "agreement" and rules.agree > judges:
        raise UsageError(f"--agree {rules.agree} of {judges} judges can never be; lower it or give more labels")
    if inputs.weights and rules.policy != "weighted":
        raise UsageError(f"--weight is for the policy weighted, not for {rules.policy}")


def decide(db: DuckDBPyConnection, draft: folders.Draft, inputs: Inputs, rules: MixRules) -> dict[str, Any]:
    """Write `train`, and the tables of the stages where the policy keeps them apart; returns the counts."""
    set_aside(db, rules)
    db.execute("CREATE TABLE drops (query_id VARCHAR, passage_id VARCHAR)")
    if rules.policy == "dawid-skene":
        from labelkit.datasets.dawid_skene import learn_posteriors

        learn_posteriors(db, rules)
    write_examples(db, draft, rules)
    found = clean(db, draft, inputs, rules) if rules.drop or inputs.evaluations else {}
    dropped = {name: count for name, count in found.items() if name in rules.drop}
    leaked = {name.replace("-", "_"): found[name] for name in LEAKS if name in found and name not in dropped}
    return counts(db, draft.path / "train.parquet") | {"dropped": dropped} | leaked


def write_examples(db: DuckDBPyConnection, draft: folders.Draft, rules: MixRules) -> None:
    """Write `train` and the tables of the stages, as far as there are."""
    db.execute("CREATE OR REPLACE TABLE conflicts (between VARCHAR)")
    db.execute("CREATE OR REPLACE TABLE shared (pairs BIGINT)")
    draft.write_batches("train", EXAMPLE_SCHEMA, examples(db, rules))
    if rules.policy == "staged":
        for table, judges in STAGES.items():
            draft.write_batches(table, EXAMPLE_SCHEMA, examples(db, rules, judges))


def clean(db: DuckDBPyConnection, draft: folders.Draft, inputs: Inputs, rules: MixRules) -> dict[str, int]:
    """Find what is to be dropped in what was written, and write it again without; returns how much was found of each.

    Raises `DataError` for leakage that is neither to be dropped nor allowed.
    """
    scope = AuditScope(
        rules, draft.path / SCRATCH, evaluations=[read_evaluation(path, inputs.split) for path in inputs.evaluations]
    )
    # Whether a query has positives is seen when everything else is dropped.
    last = [name for name in rules.drop if name in ("no-positives", "no-negatives")]
    first = [name for name in DROPS if (name in rules.drop or name in LEAKS) and name not in last]
    for names in (first, last):
        open_train(db, draft.path)
        run_checks(db, scope, names)
        refuse_leaks(db, rules)
        wanted = ", ".join(f"'{name}'" for name in names if name in rules.drop)
        if wanted:
            db.execute(f"INSERT INTO drops SELECT DISTINCT query_id, passage_id FROM found WHERE finding IN ({wanted})")
            write_examples(db, draft, rules)
    return dict(db.execute("SELECT finding, count(*) FROM found GROUP BY finding ORDER BY finding").fetchall())


def refuse_leaks(db: DuckDBPyConnection, rules: MixRules) -> None:
    """Raise `DataError` where training queries repeat evaluation queries and nobody said what to do with them."""
    if rules.allow_leaks or "leaked-queries" in rules.drop:
        return
    leaked = "SELECT query_id, note FROM found WHERE finding = 'leaked-queries'"
    if count := tables.value(db, f"SELECT count(*) FROM ({leaked})"):
        query_id, note = db.execute(f"{leaked} ORDER BY ALL LIMIT 1").fetchall()[0]
        raise DataError(
            f"{count} training queries repeat an evaluation query ({query_id}: {note}); give --drop leaked-queries, or "
            "--allow-leaks"
        )


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
        pair_table(db, part, rules, judges or "true")
        label_table(db, rules)
        if judges is None:
            db.execute("INSERT INTO conflicts SELECT between FROM mixed WHERE between IS NOT NULL")
            db.execute(f"INSERT INTO shared SELECT count(*) FROM pairs WHERE {BY_BOTH}")
        yield from example_rows(db, rules)


def counts(db: DuckDBPyConnection, train: Path) -> dict[str, Any]:
    """Totals for the manifest and the screen."""
    rows = tables.parquet(train)
    queries, empty, positives, negatives, ignored = db.execute(
        f"""
        SELECT count(*), count(*) FILTER (len(positive_ids) = 0), sum(len(positive_ids)), sum(len(negative_ids)),
               sum(len(ignored_ids))
        FROM {rows}
        """
    ).fetchall()[0]
    sources = f"SELECT unnest(positive_sources) AS source FROM {rows}"
    by_source = db.execute(f"SELECT source, count(*) FROM ({sources}) GROUP BY source ORDER BY source").fetchall()
    between = db.execute("SELECT between, count(*) FROM conflicts GROUP BY between ORDER BY between").fetchall()
    return {
        "queries": queries,
        "queries_without_positives": empty,
        "positives": positives or 0,
        "negatives": negatives or 0,
        "ignored": ignored or 0,
        "conflicts": sum(count for _, count in between),
        "conflicts_between": dict(between),
        "judged_by_both": tables.value(db, "SELECT sum(pairs)::BIGINT FROM shared") or 0,
        "failed_judgements": tables.value(db, "SELECT count(*) FROM judgements WHERE grade IS NULL"),
        "positives_per_query": {source: round(count / queries, 3) for source, count in by_source},
        "human_queries_set_aside": tables.value(db, "SELECT count(*) FROM set_aside"),
    }


def input_hashes(inputs: Inputs) -> dict[str, str]:
    """sha256 of everything that the dataset was made from."""
    files = [inputs.data / "corpus.jsonl", inputs.data / "queries.jsonl"]
    files += [path / folders.MANIFEST if path.is_dir() else path for path in inputs.labels]
    files += [inputs.calibration] if inputs.calibration else []
    files += [path for folder in inputs.evaluations for path in files_of(folder, inputs.split)]
    return {str(path): folders.file_sha256(path) for path in files}
