"""Read chat completions that a server sends as a stream of events, although no stream was asked for.

Some servers stream unless a request says `"stream": false`, or always. Gateways send comments before an answer while it
is made, or an end mark after it. The chunks of a stream are joined into one completion.
"""

import json
from typing import Any

END = "[DONE]"
"""Data of the last event of a stream."""
FIELDS = ("data:", "event:", "id:", "retry:", ":")
"""Beginnings of the lines of a stream of events (HTML Standard, section 9.2.6); a comment begins with a colon."""
NO_END = "incomplete stream"
"""Finish reason of a stream that breaks off."""


def read_json(raw: str) -> Any:
    """Parse JSON, or a stream of events with JSON. Integers of thousands of digits become infinity.

    Raises `ValueError` for anything else.
    """
    try:
        return json.loads(raw)
    except ValueError:
        documents, ended = documents_in(raw)
        return joined(documents, ended=ended) if any("delta" in choice_of(one) for one in documents) else documents[0]


def documents_in(raw: str) -> tuple[list[Any], bool]:
    """Return the JSON documents in a stream of events, and whether the stream has its end mark."""
    lines = [line.strip() for line in raw.split("\n")]
    outside = "\n".join(line for line in lines if not line.startswith(FIELDS))
    data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    texts = [text for text in (outside.strip(), *data) if text and text != END]
    if not texts:
        raise ValueError("no JSON in it")
    # Python refuses integers of thousands of digits; infinity is not a count.
    return [json.loads(text, parse_int=number) for text in texts], END in data


def number(digits: str) -> int | float:
    """Return an integer, or infinity for one that Python refuses to parse."""
    return int(digits) if len(digits) < 300 else float(digits)


def choice_of(chunk: Any) -> dict[str, Any]:
    """Return the first choice of a chunk; an empty dict if it has none."""
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def joined(chunks: list[Any], *, ended: bool) -> dict[str, Any]:
    """Return the completion whose chunks these are, or the first chunk that is an error or a whole completion."""
    whole: dict[str, Any] = {}
    choice: dict[str, Any] = {"index": 0, "message": {}, "finish_reason": None, "logprobs": None}
    for chunk in filter(lambda one: isinstance(one, dict), chunks):
        first = choice_of(chunk)
        if chunk.get("error") or first.get("message"):
            return dict(chunk)
        whole |= {name: value for name, value in chunk.items() if value is not None and name != "choices"}
        add(choice, first)
    if choice["finish_reason"] is None and not ended:
        choice["finish_reason"] = NO_END
    return whole | {"choices": [choice]}


def add(choice: dict[str, Any], part: dict[str, Any]) -> None:
    """Add the choice of a chunk to the choice of the whole completion."""
    message, delta = choice["message"], part.get("delta")
    for name, value in (delta if isinstance(delta, dict) else {}).items():
        parts = name != "role" and isinstance(value, str | list) and isinstance(message.get(name), type(value))
        if parts:
            message[name] += value
        elif value is not None:
            message[name] = value
    choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
    tokens = part["logprobs"].get("content") if isinstance(part.get("logprobs"), dict) else None
    if isinstance(tokens, list):
        choice["logprobs"] = {"content": [*(choice["logprobs"] or {"content": []})["content"], *tokens]}
