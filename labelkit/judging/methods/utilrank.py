"""Rank passages by utility: like `utilsel`, but relevant passages are ranked; the best tenth of the pool is positive.

The rank is stored as the score: 1 for the first place, falling in steps of 1/n over the n passages of the window, and 0
for a passage that was not found relevant. The tenth is counted over the whole pool of the query, rounded down and at
least one passage, so windows and orders are first combined by their scores (arXiv 2504.05220).
"""

from collections.abc import Sequence

from labelkit.judging.methods.steps import Ask, Steps, Verdict, majority
from labelkit.judging.methods.utilsel import answered
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, identifier_tokens, ranking_pattern, read_ranking

GRADES = (0, 1, 2)
"""Grades of passages that are not relevant, relevant, and among the best tenth."""
SHARE = 10
"""Size of a pool per positive passage."""


def judge(size: int, prompt: Prompt) -> Steps[list[Verdict]]:
    """Ask for a ranking in three steps. Relevant passages get grade 1; `best_tenth` raises the best ones to 2."""
    verdicts, relevant, answer = yield from answered(size)
    ranks = (yield from rank("ranking", relevant, answer)) if relevant else {}
    for place, found in ranks.items():
        if isinstance(found, Failure):
            verdicts[place] = Verdict(failure=found.reason)
        else:
            verdicts[place] = Verdict(1, 1 - (found - 1) / size)
    return verdicts


def rank(step: str, shown: Sequence[int], answer: str) -> Steps[dict[int, int | Failure]]:
    """Ask for a ranking of the passages shown; return for each of them its rank from 1, or a failure."""
    pattern, longest = ranking_pattern(len(shown)), identifier_tokens(len(shown))
    reply = yield Ask(step, tuple(shown), answer, pattern=pattern, max_tokens=longest)
    found = read_ranking(reply, len(shown))
    return dict(zip(shown, found, strict=True))


def best_tenth(pool: Sequence[Sequence[Verdict]], grades: tuple[int, ...]) -> list[Verdict]:
    """Return the mean score over orders, with grade 2 for the best tenth of the pool among the relevant passages.

    A passage is relevant by its median grade. Failures count towards the size of the pool but are never among the best.
    In a tie, the earlier passage is better.
    """
    settled = [found._replace(probs=None) for found in majority(pool, grades)]
    relevant = [place for place, found in enumerate(settled) if found.grade]
    best = sorted(relevant, key=lambda place: -(settled[place].score or 0))[: max(1, len(pool) // SHARE)]
    return [found._replace(grade=2) if place in best else found for place, found in enumerate(settled)]
