"""Read the tagged files of TREC: documents between `<DOC>` and `</DOC>`, topics between `<top>` and `</top>`.

Both are SGML with tags that may be unclosed, so they are no XML. A topic becomes a query with the text of its title.
"""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labelkit.corpora.rows import text_lines
from labelkit.errors import DataError

BEGIN = re.compile(r"<(doc|top|topic)(?=[\s>])", re.IGNORECASE)
TAGS = re.compile(r"<[^>]*>")
DOCUMENT_ID = re.compile(r"<docno>\s*(\S+?)\s*</docno>", re.IGNORECASE)
DOCUMENT_TITLE = re.compile(r"<(headline|title|head|ti)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
DOCUMENT_TEXT = re.compile(r"<text>(.*?)</text>", re.IGNORECASE | re.DOTALL)
TOPIC_ID = re.compile(r"<num>\s*(?:number:)?\s*([^\s<]+)|<topic[^>]*\snumber=[\"']([^\"']+)", re.IGNORECASE)
TOPIC_TEXT = re.compile(r"<(?:title|query)>\s*(?:topic:)?\s*([^<]+)", re.IGNORECASE)


def tagged_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place, id, title and text of every document or topic. Raises `DataError` for one without an id or end."""
    block: list[str] = []
    start, kind = "", ""
    for where, line in text_lines(path):
        if not block:
            opening = BEGIN.search(line)
            if not opening:
                continue
            start, kind = where, opening[1].lower()
        block.append(line)
        if f"</{kind}>" in line.lower():
            yield start, fields_of("\n".join(block), kind, start)
            block = []
    if block:
        raise DataError(f"{start}: <{kind}> is not closed by </{kind}>")


def fields_of(block: str, kind: str, where: str) -> dict[str, str]:
    """Return the fields of a document or topic. Raises `DataError` without an id, or for a topic without a title."""
    if kind == "doc":
        name, title = DOCUMENT_ID.search(block), DOCUMENT_TITLE.search(block)
        if not name:
            raise DataError(f"{where}: the document has no <DOCNO>")
        parts = DOCUMENT_TEXT.findall(block) or [block[name.end() :]]
        return {"_id": name[1], "title": plain(title[2]) if title else "", "text": plain("\n".join(parts))}
    number, words = TOPIC_ID.search(block), TOPIC_TEXT.search(block)
    if not number or not words:
        raise DataError(f"{where}: the topic has no number or no title")
    return {"_id": number[1] or number[2], "text": " ".join(plain(words[1]).split())}


def plain(text: str) -> str:
    """Return a text without tags and with its entities resolved."""
    return html.unescape(TAGS.sub(" ", text)).strip()
