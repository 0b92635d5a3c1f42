"""Convert reStructuredText by docutils, including the directives and roles of Sphinx, which docutils does not know.

Files are never included, and raw HTML is left out, since a document comes from outside.
"""

import io
import re
from collections.abc import Callable
from typing import Any

from docutils import nodes
from docutils.core import publish_parts
from docutils.frontend import get_default_settings
from docutils.parsers.rst import Directive, Parser, directives, roles
from docutils.parsers.rst.languages import get_language
from docutils.utils import new_document

from labelkit.corpora.documents.converted import Converted
from labelkit.corpora.documents.markup import decoded
from labelkit.corpora.documents.web_pages import from_fragment

SETTINGS: dict[str, Any] = {
    "_disable_config": True,
    "doctitle_xform": False,
    "embed_stylesheet": False,
    "file_insertion_enabled": False,
    "halt_level": 5,
    "math_output": "LaTeX",
    "raw_enabled": False,
    "report_level": 5,
    "smart_quotes": False,
    "stylesheet_path": "",
    "syntax_highlight": "none",
}
DIRECTIVE = re.compile(r"^ *\.\. +(?:\|[^|\n]+\| +)?([\w.+:-]+?)::(?:\s|$)", re.MULTILINE)
ROLE = re.compile(r":([\w.+-]+(?::[\w.+-]+)*):`")
SUBSTITUTION = re.compile(r"\|([A-Za-z][\w.-]*)\|")
SUBSTITUTED = re.compile(r"^\.\. \|([^|\n]+)\|", re.MULTILINE)
CODE = {"code-block", "sourcecode", "code", "testcode", "testsetup", "doctest", "productionlist", "prompt", "graphviz"}
DROPPED = {
    "toctree", "contents", "index", "highlight", "highlightlang", "currentmodule", "module", "py:module", "meta", "raw",
    "sectionauthor", "codeauthor", "moduleauthor", "include", "literalinclude", "default-role", "program",
    "tabularcolumns",
}  # fmt: skip
VERSIONS = {
    "versionadded": "New in version",
    "versionchanged": "Changed in version",
    "deprecated": "Deprecated since version",
    "deprecated-removed": "Deprecated since version",
    "versionremoved": "Removed in version",
}
CONDITIONS = {"only", "ifconfig"}
"""Directives whose argument is a condition and no text."""
OBJECTS = {"class", "function"}
"""Directives of Sphinx that docutils defines with another meaning."""
CODE_ROLES = {
    "class",
    "func",
    "meth",
    "attr",
    "mod",
    "exc",
    "data",
    "const",
    "obj",
    "command",
    "option",
    "file",
    "program",
}

BLANK = new_document("document", get_default_settings(Parser))
"""A document for the search of directives and roles; its reporter is silent."""
BLANK.reporter.report_level = 5


class AnyOptions:
    """Accepts every option of a directive, with its text as value."""

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> Callable[[str | None], str | None]:
        return lambda value: value


class SphinxDirective(Directive):  # type: ignore[misc]
    """A directive that docutils does not know: its argument as a line of text, then its content."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: Any = AnyOptions()

    def run(self) -> list[Any]:
        """Return the nodes of the directive."""
        if self.name in DROPPED:
            return []
        argument = self.arguments[0] if self.arguments else ""
        if self.name in CODE:
            text = "\n".join(self.content) or argument
            return [nodes.literal_block(text, text)]
        content = nodes.container()
        if self.name in VERSIONS:
            said, _ = self.state.inline_text(f"{VERSIONS[self.name]} {argument}".strip(), self.lineno)
            content += nodes.paragraph("", "", *said)
        elif argument and self.name not in CONDITIONS:
            content += [nodes.paragraph("", "", nodes.literal(line, line.strip())) for line in argument.split("\n")]
        self.state.nested_parse(self.content, self.content_offset, content)
        return [content]


def sphinx_role(name: str, raw: str, text: str, *rest: Any, **more: Any) -> tuple[list[Any], list[Any]]:
    """Return the text of a role that docutils does not know: the title of a link without its target."""
    shown = re.sub(r"\s*<[^<>]*>$", "", text).replace("\\", "").replace("\0", "")
    shown = shown[1:].rpartition(".")[2] if shown.startswith("~") else shown.removeprefix("!")
    kind = name.rpartition(":")[2]
    return [nodes.literal(raw, shown) if kind in CODE_ROLES else nodes.inline(raw, shown)], []


def from_rst(content: bytes) -> Converted:
    """Convert reStructuredText."""
    text = decoded(content)
    learn(set(DIRECTIVE.findall(text)), set(ROLE.findall(text)))
    unknown = set(SUBSTITUTION.findall(text)) - set(SUBSTITUTED.findall(text))
    text += "".join(f"\n\n.. |{name}| replace:: {name}" for name in sorted(unknown))
    parts = publish_parts(
        text, writer="html5", settings_overrides=SETTINGS | {"warning_stream": io.StringIO()}, source_path="document"
    )
    return from_fragment(parts["body"])


def learn(directive_names: set[str], role_names: set[str]) -> None:
    """Register the directives and roles of a document that docutils does not know."""
    english = get_language("en")
    for name in directive_names:
        if name in DROPPED | CODE | OBJECTS or directives.directive(name, english, BLANK)[0] is None:
            directives.register_directive(name, SphinxDirective)
    for name in role_names:
        if roles.role(name, english, 0, BLANK.reporter)[0] is None:
            roles.register_local_role(name, sphinx_role)
