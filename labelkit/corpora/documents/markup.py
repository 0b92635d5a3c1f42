"""Convert Markdown, notebooks, reStructuredText, Word documents and plain text."""

import io
import re
import zipfile
from typing import Any

from labelkit.corpora.documents.converted import Converted, Refused, cleaned, one_line
from labelkit.corpora.documents.web_pages import from_fragment
from labelkit.storage.foreign_text import markdown_fenced

UNPACKED_BYTES = 256 << 20
"""Most bytes of an unpacked Word document."""
MEMBERS = 10_000
"""Most files in a Word document."""
WRAPPED, FULL = 50, 0.7
"""Least width of a text with lines of a limited width, and least width of its full lines relative to the longest."""
COLUMNS = re.compile(r"\S {3,}\S|\t")
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n(?:---|\.\.\.)(?:\n|\Z)", re.DOTALL)
FRONT_TITLE = re.compile(r"^title:[ \t]*(.+)$", re.MULTILINE)


def from_text(content: bytes) -> Converted:
    """Convert a plain text; it has no headings."""
    blocks = re.split(r"(\n{2,})", cleaned(decoded(content)))
    return Converted("", "".join(map(unwrapped, blocks)), [], markdown=False)


def unwrapped(block: str) -> str:
    """Return a paragraph in one line, so that it is split at sentences; tables, lists and verses unchanged."""
    lines = block.split("\n")
    long = max(map(len, lines))
    prose = all(
        line[:1].isalnum() and COLUMNS.search(line) is None and len(line) >= FULL * long
        for line in lines[1:-1] or lines
    )
    return " ".join(lines) if prose and long >= WRAPPED and not lines[-1].startswith((" ", "-", "*")) else block


def from_markdown(content: bytes) -> Converted:
    """Convert Markdown (CommonMark with tables). A title in its front matter is the title of the document."""
    text = decoded(content).replace("\r\n", "\n")
    front = FRONT_MATTER.match(text)
    stated = FRONT_TITLE.search(front[1]) if front else None
    made = rendered(text[front.end() :] if front else text)
    return made._replace(title=one_line(stated[1]).strip("\"'") if stated else "")


def rendered(text: str) -> Converted:
    """Convert the text of a Markdown document. HTML in it is cleaned as in pages."""
    from markdown_it import MarkdownIt

    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    return from_fragment(page)


def from_notebook(content: bytes) -> Converted:
    """Convert a Jupyter notebook: the texts of its Markdown cells, and its code without outputs."""
    import nbformat

    try:
        notebook: Any = nbformat.reads(decoded(content), as_version=4)  # type: ignore[no-untyped-call]
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, KeyError, AttributeError, TypeError) as error:
        raise Refused("damaged", f"not a notebook ({type(error).__name__})") from None
    language = str(notebook.metadata.get("language_info", {}).get("name", ""))
    cells = [(cell.get("cell_type"), str(cell.get("source", ""))) for cell in notebook.cells]
    texts = [markdown_fenced(source, language) if kind == "code" else source for kind, source in cells if source]
    return rendered("\n\n".join(texts))


def from_docx(content: bytes) -> Converted:
    """Convert a Word document; a paragraph of the style Title is its title. Images and comments are left out."""
    import mammoth

    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        members = packed.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > UNPACKED_BYTES or len(members) > MEMBERS:
        limits = f"over {UNPACKED_BYTES >> 20} MB or {MEMBERS:,} files"
        raise Refused("too large", f"unpacks to {unpacked >> 20:,} MB in {len(members):,} files, {limits}")
    page = mammoth.convert_to_html(
        io.BytesIO(content),
        style_map="p[style-name='Title'] => p.document-title:fresh",
        convert_image=mammoth.images.img_element(lambda image: {"src": ""}),
    ).value
    title = re.search(r'<p class="document-title">(.*?)</p>', page)
    made = from_fragment(page.replace(title[0], "", 1) if title else page)
    return made._replace(title=from_fragment(title[1]).text if title else "")


def decoded(content: bytes) -> str:
    """Return the text of a file: UTF-8, UTF-16 with a byte order mark, or the encoding that charset-normalizer finds.

    Raises `Refused` for content that is no text.
    """
    from charset_normalizer import from_bytes

    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    if b"\0" in content:
        raise Refused("not text", "the file contains bytes that are no text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        best = from_bytes(content[: 1 << 20]).best()
    if best is None:
        raise Refused("not text", "the file is not text in any known encoding")
    return content.decode(best.encoding, "replace")
