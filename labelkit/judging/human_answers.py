"""Answers of annotators: a grade or "cannot tell", with a note. They are replies in the journal; notes also become a
table of the labels folder.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from labelkit.engines import Reply
from labelkit.judging.journal import Journal
from labelkit.judging.reply_parser import CANNOT_TELL
from labelkit.storage import folders

LONGEST_NOTE = 4000
"""Most characters of a note."""
NOTES = "notes"
"""Table of a labels folder with the annotators' notes."""
NOTE_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("passage_id", pa.string()),
        ("judge_id", pa.string()),
        ("grade", pa.string()),
        ("note", pa.string()),
    ]
)


class Answer(NamedTuple):
    """An annotator's answer to a pair."""

    grade: str
    """A label of the prompt, or `CANNOT_TELL`."""
    note: str = ""


def reply_with(key: str, answer: Answer) -> Reply:
    """Make the reply that stores an answer in a journal: the note is its reasoning."""
    note = answer.note or None
    if answer.grade == CANNOT_TELL:
        return Reply(key=key, error=CANNOT_TELL, reasoning=note)
    return Reply(key=key, text=answer.grade, reasoning=note, finish_reason="stop")


def answer_in(reply: Reply | None) -> Answer | None:
    """Return the answer that a reply stores; None if there is none."""
    if reply is None or (grade := reply.error or reply.text) is None:
        return None
    return Answer(grade, reply.reasoning or "")


def write_notes(journal: Journal, folder: Path) -> dict[str, int]:
    """Write the table of notes of all annotators in a journal, by judge and pair. Returns the number of its rows by
    table, empty without notes: then there is no table.
    """
    rows = list(notes_in(journal))
    path = folder / f"{NOTES}.parquet"
    if not rows:
        path.unlink(missing_ok=True)
        return {}
    folders.write_parquet(path, pa.Table.from_pylist(rows, schema=NOTE_SCHEMA))
    return {NOTES: len(rows)}


def notes_in(journal: Journal) -> Iterator[dict[str, Any]]:
    """Yield the answers with a note as rows of the table."""
    people = (judge for judge, _ in journal.judges() if judge.kind == "human")
    for judge in people:
        for pair in journal.asked(judge.judge_id):
            answer = answer_in(journal.reply(pair.key))
            if answer and answer.note:
                ids = {"query_id": pair.query_id, "passage_id": pair.passage_id, "judge_id": judge.judge_id}
                yield ids | answer._asdict()


def count_of(answers: Iterable[Answer], *, cannot_tell: bool) -> int:
    """Count the answers that are grades, or that are not."""
    return sum((answer.grade == CANNOT_TELL) == cannot_tell for answer in answers)
