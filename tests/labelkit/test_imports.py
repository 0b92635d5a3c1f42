"""The directions in which modules may import each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MODULES = sorted(path for package in ("labelkit", "trainer") for path in (REPOSITORY / package).rglob("*.py"))
FOR_TRAINER = {"schema", "errors", "artifact", "dataset", "sources", "console", "encode", "formats", "import_grades"}
FOR_TRAINER |= {"fingerprints", "duck"}  # what makes two queries the same is said once, and how large tables are joined


def imported(path: Path) -> Iterator[str]:
    """Full names of everything that a module imports, wherever the import stands."""
    package = list(path.relative_to(REPOSITORY).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def names(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_the_walk_sees_imports():
    assert len(MODULES) > 25
    assert "labelkit.pool.make_pool" in set(imported(REPOSITORY / "labelkit" / "commands" / "judging.py"))


@pytest.mark.parametrize("path", [path for path in MODULES if names(path).startswith("labelkit")], ids=names)
def test_labelkit_never_imports_trainer(path):
    assert [name for name in imported(path) if name.split(".")[0] == "trainer"] == []


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_nothing_imports_a_command_line(path):
    forbidden = {(package, room) for package in ("labelkit", "trainer") for room in ("cli", "commands")}
    found = [name for name in imported(path) if tuple(name.split(".")[:2]) in forbidden]
    assert found == [] or names(path) in {"labelkit/cli.py", "trainer/cli.py"} or "/commands/" in names(path)


@pytest.mark.parametrize("path", [path for path in MODULES if names(path).startswith("trainer")], ids=names)
def test_trainer_imports_only_records_and_files_from_labelkit(path):
    found = {name.split(".")[1] for name in imported(path) if name.startswith("labelkit.")}
    assert found <= FOR_TRAINER
    assert "labelkit" not in set(imported(path))
