"""Reads the texts and judgements of a new dataset from several sources into sorted tables.

All data are streamed: neither the corpus nor the judgements are loaded into memory as a whole. A calibration has the
scores of its judges in memory, as columns.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from duckdb import DuckDBPyConnection
from pydantic import ValidationError

from labelkit.corpora.answers import tool_of
from labelkit.corpora.beir import SKIP
from labelkit.corpora.evaluation_sets import files_of
from labelkit.corpora.human import files_behind, human_grades, line_of, no_grades, people_among
from labelkit.corpora.layout import layout_of
from labelkit.corpora.qrels import refuse_model_grades
from labelkit.corpora.scales import read_scale
from labelkit.corpora.staged import stage_grades, stage_texts
from labelkit.datasets.options import MixOptions
from labelkit.datasets.policies import RELEVANT
from labelkit.datasets.provenance import save_provenance
from labelkit.errors import DataError, UsageError
from labelkit.records import (
    JUDGE_SCHEMA,
    JUDGEMENT_SCHEMA,
    PASSAGE_SCHEMA,
    QUERY_SCHEMA,
    RERANKERS,
    Judge,
)
from labelkit.storage import folders, tables
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import imported_judge, read_records
from labelkit.storage.manifest import DATASET, LABELS, Source, first_fault

log = logging.getLogger(__name__)

WEIGHTED_SCHEMA = pa.schema(
    [
        ("judge_id", pa.string()),
        ("kind", pa.string()),
        ("name", pa.string()),
        ("weight", pa.float64()),
        ("speaks", pa.bool_()),
        ("method", pa.string()),
        ("family", pa.string()),
        ("relevant", pa.list_(pa.float64())),
    ]
)
ROUNDING = 1e-6
"""Rounding error by which a computed probability may exceed 1."""


def save_inputs(db: DuckDBPyConnection, draft: folders.Draft, options: MixOptions) -> tuple[list[Judge], list[str]]:
    """Write texts, judgements, judges and provenance as tables of the draft, and open them in the session.

    Returns the judges, and the ids of the judges that a calibration replaces.
    """
    save_texts(db, draft, options)
    judges, silent = save_judgements(db, draft, options)
    save_provenance(db, draft, options.sources)
    check_known(db, draft.path, options)
    check_numbers(db, draft.path)
    for name in ("judgements", "queries"):
        db.execute(f"CREATE VIEW {name} AS FROM {tables.parquet(draft.path / f'{name}.parquet')}")
    check_judges(db, options)
    return judges, silent


def save_texts(db: DuckDBPyConnection, draft: folders.Draft, options: MixOptions) -> None:
    """Write the tables `corpus` and `queries` of a collection, by id. Raises `DataError` as `read_data` does."""
    stage_texts(db, options.data, options.fields)
    tables.save(db, draft, "corpus", statement="FROM corpus ORDER BY passage_id", schema=PASSAGE_SCHEMA)
    tables.save(db, draft, "queries", statement="FROM queries ORDER BY query_id", schema=QUERY_SCHEMA)
    db.execute("DROP TABLE corpus; DROP TABLE queries")


def save_judgements(db: DuckDBPyConnection, draft: folders.Draft, options: MixOptions) -> tuple[list[Judge], list[str]]:
    """Write the tables `judgements` and `judges`, sorted, each judge once. Returns the judges, and the ids of the
    judges that a calibration replaces.
    """
    judges: dict[str, Judge] = {}
    db.register("nothing", JUDGEMENT_SCHEMA.empty_table())
    parts = ["FROM nothing"]
    for number, path in enumerate(options.sources):
        found, part = judgements_of(db, path, f"grades_{number}", options=options)
        for judge in found:
            if judge.judge_id in judges:
                raise UsageError(f"{path}: another source has the same judge {judge.judge_id!r}; give only one of them")
            judges[judge.judge_id] = judge
        parts.append(part)
    silent: list[str] = []
    if options.calibration is not None:
        judge, silent = stage_calibrated(db, options)
        judges[judge.judge_id] = judge
        parts.append("FROM calibrated")
    columns = ", ".join(JUDGEMENT_SCHEMA.names)
    everything = f"SELECT {columns} FROM ({' UNION ALL BY NAME '.join(parts)})"
    if options.skip_unknown:
        everything = f"{everything} WHERE {known_pairs(draft.path)}"
        left_out = f"FROM ({' UNION ALL BY NAME '.join(parts)}) WHERE NOT ({known_pairs(draft.path)})"
        if count := tables.value(db, f"SELECT count(*) {left_out}"):
            log.warning(f"{count:,} judgments of an unknown query or passage are left out")
    tables.save(
        db,
        draft,
        "judgements",
        statement=f"{everything} ORDER BY query_id, passage_id, judge_id",
        schema=JUDGEMENT_SCHEMA,
    )
    listed = [judges[judge_id] for judge_id in sorted(judges)]
    draft.write_table("judges", records_to_table(listed, JUDGE_SCHEMA))
    register_judges(db, listed, options.weight, silent=silent)
    return listed, silent


def stage_calibrated(db: DuckDBPyConnection, options: MixOptions) -> tuple[Judge, list[str]]:
    """Make the table `calibrated` of calibrated judgements. Returns the calibrated judge, and the ids of the judges
    that it replaces.

    Raises `UsageError` if a judge of the calibration is missing, and `DataError` if the calibration is worse than the
    raw grades.
    """
    from labelkit.quality.calibration.apply import apply_calibration, refuse_worse
    from labelkit.quality.calibration.judges import match
    from labelkit.quality.calibration.models import read_calibration
    from labelkit.quality.rater_reading import raters_of

    assert options.calibration is not None
    calibration, raters = read_calibration(options.calibration), raters_of(db, options.llm)
    if not options.apply_anyway:
        refuse_worse(calibration, options.calibration)
    found = match(calibration, raters)
    spoken_for = {rater.identity for rater in found.values()}
    silent = sorted(rater.rater_id for rater in raters if rater.identity in spoken_for)
    made = apply_calibration(calibration, found, db, data=options.data)
    tables.stage_batches(db, "calibrated", JUDGEMENT_SCHEMA, batches=made.judgements)
    return made.judge, silent


def judgements_of(db: DuckDBPyConnection, path: Path, table: str, *, options: MixOptions) -> tuple[list[Judge], str]:
    """Return the judges of a source, and an SQL statement that selects its judgements. The grades of a file are written
    to the table `table` first.

    Of the source of human grades, only the judgements of people are used.
    """
    human = path == options.human
    if human and tool_of(path):
        judgements, judges = human_grades(path, options.scale)
        db.register(table, records_to_table(judgements, JUDGEMENT_SCHEMA))
        return judges, f"FROM {table}"
    if path.is_dir():
        if human and not (path / folders.MANIFEST).is_file():
            raise DataError(no_grades(path))
        dataset = human and folders.manifest_kind(path) is DATASET
        folders.read_manifest(path, DATASET if dataset else LABELS, verify=options.verify)
        judges = read_records(path, "judges", Judge)
        rows = f"FROM {tables.parquet(path / 'judgements.parquet')}"
        if not human:
            return judges, rows
        judges = people_among(judges, path)
        return judges, f"{rows} WHERE judge_id IN ({', '.join(tables.text(judge.judge_id) for judge in judges)})"
    scale = options.scale
    refuse_model_grades(path)
    judge = imported_judge(path, path.stem, "human", scale=scale and read_scale(scale).mapping)
    stage_grades(db, table, path, scale=scale)
    return [judge], f"SELECT *, {tables.text(judge.judge_id)} AS judge_id FROM {table}"


def register_judges(
    db: DuckDBPyConnection, judges: Sequence[Judge], weights: Mapping[str, float], *, silent: Sequence[str] = ()
) -> None:
    """Register the session's table `judges`, with the weight of each judge. `speaks` is false for the `silent` judges,
    which a calibration replaces; `relevant` has 1 for each label that means relevant, else 0.
    """
    if unknown := set(weights) - {name for judge in judges for name in (judge.judge_id, judge.name)}:
        raise UsageError(
            f"--weight {unknown.pop()}: no judge has this name; the judges are: {', '.join(j.name for j in judges)}"
        )
    rows = [
        {
            "judge_id": judge.judge_id,
            "kind": judge.kind,
            "name": judge.name,
            "weight": weights.get(judge.judge_id, weights.get(judge.name, 1.0)),
            "speaks": judge.judge_id not in silent,
            "method": judge.method,
            "family": judge.family,
            "relevant": judge.label_grades and [float(grade >= RELEVANT) for grade in judge.label_grades],
        }
        for judge in judges
    ]
    db.register("judges", pa.Table.from_pylist(rows, schema=WEIGHTED_SCHEMA))


def known_pairs(folder: Path) -> str:
    """Return the SQL condition that query and passage of a judgement are in the tables in `folder`."""
    return " AND ".join(
        f"{key} IN (SELECT {key} FROM {tables.parquet(folder / f'{table}.parquet')})" for _, key, table in KNOWN
    )


KNOWN = (("query", "query_id", "queries"), ("passage", "passage_id", "corpus"))
"""Name of an id, its column, and the table that has it."""


def check_known(db: DuckDBPyConnection, folder: Path, options: MixOptions) -> None:
    """Raise `DataError` if a judgement refers to a query or passage that is missing in the tables in `folder`, with the
    line of the qrels file if it comes from one.
    """
    judged = tables.parquet(folder / "judgements.parquet")
    for what, key, table in KNOWN:
        known = f"SELECT {key} FROM {tables.parquet(folder / f'{table}.parquet')}"
        unknown = f"SELECT judge_id, {key} FROM {judged} WHERE {key} NOT IN ({known}) ORDER BY {key}"
        if found := tables.row(db, unknown):
            human, ids = options.human, {key: found[1]}
            place = human and line_of(human, options.scale, **ids)
            said = f"judge {found[0]!r} judged {what} {found[1]!r}, which is missing in the {table} of {options.data}"
            raise DataError(f"{place}: {said}; {SKIP}" if place and place != str(human) else f"{said}; {SKIP}")


def check_numbers(db: DuckDBPyConnection, folder: Path) -> None:
    """Raise `DataError` if a judgement has a score that is not finite, or a probability that is not between 0 and 1."""
    wrong = (
        "NOT coalesce(isfinite(score), true) "
        f"OR NOT coalesce(list_bool_and(list_transform(probs, lambda p: p BETWEEN 0 AND {1 + ROUNDING})), true)"
    )
    rows = f"FROM {tables.parquet(folder / 'judgements.parquet')} WHERE {wrong}"
    if found := tables.row(db, f"SELECT judge_id, query_id, passage_id, score, probs {rows} ORDER BY ALL"):
        raise DataError(
            f"judge {found[0]!r} gave the pair {found[1]!r}, {found[2]!r} the score {found[3]} and the probabilities "
            f"{found[4]}; scores must be finite and probabilities between 0 and 1: judge the pair again"
        )


def source_facts(options: MixOptions) -> Source:
    """Return licence and revision of the texts: from the options, else from `dataset_info.json`, else None."""
    path = options.data / "dataset_info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(info, dict):
        raise DataError(f"{path}: expected a JSON object")
    told = {
        "licence": options.license or info.get("license") or None,
        "revision": options.revision or info.get("revision") or None,
    }
    try:
        return Source.model_validate(told)
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error)}") from None


def check_judges(db: DuckDBPyConnection, options: MixOptions) -> None:
    """Raise `UsageError` if a judge gives no grades, if no human grade is positive, or if the rules do not fit."""
    scores = "SELECT judge_id, name FROM judgements JOIN judges USING (judge_id) WHERE speaks AND grade IS NULL"
    if found := tables.row(db, f"{scores} AND failure IS NULL ORDER BY ALL LIMIT 1"):
        raise UsageError(
            f"judge {found[1]!r} ({found[0]}) gives scores without grades: draw the thresholds between grades with "
            "labelkit calibrate LABELS --human QRELS -o calibration.json, then add --calibration calibration.json"
        )
    highest = tables.value(db, "SELECT max(grade) FROM judgements JOIN judges USING (judge_id) WHERE kind = 'human'")
    if highest is not None and highest < options.positive_grade:
        raise UsageError(
            f"no human grade is {options.positive_grade} or higher; "
            "for binary qrels give --positive-grade 1 or --scale 0-1"
        )
    judges = tables.value(db, "SELECT count(*) FROM judges WHERE speaks")
    if options.policy == "agreement" and options.agree > judges:
        raise UsageError(f"--agree {options.agree} is more than the {judges} judges; lower it or give more labels")
    if options.weight and options.policy != "weighted":
        raise UsageError(f"--weight can be used only with --policy weighted, not with {options.policy}")


def scoring_judge(judges: Sequence[Judge]) -> str | None:
    """Return the id of the judge whose raw scores become the scores of all labels; None if there is no such judge.

    It is the only reranker, or the only judge that was calibrated from a reranker alone. Scores of several judges have
    different scales and cannot be compared.
    """
    for method in RERANKERS:
        if found := [judge.judge_id for judge in judges if judge.method == method]:
            return found[0] if len(found) == 1 else None
    return None


def input_hashes(options: MixOptions) -> dict[str, str]:
    """Return path -> sha256 of every input file of the dataset."""
    layout = layout_of(options.data)
    files = [*layout.corpus, *layout.queries]
    files += [file for path in options.sources for file in files_behind(path)]
    files += [options.calibration] if options.calibration else []
    files += [path for folder in options.eval for path in files_of(folder, options.eval_split)]
    return {str(path): folders.file_sha256(path) for path in files}
