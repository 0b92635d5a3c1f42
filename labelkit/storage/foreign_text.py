"""Make texts from outside safe to show in a terminal, in JSON on a terminal, in Markdown and in YAML."""

import json
import re

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters: C0 except tab and newline, DEL, C1, and characters that reverse the direction of text."""


def without_controls(text: str) -> str:
    """Return a text without control characters, which a terminal would obey instead of showing."""
    return CONTROLS.sub("", text)


def escaped_controls(document: str) -> str:
    """Return an equivalent JSON document with escaped control characters, which a terminal would obey."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


class Markdown(str):
    """Trusted Markdown: templates insert it unchanged because of its type, and escape every plain string."""


PUNCTUATION = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_#~"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;", "$": "&#36;"}
)
LINK = re.compile(r"\](?=\s*[(\[:]|$)")
"""Matches the bracket that would end the text of a link, an image or a definition."""
BLOCK = re.compile(r"^(?:[-+](?= |$)|[-=](?=[-= ]*$)|\d+(?=[.)](?: |$)))")
"""Matches the beginning of a line that would open a list, draw a rule or underline a heading."""


def markdown(value: object) -> Markdown:
    """Return a value escaped for one line or cell of Markdown, so that it is shown literally; `Markdown` unchanged."""
    if isinstance(value, Markdown):
        return value
    line = " ".join(without_controls(str(value)).split())
    line = LINK.sub(r"\\]", line.translate(PUNCTUATION))
    return Markdown(BLOCK.sub(lambda found: f"\\{found[0]}" if not found[0].isdigit() else f"{found[0]}\\", line))


def markdown_paragraphs(text: str) -> Markdown:
    """Return a text of several paragraphs escaped for Markdown, with a blank line between paragraphs."""
    return Markdown("\n\n".join(markdown(part) for part in re.split(r"\n\s*\n", text.strip())))


def markdown_code(value: object) -> Markdown:
    """Return a value as inline code for one line or cell of Markdown.

    A value with a bar, which would end a cell even in code, is returned as plain text.
    """
    line = " ".join(without_controls(str(value)).split())
    if "|" in line or not line:
        return markdown(line)
    marks = "`" * (longest_run(line) + 1)
    space = " " if "`" in (line[0], line[-1]) else ""
    return Markdown(f"{marks}{space}{line}{space}{marks}")


def markdown_indented(text: str) -> Markdown:
    """Return a text as an indented code block, which nothing in the text can end; put blank lines around it."""
    return Markdown("\n".join(f"    {line}" for line in re.split(r"\r\n?|\n", without_controls(text))))


def markdown_fenced(text: str, language: str) -> Markdown:
    """Return a text as a fenced code block in a language, which nothing in the text can end."""
    text = without_controls(text)
    marks = "`" * max(3, longest_run(text) + 1)
    return Markdown(f"{marks}{language}\n{text}\n{marks}")


def longest_run(text: str) -> int:
    """Return the largest number of consecutive backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def quoted(text: str) -> Markdown:
    """Return a text as a string literal that is valid both in YAML and in Python."""
    literal = json.dumps(without_controls(text), ensure_ascii=False)
    return Markdown("".join(c if c.isprintable() else ascii(c)[1:-1].replace("\\x", "\\u00") for c in literal))
