"""Convert a document by the ending of its name, within limits of its size."""

from importlib import import_module
from importlib.util import find_spec
from zipfile import BadZipFile

from labelkit.corpora.documents.converted import Converted, Refused
from labelkit.errors import MissingPackageError, first_line

FILE_BYTES = 128 << 20
"""Most bytes of a document."""
TEXT_CHARACTERS = 16 << 20
"""Most characters of a converted document."""
CONVERTERS = {
    ".txt": "markup:from_text",
    ".text": "markup:from_text",
    ".md": "markup:from_markdown",
    ".markdown": "markup:from_markdown",
    ".ipynb": "markup:from_notebook",
    ".docx": "markup:from_docx",
    ".htm": "web_pages:from_html",
    ".html": "web_pages:from_html",
    ".xhtml": "web_pages:from_html",
    ".rst": "restructured:from_rst",
    ".pdf": "pdf:from_pdf",
}
"""Ending of a file name -> module of this folder and function that converts the content of such files."""
PACKAGES = {
    "charset_normalizer": "charset-normalizer",
    "docutils": "docutils",
    "html_to_markdown": "html-to-markdown",
    "mammoth": "mammoth",
    "markdown_it": "markdown-it-py",
    "nbformat": "nbformat",
    "pypdfium2": "pypdfium2",
    "rensa": "rensa",
    "selectolax": "selectolax",
    "semantic_text_splitter": "semantic-text-splitter",
    "tokenizers": "tokenizers",
}
"""Module that converts, splits or compares documents -> its distribution."""


def check_packages() -> None:
    """Raise `MissingPackageError` if a package that converts or splits documents is not installed."""
    if missing := [package for module, package in PACKAGES.items() if find_spec(module) is None]:
        raise MissingPackageError(", ".join(missing), "documents")


def converted(content: bytes, ending: str) -> Converted:
    """Convert the content of a document. Raises `Refused` for one that gives no text."""
    if not content.strip():
        raise Refused("empty", "the file is empty")
    module, _, name = CONVERTERS[ending].partition(":")
    convert = getattr(import_module(f"labelkit.corpora.documents.{module}"), name)
    try:
        made: Converted = convert(content)
    except Refused:
        raise
    except MemoryError:
        raise Refused("too large", "the conversion needs too much memory") from None
    except BadZipFile as error:
        raise Refused("damaged", f"not a Word document: {error}") from None
    except Exception as error:  # converters raise errors of any type for damaged files
        raise Refused("damaged", f"{type(error).__name__}: {first_line(error)}"[:300]) from None
    if len(made.text) > TEXT_CHARACTERS:
        raise Refused("too large", f"{len(made.text):,} characters of text, over {TEXT_CHARACTERS:,}")
    if not any(character.isalnum() for character in made.text):
        raise Refused("no text", "the document contains no letters and digits")
    return made
