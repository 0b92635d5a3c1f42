"""Chat completions: read what a server's answer says, however odd its shape.

An answer was paid for. An odd detail of it (a score, a count, a name) costs that detail and never the text; and where
the fields of a `Reply` do not hold all that the answer says, its body is kept as it came, so that a later release can
read it again. What is no completion at all becomes a reply with `error`. Nothing here raises.
"""

import json
import logging
import math
from collections.abc import Sequence
from typing import Any

from labelkit.engines import LOWEST, Message, Reply, Request, token_count
from labelkit.engines.http import REASON_LENGTH, error_inside, spoken
from labelkit.engines.tokenizers import most_prompt_tokens

log = logging.getLogger(__name__)

MALFORMED = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""What reading JSON of an unexpected shape raises."""
SLACK = 1e-3
"""A log-probability may be above 0 by rounding, not by more."""
ROUNDING = 1e-6
"""Probability that rounded log-probabilities may hide."""
UNSURE = 0.05
"""Labels outside the list may hold at most this share of the mass of those in it, else there is no score."""
LONGEST_TOKEN = 32
"""Bytes of prose that one token holds at most, on average over a prompt."""
TEXT_PARTS = ("text", "output_text", None)
"""Types of the parts of a content that are the answer; all others (thinking, references) are set aside."""
MARKS = str.maketrans({"▁": " ", "Ġ": " ", "Ċ": "\n"})
"""Marks of sentencepiece and GPT-2 vocabularies for white space, which some servers leave in their tokens."""
EARLY = 10
"""After this many answers without log-probabilities, and none with them, the run says so."""


def read_answer(body: bytes, request: Request) -> Reply:
    """Read the body of an answer with status 2xx."""
    return read_raw(body.decode("utf-8-sig", errors="replace"), request)


def read_again(reply: Reply, labels: tuple[str, ...]) -> Reply:
    """Read the body that is kept with a reply by the present rules; its counts stay as they were charged."""
    if reply.raw is None:
        return reply
    again = read_raw(reply.raw, Request(reply.key, "", (), labels=labels))
    kept = {name: getattr(reply, name) for name in ("tries", "prompt_tokens", "completion_tokens")}
    return again.model_copy(update=kept)


def read_raw(raw: str, request: Request) -> Reply:
    """Read an answer as text."""
    try:
        return read_completion(parsed(raw), raw, request)
    except (ValueError, RecursionError) as error:
        return Reply(key=request.key, error=f"the answer is no JSON ({spoken(error)}): {raw[:60]!r}", raw=raw)


def parsed(raw: str) -> Any:
    """Parse JSON. Python refuses whole numbers of thousands of digits: these become infinity, which is no count."""
    try:
        return json.loads(raw)
    except ValueError:
        return json.loads(raw, parse_int=float)


def read_completion(completion: Any, raw: str, request: Request) -> Reply:
    """Read a parsed completion; `raw` is the text it was parsed from."""
    if error := error_inside(completion):
        return Reply(key=request.key, error=spoken(error), raw=raw)
    if not isinstance(completion, dict):
        return Reply(key=request.key, error=f"the answer is no chat completion: {raw[:REASON_LENGTH]!r}", raw=raw)
    choice, message = first_choice(completion)
    text = text_of(message.get("content"))
    logprobs, masked = label_logprobs(choice.get("logprobs"), text, request.labels)
    prompt_tokens, completion_tokens = counts_in(completion, text, request)
    reply = Reply(
        key=request.key,
        text=text,
        label_logprobs=logprobs,
        masked=masked,
        finish_reason=word(choice.get("finish_reason")),
        model=word(completion.get("model")),
        fingerprint=word(completion.get("system_fingerprint")),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )
    return reply if holds_all(reply, completion) else reply.model_copy(update={"raw": raw})


def first_choice(completion: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first choice and its message; an empty one where it is no object."""
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    choice = choice if isinstance(choice, dict) else {}
    message = choice.get("message")
    return choice, message if isinstance(message, dict) else {}


def text_of(content: Any) -> str | None:
    """Return the text of a content: a string, or the text parts of a list joined; None where there is no text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part if isinstance(part, str) else part.get("text") for part in content if is_text(part)]
    return "".join(text for text in texts if isinstance(text, str)) if texts else None


def is_text(part: Any) -> bool:
    """Whether a part of a content belongs to the answer."""
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") in TEXT_PARTS)


def word(value: Any) -> str | None:
    """Return a name or reason; None where it is empty or no text."""
    return value if isinstance(value, str) and value.strip() else None


def counts_in(completion: dict[str, Any], text: str | None, request: Request) -> tuple[int | None, int | None]:
    """Read the tokens of prompt and answer; None for a count that prompt, limit and answer do not allow."""
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, written = map(token_count, stated_counts(usage))
    fewest, most = least_prompt_tokens(request.messages), most_prompt_tokens(request.messages)
    if prompt is not None and not fewest <= prompt <= most:
        prompt = None
    # An end token is one more than the limit where a server counts it.
    if written is not None and not bool(text) <= written <= request.max_tokens + 1:
        written = None
    return prompt, written


def least_prompt_tokens(messages: Sequence[Message]) -> int:
    """Return the fewest tokens that a prompt can have; white space may cost nothing."""
    return 1 + sum(len("".join(message.content.split()).encode()) for message in messages) // LONGEST_TOKEN


def holds_all(reply: Reply, completion: dict[str, Any]) -> bool:
    """Whether a reply says all that its completion says."""
    try:
        (choice,) = completion["choices"]
        said = {name for name, value in choice["message"].items() if value not in (None, "", [], {}, False)}
        return (
            reply.text is not None
            and reply.text == choice["message"]["content"]
            and said <= {"role", "content"}
            and reply.finish_reason == (choice.get("finish_reason") or None)
            and reply.model == (completion.get("model") or None)
            and reply.fingerprint == (completion.get("system_fingerprint") or None)
            and (reply.label_logprobs is not None or not choice.get("logprobs"))
            and (reply.prompt_tokens, reply.completion_tokens) == stated_counts(completion.get("usage") or {})
        )
    except MALFORMED:
        return False


def stated_counts(usage: dict[str, Any]) -> tuple[Any, Any]:
    """Return the counts as a server states them, whatever they are."""
    return (
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
    )


def label_logprobs(logprobs: Any, text: str | None, labels: tuple[str, ...]) -> tuple[dict[str, float] | None, bool]:
    """Read the log-probability of each label at the first token of the answer, and whether all others were masked.

    The labels outside the list share the mass that the list leaves, each of them at most as likely as the last in it.
    None where the list is malformed, holds no label, or leaves so much that a score would be invented (`UNSURE`).
    """
    if not text or not labels:
        return None, False
    try:
        first = answer_token(logprobs["content"], text)
        entries = [(token_text(entry).strip(), entry_value(entry)) for entry in first.get("top_logprobs") or [first]]
    except MALFORMED:
        return None, False
    listed: dict[str, float] = {}
    for token, value in entries:
        listed[token] = max(value, listed.get(token, LOWEST))
    known = sum(math.exp(listed[label]) for label in labels if listed.get(label, LOWEST) > LOWEST)
    missing = sum(label not in listed for label in labels)
    left = max(ROUNDING, 1 - sum(math.exp(value) for _, value in entries))
    bound = min(*listed.values(), math.log(left / max(1, missing)))
    if not known or missing * math.exp(bound) > UNSURE * known:
        return None, False
    others = [value for token, value in listed.items() if token not in labels]
    return {label: listed.get(label, bound) for label in labels}, bool(others) and max(others) == LOWEST


def answer_token(tokens: Any, text: str) -> Any:
    """Return the token with which the answer begins: the last from where on the tokens spell it.

    Reasoning stands before it and an end token may stand behind it. None where the tokens never spell the answer.
    """
    spelled = ""
    for token in reversed(tokens):
        spelled = token_text(token) + spelled
        if spelled.lstrip().startswith(text.strip()):
            return token
    return None


def token_text(entry: Any) -> str:
    """Return the text of a token, which some servers give as its bytes. Raises one of `MALFORMED`."""
    token = entry["token"]
    if isinstance(token, str):
        return token.translate(MARKS)
    return bytes(list(token if token is not None else entry["bytes"])).decode()


def entry_value(entry: Any) -> float:
    """Return a log-probability, at least `LOWEST`. Raises one of `MALFORMED`."""
    value = entry["logprob"]
    if not value <= SLACK:
        raise ValueError(f"log-probability {value} of {entry['token']!r}")
    return float(max(value, LOWEST))


class ScoreWatch:
    """Says once, early in a run, that a server gives no log-probabilities."""

    def __init__(self) -> None:
        self._without = 0
        self._over = False

    def see(self, reply: Reply, request: Request) -> None:
        """Count an answer to a request for a label."""
        if self._over or not request.labels or reply.text is None:
            return
        self._without += 1
        self._over = reply.label_logprobs is not None or self._without == EARLY
        if self._over and reply.label_logprobs is None:
            log.info(
                f"the server gives no log-probabilities that tell labels apart (none in {EARLY} answers): these labels "
                "have grades and no scores"
            )
