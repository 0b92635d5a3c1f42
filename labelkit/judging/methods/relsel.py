"""Select relevant passages: the judge reads the pool of a query and names the relevant ones (arXiv 2504.05220)."""

from collections.abc import Sequence

from labelkit.judging.methods.steps import Ask, Steps, Verdict
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, identifier_tokens, read_selection, selection_pattern

GRADES = (0, 2)
"""Grades of passages not selected and selected; 2 is the lowest grade that counts as an answer."""


def judge(size: int, prompt: Prompt) -> Steps[list[Verdict]]:
    """Ask for a selection in one step. The score is the grade; over several orders it becomes the mean grade."""
    chosen = yield from select("relevance", range(size))
    return [verdict(chosen[place], yes=2, no=0) for place in range(size)]


def select(step: str, shown: Sequence[int], answer: str = "") -> Steps[dict[int, bool | Failure]]:
    """Ask for a selection among the passages shown; return for each of them yes, no, or a failure."""
    pattern, longest = selection_pattern(len(shown)), identifier_tokens(len(shown))
    reply = yield Ask(step, tuple(shown), answer, pattern=pattern, max_tokens=longest)
    found = read_selection(reply, len(shown))
    return dict(zip(shown, found, strict=True))


def verdict(chosen: bool | Failure, *, yes: int, no: int) -> Verdict:
    """Return the verdict of a choice, whose score is its grade."""
    if isinstance(chosen, Failure):
        return Verdict(failure=chosen.reason)
    grade = yes if chosen else no
    return Verdict(grade, float(grade))
