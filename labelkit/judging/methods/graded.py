"""Pointwise grades: one pair, one grade from 0 to 3, after UMBRELA (arXiv 2406.06519).

The grade is constrained to a label, and its distribution is read from the log-probabilities: a weak judge whose most
likely grade says little still orders pairs by the grade it expects.
"""

from collections.abc import Mapping

from labelkit.judging.methods.steps import Steps, Verdict, judge_pair
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import label_probabilities


def judge(size: int, prompt: Prompt) -> Steps[list[Verdict]]:
    """One pair, one label; the score is the expected grade."""
    return (yield from judge_pair(prompt, expected_grade))


def expected_grade(logprobs: Mapping[str, float], prompt: Prompt) -> float:
    """Mean grade under the renormalised label probabilities, between the lowest and the highest grade of the prompt."""
    probs, _ = label_probabilities(logprobs, prompt.label_texts)
    return sum(p * label.grade for p, label in zip(probs, prompt.labels, strict=True))
