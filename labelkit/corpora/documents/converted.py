"""Define the result of a conversion, and clean the texts of documents."""

import re
from typing import NamedTuple

from labelkit.storage.foreign_text import without_controls

INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff\ufffe\uffff]")
"""Soft hyphens, characters of no width, byte order marks and codes that are no characters."""
BLANK = re.compile("[\t\u00a0\u2000-\u200a\u202f\u3000]")
BLANK_LINES = re.compile(r"\n(?:[ ]*\n){2,}")


class Refused(Exception):
    """A document that gives no passages; its arguments are a kind of reason that is counted, and the whole reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason


class Heading(NamedTuple):
    """A heading in a converted text."""

    level: int
    """From 1, the highest."""
    title: str
    start: int
    end: int
    """Range of the heading's own line in characters."""


class Converted(NamedTuple):
    """A document as text."""

    title: str
    """Title that the document states; empty if it states none."""
    text: str
    headings: list[Heading]
    markdown: bool
    """Whether the text is Markdown."""


def cleaned(text: str) -> str:
    """Return a text without invisible characters, with `\\n` as line end, and with at most one blank line in a row."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # notebooks may contain lone surrogates
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\v", "\n")
    text = INVISIBLE.sub("", without_controls(BLANK.sub(" ", text)))
    return BLANK_LINES.sub("\n\n", re.sub(r" +$", "", text, flags=re.MULTILINE)).strip("\n")


def one_line(text: str) -> str:
    """Return a text in one line, cleaned, for titles."""
    return " ".join(cleaned(text).split())
