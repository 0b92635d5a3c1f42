"""Add pages to the site that are not files in docs/: other documents of the repository, and the API reference.

mkdocs loads this module as a hook (`hooks` in mkdocs.yml). It also makes the links of a document work in both places:
in the repository they are paths; on the site they become links to the page of that document, or plain text for a file
without a page.
"""

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.pages")

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = {
    "index.md": "README.md",
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "data_cards.md": "data_cards/README.md",
    "demo_data.md": "examples/pydocs/README.md",
    "paper.md": "examples/paper/README.md",
    "security.md": "SECURITY.md",
}
"""Page of the site -> document in the repository that it shows."""
REFERENCE = "API reference"
"""Title of the navigation entry for the generated pages."""
PACKAGES = ("labelkit", "trainer")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the generated API pages in the navigation."""
    reference = [{title: page} for title, page, _ in reference_pages()]
    config.nav = [{REFERENCE: reference} if entry == {REFERENCE: []} else entry for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents outside of docs/ and the API pages to the files of the site."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / source)))
    for _, page, content in reference_pages():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to files of the repository by links to pages of the site."""
    uri = page.file.src_uri
    source = PAGES.get(uri, f"docs/{uri}")
    return LINK.sub(lambda link: site_link(link, source, uri), markdown)


def site_link(link: re.Match[str], source: str, uri: str) -> str:
    """Convert one Markdown link of the document `source`, shown as the page `uri`, to a link of the site."""
    mark, text, target = link.groups()
    path, _, anchor = target.partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return link[0]
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (REPOSITORY / inside).exists():
        log.warning(f"{source}: {target} does not exist")
        return link[0]
    found = page_of(inside)
    if found is None:
        return text if inside in text or path in text else f"{text} (`{inside}`)"
    relative = posixpath.relpath(found, posixpath.dirname(uri) or ".")
    return f"{mark}[{text}]({relative}{'#' + anchor if anchor else ''})"


def page_of(path: str) -> str | None:
    """Find the page or file of the site that shows a file or folder of the repository; None for none."""
    shown = {source: page for page, source in PAGES.items()}
    for candidate in (path, f"{path}/README.md"):
        if candidate in shown:
            return shown[candidate]
    return path.removeprefix("docs/") if path.startswith("docs/") and (REPOSITORY / path).is_file() else None


def reference_pages() -> Iterator[tuple[str, str, str]]:
    """Yield title, page and Markdown of each page of the API reference, one page per room with its public modules."""
    for package in PACKAGES:
        rooms: dict[str, list[str]] = {}
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            names = path.relative_to(REPOSITORY).with_suffix("").parts
            if names[-1] == "__main__" or names[1] == "commands" or not path.stat().st_size:
                continue
            module = ".".join(names).removesuffix(".__init__")
            rooms.setdefault(".".join(module.split(".")[:2]) if len(names) > 2 else package, []).append(module)
        for room, modules in rooms.items():
            yield room, f"api/{room}.md", f"# {room}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"
