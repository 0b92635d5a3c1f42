"""Select useful passages in three steps: relevance, a pseudo-answer, and utility (arXiv 2504.05220).

The judge selects the relevant passages, answers the query from them, and selects the ones that are useful for this
answer. A passage that is relevant but not useful gets grade 1: it is about the subject, but does not help to answer.
"""

from labelkit.judging.methods.relsel import select, verdict
from labelkit.judging.methods.steps import Ask, Steps, Verdict
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, read_answer

GRADES = (0, 1, 2)
"""Grades of passages that are not relevant, relevant but not useful, and useful."""
ANSWER_TOKENS = 400
"""Token limit of a pseudo-answer; the prompt asks for a few sentences, and a longer answer is a failure."""


def judge(size: int, prompt: Prompt) -> Steps[list[Verdict]]:
    """Ask for a selection in three steps; the second and third show relevant passages only. The score is the grade."""
    verdicts, relevant, answer = yield from answered(size)
    useful = (yield from select("utility", relevant, answer)) if relevant else {}
    for place, chosen in useful.items():
        verdicts[place] = verdict(chosen, yes=2, no=1)
    return verdicts


def answered(size: int) -> Steps[tuple[list[Verdict], list[int], str]]:
    """Run the first two steps; return verdicts on all passages, the relevant passages, and the pseudo-answer.

    Relevant passages get grade 1. If there is no answer, they are failures, and none is left for the last step.
    """
    relevance = yield from select("relevance", range(size))
    verdicts = [verdict(relevance[place], yes=1, no=0) for place in range(size)]
    relevant = [place for place in range(size) if relevance[place] is True]
    if not relevant:
        return verdicts, [], ""
    answer = read_answer((yield Ask("answer", tuple(relevant), max_tokens=ANSWER_TOKENS)))
    if isinstance(answer, Failure):
        for place in relevant:
            verdicts[place] = Verdict(failure=answer.reason)
        return verdicts, [], ""
    return verdicts, relevant, answer
