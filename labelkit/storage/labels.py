"""Labels on disk: judgements and their judges, read from a labels folder or from a dataset that keeps them."""

import hashlib
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from labelkit.errors import ArtifactError, DataError, UsageError
from labelkit.records import Judge, Judgement, Record
from labelkit.storage import folders
from labelkit.storage.manifest import DATASET, LABELS, LabelsFacts, Manifest

KIND = LABELS


def read_labels(folder: Path, *, verify: bool = True) -> tuple[list[Judgement], list[Judge], Manifest[LabelsFacts]]:
    """Judgements, judges and manifest of a labels folder."""
    manifest = folders.read_manifest(folder, KIND, verify=verify)
    return read_records(folder, "judgements", Judgement), read_records(folder, "judges", Judge), manifest


def judgements_in(folder: Path) -> tuple[list[Judgement], list[Judge]]:
    """What a labels folder or a dataset holds. Raises `UsageError` for another kind of folder."""
    kind = folders.manifest_kind(folder)
    if kind not in (KIND, DATASET):
        raise UsageError(f"{folder} holds a {kind}; give labels folders, or a dataset")
    folders.read_manifest(folder, kind)
    return read_records(folder, "judgements", Judgement), read_records(folder, "judges", Judge)


R = TypeVar("R", bound=Record)


def read_records(folder: Path, name: str, record: type[R]) -> list[R]:
    """The rows of a table of an artifact as records. Raises `ArtifactError` where one has a value that it cannot have,
    such as a number that is not finite.
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


JudgeKind = Literal["human", "llm", "imported"]


def imported_judge(path: Path, judge_name: str, kind: JudgeKind) -> Judge:
    """The judge of a qrels file; its revision is the sha256 of the file."""
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    revision = f"sha256:{folders.file_sha256(path)}"
    digest = hashlib.sha256(f"{kind} {judge_name} {revision}".encode()).hexdigest()
    return Judge(judge_id=f"{kind}-{judge_name}-{digest[:16]}", kind=kind, name=judge_name, revision=revision)
