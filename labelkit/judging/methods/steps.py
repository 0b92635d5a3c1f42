"""Parts of annotation methods: steps, verdicts, and ways to settle several verdicts."""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, TypeVar

from labelkit.engines import LABEL_TOKENS, Reply
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, label_probabilities, read_label


class Ask(NamedTuple):
    """One step of a method: the templates to send, the passages to show, and the form of the answer."""

    step: str
    shown: tuple[int, ...]
    """Places of passages in the window, in the order of their identifiers, from [1]."""
    answer: str = ""
    """Pseudo-answer, for steps that show it."""
    labels: tuple[str, ...] = ()
    pattern: str | None = None
    max_tokens: int = LABEL_TOKENS


Result = TypeVar("Result")
Steps = Generator[Ask, Reply, Result]
"""Generator that yields steps, receives replies and returns a result."""


class Verdict(NamedTuple):
    """A method's verdict on one passage: a grade, or a reranker's score, or a failure. Its fields are also in
    `Judgement`.
    """

    grade: int | None = None
    score: float | None = None
    probs: tuple[float, ...] | None = None
    label_mass: float | None = None
    failure: str | None = None
    raw_grade: str | None = None


VerdictOf = Callable[[Reply, Prompt], Verdict]
"""Function from the only reply about a passage to the verdict on it."""
Score = Callable[[Mapping[str, float], Sequence[float], Prompt], float]
"""Function from the log-probabilities and the renormalised probabilities of a prompt's labels to a score."""


def ask_for_label(prompt: Prompt) -> Ask:
    """Return the only step of a pointwise method with labels."""
    return Ask("judge", (0,), labels=prompt.label_texts)


def verdict_of_label(reply: Reply, prompt: Prompt, score: Score) -> Verdict:
    """Return the verdict of a reply to `ask_for_label`: the label gives the grade, its probabilities the score."""
    label = read_label(reply, prompt.label_texts)
    if isinstance(label, Failure):
        return Verdict(failure=label.reason)
    grade = prompt.grade_of[label]
    raw_grade = None if label == str(grade) else label
    if reply.label_logprobs is None:
        return Verdict(grade, raw_grade=raw_grade)
    probs, mass = label_probabilities(reply.label_logprobs, prompt.label_texts)
    scored = score(reply.label_logprobs, probs, prompt)
    return Verdict(grade, scored, probs, label_mass=None if reply.masked else mass, raw_grade=raw_grade)


def majority(pool: Sequence[Sequence[Verdict]], grades: tuple[int, ...]) -> list[Verdict]:
    """Return for each passage its only verdict, or the `median` of several."""
    return [ballots[0] if len(ballots) == 1 else median(ballots, grades) for ballots in pool]


def median(ballots: Sequence[Verdict], grades: tuple[int, ...]) -> Verdict:
    """Combine several verdicts on one passage.

    The grade is the lower median, so that an even split never makes a positive. Probabilities are the mean of the
    judge's probabilities if each verdict has them, else the shares of the votes. The score is the mean score if each
    verdict has one, else the mean grade. If at least half of the verdicts are failures, the result is a failure.
    """
    valid = [ballot for ballot in ballots if ballot.failure is None]
    if 2 * len(valid) <= len(ballots):
        first = next(ballot.failure for ballot in ballots if ballot.failure is not None)
        return Verdict(failure=f"{len(ballots) - len(valid)} of {len(ballots)} answers failed: {first}")
    ranked = sorted(valid, key=lambda ballot: (ballot.grade or 0, ballot.raw_grade or ""))
    given = [ballot.grade for ballot in ranked if ballot.grade is not None]
    middle = (len(given) - 1) // 2
    probs = [ballot.probs for ballot in valid if ballot.probs is not None]
    scores = [ballot.score for ballot in valid if ballot.score is not None]
    masses = [ballot.label_mass for ballot in valid if ballot.label_mass is not None]
    votes = Counter(given)
    return Verdict(
        grade=given[middle],
        raw_grade=ranked[middle].raw_grade,
        score=fmean(scores) if len(scores) == len(valid) else fmean(given),
        probs=tuple(map(fmean, zip(*probs, strict=True)))
        if len(probs) == len(valid)
        else tuple(votes[grade] / len(given) / grades.count(grade) for grade in grades),
        label_mass=fmean(masses) if len(masses) == len(valid) else None,
    )


def lowest(pool: Sequence[Sequence[Verdict]], grades: tuple[int, ...]) -> list[Verdict]:
    """Return the lower verdict on each passage with a second look; if one look failed, the result is a failure."""

    def height(found: Verdict) -> tuple[bool, int, float]:
        return found.failure is None, found.grade or 0, found.score or 0.0

    return [min(ballots, key=height) for ballots in pool]
