"""Draw the rooms from the code: imports in docs/rooms.svg, tables of rooms and records in docs/architecture.md.

    python docs/tools/draw_rooms.py

tests/test_rooms.py defines the order of the rooms and reads imports; the texts are the docstrings of the rooms. A test
fails while the committed files differ from the output of this script.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
DRAWING = REPOSITORY / "docs" / "rooms.svg"
PAGE = REPOSITORY / "docs" / "architecture.md"
ROW, LANE, LEFT, TOP, HEAD = 26, 22, 124, 16, 30
"""Sizes in pixels: height of a row, width of a lane, width of names, upper margin, height of a package's heading."""
RECORDS = ("Query", "Passage", "Candidate", "Judge", "Judgement", "Label", "Example")
"""Records of labelkit.records in the order of the path of data."""
INK = {"labelkit": "#3f51b5", "trainer": "#00796b"}


class Room(NamedTuple):
    """One room, its description, and the rooms that it imports."""

    package: str
    name: str
    words: dict[str, str]
    """Parts In, Out and Touches of the docstring; a single module has only Out, the first sentence of its docstring."""
    imports: frozenset[tuple[str, str]]


def main() -> None:
    """Write the drawing and the architecture page."""
    rooms = rooms_of_the_code()
    DRAWING.write_text(drawing(rooms), encoding="utf-8")
    PAGE.write_text(page(rooms, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def rooms_of_the_code() -> list[Room]:
    """List the rooms of both packages in the order of tests/test_rooms.py, without `__init__` and `__main__`."""
    stated = load(REPOSITORY / "tests" / "test_rooms.py")
    used: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for path in stated.MODULES:
        used.setdefault(stated.room_of(path), set()).update(stated.rooms_in(path))
    names = [(package, name) for package, order in stated.ORDER.items() for name in order if not name.startswith("__")]
    return [
        Room(*room, words_of(*room), frozenset(one for one in used[room] if one in names and one != room))
        for room in names
    ]


def load(path: Path) -> ModuleType:
    """Import a Python file outside of packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words_of(package: str, name: str) -> dict[str, str]:
    """Read the parts of a room's docstring, each on one line."""
    path = REPOSITORY / package / name
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split())
    parts = dict(re.findall(r"\b(In|Out|Touches): (.*?)(?= (?:In|Out|Touches): |$)", text))
    return parts or {"Out": re.split(r"(?<=\.) ", text)[0]}


def drawing(rooms: list[Room]) -> str:
    """Draw an SVG with a row and a lane per room; a dot marks that the room of a row imports the room of a lane."""
    keys = [(room.package, room.name) for room in rooms]
    packages = list(dict.fromkeys(package for package, _ in keys))
    rows = {key: TOP + HEAD * (1 + packages.index(key[0])) + ROW * number + ROW // 2 for number, key in enumerate(keys)}
    lanes = {key: LEFT + LANE * number + LANE // 2 for number, key in enumerate(keys)}
    width, height = LEFT + LANE * len(keys) + 12, TOP * 2 + HEAD * len(packages) + ROW * len(keys)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13" role="img">',
        "<title>Rooms of labelkit and trainer, and which room imports which</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for package in packages:
        first = min(y for key, y in rows.items() if key[0] == package)
        parts.append(
            f'<text x="8" y="{first - ROW // 2 - 8}" font-weight="bold" fill="{INK[package]}">{package}</text>'
        )
    for room in rooms:
        parts += list(row_of(room, rows, lanes, rooms))
    return "\n".join([*parts, "</svg>", ""])


def row_of(
    room: Room, rows: dict[tuple[str, str], int], lanes: dict[tuple[str, str], int], rooms: list[Room]
) -> Iterator[str]:
    """Yield the marks of one room: its name, its row, its lane down to its last importer, and its dots."""
    key = (room.package, room.name)
    x, y, ink = lanes[key], rows[key], INK[room.package]
    last = max([y, *(rows[(one.package, one.name)] for one in rooms if key in one.imports)])
    yield f'<text x="16" y="{y + 4}" fill="#212121">{escape(room.name)}</text>'
    yield f'<path d="M{LEFT} {y}H{x}" stroke="#e0e0e0"/>'
    yield f'<path d="M{x} {last}V{y}" stroke="{ink}" stroke-opacity="0.45" stroke-width="2"/>'
    yield f'<path d="M{x - 5} {y + 5}L{x} {y - 4}L{x + 5} {y + 5}Z" fill="{ink}"><title>{room.name}</title></path>'
    for used in sorted(room.imports, key=lambda one: lanes[one]):
        words = f"{room.package}.{room.name} imports {'.'.join(used)}"
        yield f'<circle cx="{lanes[used]}" cy="{y}" r="4" fill="{INK[used[0]]}"><title>{escape(words)}</title></circle>'


def page(rooms: list[Room], text: str) -> str:
    """Replace the tables of records and rooms in the architecture page."""
    text = between(text, "<!-- records: written by draw_rooms.py -->", "<!-- end of records -->", record_table(rooms))
    for package in INK:
        lines = ["| room | comes in | goes out | may touch |", "|---|---|---|---|"]
        for room in rooms:
            if room.package == package:
                cells = (room.words.get(part, "").rstrip(".") for part in ("In", "Out", "Touches"))
                lines.append(f"| `{room.name}` | " + " | ".join(cells) + " |")
        start, end = f"<!-- rooms of {package}: written by draw_rooms.py -->", f"<!-- end of {package} -->"
        text = between(text, start, end, lines)
    return text


def record_table(rooms: list[Room]) -> list[str]:
    """Build a table row per record: the rooms that construct it and the rooms that import it."""
    stated = load(REPOSITORY / "tests" / "test_rooms.py")
    made: dict[str, set[tuple[str, str]]] = {name: set() for name in RECORDS}
    used: dict[str, set[tuple[str, str]]] = {name: set() for name in RECORDS}
    for path in stated.MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in made:
                made[node.func.id].add(stated.room_of(path))
        for full in stated.imported(path):
            module, _, name = full.rpartition(".")
            if module == "labelkit.records" and name in used:
                used[name].add(stated.room_of(path))
    lines = ["| record | constructed in | used in |", "|---|---|---|"]
    for name in RECORDS:
        cells = [
            ", ".join(
                room.name if room.package == "labelkit" else f"trainer.{room.name}"
                for room in rooms
                if (room.package, room.name) in found
            )
            for found in (made[name], used[name])
        ]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def between(text: str, start: str, end: str, lines: list[str]) -> str:
    """Replace the part of a text between two marks."""
    before, found, rest = text.partition(start)
    if not found or end not in rest:
        raise ValueError(f"{PAGE} has no {start} or no {end}")
    return "\n".join([before + start, "", *lines, "", end]) + rest.partition(end)[2]


if __name__ == "__main__":
    main()
