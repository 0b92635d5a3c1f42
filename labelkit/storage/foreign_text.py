"""Texts from outside, made safe for where they are shown: a terminal, JSON on a terminal, Markdown, YAML."""

import re

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 without tab and newline, DEL, C1, and what reverses the direction of the text that follows."""


def without_controls(text: str) -> str:
    """A text that a terminal shows and does not obey."""
    return CONTROLS.sub("", text)


def escaped_controls(document: str) -> str:
    """A JSON document of the same value that a terminal shows and does not obey."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
