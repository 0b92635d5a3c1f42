"""A call says what its arguments are: no function or class of ours gets more than three by their place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MODULES = sorted(path for package in ("labelkit", "trainer") for path in (REPOSITORY / package).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
MOST = 3


def defined(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Names of functions and classes, and whether they take any number of arguments, which then have no names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, not isinstance(node, ast.ClassDef) and node.args.vararg is not None


DEFINED = {found for tree in TREES.values() for found in defined(tree)}
OURS = {name for name, _ in DEFINED} - {name for name, unlimited in DEFINED if unlimited}


def by_place(tree: ast.Module) -> Iterator[str]:
    """Calls with too many arguments by place, each with its line."""
    renamed = {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            placed = [one for one in node.args if not isinstance(one, ast.Starred)]
            if renamed.get(name, name) in OURS and len(placed) > MOST:
                yield f"line {node.lineno}: {ast.unparse(node.func)} gets {len(placed)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_call_has_more_than_three_arguments_by_place(path: Path) -> None:
    assert list(by_place(TREES[path])) == []


def test_such_a_call_is_seen() -> None:
    text = "from labelkit.judging.tasks import Task as T\nT('q', (), 0, 0)\nprint(1, 2, 3, 4)\nT(*row, 1)"
    assert list(by_place(ast.parse(text))) == ["line 2: T gets 4"]
