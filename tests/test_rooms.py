"""The rooms of both packages, in the order of the path of a datum: a room imports only itself and rooms above it.

`__init__` is the public Python API: it names functions of every room above it, and the command line calls it.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from labelkit.engines import ENGINES

REPOSITORY = Path(__file__).parents[1]
LABELKIT = [
    "version",
    "packages",
    "errors",
    "records",
    "storage",
    "options",
    "statistics",
    "corpora",
    "pooling",
    "engines",
    "judging",
    "queries",
    "quality",
    "datasets",
    "exchange",
    "relabelling",
    "review",
    "installation",
    "__init__",
    "commands",
    "__main__",
]
TRAINER = [
    "config",
    "objectives",
    "data",
    "retrieval",
    "training",
    "bakeoffs",
    "label_errors",
    "invariance",
    "packages",
    "__init__",
    "commands",
    "__main__",
]
ORDER = {"labelkit": LABELKIT, "trainer": TRAINER}
FOR_TRAINER = {"version", "errors", "records", "storage", "options", "statistics", "corpora", "pooling", "exchange"}
"""Rooms of labelkit that the trainer reads from; its command line also shares labelkit's screen."""
MODULES = sorted(path for package in ORDER for path in (REPOSITORY / package).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Full names of everything that a module imports, wherever the import stands."""
    package = list(path.relative_to(REPOSITORY).with_suffix("").parts[:-1])
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def room_of(path: Path) -> tuple[str, str]:
    """Package and room of a module; a module beside the rooms is a room of its own."""
    package, room, *_ = path.relative_to(REPOSITORY).with_suffix("").parts
    return package, room


def rooms_in(path: Path) -> Iterator[tuple[str, str]]:
    """Packages and rooms that a module imports from."""
    for full in imported(path):
        package, _, rest = full.partition(".")
        if package in ORDER:
            room = rest.partition(".")[0]
            yield package, room if room in ORDER[package] else "__init__"


def test_every_module_stands_in_a_room():
    assert {room_of(path) for path in MODULES} == {
        (package, room) for package, rooms in ORDER.items() for room in rooms
    }
    assert ("labelkit", "judging") in set(rooms_in(REPOSITORY / "labelkit" / "commands" / "judging.py"))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_room_imports_only_rooms_above_it(path):
    package, room = room_of(path)
    above = ORDER[package][: ORDER[package].index(room) + 1]
    found = set(rooms_in(path))
    assert {used for owner, used in found if owner == package} <= set(above)
    if package == "labelkit":
        # A command may hand the public API of its sister package to a function of a room, as `distil` does.
        assert {used for owner, used in found if owner == "trainer"} <= ({"__init__"} if room == "commands" else set())
    elif room != "commands":
        assert {used for owner, used in found if owner == "labelkit"} <= FOR_TRAINER


@pytest.mark.parametrize(
    "path", [path for path in MODULES if room_of(path)[1] not in ("commands", "__main__")], ids=name
)
def test_only_commands_print(path):
    tree = parsed(path)
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"print", "exit"}
    assert not {full.partition(".")[0] for full in imported(path)} & {"typer", "click", "rich"}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if room_of(path)[1] not in ("engines", "commands")], ids=name
)
def test_no_engine_is_named_outside_its_room(path):
    tree = parsed(path)
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not strings & set(ENGINES)


@pytest.mark.parametrize("package", ORDER)
def test_every_room_says_what_it_takes_gives_and_touches(package):
    for init in (REPOSITORY / package).glob("*/__init__.py"):
        text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        assert all(word in text for word in ("In:", "Out:", "Touches:")), f"{name(init)}: {text}"
