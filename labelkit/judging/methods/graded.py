"""Judge each pair by a grade from 0 to 3, as in UMBRELA (arXiv 2406.06519).

The answer is constrained to a label, and the distribution over grades is read from the log-probabilities: even if the
most probable grade of a weak judge says little, its expected grade still orders pairs.
"""

from collections.abc import Sequence
from operator import mul

from labelkit.engines import Reply
from labelkit.judging.methods.steps import Verdict, verdict_of_label
from labelkit.judging.prompts import Prompt


def verdict(reply: Reply, prompt: Prompt) -> Verdict:
    """Return the verdict of the label of one pair; the score is the expected grade."""
    return verdict_of_label(reply, prompt, lambda logprobs, probs, prompt: expected_grade(probs, prompt))


def expected_grade(probs: Sequence[float], prompt: Prompt) -> float:
    """Return the mean grade under the renormalised label probabilities, within the grades of the prompt."""
    mean: float = sum(map(mul, probs, prompt.grades))
    return mean
