"""Relevance selection: the judge sees the pool of a query and names the relevant passages (arXiv 2504.05220)."""

from collections.abc import Sequence

from labelkit.judging.methods.steps import Ask, Steps, Verdict
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, identifier_tokens, read_selection, selection_pattern

GRADES = (0, 2)
"""Not selected; selected: the lowest grade that counts as an answer."""


def judge(size: int, prompt: Prompt) -> Steps[list[Verdict]]:
    """One step. The score is the grade; over several orders it becomes the mean grade."""
    chosen = yield from select("relevance", range(size))
    return [verdict(chosen[place], yes=2, no=0) for place in range(size)]


def select(step: str, shown: Sequence[int], answer: str = "") -> Steps[dict[int, bool | Failure]]:
    """Ask which of the passages shown to take: for each of them yes, no, or the reason why that is unknown."""
    pattern, longest = selection_pattern(len(shown)), identifier_tokens(len(shown))
    reply = yield Ask(step, tuple(shown), answer, pattern=pattern, max_tokens=longest)
    found = read_selection(reply, len(shown))
    return dict(zip(shown, found, strict=True))


def verdict(chosen: bool | Failure, *, yes: int, no: int) -> Verdict:
    """A choice as a grade that is its own score."""
    if isinstance(chosen, Failure):
        return Verdict(failure=chosen.reason)
    grade = yes if chosen else no
    return Verdict(grade, float(grade))
