"""Convert PDF by PDFium: lines become paragraphs, headers, footers and hyphens of line ends are removed.

PDF has no paragraphs, so a line that ends a sentence and is shorter than others ends a paragraph. The bookmarks of a
document are its headings.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from labelkit.corpora.documents.converted import Converted, Heading, Refused, one_line

MOST_PAGES = 10_000
LEADER = re.compile(r"(?:\. ?){5,}(?:\d+|[ivxlc]+)?$")
"""Matches lines of tables of contents, with dots before the number of the page."""
NUMBERED = re.compile(r"^#|#$")
EDGE = 2
"""Lines at the top and at the bottom of a page that may be a header or footer."""
REPEATED = 0.4
"""Share of the pages on which a header or footer occurs at least, without regard to numbers."""
LINE_END_HYPHEN = re.compile("[\u00ad\ufffe\x02]$")
"""Matches the codes that PDFium writes for hyphens that a word processor inserted."""
COMPOUND = re.compile(r"\w+-[^\W\d_]+")
SHORT, TINY = 0.8, 0.5
"""Greatest length of the last line of a paragraph, and of a line that is no part of one, such as a row of a table;
relative to the long lines of the document.
"""
SENTENCE_ENDS = '.!?:;"”’)]'
BULLET = re.compile(r"(?:[•‣▪–—*-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s")
FILE_NAME = re.compile(r"\.\w{2,4}$|^Microsoft |^untitled", re.IGNORECASE)
"""Matches titles in the metadata that say nothing about the document."""


class Bookmark(NamedTuple):
    """An entry of the outline of a document."""

    level: int
    title: str
    page: int


class Line(NamedTuple):
    """A line of a document, or a heading, with its level."""

    text: str
    level: int = 0


def from_pdf(content: bytes) -> Converted:
    """Convert a PDF document. Raises `Refused` for an encrypted one and for one without text."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        kind = "encrypted" if "password" in str(error).lower() else "damaged"
        raise Refused(kind, f"PDFium: {error}") from None
    with document:
        if len(document) > MOST_PAGES:
            raise Refused("too large", f"{len(document):,} pages, over {MOST_PAGES:,}")
        pages = without_edges([page_lines(document[number]) for number in range(len(document))])
        bookmarks = list(bookmarks_of(document))
        title = one_line(document.get_metadata_dict().get("Title", ""))
        count = len(document)
    text, headings = paragraphs(list(with_headings(pages, bookmarks)))
    if not text:
        raise Refused("no text", f"no text on {count} pages: scanned pages need text recognition first")
    return Converted("" if FILE_NAME.search(title) else title, text, headings, markdown=False)


def page_lines(page: Any) -> list[str]:
    """Return the lines of a page, without blank ones."""
    text = page.get_textpage().get_text_bounded()
    page.close()
    lines = (LINE_END_HYPHEN.sub("-", line.strip(" \r\t")) for line in re.split(r"\r\n?|\n", text))
    return [clean for line in lines if (clean := one_line(line))]


def bookmarks_of(document: Any) -> Iterator[Bookmark]:
    """Yield the bookmarks of a document that point to a page."""
    for entry in document.get_toc():
        target = entry.get_dest()
        page = target.get_index() if target else None
        title = one_line(entry.get_title() or "")
        if page is not None and title:
            yield Bookmark(entry.level + 1, title, page)


def without_edges(pages: list[list[str]]) -> list[list[str]]:
    """Remove headers, footers and page numbers: lines at the edges of pages that occur on many pages, or on several if
    they begin or end with a number.
    """
    counts = Counter(chain.from_iterable({pattern_of(line) for line in edges(page)} for page in pages))
    many = max(3, REPEATED * len(pages))
    often = {pattern for pattern, count in counts.items() if count >= (2 if NUMBERED.search(pattern) else many)}
    kept = []
    for page in pages:
        first, last = 0, len(page)
        while first < min(EDGE, last) and pattern_of(page[first]) in often:
            first += 1
        while last > max(first, len(page) - EDGE) and pattern_of(page[last - 1]) in often:
            last -= 1
        kept.append([line for line in page[first:last] if not LEADER.search(line)])
    return kept


def edges(page: list[str]) -> list[str]:
    """Return the first and the last lines of a page."""
    return page[:EDGE] + page[-EDGE:]


def pattern_of(line: str) -> str:
    """Return a line without the numbers in it, and without the difference between page numbers in Roman numerals."""
    return re.sub(r"\b[ivxlc]+\b|\d+", "#", line.casefold())


def with_headings(pages: list[list[str]], bookmarks: Iterable[Bookmark]) -> Iterator[Line]:
    """Yield the lines of all pages; a bookmark is a heading in the place of its own line, or else above its page."""
    by_page: dict[int, list[Bookmark]] = {}
    for bookmark in bookmarks:
        by_page.setdefault(bookmark.page, []).append(bookmark)
    for number, page in enumerate(pages):
        after = 0
        for bookmark in by_page.get(number, []):
            place = next((n for n in range(after, len(page)) if is_title(page[n], bookmark.title)), None)
            until = after if place is None else place
            yield from map(Line, page[after:until])
            yield Line(bookmark.title, bookmark.level)
            after = until if place is None else place + 1
        yield from map(Line, page[after:])


def is_title(line: str, title: str) -> bool:
    """Return whether a line is a heading, with or without its number."""
    one, other = (re.sub(r"\W+", "", re.sub(r"^[\dA-Z]?[\d.]*\s", "", text)).casefold() for text in (line, title))
    return bool(one) and one == other


def paragraphs(lines: list[Line]) -> tuple[str, list[Heading]]:
    """Join lines to paragraphs, with a blank line between them; return the text and its headings."""
    lengths = sorted(len(line.text) for line in lines)
    long = lengths[len(lengths) * 3 // 4] if lengths else 0
    compounds = {found for line in lines for found in COMPOUND.findall(line.text)}
    blocks: list[list[Line]] = []
    for line in lines:
        before = blocks[-1][-1] if blocks else Line("", 1)
        if line.level or before.level or ends_paragraph(before.text, long) or BULLET.match(line.text):
            blocks.append([])
        blocks[-1].append(line)
    text, length, headings = [], 0, []
    for block in blocks:
        whole = joined([line.text for line in block], compounds)
        if block[0].level:
            headings.append(Heading(block[0].level, whole, length, end=length + len(whole)))
        # A table has many short lines, which are no paragraphs.
        text.append(whole + ("\n" if not block[0].level and len(whole) < TINY * long else "\n\n"))
        length += len(text[-1])
    return "".join(text).rstrip("\n"), headings


def ends_paragraph(line: str, long: int) -> bool:
    """Return whether a line is the last of its paragraph; `long` is the length of long lines."""
    return len(line) < TINY * long or (len(line) < SHORT * long and line[-1:] in SENTENCE_ENDS)


def joined(lines: list[str], compounds: set[str]) -> str:
    """Return the lines of a paragraph as one line. A hyphen between a word and its lower-case rest is removed, unless
    the word is one of the `compounds`.
    """
    parts = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        word, rest = re.search(r"(\w+)([-\u2010])$", line), re.match(r"[^\W\d_]+", following)
        if word is None or rest is None or not rest[0].islower():
            parts.append(f"{line} ")
        else:
            parts.append(line if f"{word[1]}-{rest[0]}" in compounds else line[:-1])
    return "".join(parts).rstrip()
