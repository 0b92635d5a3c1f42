"""Parse replies into labels, selections or rankings, or into failures with reasons. Invalid answers get no grade."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from labelkit.engines import Reply
from labelkit.engines.answer_text import CUT_OFF, DECORATION, NO_END, divided, normalise, says, unfinished

CANNOT_TELL = "cannot tell"
"""Answer of an annotator instead of a grade. Its judgement is a failure with this reason, and so no label."""
NONE = "none"
"""Answer that selects no passage."""
IDENTIFIER = r"\[[1-9][0-9]{0,3}\]"
SELECTION = re.compile(rf"{IDENTIFIER}(?:[ \t\r\n]*[,;]?[ \t\r\n]*{IDENTIFIER})*")
RAN_OUT = "the length ran out while the model was thinking; raise --thinking-tokens, or lower --reasoning-effort"
"""Reason for a missing answer of a model that reasons longer than its token limit."""
RANKING = re.compile(rf"{IDENTIFIER}(?:[ \t\r\n]*[>,;]?[ \t\r\n]*{IDENTIFIER})*")


SHORT = 32
"""Most characters of a text whose label is looked up instead of parsed again."""


class Failure(NamedTuple):
    """The reason why a reply has no valid answer."""

    reason: str


def read_label(reply: Reply, labels: Sequence[str]) -> str | Failure:
    """Return the label in a reply, or a failure. The whole answer must be the label, in upper or lower case."""
    if reply.error is None and reply.text is not None and len(reply.text) <= SHORT:
        return _label_in(reply.text, reply.finish_reason, tuple(labels))
    return _read_label(reply, labels)


@lru_cache(maxsize=4096)
def _label_in(text: str, finish_reason: str | None, labels: tuple[str, ...]) -> str | Failure:
    """Return the label in a short text; millions of replies have one of a few texts."""
    return _read_label(Reply(key="", text=text, finish_reason=finish_reason), labels)


def _read_label(reply: Reply, labels: Sequence[str]) -> str | Failure:
    text = answer_text(reply)
    if isinstance(text, Failure):
        return text
    answer = normalise(text)
    for label in labels:
        # A server that is limited to one token stops with "length" after a complete label.
        if answer == normalise(label) and not says(reply.finish_reason, NO_END):
            return label
    return ended(reply, text) or Failure(f"no label in {text[:60]!r}" if answer else "empty answer")


def read_selection(reply: Reply, size: int) -> list[bool | Failure]:
    """Return for each of `size` passages whether a reply selects it by its identifier, [1] to [size], or a failure.

    The whole answer must be identifiers, or the word `none`. A repeated identifier fails its passage. An identifier
    outside the window fails all passages, because a judge that counts wrongly may mean another passage by each number.
    """
    numbers = listed(reply, size, SELECTION)
    if isinstance(numbers, Failure):
        return [numbers] * size
    times = Counter(numbers)
    return [repeated(place) if times[place] > 1 else times[place] == 1 for place in range(1, size + 1)]


def read_ranking(reply: Reply, size: int) -> list[int | Failure]:
    """Return for each of `size` passages its rank in a reply, from 1 for the best, or a failure.

    A repeated identifier fails its passage, and an identifier outside the window fails all passages. A passage that the
    reply omits fails, too.
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
    """Return the free text of a reply, or a failure if the text did not end normally."""
    text = answer_text(reply)
    if isinstance(text, Failure):
        return text
    return ended(reply, text) or text.strip() or Failure("empty answer")


def answer_text(reply: Reply) -> str | Failure:
    """Return the text of a reply after its reasoning, or a failure if the reasoning does not end."""
    if reply.error is not None:
        return Failure(CANNOT_TELL if reply.error == CANNOT_TELL else f"no answer: {reply.error}")
    if ran_out(reply):
        return Failure(RAN_OUT)
    if reply.text is None:
        return Failure("no answer: the reply holds no text")
    parts = divided(reply.text)
    if parts.stray is not None:
        return Failure(f"reasoning without an end: {parts.stray} in the answer")
    return parts.answer


def ran_out(reply: Reply) -> bool:
    """Return whether the token limit was used up before an answer began."""
    return says(reply.finish_reason, CUT_OFF) and reply.error is None and unfinished(reply.text)


def ended(reply: Reply, text: str) -> Failure | None:
    """Return the failure of a reply that was cut off, withheld or interrupted; None for a normal end."""
    if not says(reply.finish_reason, CUT_OFF + NO_END):
        return None
    return Failure(f"cut off: finish_reason {reply.finish_reason}, answer {text[:60]!r}")


def listed(reply: Reply, size: int, syntax: re.Pattern[str]) -> list[int] | Failure:
    """Return the identifiers of a listwise answer in their order, or a failure; empty for `none`."""
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
    """Return the failure of a passage whose identifier is repeated in a listwise answer."""
    return Failure(f"identifier given twice: [{place}]")


def selection_pattern(size: int) -> str:
    """Return a regular expression for a selection from `size` passages, for engines that constrain answers."""
    more = rf"(, {_one_of(size)}){{0,{size - 1}}}" if size > 1 else ""
    return rf"({NONE}|{_one_of(size)}{more})"


def ranking_pattern(size: int) -> str:
    """Return a regular expression for a ranking of `size` passages, for engines that constrain answers."""
    more = rf"( > {_one_of(size)}){{{size - 1}}}" if size > 1 else ""
    return _one_of(size) + more


def identifier_tokens(size: int) -> int:
    """Return a sufficient number of tokens for `size` identifiers with brackets, up to four digits and a separator."""
    return 8 + size * (4 + len(str(size)))


def _one_of(size: int) -> str:
    return rf"\[({'|'.join(map(str, range(1, size + 1)))})\]"


def label_probabilities(logprobs: Mapping[str, float], labels: Sequence[str]) -> tuple[tuple[float, ...], float]:
    """Return the probabilities of the labels, renormalised to sum to 1, and their total probability before that.

    `logprobs`: natural log-probability of each label. They are computed relative to the largest one, so that tiny
    probabilities keep their ratios.
    """
    values = [logprobs[label] for label in labels]
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = math.fsum(weights)
    return tuple([weight / total for weight in weights]), min(1.0, math.exp(top) * total)
