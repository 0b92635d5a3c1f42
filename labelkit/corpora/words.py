"""The words of a text, and how many of a query's words a passage shares, without a tokenizer.

One definition for every figure (`agree --by overlap`, `bias`, `audit`, `eval`, the scripted judge): texts are compared
after NFKC and case folding, so that "straße" and "STRASSE" are one word; a word is a run of letters, marks and digits;
a Han or kana character, which is written without spaces, is a word by itself. No word is left out: lists of stop words
are lists of one language, and a query such as "to be or not to be" would have no words at all.
"""

import re
from functools import lru_cache
from unicodedata import category, normalize

CHARACTERS = 64
"""Characters that a token or a word of a text has at most on average. No language and no code comes near it."""
ALONE = "\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Ranges of characters that are words by themselves."""


def words(text: str) -> frozenset[str]:
    """Return the different words of a text in their folded form."""
    return frozenset(_word().findall(normalize("NFKC", normalize("NFKC", text).casefold())))


def overlap(query: str, passage: str) -> float:
    """Return the share of the query's different words that the passage has too; 0 for a query without words."""
    return share(words(query), passage)


def share(wanted: frozenset[str], passage: str) -> float:
    """Return the share of some words that the passage has too; 0 for no words."""
    return len(wanted & words(passage)) / max(1, len(wanted))


def beginning(text: str, tokens: int) -> str:
    """Return the part of a text that its first `tokens` tokens or words can reach, the text itself where it is short.

    What reads no more of a text than that need not look at all of a text of megabytes.
    """
    return text if len(text) <= CHARACTERS * tokens else text[: CHARACTERS * tokens]


@lru_cache
def _word() -> re.Pattern[str]:
    codes = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))
    marks = "".join(chr(code) for code in codes if category(chr(code)).startswith("M"))
    return re.compile(f"[{ALONE}]|(?:(?![{ALONE}])[^\\W_]|[{marks}])+")
