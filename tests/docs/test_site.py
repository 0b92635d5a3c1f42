"""The documentation as a site, and the drawing of the rooms."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from present import present

REPOSITORY = Path(__file__).parents[2]
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")


def draw_rooms():
    path = REPOSITORY / "docs" / "tools" / "draw_rooms.py"
    spec = importlib.util.spec_from_file_location("draw_rooms", path)
    module = importlib.util.module_from_spec(present(spec))
    present(present(spec).loader).exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_is_complete_and_loads_nothing_from_elsewhere(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    guides = {f"{path.stem}.html" for path in (REPOSITORY / "docs").glob("*.md")}
    assert guides | {"index.html", "contributing.html", "changelog.html", "benchmarks.html", "security.html"} <= pages
    loads = re.compile(r"""<(?:script|img|link|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//[^>]*>""")
    for page in sorted(pages):
        found = loads.findall((site / page).read_text(encoding="utf-8"))
        assert not found, f"{page}: {found}"


def test_the_reference_has_every_public_module(site):
    modules = [
        path.relative_to(REPOSITORY) for name in ("labelkit", "trainer") for path in (REPOSITORY / name).rglob("*.py")
    ]
    shown = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    for module in modules:
        parts = module.with_suffix("").parts
        if "commands" not in parts and parts[-1] not in ("__main__", "__init__"):
            assert f'id="{".".join(parts)}"' in shown, module


def test_links_to_the_repository_become_links_within_the_site(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="reliability.html#keys"' in index
    assert 'href="benchmarks.html#simulated-label-noise"' in index
    assert "docs/annotation.md" not in index


@pytest.fixture(scope="module")
def drawn():
    """The script that draws the rooms, and the rooms."""
    draw = draw_rooms()
    return draw, draw.rooms_of_the_code()


@pytest.mark.slow
def test_the_drawing_of_the_rooms_is_up_to_date(drawn):
    draw, rooms = drawn
    advice = "run `python docs/tools/draw_rooms.py` and commit what it writes"
    assert draw.drawing(rooms) == draw.DRAWING.read_text(encoding="utf-8"), advice
    assert draw.page(rooms, ARCHITECTURE) == ARCHITECTURE, advice


@pytest.mark.slow
def test_the_drawing_shows_every_import_and_nothing_else(drawn):
    draw, rooms = drawn
    arrows = re.findall(r"<title>([\w.]+) imports ([\w.]+)</title>", draw.drawing(rooms))
    assert set(arrows) == {(f"{room.package}.{room.name}", ".".join(used)) for room in rooms for used in room.imports}
    assert ("labelkit.judging", "labelkit.engines") in arrows
    assert ("labelkit.engines", "labelkit.judging") not in arrows


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the architecture page."""
    section = ARCHITECTURE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_the_files_to_open_hold_what_the_table_says():
    changes = rows("Ten changes and the file to open")
    assert len(changes) == 10
    for change, file, where in changes:
        path = present(re.search(r"`([\w/.]+)`", file))[1]
        named = [name for name in re.findall(r"`(\w+)[`(]", where) if not name.islower() or "_" in name]
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        others = [REPOSITORY / name for name in re.findall(r"`([\w/]+\.\w+)`", where)]
        everything = text + "".join(other.read_text(encoding="utf-8") for other in others)
        assert named, change
        assert named[0] in text, f"{path} has no {named[0]}"
        for name in named:
            assert re.search(rf"\b{name}\b", everything), f"{change}: {name}"


def test_the_commands_call_the_functions_of_the_table():
    for command, calls, *_ in rows("What each command touches"):
        package = command.strip("`").split()[0]
        for call in re.findall(r"`([\w.]+)`", calls):
            module, _, function = call.rpartition(".")
            path = REPOSITORY / package / Path(*module.split("."))
            source = path.with_suffix(".py").read_text(encoding="utf-8")
            assert re.search(rf"^def {function}\b", source, re.MULTILINE), f"{command}: {call}"
