"""Read human grades from a labels folder or dataset, a qrels file, or an export of Argilla or Label Studio."""

import logging
from collections.abc import Iterable
from pathlib import Path
from statistics import median_low

from duckdb import DuckDBPyConnection

from labelkit.corpora.answers import READERS, tool_of
from labelkit.corpora.qrels import Qrels, graded_pairs, qrels_rows, refuse_model_grades
from labelkit.corpora.scales import read_scale
from labelkit.corpora.staged import stage_grades
from labelkit.errors import DataError, UsageError
from labelkit.records import JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.storage import folders, tables
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import imported_judge, judgements_in, judgements_sql, judges_in
from labelkit.storage.manifest import DATASET, LABELS
from labelkit.storage.names import missing

log = logging.getLogger(__name__)


def human_grades(path: Path, scale: str | None = None) -> tuple[list[Judgement], list[Judge]]:
    """Read the graded pairs of people, and one judge per person; a qrels file is the work of one person.

    Args:
        path: labels folder or dataset, qrels file, or file or folder exported from Argilla or Label Studio.
        scale: text of the scale of the grades if they are not 0 to 3; not used for labels folders and datasets.

    Raises:
        UsageError: a labels folder has no person among its judges.
        DataError: the path is missing or malformed.
    """
    if is_labelled(path):
        return people_in(path)
    if tool := tool_of(path):
        return READERS[tool](path, path.stem, scale)
    if not path.is_file():
        raise DataError(no_grades(path))
    refuse_model_grades(path)
    judge = imported_judge(path, path.stem, "human", scale=scale and read_scale(scale).mapping)
    rows = graded_pairs(path, scale=scale)
    return [Judgement(judge_id=judge.judge_id, **row._asdict()) for row in rows], [judge]


def stage_human(db: DuckDBPyConnection, table: str, path: Path, scale: str | None = None) -> tuple[list[Judge], str]:
    """Return the judges of `human_grades`, and the SQL of their judgements; the grades of a file become `table`.

    Raises the errors of `human_grades`.
    """
    if is_labelled(path):
        people = people_among(judges_in(path), path)
        ids = ", ".join(tables.text(judge.judge_id) for judge in people)
        columns = ", ".join(JUDGEMENT_SCHEMA.names)
        graded = f"judge_id IN ({ids}) AND grade IS NOT NULL"
        return people, f"SELECT {columns} FROM {judgements_sql(db, path)} WHERE {graded}"
    if path.is_file() and not tool_of(path):
        refuse_model_grades(path)
        judge = imported_judge(path, path.stem, "human", scale=scale and read_scale(scale).mapping)
        stage_grades(db, table, path, scale=scale)
        return [judge], f"SELECT *, {tables.text(judge.judge_id)} AS judge_id FROM {table}"
    judgements, people = human_grades(path, scale)
    db.register(table, records_to_table(judgements, JUDGEMENT_SCHEMA))
    return people, f"FROM {table}"


def is_labelled(path: Path) -> bool:
    """Return whether a path is a labels folder or a dataset."""
    return path.is_dir() and (path / folders.MANIFEST).is_file() and folders.manifest_kind(path) in (LABELS, DATASET)


def no_grades(path: Path) -> str:
    """Explain that a path is in no form in which human grades are read."""
    return f"{missing(path)}; give a labels folder, a qrels file, or an export of Argilla or Label Studio"


def people_in(folder: Path) -> tuple[list[Judgement], list[Judge]]:
    """Read the judgements with a grade and the judges of a labels folder or dataset, people only."""
    judgements, judges = judgements_in(folder)
    people = people_among(judges, folder)
    ids = {judge.judge_id for judge in people}
    return [row for row in judgements if row.judge_id in ids and row.grade is not None], people


def people_among(judges: Iterable[Judge], folder: Path) -> list[Judge]:
    """Return the judges of a folder that are people. Raises `UsageError` if there are none."""
    listed = list(judges)
    if not (people := [judge for judge in listed if judge.kind == "human"]):
        names = ", ".join(judge.name for judge in listed)
        raise UsageError(
            f"{folder} has no human grades, its judges are: {names}; if a person graded them, import them again with "
            "--kind human"
        )
    return people


def human_qrels(path: Path, scale: str | None = None) -> Qrels:
    """Read human grades as qrels. If several people graded a pair, the median counts, the lower one of two.

    Raises the errors of `human_grades`.
    """
    found: dict[str, dict[str, list[int]]] = {}
    judgements, people = human_grades(path, scale)
    for row in judgements:
        if row.grade is not None:
            found.setdefault(row.query_id, {}).setdefault(row.passage_id, []).append(row.grade)
    several = sum(len(grades) > 1 for graded in found.values() for grades in graded.values())
    if several:
        log.info(f"{path}: {len(people)} people; of {several:,} pairs with several grades, the median counts")
    return {
        query_id: {passage_id: median_low(grades) for passage_id, grades in graded.items()}
        for query_id, graded in found.items()
    }


def line_of(path: Path, scale: str | None, *, query_id: str | None = None, passage_id: str | None = None) -> str:
    """Return `file:line` of the first row of a qrels file with a query or passage id; the path of any other source."""
    if path.is_file() and not tool_of(path):
        for row in qrels_rows(path, scale=scale):
            if query_id in (None, row.query_id) and passage_id in (None, row.passage_id):
                return row.where
    return str(path)


def files_behind(path: Path) -> list[Path]:
    """Return the files that identify human grades in a manifest: the file, or the manifest or all files of a folder."""
    if path.is_dir():
        manifest = path / folders.MANIFEST
        return [manifest] if manifest.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    return [path]
