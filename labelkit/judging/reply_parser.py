"""Reply -> label, selection or ranking, or the reason why there is none. What is no answer never becomes a grade."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from labelkit.engines import Reply

DECORATION = " \t\r\n.\"'*`"
"""What may stand around an answer without changing it: white space, a full stop, quotes, Markdown."""
REASONING = re.compile(r"\s*<(think|thinking|reasoning|reflection)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
"""What a reasoning model says before its answer."""
REASONING_TAG = re.compile(r"</?(think|thinking|reasoning|reflection)>", re.IGNORECASE)
NONE = "none"
"""The selection of no passage: said, not left out."""
IDENTIFIER = r"\[[1-9][0-9]{0,3}\]"
SELECTION = re.compile(rf"{IDENTIFIER}(?:[ \t\r\n]*[,;]?[ \t\r\n]*{IDENTIFIER})*")
CUT_OFF = ("length", "maxtokens", "maxoutputtokens", "tokenlimit", "context")
"""Words in the finish reasons of an answer that ran out of tokens, in the spellings of vendors and servers."""
NO_END = (
    *(
        "filter",
        "safety",
        "toxic",
        "refus",
        "block",
        "prohibited",
        "recitation",
        "spii",
        "guardrail",
        "armor",
        "policy",
    ),
    *("error", "abort", "cancel", "timeout", "interrupt", "insufficient", "incomplete", "malformed", "fail"),
)
"""Words in the finish reasons of an answer that was withheld or broke off. All other reasons are a normal end: every
vendor has its own word for that.
"""
RANKING = re.compile(rf"{IDENTIFIER}(?:[ \t\r\n]*[>,;]?[ \t\r\n]*{IDENTIFIER})*")


class Failure(NamedTuple):
    """Why a reply carries no answer."""

    reason: str


def normalise(text: str) -> str:
    """An answer without decoration and case: what labels are compared by."""
    return text.strip(DECORATION).lower()


def read_label(reply: Reply, labels: Sequence[str]) -> str | Failure:
    """The label that a reply states: the whole answer must be that label, in any case, nothing before or after it."""
    text = answer_text(reply)
    if isinstance(text, Failure):
        return text
    answer = normalise(text)
    for label in labels:
        # A server that constrains to one token stops for "length" right behind a complete label.
        if answer == normalise(label) and not says(reply.finish_reason, NO_END):
            return label
    return ended(reply, text) or Failure(f"no label in {text[:60]!r}" if answer else "empty answer")


def read_selection(reply: Reply, size: int) -> list[bool | Failure]:
    """Which of `size` passages a reply selects, by identifiers [1] to [size].

    The whole answer must be identifiers, or the word `none`. An identifier given twice fails that passage. One that is
    outside the window fails them all: whoever counts from [0] or past the end may have meant another passage by each
    of its numbers.
    """
    numbers = listed(reply, size, SELECTION)
    if isinstance(numbers, Failure):
        return [numbers] * size
    times = Counter(numbers)
    return [repeated(place) if times[place] > 1 else times[place] == 1 for place in range(1, size + 1)]


def read_ranking(reply: Reply, size: int) -> list[int | Failure]:
    """The rank, from 1, of each of `size` passages in a reply that orders them, best first.

    As in a selection, a repeated identifier fails that passage and one outside the window all of them. A passage that
    the reply leaves out has no rank.
    """
    numbers = listed(reply, size, RANKING)
    if isinstance(numbers, Failure):
        return [numbers] * size
    if not numbers:
        return [Failure("no list of identifiers in 'none'")] * size
    times = Counter(numbers)
    ranks = {place: rank for rank, place in enumerate(dict.fromkeys(numbers), 1)}
    return [
        repeated(place)
        if times[place] > 1
        else ranks.get(place, Failure(f"not ranked: the reply leaves identifier [{place}] out"))
        for place in range(1, size + 1)
    ]


def read_answer(reply: Reply) -> str | Failure:
    """Free text that ended by itself."""
    text = answer_text(reply)
    if isinstance(text, Failure):
        return text
    return ended(reply, text) or text.strip() or Failure("empty answer")


def answer_text(reply: Reply) -> str | Failure:
    """What a reply says once its reasoning is over. Reasoning that has no end has no answer behind it."""
    if reply.error is not None:
        return Failure(f"no answer: {reply.error}")
    if reply.text is None:
        return Failure("no answer: the reply holds no text")
    thought = REASONING.match(reply.text)
    text = reply.text[thought.end() :] if thought else reply.text
    if tag := REASONING_TAG.search(text):
        return Failure(f"reasoning without an end: {tag[0]} in the answer")
    return text


def ended(reply: Reply, text: str) -> Failure | None:
    """The failure of a reply that was cut off, withheld or broken off."""
    if not says(reply.finish_reason, CUT_OFF + NO_END):
        return None
    return Failure(f"cut off: finish_reason {reply.finish_reason}, answer {text[:60]!r}")


def says(finish_reason: str | None, words: Sequence[str]) -> bool:
    """Whether a finish reason holds any of these words, in any spelling."""
    reason = re.sub(r"[^a-z]", "", (finish_reason or "").lower())
    return any(word in reason for word in words)


def listed(reply: Reply, size: int, syntax: re.Pattern[str]) -> list[int] | Failure:
    """The identifiers of a listwise answer in their order; empty for `none`."""
    text = answer_text(reply)
    if isinstance(text, Failure):
        return text
    if failure := ended(reply, text):
        return failure
    answer = text.strip(DECORATION)
    if answer.lower() == NONE:
        return []
    if not syntax.fullmatch(answer):
        return Failure(f"no list of identifiers in {text[:60]!r}" if answer else "empty answer")
    numbers = [int(number) for number in re.findall(r"[0-9]+", answer)]
    outside = [number for number in numbers if number > size]
    return Failure(f"identifier outside [1] to [{size}]: [{outside[0]}]") if outside else numbers


def repeated(place: int) -> Failure:
    """The failure of a passage that a listwise answer names more than once."""
    return Failure(f"identifier given twice: [{place}]")


def selection_pattern(size: int) -> str:
    """A regular expression for a selection out of `size` passages, for engines that constrain their answers."""
    more = rf"(, {_one_of(size)}){{0,{size - 1}}}" if size > 1 else ""
    return rf"({NONE}|{_one_of(size)}{more})"


def ranking_pattern(size: int) -> str:
    """A regular expression for an order of `size` passages."""
    more = rf"( > {_one_of(size)}){{{size - 1}}}" if size > 1 else ""
    return _one_of(size) + more


def identifier_tokens(size: int) -> int:
    """Enough tokens for a list of `size` identifiers: brackets, up to four digits, a separator and a space each."""
    return 8 + size * (4 + len(str(size)))


def _one_of(size: int) -> str:
    return rf"\[({'|'.join(map(str, range(1, size + 1)))})\]"


def label_probabilities(logprobs: Mapping[str, float], labels: Sequence[str]) -> tuple[tuple[float, ...], float]:
    """Probabilities over the labels, renormalised to sum to 1, and the share of the model's mass that they had.

    `logprobs`: natural logarithm, one a label. Computed relative to the largest, so that tiny masses keep their ratios.
    """
    values = [logprobs[label] for label in labels]
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights), min(1.0, math.exp(top) * total)
