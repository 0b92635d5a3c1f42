"""Read judgements and their judges from a labels folder or a dataset."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from duckdb import DuckDBPyConnection
from pydantic import ValidationError

from labelkit.errors import ArtifactError, DataError, UsageError
from labelkit.records import JUDGEMENT_SCHEMA, MAX_GRADE, RERANKERS, Judge, Judgement, Record
from labelkit.storage import folders, tables
from labelkit.storage.manifest import DATASET, LABELS, LabelsFacts, Manifest
from labelkit.storage.names import missing

KIND = LABELS


def read_labels(folder: Path, *, verify: bool = True) -> tuple[list[Judgement], list[Judge], Manifest[LabelsFacts]]:
    """Read the judgements, judges and manifest of a labels folder. Raises `ArtifactError`."""
    manifest = folders.read_manifest(folder, KIND, verify=verify)
    return read_records(folder, "judgements", Judgement), read_records(folder, "judges", Judge), manifest


def judgements_in(folder: Path) -> tuple[list[Judgement], list[Judge]]:
    """Read the judgements and judges of a labels folder or a dataset. Raises `UsageError` for other kinds of folder."""
    kind = folders.manifest_kind(folder)
    if kind not in (KIND, DATASET):
        raise UsageError(f"{folder} contains a {kind}; give labels folders, or a dataset")
    folders.read_manifest(folder, kind)
    return read_records(folder, "judgements", Judgement), read_records(folder, "judges", Judge)


def judges_in(folder: Path) -> list[Judge]:
    """Read the judges of a labels folder or a dataset, and verify the folder. Raises `UsageError` for other kinds of
    folder.
    """
    kind = folders.manifest_kind(folder)
    if kind not in (KIND, DATASET):
        raise UsageError(f"{folder} contains a {kind}; give labels folders, or a dataset")
    folders.read_manifest(folder, kind)
    return read_records(folder, "judges", Judge)


INVALID = f"""
    query_id IS NULL OR passage_id IS NULL OR judge_id IS NULL
    OR (grade IS NOT NULL OR (score IS NOT NULL AND failure IS NULL)) = (failure IS NOT NULL)
    OR grade NOT BETWEEN 0 AND {MAX_GRADE} OR NOT isfinite(score) OR NOT isfinite(label_mass) OR NOT isfinite(cost)
    OR list_bool_or(list_transform(probs, lambda p: p IS NULL OR NOT isfinite(p)))
"""
"""SQL condition on rows that are no `Judgement`."""


def judgements_sql(db: DuckDBPyConnection, folder: Path, name: str = "judgements") -> str:
    """Return the SQL of a table of judgements of a labels folder or a dataset, with a column `row`, from 1.

    Columns that an earlier version did not write are NULL. Raises `ArtifactError` if a row has an invalid value, such
    as a number that is not finite. Call `judges_in` first, which verifies the folder.
    """
    db.register("no_judgements", JUDGEMENT_SCHEMA.empty_table())
    numbered = f"SELECT * EXCLUDE file_row_number, file_row_number + 1 AS row FROM {_file(folder, name)}"
    found = f"(SELECT *, 0::BIGINT AS row FROM no_judgements UNION ALL BY NAME {numbered})"
    extra = set(db.sql(f"FROM {found}").columns) - {*JUDGEMENT_SCHEMA.names, "row"}
    wrong = db.sql(f"FROM {found} WHERE {'true' if extra else INVALID} ORDER BY row LIMIT 1").to_arrow_table()
    for row in wrong.to_pylist():
        record_of(folder, name, row.pop("row"), row=row, record=Judgement)
    return found


def _file(folder: Path, name: str) -> str:
    return tables.parquet(folder / f"{name}.parquet", numbered=True)


R = TypeVar("R", bound=Record)


def read_records(folder: Path, name: str, record: type[R]) -> list[R]:
    """Read the rows of a table of an artifact as records.

    Raises `ArtifactError` if a row has an invalid value, such as a number that is not finite.
    """
    rows = folders.read_table(folder, name).to_pylist()
    return [record_of(folder, name, number, row=row, record=record) for number, row in enumerate(rows, 1)]


def record_of(folder: Path, name: str, number: int, row: Mapping[str, Any], *, record: type[R]) -> R:
    """Convert a row of a table to a record. Raises `ArtifactError`, with the number of the row, for invalid values."""
    try:
        return record(**row)
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(map(str, wrong["loc"]))
        where = f"{folder / name}.parquet, row {number}, {field} = {wrong['input']!r}"
        raise ArtifactError(f"{where}: {wrong['msg'].lower()}; make the folder again") from None


def rerankers(judges: Iterable[Judge]) -> dict[str, str]:
    """Return the id of each judge that is a reranker -> the family of its model, or `unknown`."""
    return {judge.judge_id: judge.family or "unknown" for judge in judges if judge.method in RERANKERS}


JudgeKind = Literal["human", "llm", "imported"]


def imported_judge(path: Path, judge_name: str, kind: JudgeKind, *, scale: str | None = None) -> Judge:
    """Return the judge of a qrels file, with the sha256 of the file as its revision. Raises `DataError`.

    `scale` is the mapping from the grades of the file to grades from 0 to 3; another mapping makes another judge.
    """
    if not path.is_file():
        raise DataError(missing(path))
    revision = f"sha256:{folders.file_sha256(path)}"
    digest = hashlib.sha256(" ".join(filter(None, (kind, judge_name, revision, scale))).encode()).hexdigest()
    judge_id = f"{kind}-{judge_name}-{digest[:16]}"
    return Judge(judge_id=judge_id, kind=kind, name=judge_name, revision=revision, scale=scale)
