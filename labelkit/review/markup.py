"""Prepare texts for the page: Markdown as safe HTML, and the words that a passage shares with its query."""

from functools import cache
from typing import TYPE_CHECKING

from labelkit.pooling.languages import Terms

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

LONGEST = 200_000
"""Most characters of a text that is shown as Markdown; a longer one takes seconds and is shown as plain text."""
TAGS = {
    "a", "blockquote", "br", "code", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
"""Elements that a text may make. None of them loads or runs anything without attributes."""


def safe_html(text: str) -> str | None:
    """Render Markdown as HTML without addresses, images and raw HTML; None for a text that is too long. Line breaks are
    preserved.

    Raw HTML in the text is shown as text, an image as its description. The result is cleaned once more by nh3, which
    keeps only `TAGS` and the number of the first item of a list.
    """
    import nh3

    if len(text) > LONGEST:
        return None
    cleaned: str = nh3.clean(_renderer().render(text), tags=TAGS, attributes={"ol": {"start"}}, link_rel=None)
    return cleaned


@cache
def _renderer() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    renderer.disable("image")
    return renderer


def shared_words(terms: Terms, query: str, text: str) -> list[str]:
    """Return the words of a text, in lower case, that have a term of the query; stop words have none. Longest first."""
    wanted = set(terms.of(query))
    words = {word for word in set(terms.cut(text.lower())) if wanted.intersection(terms.of(word))}
    return sorted(words, key=lambda word: (-len(word), word))
