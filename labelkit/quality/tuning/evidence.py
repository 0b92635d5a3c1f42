"""The labels behind a tuned prompt: their split into halves, the mistakes of a judge, and the scores of prompts."""

import random
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from labelkit.judging.prompts import Prompt, PromptLabel
from labelkit.pooling.pool import Pool
from labelkit.quality.agreement_metrics import RELEVANT, GradedPair, Rated, rated
from labelkit.quality.tuning.prompt_files import Example
from labelkit.quality.tuning.proposals import Mistake
from labelkit.records import MAX_GRADE, Judgement, PairIds

Grades = dict[PairIds, int]
"""Pair -> human grade."""
Judged = Mapping[PairIds, Judgement]


class Halves(NamedTuple):
    """Human grades of the queries that choose a prompt, and of the queries that report it."""

    choosing: Grades
    reporting: Grades


def split(grades: Grades, seed: int) -> Halves:
    """Split graded pairs by query into two random halves; with an odd number of queries, the second is larger."""
    queries = sorted({query_id for query_id, _ in grades})
    chosen = set(random.Random(seed).sample(queries, len(queries) // 2))
    halves: tuple[Grades, Grades] = ({}, {})
    for pair, grade in grades.items():
        halves[pair[0] not in chosen][pair] = grade
    return Halves(*halves)


def wrong_by(row: Judgement, grade: int) -> float:
    """Return the distance of a judgement from the human grade; a missing grade is as wrong as possible."""
    return float(MAX_GRADE) if row.grade is None else float(abs(row.grade - grade))


def worst_first(half: Grades, judged: Judged, seed: int) -> list[PairIds]:
    """Return the pairs on which judge and person disagree, the largest differences first, equal ones in random order.

    Relevance counts first: a pair that only one of them calls relevant precedes all other pairs.
    """

    def error(pair: PairIds) -> tuple[bool, float]:
        row, grade = judged[pair], half[pair]
        crossed = row.grade is None or (row.grade >= RELEVANT) != (grade >= RELEVANT)
        return crossed, wrong_by(row, grade)

    wrong = [pair for pair in sorted(half) if wrong_by(judged[pair], half[pair])]
    return sorted(random.Random(seed).sample(wrong, len(wrong)), key=error, reverse=True)


def label_for(prompt: Prompt, grade: int) -> PromptLabel:
    """Return the label that a human grade corresponds to: the label of the same grade, or of the next lower one.

    Grades 2 and 3 are relevant: they never become a label that is not.
    """
    labels = sorted(prompt.labels, key=lambda label: label.grade)
    fitting = [label for label in labels if (label.grade >= RELEVANT) == (grade >= RELEVANT)] or labels
    return next((label for label in reversed(fitting) if label.grade <= grade), fitting[0])


def mistakes_of(pool: Pool, prompt: Prompt, half: Grades, *, judged: Judged, pairs: Sequence[PairIds]) -> list[Mistake]:
    """Return the texts and labels of pairs on which judge and person disagree, as the proposer reads them."""
    labels = {label.grade: label.text for label in reversed(prompt.labels)}
    found = []
    for pair in pairs:
        row = judged[pair]
        given = row.raw_grade or (labels.get(row.grade) if row.grade is not None else None)
        text = pool.passages[pair[1]].full_text
        wanted = label_for(prompt, half[pair]).text
        found.append(Mistake(pool.queries[pair[0]].text, text, wanted, given=given or f"no label ({row.failure})"))
    return found


def examples_of(
    pool: Pool, prompt: Prompt, half: Grades, *, first: Sequence[PairIds], count: int
) -> dict[PairIds, Example]:
    """Choose up to `count` labelled pairs as examples, of every label in turn, pairs in `first` before others.

    They come from at most a quarter of the queries, because the queries of examples no longer count in the choice.
    """
    most = max(1, len({query_id for query_id, _ in half}) // 4)
    order = [*first, *sorted(half.keys() - set(first))]
    shown = set(list(dict.fromkeys(query_id for query_id, _ in order))[:most])
    waiting: dict[str, list[PairIds]] = {text: [] for text in prompt.label_texts}
    for pair in order:
        if pair[0] in shown:
            waiting[label_for(prompt, half[pair]).text].append(pair)
    turns = zip_longest(*waiting.values())
    taken = [(label, pair) for turn in turns for label, pair in zip(waiting, turn, strict=True) if pair][:count]
    return {
        pair: Example(pool.queries[pair[0]].text, pool.passages[pair[1]].full_text, label=label)
        for label, pair in taken
    }


def scored(half: Grades, judged: Judged, without: Collection[str] = ()) -> Rated:
    """Convert human grades and judgements to arrays, without some queries.

    A judgement without a grade counts as the opposite of the person's decision, so that no prompt gains by replies that
    give no grade.
    """
    rows = []
    for pair, grade in sorted(half.items()):
        if pair[0] in without:
            continue
        row, relevant = judged[pair], grade >= RELEVANT
        opposite = 0 if relevant else MAX_GRADE
        failed = row.grade is None
        score = float("-inf" if relevant else "inf") if failed else row.rank_score
        rows.append(GradedPair(pair[0], grade, judged=opposite if row.grade is None else row.grade, score=score))
    return rated(rows)
