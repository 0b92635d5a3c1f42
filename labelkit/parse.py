"""Reply -> label, or the reason why there is none. A reply that is no label never becomes a grade."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from labelkit.engines import Reply

DECORATION = " \t\r\n.\"'*`"
"""What may stand around a label without changing it: white space, a full stop, quotes, Markdown."""


class Failure(NamedTuple):
    """Why a reply carries no label."""

    reason: str


def normalise(text: str) -> str:
    """An answer without decoration and case: what labels are compared by."""
    return text.strip(DECORATION).casefold()


def read_label(reply: Reply, labels: Sequence[str]) -> str | Failure:
    """The label that a reply states: the whole answer must be that label, in any case, nothing before or after it."""
    if reply.error is not None:
        return Failure(f"no answer: {reply.error}")
    if reply.text is None:
        return Failure("no answer: the reply holds no text")
    answer = normalise(reply.text)
    for label in labels:
        # A server that constrains to one token stops for "length" right behind a complete label.
        if answer == normalise(label) and reply.finish_reason in ("stop", "length", None):
            return label
    if reply.finish_reason not in ("stop", None):
        return Failure(f"cut off: finish_reason {reply.finish_reason}, answer {reply.text[:60]!r}")
    return Failure(f"no label in {reply.text[:60]!r}" if answer else "empty answer")


def label_probabilities(logprobs: Mapping[str, float], labels: Sequence[str]) -> tuple[tuple[float, ...], float]:
    """Probabilities over the labels, renormalised to sum to 1, and the share of the model's mass that they had.

    `logprobs`: natural logarithm, one a label. Computed relative to the largest, so that tiny masses keep their ratios.
    """
    values = [logprobs[label] for label in labels]
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights), min(1.0, math.exp(top) * total)
