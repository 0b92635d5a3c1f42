"""Texts from outside, made safe for where they are shown: a terminal, JSON on a terminal, Markdown, YAML."""

import json
import re

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 without tab and newline, DEL, C1, and what reverses the direction of the text that follows."""


def without_controls(text: str) -> str:
    """A text that a terminal shows and does not obey."""
    return CONTROLS.sub("", text)


def escaped_controls(document: str) -> str:
    """A JSON document of the same value that a terminal shows and does not obey."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


class Markdown(str):
    """Markdown of ours: a template shows it as it is because of its type, and escapes every plain string."""


PUNCTUATION = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_#~"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;", "$": "&#36;"}
)
LINK = re.compile(r"\](?=\s*[(\[:]|$)")
"""Matches the bracket that would end the text of a link, an image or a definition."""
BLOCK = re.compile(r"^(?:[-+](?= |$)|[-=](?=[-= ]*$)|\d+(?=[.)](?: |$)))")
"""Matches the beginning of a line that would open a list, draw a rule or underline a heading."""


def markdown(value: object) -> Markdown:
    """A value in a line or cell of Markdown: on one line, shown as it is; `Markdown` is left alone."""
    if isinstance(value, Markdown):
        return value
    line = " ".join(without_controls(str(value)).split())
    line = LINK.sub(r"\\]", line.translate(PUNCTUATION))
    return Markdown(BLOCK.sub(lambda found: f"\\{found[0]}" if not found[0].isdigit() else f"{found[0]}\\", line))


def markdown_paragraphs(text: str) -> Markdown:
    """A text of several paragraphs, with a blank line between them."""
    return Markdown("\n\n".join(markdown(part) for part in re.split(r"\n\s*\n", text.strip())))


def markdown_code(value: object) -> Markdown:
    """A value in a line or cell of Markdown, in the type of code. A bar, which ends a cell even in code, is shown in
    plain type.
    """
    line = " ".join(without_controls(str(value)).split())
    if "|" in line or not line:
        return markdown(line)
    marks = "`" * (longest_run(line) + 1)
    space = " " if "`" in (line[0], line[-1]) else ""
    return Markdown(f"{marks}{space}{line}{space}{marks}")


def markdown_indented(text: str) -> Markdown:
    """A text as a block of code; between blank lines, nothing in it ends the block."""
    return Markdown("\n".join(f"    {line}" for line in re.split(r"\r\n?|\n", without_controls(text))))


def markdown_fenced(text: str, language: str) -> Markdown:
    """A text as a block of code in a language; nothing in it ends the block."""
    marks = "`" * max(3, longest_run(text) + 1)
    return Markdown(f"{marks}{language}\n{without_controls(text)}\n{marks}")


def longest_run(text: str) -> int:
    """The most backticks that stand in a row."""
    return max(map(len, re.findall("`+", text)), default=0)


def quoted(text: str) -> Markdown:
    """A text as a string in YAML and in Python alike."""
    literal = json.dumps(without_controls(text), ensure_ascii=False)
    return Markdown("".join(c if c.isprintable() else ascii(c)[1:-1].replace("\\x", "\\u00") for c in literal))
