"""Grades that were made elsewhere become judgements: `labelkit import`."""

import hashlib
from pathlib import Path
from typing import Literal

from labelkit import artifact, sources
from labelkit.annotate import KIND
from labelkit.dataset import records_to_table
from labelkit.schema import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement

JudgeKind = Literal["human", "llm", "imported"]
KINDS: dict[str, JudgeKind] = {"human": "human", "llm": "llm", "imported": "imported"}


def import_grades(path: Path, target: Path, *, judge_name: str, kind: JudgeKind, command: str) -> int:
    """Write the grades of a qrels file (BEIR or TREC) as a labels folder; returns how many there are."""
    judgements, judge = imported_judgements(path, judge_name, kind)
    with artifact.writing(target, KIND, command) as draft:
        draft.write_table("judgements", records_to_table(judgements, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([judge], JUDGE_SCHEMA))
        draft.inputs = {str(path): artifact.file_sha256(path)}
    return len(judgements)


def imported_judgements(path: Path, judge_name: str, kind: JudgeKind) -> tuple[list[Judgement], Judge]:
    """Judgements of a qrels file, sorted by pair, and their judge; the judge's revision is the sha256 of the file."""
    qrels = sources.read_qrels(path)
    revision = f"sha256:{artifact.file_sha256(path)}"
    digest = hashlib.sha256(f"{kind} {judge_name} {revision}".encode()).hexdigest()
    judge = Judge(judge_id=f"{kind}-{judge_name}-{digest[:16]}", kind=kind, name=judge_name, revision=revision)
    judgements = [
        Judgement(query_id=query_id, passage_id=passage_id, judge_id=judge.judge_id, grade=grade)
        for query_id, graded in sorted(qrels.items())
        for passage_id, grade in sorted(graded.items())
    ]
    return judgements, judge
