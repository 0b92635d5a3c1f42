"""Find the answer in the text of a reply: after the reasoning, and without quotes and Markdown; and how it ended.

Most servers separate reasoning from the answer. Others leave it in the text, between marks that depend on the model.
Many chat templates write the opening mark into the prompt, so that the text holds only the closing one.
"""

import re
from functools import lru_cache
from typing import NamedTuple

DECORATION = " \t\r\n.\"'*`"
"""Characters that are ignored around an answer: white space, full stops, quotes, Markdown."""
MARKS = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "reflection")),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
)
"""Opening and closing marks of reasoning: Qwen, DeepSeek and many others, Seed-OSS, Magistral, Kimi, Cohere, Gemma,
gpt-oss.
"""
CUT_OFF = ("length", "maxtokens", "maxoutputtokens", "tokenlimit", "context")
"""Words in the finish reasons of answers that were cut off by a token limit, as spelled by vendors and servers."""
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
        "sensitive",
    ),
    *("error", "abort", "cancel", "timeout", "interrupt", "insufficient", "incomplete", "malformed", "fail"),
)
"""Words in the finish reasons of answers that were withheld or interrupted. All other reasons count as a normal end,
for which every vendor has its own word.
"""


def _any_of(marks: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, marks)), re.IGNORECASE)


OPENING = _any_of([opening for opening, _ in MARKS])
CLOSING = _any_of([closing for _, closing in MARKS])
CLOSED_BY = {opening.lower(): _any_of([closing]) for opening, closing in MARKS}


class Parts(NamedTuple):
    """The text of a reply, divided into reasoning and answer."""

    answer: str
    """Text after the reasoning; the whole text if there is none."""
    stray: str | None = None
    """Mark that makes the answer ambiguous: an opening one without its closing one, or any mark in the answer."""


def divided(text: str) -> Parts:
    """Divide the text of a reply into reasoning and answer."""
    start = len(text) - len(text.lstrip())
    opened = OPENING.match(text, start)
    closed = (CLOSED_BY[opened[0].lower()] if opened else CLOSING).search(text, opened.end() if opened else 0)
    if closed is None:
        found = OPENING.search(text)
        return Parts(text, stray=found[0] if found else None)
    answer = text[closed.end() :]
    before = "" if opened else text[: closed.start()]
    found = OPENING.search(before) or OPENING.search(answer) or CLOSING.search(answer)
    return Parts(answer, stray=found[0] if found else None)


def normalise(text: str) -> str:
    """Return an answer in lower case and without `DECORATION`, for comparison with labels."""
    return text.strip(DECORATION).lower()


def unfinished(text: str | None) -> bool:
    """Return whether a text holds no answer, because there is none after the reasoning, or because it does not end."""
    parts = divided(text or "")
    return not parts.answer.strip() or OPENING.match(parts.answer.lstrip()) is not None


@lru_cache
def says(finish_reason: str | None, words: tuple[str, ...]) -> bool:
    """Return whether a finish reason contains any of these words, in any spelling."""
    reason = re.sub(r"[^a-z]", "", (finish_reason or "").lower())
    return any(word in reason for word in words)
