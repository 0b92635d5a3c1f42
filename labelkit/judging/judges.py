"""List the judges of a labels folder, remove one of them, and refuse a further judge without a flag."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import UnknownNameError, UsageError
from labelkit.judging.failure_log import by_kind
from labelkit.judging.journal import FILE as JOURNAL_FILE
from labelkit.judging.journal import Journal
from labelkit.judging.label_tables import finalise, settled
from labelkit.judging.request_keys import options_key
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, JudgementRow
from labelkit.storage import folders, tables
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import KIND, judgements_sql, read_records
from labelkit.storage.manifest import LabelsFacts
from labelkit.storage.outputs import claimed
from labelkit.storage.remote import local

LONGEST = 60
"""Most characters of a field that an error shows."""
NAMES = {"name": "model", "prompt_name": "prompt", "prompt_sha256": "text of the prompt", "base_url": "server"}
"""Field of a judge -> its name in errors."""
ALIKE = ("judge_id", "kind", "model_answered", "engine_version", "prompt_version", "label_grades", "reading")
"""Fields in which two judges may differ without being named as different: provenance, and what other fields imply."""


class JudgeCounts(NamedTuple):
    """A judge of a labels folder, with the counts and the cost of its labels."""

    judge_id: str
    kind: str
    model: str
    """Model that was asked for, or the name given at import."""
    method: str | None
    prompt: str | None
    labels: int
    """Number of pairs with a grade."""
    failures: int
    """Number of pairs without a grade, because the judge gave no valid answer."""
    usd: float | None
    """US dollars for all pairs; None if the cost of a pair is unknown."""


def judges(folder: Path | str) -> list[JudgeCounts]:
    """Count the labels, failures and US dollars of every judge of a labels folder, sorted by judge id.

    Args:
        folder: labels folder; may be at s3://, gs:// or hf://. The judges of a run that is not finished are counted
            from its journal.

    Raises:
        ArtifactError: the folder is no labels folder, or it is damaged.
        JournalError: another process is writing the journal of a run that is not finished.
    """
    path = local(str(folder))
    if (path / JOURNAL_FILE).is_file() and not (path / folders.MANIFEST).is_file():
        return in_journal(path)
    folders.read_manifest(path, KIND)
    each = without_labels(read_records(path, "judges", Judge))
    with tables.temporary() as db:
        rows = db.sql(
            f"""
            SELECT judge_id, count(grade), count(failure), CASE WHEN count(cost) = count(*) THEN sum(cost) END
            FROM {judgements_sql(db, path)} GROUP BY judge_id
            """
        ).fetchall()
    for judge_id, labels, failures, usd in rows:
        each[judge_id] = each[judge_id]._replace(labels=labels, failures=failures, usd=usd)
    return list(each.values())


def in_journal(path: Path) -> list[JudgeCounts]:
    """Count the labels of every judge from the journal of a folder."""
    with Journal(path) as journal:
        return [counts(judge, (row for rows in queries for row, _ in rows)) for judge, _, queries in settled(journal)]


def counts(judge: Judge, rows: Iterable[JudgementRow]) -> JudgeCounts:
    """Return the counts of a judge from its judgements."""
    labels, failures, usd = 0, 0, 0.0
    priced = True
    for row in rows:
        labels += row.grade is not None
        failures += row.failure is not None
        priced = priced and row.cost is not None
        usd += row.cost or 0.0
    return without_labels([judge])[judge.judge_id]._replace(
        labels=labels, failures=failures, usd=usd if priced else None
    )


def without_labels(found: Iterable[Judge]) -> dict[str, JudgeCounts]:
    """Return counts of zero for each judge, sorted by judge id."""
    none: dict[str, Any] = {"labels": 0, "failures": 0, "usd": 0.0}
    return {
        judge.judge_id: JudgeCounts(
            judge.judge_id, judge.kind, judge.name, method=judge.method, prompt=judge.prompt_name, **none
        )
        for judge in sorted(found, key=lambda judge: judge.judge_id)
    }


def drop_judge(folder: Path | str, judge_id: str, *, command: str = "labelkit.drop_judge") -> list[JudgeCounts]:
    """Remove a judge and its judgements from a labels folder, and return the counts of the judges that remain.

    Replies that were paid for stay in the journal: they count towards the caps, datasets that were made from them can
    be replayed, and `annotate` with the options of the judge and `add_judge` brings its labels back without a request.
    A removal that was killed is completed by the same call.

    Args:
        folder: labels folder.
        judge_id: id of the judge, as `judges` lists it.
        command: the command that the manifest records if the folder has none yet.

    Raises:
        UnknownNameError: the folder has no judge of this id.
        HeldError: another process writes the folder.
        ArtifactError: the folder is no labels folder, or it is damaged.
    """
    path = Path(folder)
    with claimed(path):
        if (path / JOURNAL_FILE).is_file():
            drop_from_journal(path, judge_id, command)
        else:
            drop_from_tables(path, judge_id)
    return judges(path)


def drop_from_journal(path: Path, judge_id: str, command: str) -> None:
    """Remove a judge from the journal of a folder, and write the tables of the folder again."""
    finished = (path / folders.MANIFEST).is_file()
    manifest = folders.read_manifest(path, KIND, verify=False) if finished else None
    removal = shlex.join(["labelkit", "judges", str(path), "--drop", judge_id])
    with Journal(path) as journal:
        there = [judge.judge_id for judge, _ in journal.judges()]
        if judge_id not in there and (finished or folders.begun(path) != removal):
            raise UnknownNameError("judge", judge_id, there)
        folders.begin(path, KIND, removal)
        journal.drop(judge_id)
        inputs, facts = (dict(manifest.inputs), manifest.facts) if manifest else ({}, LabelsFacts())
        finalise(journal, path, manifest.command if manifest else command, inputs=inputs, facts=facts)


def drop_from_tables(path: Path, judge_id: str) -> None:
    """Remove a judge from a folder without a journal, such as imported grades, by replacing the folder."""
    manifest = folders.read_manifest(path, KIND)
    found = read_records(path, "judges", Judge)
    if judge_id not in (there := [judge.judge_id for judge in found]):
        raise UnknownNameError("judge", judge_id, there)
    columns, others = ", ".join(JUDGEMENT_SCHEMA.names), f"judge_id <> {tables.text(judge_id)}"
    with tables.temporary() as db, folders.writing(path, KIND, manifest.command) as draft:
        rows = judgements_sql(db, path)
        for name in manifest.rows:
            if name != "judges":
                kept = f"SELECT {columns} FROM {judgements_sql(db, path, name)} WHERE {others} ORDER BY row"
                tables.save(db, draft, name, statement=kept, schema=JUDGEMENT_SCHEMA)
        draft.write_table("judges", records_to_table((one for one in found if one.judge_id != judge_id), JUDGE_SCHEMA))
        draft.inputs, draft.facts = dict(manifest.inputs), manifest.facts
        if manifest.facts.failures:
            reasons = db.sql(f"SELECT failure, count(failure) FROM {rows} WHERE {others} GROUP BY failure").fetchall()
            unscored = f"SELECT count(*) FROM {rows} WHERE {others} AND grade IS NOT NULL AND score IS NULL"
            left = {"failures": by_kind(reasons), "without_score": tables.value(db, unscored)}
            draft.facts = manifest.facts.model_copy(update=left)


def refuse_further(judge: Judge, journal: Journal, folder: Path) -> None:
    """Raise `UsageError` if a folder has labels of other judges and none of this judge."""
    there = [one for one, _ in journal.judges()]
    if not there or options_key(judge) in map(options_key, there):
        return
    other = min(there, key=lambda one: len(differences(one, judge)))
    raise UsageError(
        f"{folder} has labels of judge {other.judge_id}, and this is another judge: "
        f"{', '.join(differences(other, judge))}; choose another output folder, add a further judge with --add-judge, "
        f"or remove the other one: labelkit judges {shlex.quote(str(folder))} --drop {shlex.quote(other.judge_id)}"
    )


def differences(one: Judge, other: Judge) -> list[str]:
    """Return the fields in which a judge differs from another one, as text."""
    before, after = fields_of(one), fields_of(other)
    return [
        f"{NAMES.get(name, name)} {shown(after.get(name))} instead of {shown(before.get(name))}"
        for name in {**before, **after}
        if name not in ALIKE and before.get(name) != after.get(name)
    ]


def fields_of(judge: Judge) -> dict[str, Any]:
    """Return the fields of a judge by name, with each field of its decoding and each option that was sent."""
    fields = judge.model_dump()
    decoding: dict[str, Any] = json.loads(fields.pop("decoding") or "{}")
    sent: dict[str, Any] = decoding.pop("sent", {})
    return fields | decoding | sent


def shown(value: object) -> str:
    """Return a field of a judge as text, with a long one shortened."""
    text = "none" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
