"""Read judgements and their judges from a labels folder or a dataset."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from labelkit.errors import ArtifactError, DataError, UsageError
from labelkit.records import RERANKERS, Judge, Judgement, Record
from labelkit.storage import folders
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


R = TypeVar("R", bound=Record)


def read_records(folder: Path, name: str, record: type[R]) -> list[R]:
    """Read the rows of a table of an artifact as records.

    Raises `ArtifactError` if a row has an invalid value, such as a number that is not finite.
    """
    found = []
    for number, row in enumerate(folders.read_table(folder, name).to_pylist(), 1):
        try:
            found.append(record(**row))
        except ValidationError as error:
            wrong = error.errors()[0]
            field = ".".join(map(str, wrong["loc"]))
            where = f"{folder / name}.parquet, row {number}, {field} = {wrong['input']!r}"
            raise ArtifactError(f"{where}: {wrong['msg'].lower()}; make the folder again") from None
    return found


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
