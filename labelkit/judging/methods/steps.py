"""What the methods are made of: a step that asks, a verdict, and one verdict out of several."""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, TypeVar

from labelkit.engines import LABEL_TOKENS, Reply
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, label_probabilities, read_label


class Ask(NamedTuple):
    """One step: which prompt of the file to send, with which passages, and what an answer looks like."""

    step: str
    shown: tuple[int, ...]
    """Passages of the window in the order of their identifiers: the first is [1]."""
    answer: str = ""
    """The pseudo-answer, for the steps that show it."""
    labels: tuple[str, ...] = ()
    pattern: str | None = None
    max_tokens: int = LABEL_TOKENS


Result = TypeVar("Result")
Steps = Generator[Ask, Reply, Result]
"""Yields what to ask, is sent the reply, returns its result."""


class Verdict(NamedTuple):
    """What a method says of one passage: a grade or the reason why there is none. The fields are those of a
    `Judgement`.
    """

    grade: int | None = None
    score: float | None = None
    probs: tuple[float, ...] | None = None
    label_mass: float | None = None
    failure: str | None = None


Score = Callable[[Mapping[str, float], Prompt], float]
"""A score from the log-probabilities of a prompt's labels."""


def judge_pair(prompt: Prompt, score: Score) -> Steps[list[Verdict]]:
    """The one step of a pointwise method: a label of the prompt is its grade, its probabilities give the score."""
    reply = yield Ask("judge", (0,), labels=prompt.label_texts)
    label = read_label(reply, prompt.label_texts)
    if isinstance(label, Failure):
        return [Verdict(failure=label.reason)]
    grade = next(one.grade for one in prompt.labels if one.text == label)
    if reply.label_logprobs is None:
        return [Verdict(grade)]
    probs, mass = label_probabilities(reply.label_logprobs, prompt.label_texts)
    return [Verdict(grade, score(reply.label_logprobs, prompt), probs, label_mass=None if reply.masked else mass)]


def majority(pool: Sequence[Sequence[Verdict]], grades: tuple[int, ...]) -> list[Verdict]:
    """Each passage by itself: its only verdict, or the `median` of several."""
    return [ballots[0] if len(ballots) == 1 else median(ballots, grades) for ballots in pool]


def median(ballots: Sequence[Verdict], grades: tuple[int, ...]) -> Verdict:
    """Several verdicts on one passage as one.

    The grade is the lower median, so that an even split never makes a positive. Probabilities are the mean of the
    judge's own where each verdict has them, else the shares of the votes; the score likewise is the mean score, else
    the mean grade. Where half of the verdicts or more are failures, so is the result.
    """
    valid = [ballot for ballot in ballots if ballot.failure is None]
    if 2 * len(valid) <= len(ballots):
        first = next(ballot.failure for ballot in ballots if ballot.failure is not None)
        return Verdict(failure=f"{len(ballots) - len(valid)} of {len(ballots)} answers failed: {first}")
    given = sorted(ballot.grade for ballot in valid if ballot.grade is not None)
    probs = [ballot.probs for ballot in valid if ballot.probs is not None]
    scores = [ballot.score for ballot in valid if ballot.score is not None]
    masses = [ballot.label_mass for ballot in valid if ballot.label_mass is not None]
    votes = Counter(given)
    return Verdict(
        grade=given[(len(given) - 1) // 2],
        score=fmean(scores) if len(scores) == len(valid) else fmean(given),
        probs=tuple(map(fmean, zip(*probs, strict=True)))
        if len(probs) == len(valid)
        else tuple(votes[grade] / len(given) / grades.count(grade) for grade in grades),
        label_mass=fmean(masses) if len(masses) == len(valid) else None,
    )


def lowest(pool: Sequence[Sequence[Verdict]], grades: tuple[int, ...]) -> list[Verdict]:
    """The lower verdict on each passage that was looked at twice; a failed look is a failure."""

    def height(found: Verdict) -> tuple[bool, int | None, float]:
        return found.grade is not None, found.grade, found.score or 0.0

    return [min(ballots, key=height) for ballots in pool]
