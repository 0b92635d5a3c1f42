"""Find the words of a text and the overlap of a query with a passage, without a tokenizer.

All measures (`agree --by overlap`, `bias`, `audit`, `eval`, the scripted judge) use this definition. Texts are compared
after NFKC and case folding, so that "straße" and "STRASSE" are the same word. A word is a sequence of letters, marks
and digits; a Han or kana character, which is written without spaces, is a word by itself. Stop words are not removed,
because lists of stop words are for one language, and "to be or not to be" would have no words.
"""

import re
from functools import lru_cache
from unicodedata import category, normalize

CHARACTERS = 64
"""Most characters per token or word, on average over a text; far more than in any language or code."""
ALONE = "\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Ranges of characters that are words by themselves."""
ASCII = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))
"""The folded form of each ASCII character; a space for a character that is in no word."""


def words(text: str) -> frozenset[str]:
    """Return the distinct words of a text in their folded form."""
    if text.isascii():  # the same words as below, found twenty times faster
        return frozenset(text.translate(ASCII).split())
    return frozenset(_word().findall(normalize("NFKC", normalize("NFKC", text).casefold())))


def overlap(query: str, passage: str) -> float:
    """Return the share of the query's distinct words that occur in the passage; 0 for a query without words."""
    return share(words(query), passage)


def share(wanted: frozenset[str], passage: str) -> float:
    """Return the share of the `wanted` words that occur in the passage; 0 if there are none."""
    return len(wanted & words(passage)) / max(1, len(wanted))


def beginning(text: str, tokens: int) -> str:
    """Return the part of a text that is certain to contain its first `tokens` tokens or words.

    It spares callers that need no more than these from processing a text of megabytes. A short text is returned whole.
    """
    return text if len(text) <= CHARACTERS * tokens else text[: CHARACTERS * tokens]


@lru_cache
def marks() -> str:
    """Return all combining marks, which are part of words in many scripts but not of the class `\\w`."""
    codes = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))
    return "".join(chr(code) for code in codes if category(chr(code)).startswith("M"))


@lru_cache
def _word() -> re.Pattern[str]:
    return re.compile(f"[{ALONE}]|(?:(?![{ALONE}])[^\\W_]|[{marks()}])+")
