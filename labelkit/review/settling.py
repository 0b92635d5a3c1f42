"""Find the pairs on which annotators disagree, and prepare a journal that holds their settled grades.

The journal gets the answers of the annotators to all other pairs, so that the labels folder made from it has one answer
to each pair.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import DataError, UsageError
from labelkit.judging.human_answers import NOTES, Answer, reply_with
from labelkit.judging.journal import Arrival, Journal
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import CANNOT_TELL
from labelkit.records import Judge, Judgement, PairIds
from labelkit.review.choosing import Group, JudgedPair, asked_about, by_disagreement, key_of
from labelkit.storage import folders
from labelkit.storage.labels import judgements_in


class Opinion(NamedTuple):
    """An annotator's answer to a pair."""

    judge: Judge
    answer: Answer


Opinions = Mapping[PairIds, Sequence[Opinion]]
"""Pair -> the answers of the annotators, in the order of their folders."""


def opinions_in(annotators: Sequence[Path], prompt: Prompt) -> Opinions:
    """Read the answers in folders of `labelkit review`.

    Raises `UsageError` for a folder of other labels, and `DataError` if two folders are from the same annotator.
    """
    found: dict[PairIds, list[Opinion]] = {}
    seen: dict[str, Path] = {}
    for folder in annotators:
        judgements, judges = judgements_in(folder)
        if wrong := [judge.name for judge in judges if (judge.kind, judge.prompt_sha256) != ("human", prompt.sha256)]:
            raise UsageError(
                f"{folder} has grades by {wrong[0]}, not from labelkit review; give --settle other folders"
            )
        if again := [judge for judge in judges if judge.judge_id in seen]:
            both = f"{seen[again[0].judge_id]} and {folder}"
            raise DataError(f"{both} have grades by {again[0].name}; give one of them")
        seen |= {judge.judge_id: folder for judge in judges}
        notes, people = notes_of(folder), {judge.judge_id: judge for judge in judges}
        for row in judgements:
            if (grade := grade_of(row, prompt)) is not None:
                pair, judge = (row.query_id, row.passage_id), people[row.judge_id]
                note = notes.get((row.judge_id, *pair), "")
                found.setdefault(pair, []).append(Opinion(judge, Answer(grade, note)))
    return found


def notes_of(folder: Path) -> dict[tuple[str, ...], str]:
    """Return the notes of a labels folder by judge, query and passage."""
    if not (folder / f"{NOTES}.parquet").is_file():
        return {}
    rows: list[dict[str, Any]] = folders.read_table(folder, NOTES).to_pylist()
    return {(row["judge_id"], row["query_id"], row["passage_id"]): row["note"] for row in rows}


def grade_of(row: Judgement, prompt: Prompt) -> str | None:
    """Return the answer behind an annotator's judgement; None for a failure of another kind."""
    if row.grade is None:
        return CANNOT_TELL if row.failure == CANNOT_TELL else None
    return next(text for text, grade in prompt.grade_of.items() if grade == row.grade)


def disputed(opinions: Opinions, prompt: Prompt, seed: int) -> list[PairIds]:
    """Return the pairs with different answers, the largest difference of grades first. "Cannot tell" differs from
    every grade by 0.
    """
    found = []
    for pair, several in opinions.items():
        answers = {opinion.answer.grade for opinion in several}
        if len(answers) > 1:
            grades = [prompt.grade_of[answer] for answer in answers if answer != CANNOT_TELL]
            found.append(JudgedPair(*pair, gap=max(grades) - min(grades), sure=1.0))
    return [pair[:2] for pair in sorted(found, key=lambda pair: by_disagreement(pair, seed))]


def register(journal: Journal, opinions: Opinions, settler: Judge, prompt: Prompt, queue: Iterable[PairIds]) -> None:
    """Make a journal hold the pairs of the queue for the settler, and the undisputed answers of all annotators."""
    left = set(queue)
    pairs: dict[str, list[PairIds]] = {settler.judge_id: list(left)}
    judges = {settler.judge_id: settler}
    arrivals = []
    for pair, several in opinions.items():
        for judge, answer in several if pair not in left else ():
            judges[judge.judge_id] = judge
            pairs.setdefault(judge.judge_id, []).append(pair)
            reply = reply_with(key_of(judge, pair), answer)
            if journal.reply(reply.key) != reply:
                arrivals.append(Arrival(reply))
    for judge, _ in journal.judges():
        journal.drop(judge.judge_id)
    for judge_id, judge in judges.items():
        journal.register(judge, prompt.content, asked_about(judge, pairs[judge_id]))
    if arrivals:
        journal.append(arrivals)


def group_by_query(queue: Sequence[PairIds]) -> list[Group]:
    """Group pairs by their query, in the order of the first pair of each query."""
    groups: dict[str, Group] = {}
    for pair in queue:
        groups.setdefault(pair[0], []).append(pair)
    return list(groups.values())
