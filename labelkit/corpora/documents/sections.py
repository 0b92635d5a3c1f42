"""Split a converted document into sections by its headings, and name each by its title and the headings above it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from labelkit.corpora.documents.converted import Converted, Heading


class Section(NamedTuple):
    """The text between two headings."""

    headings: tuple[str, ...]
    """Headings above the text, the highest first, without the title of the document."""
    start: int
    end: int
    """Range in the converted text in characters."""


def title_of(document: Converted, file_name: str) -> str:
    """Return the title of a document: its first heading if that is the only one of the highest level, else the title
    that it states, else the name of its file.
    """
    top = document.headings[:1]
    if top and top[0].title and all(heading.level > top[0].level for heading in document.headings[1:]):
        return top[0].title
    return document.title or named_by_file(file_name)


def named_by_file(file_name: str) -> str:
    """Return the title of a document that states none, from the name of its file without the ending."""
    return " ".join(file_name.replace("_", " ").replace("-", " ").split())


def sections_of(document: Converted, title: str) -> Iterator[Section]:
    """Yield the sections with a text, in order. A heading with nothing below it is a section of its own, whose text is
    the heading.
    """
    path: list[Heading] = []
    first = Heading(0, "", 0, end=0)
    marks = [first, *document.headings, Heading(0, "", len(document.text), end=len(document.text))]
    for here, following in pairwise(marks):
        path = [*(above for above in path if above.level < here.level), here] if here.level else []
        headings = names(path, title)
        if document.text[here.end : following.start].strip():
            yield Section(headings, here.end, following.start)
        elif here.title and following.level <= here.level:
            yield Section(headings[:-1], here.start, here.end)


def names(path: Sequence[Heading], title: str) -> tuple[str, ...]:
    """Return the titles of headings, without the title of the document as the first."""
    found = tuple(heading.title for heading in path if heading.title)
    return found[1:] if found[:1] == (title,) else found
