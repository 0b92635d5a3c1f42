"""Read chat completions, including answers with an unexpected shape.

Every answer was paid for, so that reading one never raises an error. An invalid detail (a score, a count, a name) loses
that detail and never the text. If the fields of a `Reply` do not preserve all content of the answer, its body is kept
as it came, so that a later release can read it again. An answer that is not a completion becomes a reply with `error`.
"""

import json
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from labelkit.engines import LOWEST, Message, Reply, Request, token_count
from labelkit.engines.answer_text import NO_END, divided, says
from labelkit.engines.bodies import BYTES, encoding_of, kept_bytes
from labelkit.engines.dialects import JSON_KEY
from labelkit.engines.event_stream import read_json
from labelkit.engines.http import REASON_LENGTH, error_inside, spoken
from labelkit.engines.tokenizers import most_prompt_tokens

log = logging.getLogger(__name__)

MALFORMED = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""Errors that are raised by reading JSON of an unexpected shape."""
SLACK = 1e-3
"""Largest excess of a log-probability over 0 that is accepted as rounding."""
ROUNDING = 1e-6
"""Probability mass that the rounding of log-probabilities can hide."""
UNSURE = 0.05
"""Largest ratio of the mass of labels outside the server's list to the mass of labels in it; above it no score is
given.
"""
EXCESS = 0.1
"""Largest excess of the probabilities in a list over 1 that is accepted as rounding. Above it the numbers are no
log-probabilities: some servers write 0 for every token, which would be a uniform distribution.
"""
LONGEST_TOKEN = 32
"""Most bytes of prose per token, on average over a prompt."""
TEXT_PARTS = ("text", "output_text", None)
"""Types of content parts that belong to the answer; other types (thinking, references) are ignored."""
REASONING_FIELDS = ("reasoning_content", "reasoning")
"""Fields of a message with the reasoning: of DeepSeek, SGLang and earlier vLLM; of OpenRouter, Ollama and vLLM."""
OBJECT = re.compile(r"\s*(?:```(?:json)?)?\s*(\{.*\})\s*(?:```)?\s*", re.DOTALL)
"""A JSON object, perhaps in a Markdown block."""
MARKS = str.maketrans({"▁": " ", "Ġ": " ", "Ċ": "\n"})
"""Symbols for white space in sentencepiece and GPT-2 vocabularies, which some servers leave in their tokens."""
LONGEST_ANSWER = 1_000_000
"""Most tokens of an answer that a stated count may have beyond the limit of its request."""
EARLY = 10
"""Number of first answers that must all lack log-probabilities before the run logs that there are none."""


def read_answer(body: bytes, request: Request, *, in_json: bool = False) -> Reply:
    """Read the body of an answer with status 2xx. With `in_json`, the answer was requested as a JSON object."""
    reply = read_raw(body.decode("utf-8-sig", errors="replace"), request, in_json=in_json)
    return with_bytes(reply, body)


def with_bytes(reply: Reply, body: bytes) -> Reply:
    """Return a reply whose raw text is the bytes of its body, if this is not UTF-8; other replies unchanged."""
    encoding = encoding_of(body)
    if encoding is None:
        return reply
    error = f"{reply.error}; the body is not UTF-8 (encoding {encoding})" if reply.error else None
    return reply.model_copy(update={"raw": kept_bytes(body, encoding), "error": error})


def read_again(reply: Reply, labels: tuple[str, ...]) -> Reply:
    """Read the body that is kept with a reply again with the current rules; its token counts stay as charged.

    A body that is kept as bytes is not read again.
    """
    if reply.raw is None or reply.raw.startswith(BYTES):
        return reply
    again = read_raw(reply.raw, Request(reply.key, "", (), labels=labels), in_json=reply.in_json)
    kept = {name: getattr(reply, name) for name in ("tries", "prompt_tokens", "completion_tokens")}
    return again.model_copy(update=kept)


def read_raw(raw: str, request: Request, *, in_json: bool = False) -> Reply:
    """Read the text of an answer: a completion in JSON, or the JSON of one as a text in JSON."""
    try:
        completion = read_json(raw)
        completion = read_json(completion) if isinstance(completion, str) else completion
        return read_completion(completion, raw, request, in_json=in_json)
    except (ValueError, RecursionError) as error:
        return Reply(key=request.key, error=f"the answer is not JSON ({spoken(error)}): {raw[:60]!r}", raw=raw)


def read_completion(completion: Any, raw: str, request: Request, *, in_json: bool = False) -> Reply:
    """Read a parsed completion; `raw` is the text it was parsed from."""
    if error := error_inside(completion):
        return Reply(key=request.key, error=spoken(error), raw=raw)
    if not isinstance(completion, dict):
        return Reply(key=request.key, error=f"the answer is not a chat completion: {raw[:REASON_LENGTH]!r}", raw=raw)
    choice, message = first_choice(completion)
    text = text_of(message.get("content"))
    text = unwrapped(text) if in_json and text else text
    logprobs, masked = label_logprobs(choice.get("logprobs"), divided(text or "").answer, request.labels)
    prompt_tokens, completion_tokens = counts_in(completion, text, request)
    reply = Reply(
        key=request.key,
        text=text,
        reasoning=reasoning_of(message),
        in_json=in_json,
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
    """Return the first choice of a completion and its message, each an empty dict if it is not an object."""
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    choice = choice if isinstance(choice, dict) else {}
    message = choice.get("message")
    return choice, message if isinstance(message, dict) else {}


def text_of(content: Any) -> str | None:
    """Return the text of a message's content: a string, or the joined text parts of a list; None without text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part if isinstance(part, str) else part.get("text") for part in content if is_text(part)]
    return "".join(text for text in texts if isinstance(text, str)) if texts else None


def unwrapped(text: str) -> str:
    """Return the answer in a JSON object after the reasoning; the text unchanged if there is no such object."""
    found = OBJECT.fullmatch(divided(text).answer)
    try:
        value = json.loads(found[1])[JSON_KEY] if found else None
    except MALFORMED:
        return text
    return str(value) if isinstance(value, str | int) else text


def reasoning_of(message: dict[str, Any]) -> str | None:
    """Return the reasoning that a server states apart from the answer; None without any."""
    stated = (message.get(name) for name in REASONING_FIELDS)
    return next((value for value in stated if isinstance(value, str) and value), None)


def is_text(part: Any) -> bool:
    """Return whether a content part belongs to the answer."""
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") in TEXT_PARTS)


def word(value: Any) -> str | None:
    """Return a name or reason unchanged; None if it is empty or not text."""
    return value if isinstance(value, str) and value.strip() else None


def counts_in(completion: dict[str, Any], text: str | None, request: Request) -> tuple[int | None, int | None]:
    """Return the token counts of prompt and answer; None for a count that cannot be.

    The count of an answer may exceed the limit of its request, because some servers do not limit the reasoning.
    """
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, written = map(token_count, stated_counts(usage))
    fewest, most = least_prompt_tokens(request.messages), most_prompt_tokens(request.messages)
    if prompt is not None and not fewest <= prompt <= most:
        prompt = None
    longest = max(LONGEST_ANSWER, request.max_tokens + 1)
    if written is not None and not bool(text) <= written <= longest:
        written = None
    total = token_count(usage.get("total_tokens"))
    if prompt and written and total and written < total - prompt <= longest:
        # Some servers count the reasoning in the total alone.
        written = total - prompt
    return prompt, written


def least_prompt_tokens(messages: Sequence[Message]) -> int:
    """Return the fewest tokens that a prompt can have, if white space takes none."""
    return 1 + sum(len("".join(message.content.split()).encode()) for message in messages) // LONGEST_TOKEN


def holds_all(reply: Reply, completion: dict[str, Any]) -> bool:
    """Return whether a reply preserves all content of its completion."""
    try:
        (choice,) = completion["choices"]
        said = {name for name, value in choice["message"].items() if value not in (None, "", [], {}, False)}
        said -= {name for name in REASONING_FIELDS if choice["message"].get(name) == reply.reasoning}
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
    """Return the token counts of prompt and answer as a server states them, unchecked."""
    return (
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
    )


def label_logprobs(logprobs: Any, text: str | None, labels: tuple[str, ...]) -> tuple[dict[str, float] | None, bool]:
    """Return the log-probability of each label at the first token of the answer, and whether other tokens were masked.

    Labels outside the server's list of tokens share the mass that the list leaves, and each is at most as probable as
    the last token of the list. The log-probabilities are None if the list is malformed, contains no label, sums to more
    than 1, or leaves more mass than a score can do without (`UNSURE`).
    """
    if not text or not labels:
        return None, False
    try:
        first = answer_token(logprobs["content"], text)
        entries = [(token_text(entry).strip(), entry_value(entry)) for entry in with_chosen(first)]
    except MALFORMED:
        return None, False
    listed: dict[str, float] = {}
    for token, value in entries:
        listed[token] = max(value, listed.get(token, LOWEST))
    if sum(map(math.exp, listed.values())) > 1 + EXCESS:
        return None, False
    known = sum(math.exp(listed[label]) for label in labels if listed.get(label, LOWEST) > LOWEST)
    missing = sum(label not in listed for label in labels)
    left = max(ROUNDING, 1 - sum(math.exp(value) for _, value in entries))
    bound = min(*listed.values(), math.log(left / max(1, missing)))
    if not known or missing * math.exp(bound) > UNSURE * known:
        return None, False
    others = [value for token, value in listed.items() if token not in labels]
    return {label: listed.get(label, bound) for label in labels}, bool(others) and max(others) == LOWEST


def with_chosen(token: dict[str, Any]) -> list[Any]:
    """Return the alternatives of a token, and the token itself if the server leaves it out of them."""
    listed = list(token.get("top_logprobs") or ())
    chosen = token_text(token)
    return listed if any(token_text(entry) == chosen for entry in listed) else [*listed, token]


def answer_token(tokens: Any, text: str) -> Any:
    """Return the token with which the answer begins: the last token from which the tokens spell the answer.

    Reasoning may precede the answer and an end token may follow it. None if the tokens never spell the answer.
    """
    spelled = ""
    for token in reversed(tokens):
        spelled = token_text(token) + spelled
        if spelled.lstrip().startswith(text.strip()):
            return token
    return None


def token_text(entry: Any) -> str:
    """Return the text of a token, which some servers state as bytes. Raises one of `MALFORMED`."""
    token = entry["token"]
    if isinstance(token, str):
        return token.translate(MARKS)
    # A token may be a part of a character.
    return bytes(list(token if token is not None else entry["bytes"])).decode(errors="replace")


def entry_value(entry: Any) -> float:
    """Return the log-probability of a token, at least `LOWEST`. Raises one of `MALFORMED`."""
    value = entry["logprob"]
    if not value <= SLACK:
        raise ValueError(f"log-probability {value} of {entry['token']!r}")
    return float(max(value, LOWEST))


class ScoreWatch:
    """Logs once, early in a run, that a server gives no log-probabilities."""

    def __init__(self) -> None:
        self._without = 0
        self._over = False

    def see(self, reply: Reply, request: Request) -> None:
        """Count an answer to a request for a label."""
        if self._over or not request.labels or reply.text is None or says(reply.finish_reason, NO_END):
            return
        self._without += 1
        self._over = reply.label_logprobs is not None or self._without == EARLY
        if self._over and reply.label_logprobs is None:
            log.info(
                f"the server gives no log-probabilities that distinguish labels (none in {EARLY} answers): the "
                "judgements have grades but no scores"
            )
