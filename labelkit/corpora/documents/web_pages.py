"""Convert HTML to Markdown: the main part of a page without navigation, forms, images and addresses of links.

selectolax (Lexbor) parses pages as browsers do, and html-to-markdown writes headings, lists, tables and code. Markdown,
reStructuredText, Word documents and notebooks become HTML first, so that all take this path.
"""

import re
from typing import Any

from labelkit.corpora.documents.converted import Converted, Heading, Refused, cleaned, one_line

NOT_TEXT = (
    "script, style, template, noscript, iframe, object, svg, canvas, img, picture, video, audio, button, input, "
    "select, textarea, dialog, nav, footer, [hidden], [aria-hidden=true], [role=navigation], [role=search], "
    "[role=banner], [role=contentinfo], [role=complementary], .sphinxsidebar, .headerlink, .system-message"
)
"""Elements that are not part of the text of a page."""
MAIN = "main, [role=main], article"
BLOCKS = "h1, h2, h3, h4, h5, h6, ul, ol, pre, p + p"
"""Elements that a table of data does not contain."""
FEW_LINKS, MANY_LINKS, LINK_SHARE = 3, 6, 0.9
"""Least links of a table of contents, and of a menu, and least share of the text of a list that is in links."""
ANCHORS = {"", "#", "¶", "§", "🔗", "↩", "↩︎"}
"""Texts of links beside headings and footnotes that link to them."""
EMPHASIS = ["a", "abbr", "b", "big", "em", "font", "i", "ins", "mark", "small", "span", "strong", "u"]
"""Elements that are replaced by their content, because their marks are noise in a passage."""
MOST_CHARACTERS = 1 << 30
"""More characters than any paragraph has."""
ESCAPED_NUMBER = re.compile(r"^( *\d+)\\(?=[.)])", re.MULTILINE)
"""Matches numbers at the beginning of a line that were escaped because they could begin a list."""
ATX = re.compile(r"(#{1,6}) +(.*)")
FENCE = re.compile(r" *(`{3,}|~{3,})")
ESCAPE = re.compile(r"\\([!-/:-@[-`{-~])")


def from_html(page: bytes) -> Converted:
    """Convert a page of a website. Its title is its only `h1`, else its `title`."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(page)
    stated = tree.css_first("title")
    title = one_line(stated.text()) if stated else ""
    body = tree.body
    if body is None:
        raise Refused("empty", "the page has no text")
    remove(body, NOT_TEXT)
    mains = body.css(MAIN)
    main = next((main for main in mains if main.tag != "article"), mains[0] if len(mains) == 1 else None)
    if main is None:
        for element in reversed(body.css("header, aside")):
            if element.css_first("h1, .admonition-title") is None:
                element.decompose()
        remove_lists_of_links(body, MANY_LINKS, to="")
    return from_tree(main or body)._replace(title=title)


def from_fragment(page: str) -> Converted:
    """Convert HTML that a converter made of another form: it has no navigation, but may contain HTML from outside."""
    from selectolax.lexbor import LexborHTMLParser

    body = LexborHTMLParser(f"<body>{page}</body>").body
    assert body is not None
    remove(body, NOT_TEXT)
    return from_tree(body)


def from_tree(body: Any) -> Converted:
    """Convert an element of a page; it is changed."""
    from html_to_markdown import ConversionOptions, PreprocessingOptions, convert

    remove_lists_of_links(body, FEW_LINKS, to="#")
    for link in body.css("a"):
        if link.text().strip() in ANCHORS:
            link.decompose()
    for table in reversed(body.css("table")):
        data = table.css_first("th, caption") is not None
        # `css` finds the table itself, too.
        if len(table.css("table")) > 1 or (not data and table.css_first(BLOCKS) is not None):
            unwrap_layout(table)
    body.unwrap_tags(EMPHASIS)
    options = ConversionOptions(
        autolinks=False,
        compact_tables=True,
        extract_metadata=False,
        preprocessing=PreprocessingOptions(enabled=False),
        skip_images=True,
        wrap=True,  # joins the lines of a paragraph, so that it is split at sentences
        wrap_width=MOST_CHARACTERS,
    )
    text = ESCAPED_NUMBER.sub(r"\1", cleaned(convert(body.html or "", options).content or ""))
    return Converted("", text, headings_of(text), markdown=True)


def remove(body: Any, selector: str) -> None:
    """Remove the elements that a selector matches; those inside others first, since removing frees an element."""
    for element in reversed(body.css(selector)):
        element.decompose()


def remove_lists_of_links(body: Any, least: int, to: str) -> None:
    """Remove lists that contain almost nothing but at least `least` links to addresses that begin with `to`: menus, and
    tables of contents.
    """
    for listed in reversed(body.css("ul, ol")):
        links = [link for link in listed.css("a") if (link.attributes.get("href") or "").startswith(to)]
        if len(links) >= least:
            linked, whole = (len("".join(text.split())) for text in ("".join(a.text() for a in links), listed.text()))
            if linked >= LINK_SHARE * whole:
                listed.decompose()


def unwrap_layout(table: Any) -> None:
    """Replace a table that only places the parts of a page by its parts; tables inside it stay."""
    for element in table.css("caption, colgroup, thead, tbody, tfoot, tr, td"):
        owner = element.parent
        while owner.tag != "table":
            owner = owner.parent
        if owner.mem_id == table.mem_id:
            element.insert_after(" ")
            element.unwrap()
    table.unwrap()


def headings_of(text: str) -> list[Heading]:
    """Return the headings of a Markdown text that `from_html` made: lines that begin with `#` outside of code."""
    found, fence, start = [], "", 0
    for line in text.split("\n"):
        if mark := FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif line.strip() == fence:
                fence = ""
        elif not fence and (heading := ATX.fullmatch(line)):
            title = " ".join(ESCAPE.sub(r"\1", heading[2]).replace("`", "").split())
            found.append(Heading(len(heading[1]), title, start, end=start + len(line)))
        start += len(line) + 1
    return found
