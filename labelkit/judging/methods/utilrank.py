"""Utility ranking: as `utilsel`, but the relevant passages are ranked by use; the best tenth of the pool is positive.

The order is kept as the score: 1 for the first place, falling in steps of 1/n over the n passages of the window, 0 for
a passage that was not found relevant. The tenth is of the whole pool of the query, rounded down and at least one, so
windows and orders are joined by their scores first (arXiv 2504.05220).
"""

from collections.abc import Sequence

from labelkit.judging.methods.steps import Ask, Steps, Verdict, majority
from labelkit.judging.methods.utilsel import answered
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, identifier_tokens, ranking_pattern, read_ranking

GRADES = (0, 1, 2)
"""Not relevant; relevant; among the best tenth."""
SHARE = 10
"""One passage in so many is positive."""


def judge(size: int, prompt: Prompt) -> Steps[list[Verdict]]:
    """Three steps. Grade 1 for the relevant passages until `best_tenth` has seen the pool."""
    verdicts, relevant, answer = yield from answered(size)
    ranks = (yield from rank("ranking", relevant, answer)) if relevant else {}
    for place, found in ranks.items():
        if isinstance(found, Failure):
            verdicts[place] = Verdict(failure=found.reason)
        else:
            verdicts[place] = Verdict(1, 1 - (found - 1) / size)
    return verdicts


def rank(step: str, shown: Sequence[int], answer: str) -> Steps[dict[int, int | Failure]]:
    """Ask for an order of the passages shown: the rank of each from 1, or the reason why it has none."""
    pattern, longest = ranking_pattern(len(shown)), identifier_tokens(len(shown))
    reply = yield Ask(step, tuple(shown), answer, pattern=pattern, max_tokens=longest)
    found = read_ranking(reply, len(shown))
    return dict(zip(shown, found, strict=True))


def best_tenth(pool: Sequence[Sequence[Verdict]], grades: tuple[int, ...]) -> list[Verdict]:
    """Mean score over the orders; grade 2 for the best tenth of the pool among what is relevant in the median.

    Failures count in the size of the pool and never among the best. Ties go to the passage that comes first.
    """
    settled = [found._replace(probs=None) for found in majority(pool, grades)]
    relevant = [place for place, found in enumerate(settled) if found.grade]
    best = sorted(relevant, key=lambda place: -(settled[place].score or 0))[: max(1, len(pool) // SHARE)]
    return [found._replace(grade=2) if place in best else found for place, found in enumerate(settled)]
