"""Utility selection: relevant passages, an answer drawn from them, and of them those that serve it (arXiv 2504.05220).

A passage that is relevant and not useful keeps grade 1: about the subject, of no help with the answer.
"""

from labelkit.judging.methods.relsel import select, verdict
from labelkit.judging.methods.steps import Ask, Steps, Verdict
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, read_answer

GRADES = (0, 1, 2)
"""Not relevant; relevant and not useful; useful."""
ANSWER_TOKENS = 400
"""Of a pseudo-answer; the prompt asks for a few sentences, and one that is cut off is a failure."""


def judge(size: int, prompt: Prompt) -> Steps[list[Verdict]]:
    """Three steps; the second and third see the relevant passages alone. The score is the grade, as in `relsel`."""
    verdicts, relevant, answer = yield from answered(size)
    useful = (yield from select("utility", relevant, answer)) if relevant else {}
    for place, chosen in useful.items():
        verdicts[place] = verdict(chosen, yes=2, no=1)
    return verdicts


def answered(size: int) -> Steps[tuple[list[Verdict], list[int], str]]:
    """The steps before the last: verdicts on all passages, grade 1 for the relevant; these; an answer drawn from them.

    Without an answer the relevant passages are failures, and none is left for the last step.
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
