"""Clean the text of a written query, and refuse texts that no person would type."""

import re
from typing import NamedTuple

from labelkit.corpora.words import words

MOST_WORDS = 60
"""Most words of a query."""
LISTED_WORDS = 3
"""Most words of each search word in a list."""
NAMES = r"(?:(?:search |user )?(?:query|question|statement|claim|situation|keywords|search words?|answer|text))"
LABEL = re.compile(rf"^(?:{NAMES}\s*(?:\d+\s*)?[:：]\s*)+|^{NAMES}$", re.IGNORECASE)
"""Labels that models write before a query."""
LEAD_IN = re.compile(
    r"^(?:(?:the|this) (?:passage|text|article|document|paragraph|abstract|study)"
    r" (?:confirms?|states?|says?|shows?|explains?|suggests?|indicates?|mentions?)|"
    r"it is (?:true|said|stated)|i (?:have )?(?:heard|read)) that\s+",
    re.IGNORECASE,
)
"""Words that models write before a statement."""
NUMBER = re.compile(r"^(?:\(?\d{1,2}[.):]|[-*•–])\s+")
WRAPPED = re.compile(r"""^(["'“”„«»‘’`*_]+)(.*?)(["'“”„«»‘’`*_]+)([.?!]?)$""", re.DOTALL)
SOURCE = re.compile(
    r"\b(?:the|this|these|that|both|above|following|provided|given)\s+(?:(?:two|given|above|following|provided)\s+)?"
    r"(?:passages?|texts?|articles?|documents?|paragraphs?|abstracts?|excerpts?|stud(?:y|ies)|papers?|authors?|snippets?)\b"
    r"|\bpassages?\s+\[?\d|\[\d+\]|\baccording to (?:the|this)\b"
    r"|\byou(?:'re| are| have|'ve)? (?:describe|describing|mention|provide|providing)"
    r"|\bthe information (?:above|you)\b"
    r"|\b(?:der|die|das|dieser?|dieses|im|laut) (?:obige[nr]? )?(?:text|textstelle|passage|artikel|abschnitt|studie)\b",
    re.IGNORECASE,
)
"""Words by which a query speaks of its passage, which a searcher has not seen; English and German."""
REFUSAL = re.compile(
    r"^(?:i'?m sorry|sorry|i can(?:not|'t)|i am unable|as an ai|unfortunately|here (?:is|are)|sure[,!]|certainly|"
    r"n/?a\b|none\b)",
    re.IGNORECASE,
)


class Cleaned(NamedTuple):
    """A query without its wrapping, and why it is dropped; None if it may be kept."""

    text: str
    reason: str | None = None


def cleaned(reply: str) -> Cleaned:
    """Return the query in a reply: its first line, without quotes, number, label and Markdown around it.

    Further lines are other queries or explanations.
    """
    lines = (line for line in map(str.strip, reply.splitlines()) if line and not line.endswith((":", "：")))
    text = next(filter(None, map(unwrapped, lines)), "")
    return Cleaned(text, refusal(text))


def unwrapped(line: str) -> str:
    """Return a line without what models write around a query."""
    text, before = " ".join(line.replace("**", "").split()), None
    while text != before:
        before = text
        text = LABEL.sub("", NUMBER.sub("", text.strip().lstrip("#> "))).strip()
        if (found := WRAPPED.match(text)) and not set(found[2]) & set(found[1]):
            text = f"{found[2].strip()}{found[4]}"
    stated = LEAD_IN.sub("", text)
    return as_typed(text if stated == text else stated[:1].upper() + stated[1:])


def as_typed(text: str) -> str:
    """Return search words that a model separated by commas as people type them; other texts unchanged."""
    parts = [part.strip() for part in re.split("[,;]", text.removesuffix("."))]
    listed = len(parts) > 1 and all(0 < len(part.split()) <= LISTED_WORDS for part in parts) and text[-1] not in "?!"
    return " ".join(parts) if listed else text


def refusal(text: str) -> str | None:
    """Return why a cleaned text is no query of a person; None if it is one."""
    if not words(text):
        return "empty"
    if REFUSAL.match(text):
        return "no query but an answer of the model"
    if SOURCE.search(text):
        return "speaks of its passage"
    return f"longer than {MOST_WORDS} words" if len(text.split()) > MOST_WORDS else None
