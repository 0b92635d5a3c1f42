"""Read the answers that people gave in Argilla and Label Studio, in every form in which the tools export them.

An answer counts if the person submitted it: drafts and discarded answers of Argilla and skipped tasks of Label Studio
are no labels. Of several answers by one person to a pair, the newest counts.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.files import file_rows
from labelkit.corpora.rows import id_of
from labelkit.corpora.scales import expected_grades, grade_on, read_scale
from labelkit.errors import DataError
from labelkit.records import Judge, Judgement, PairIds
from labelkit.storage import folders

log = logging.getLogger(__name__)

QUESTION = "grade"
"""Name of the question in both tools."""
LONG_AGO = datetime.min.replace(tzinfo=UTC)
FILES = {"argilla": "records.json", "label-studio": "tasks.json"}
"""Tool -> file of an export folder."""


class Answer(NamedTuple):
    """An answer of a person to a pair."""

    pair: PairIds
    person: str
    value: Any
    """Grade as the person gave it; None if the answer has none."""
    where: str
    status: str = "submitted"
    given_at: datetime = LONG_AGO


Fields = Mapping[str, Any]


def tool_of(path: Path) -> str | None:
    """Return the tool that exported a file or folder, by the keys of its first record; None for any other file."""
    if path.is_dir():
        return next((tool for tool, name in FILES.items() if (path / name).is_file()), None)
    try:
        keys = set(next(file_rows(path))[1])
    except (DataError, StopIteration):
        return None
    if keys & {"responses", f"{QUESTION}.responses"}:
        return "argilla"
    return "label-studio" if keys & {"annotations", "completions", "annotation_id"} else None


def read_argilla(path: Path, name: str, scale: str | None = None) -> tuple[list[Judgement], list[Judge]]:
    """Read human answers from Argilla: `records.to_json`, `records.to_list(flatten=True)`, its API, or Argilla 1."""
    return human_judgements(answers_in(path, argilla_answers), path, name, scale=scale)


def read_label_studio(path: Path, name: str, scale: str | None = None) -> tuple[list[Judgement], list[Judge]]:
    """Read human answers from Label Studio: exports in the formats JSON and JSON-MIN."""
    return human_judgements(answers_in(path, label_studio_answers), path, name, scale=scale)


READERS = {"argilla": read_argilla, "label-studio": read_label_studio}
"""Tool -> reader of its answers (path, name of the judges, scale)."""


def answers_in(path: Path, read: Callable[[Fields, str], Iterator[Answer]]) -> Iterator[Answer]:
    """Yield the answers of all records of a file; in a folder, of the file that an export writes."""
    if path.is_dir():
        path = next((path / name for name in FILES.values() if (path / name).is_file()), path)
    for where, record in file_rows(path):
        yield from read(record, where)


def argilla_answers(record: Fields, where: str) -> Iterator[Answer]:
    """Yield the answers of a record, in the three forms that Argilla writes.

    The nested form of `records.to_json` has no status of an answer. There, an answer in a record that is not completed
    may be a draft, so its status is unknown.
    """
    pair = pair_of(record.get("metadata") or record, where)
    flat = f"{QUESTION}.responses"
    if flat in record:
        values, people = listed(record[flat], where), listed(record.get(f"{flat}.users"), where)
        statuses = listed(record.get(f"{flat}.status"), where)
        for value, person, status in zip(values, people, statuses, strict=True):
            yield Answer(pair, str(person), value, where=where, status=str(status or "submitted"))
        return
    responses = record.get("responses") or {}
    if isinstance(responses, list):
        for response in objects(responses, where):
            value = objects([(response.get("values") or {}).get(QUESTION) or {}], where)[0].get("value")
            person, status = str(response.get("user_id")), str(response.get("status") or "submitted")
            yield Answer(pair, person, value, where=where, status=status, given_at=time_of(response, where))
        return
    unknown = "submitted" if record.get("status") in ("completed", None) else "unknown"
    for answer in objects(responses.get(QUESTION) or [], where):
        status = str(answer.get("status") or unknown)
        yield Answer(pair, str(answer.get("user_id")), answer.get("value"), where=where, status=status)


def label_studio_answers(task: Fields, where: str) -> Iterator[Answer]:
    """Yield the answers of a task of an export as JSON, or the answer of a row of an export as JSON-MIN."""
    if "data" not in task:
        if QUESTION in task:
            pair, person = pair_of(task, where), person_of(task.get("annotator"))
            yield Answer(pair, person, task[QUESTION], where=where, given_at=time_of(task, where))
        return
    pair = pair_of(task["data"], where)
    for annotation in objects(task.get("annotations") or task.get("completions") or [], where):
        person, given_at = person_of(annotation.get("completed_by")), time_of(annotation, where)
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            yield Answer(pair, person, None, where=where, status="skipped", given_at=given_at)
            continue
        for result in objects(annotation.get("result") or [], where):
            if result.get("from_name") == QUESTION:
                choices = (result.get("value") or {}).get("choices") or [None]
                yield Answer(pair, person, choices[0], where=where, given_at=given_at)


def person_of(who: Any) -> str:
    """Return the name of an annotator of Label Studio: the email or number, which an export may wrap in an object."""
    return str(who.get("email") or who.get("id")) if isinstance(who, dict) else str(who)


def pair_of(ids: Any, where: str) -> PairIds:
    """Return query and passage id of a record. Raises `DataError` if they are missing."""
    try:
        row = ids if isinstance(ids, dict) else {}
        return id_of(row, "query_id", where), id_of(row, "passage_id", where)
    except DataError as error:
        raise DataError(
            f"{error}; the records need query_id and passage_id, as labelkit export --to argilla or label-studio "
            "writes them"
        ) from None


def time_of(answer: Fields, where: str) -> datetime:
    """Return the time of the last change of an answer; the earliest time if it is not told. Raises `DataError`."""
    told = answer.get("updated_at") or answer.get("created_at")
    if told is None:
        return LONG_AGO
    try:
        time = told if isinstance(told, datetime) else datetime.fromisoformat(str(told))
    except ValueError:
        raise DataError(f"{where}: {told!r} is not a time in ISO 8601") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def objects(values: Any, where: str) -> list[dict[str, Any]]:
    """Return a list of objects. Raises `DataError` for anything else."""
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{where}: expected a list of objects, found {str(values)[:40]!r}")
    return values


def listed(values: Any, where: str) -> list[Any]:
    """Return a list. Raises `DataError` for anything else."""
    if not isinstance(values, list):
        raise DataError(f"{where}: expected a list, found {str(values)[:40]!r}")
    return values


def grade_of(value: Any, where: str, scale: str | None) -> tuple[int, str | None]:
    """Convert an answer to a grade from 0 to 3, and to its grade on the scale. Raises `DataError` if it is none."""
    grade = grade_on(str(value), scale)
    if grade is None:
        raise DataError(f"{where}: the answer {value!r} is not a grade {expected_grades(scale)}")
    return grade, scale and str(value)


def human_judgements(
    answers: Iterator[Answer], path: Path, name: str, *, scale: str | None
) -> tuple[list[Judgement], list[Judge]]:
    """Make judgements, sorted by pair and person, and one judge per person.

    Only submitted answers are judgements; the others are counted in the log. Raises `DataError` if there are none.
    """
    newest: dict[tuple[PairIds, str], Answer] = {}
    for answer in answers:
        key = (answer.pair, answer.person)
        if key not in newest or answer.given_at >= newest[key].given_at:
            newest[key] = answer
    counts = Counter(answer.status for answer in newest.values() if answer.status != "submitted")
    for status, count in sorted(counts.items()):
        log.warning(f"{path}: {count:,} answers are left out: {STATUSES.get(status, status)}")
    kept = [newest[key] for key in sorted(newest) if newest[key].status == "submitted"]
    if not kept:
        raise DataError(f"{path} has no answers to the question {QUESTION!r}")
    judges = judges_of({answer.person for answer in kept}, path, name, scale=scale)
    judgements = []
    for answer in kept:
        grade, raw_grade = grade_of(answer.value, answer.where, scale)
        query_id, passage_id = answer.pair
        judge_id = judges[answer.person].judge_id
        judgements.append(
            Judgement(query_id=query_id, passage_id=passage_id, judge_id=judge_id, grade=grade, raw_grade=raw_grade)
        )
    return judgements, list(judges.values())


STATUSES = {
    "draft": "drafts, which their annotators have not submitted",
    "discarded": "discarded by their annotators",
    "skipped": "skipped by their annotators",
    "unknown": "possibly drafts, because their records are not completed and records.to_json does not write whether an "
    "answer was submitted; export with records.to_list(flatten=True) instead",
}
"""Status of an answer that does not count -> words for the log."""


def judges_of(people: set[str], path: Path, name: str, *, scale: str | None) -> dict[str, Judge]:
    """Make the judge of each person; its revision is the sha256 of the file."""
    revision = f"sha256:{folders.file_sha256(path)}" if path.is_file() else None
    mapping = read_scale(scale).mapping if scale else None
    judges = {}
    for person in sorted(people):
        digest = hashlib.sha256(f"human {name} {person} {revision}{mapping or ''}".encode()).hexdigest()
        judge_id = f"human-{name}-{digest[:16]}"
        judges[person] = Judge(
            judge_id=judge_id, kind="human", name=f"{name}: {person}", revision=revision, scale=mapping
        )
    return judges
