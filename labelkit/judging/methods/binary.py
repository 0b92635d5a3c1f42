"""Judge each pair by yes or no, with the log-odds of yes as its score (arXiv 2003.06713, 2211.09110)."""

import math
from collections.abc import Mapping

from labelkit.engines import Reply
from labelkit.judging.methods.steps import Verdict, verdict_of_label
from labelkit.judging.prompts import Prompt


def verdict(reply: Reply, prompt: Prompt) -> Verdict:
    """Return the verdict of the label of one pair; the score is the log-odds of the positive labels."""
    return verdict_of_label(reply, prompt, lambda logprobs, probs, prompt: log_odds(logprobs, prompt))


def log_odds(logprobs: Mapping[str, float], prompt: Prompt) -> float:
    """Return log P(positive labels) - log P(other labels), natural logarithm; the normaliser cancels."""
    positive = [logprobs[label.text] for label in prompt.labels if label.grade > 0]
    negative = [logprobs[label.text] for label in prompt.labels if label.grade == 0]
    return _log_sum_exp(positive) - _log_sum_exp(negative)


def _log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
