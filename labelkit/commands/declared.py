"""Reads the fields of option records out of their source, without importing them.

An option record is a pydantic class, and importing pydantic would cost every `--help` more than the rest of it. A test
compares each field that is read here with the field that pydantic makes of it.
"""

import ast
import types
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin

REQUIRED = object()
"""Default of a field that has none."""
PLAIN = (bool, int, float, str, Path)
"""Types of single values on the command line; values of every other type are typed as text."""


class Declared(NamedTuple):
    """A field of an option record, as its class declares it."""

    kind: type
    """One of `PLAIN`."""
    several: bool
    """The flag may be repeated."""
    default: Any
    """`REQUIRED` where there is none."""
    bounds: dict[str, Any]
    """The inclusive ones, as `min` and `max`."""
    help: str


class FieldSettings(dict[str, Any]):
    """The arguments of a field's `Field(...)`."""

    @classmethod
    def of(cls, default: Any = REQUIRED, **settings: Any) -> Self:
        """`Field(...)` by another name."""
        return cls(settings, default=default)


@cache
def declared(record: str) -> dict[str, Declared]:
    """The fields of an option record, `module:Class`, with those of its bases first."""
    module, _, name = record.partition(":")
    tree = parsed(module)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return dict(fields_of(classes[name], classes, known_names(module, tree)))


def parsed(module: str) -> ast.Module:
    """The source of a module."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def known_names(module: str, tree: ast.Module) -> dict[str, Any]:
    """Names that a declaration may use: types of the standard library, constants of its module, and what it imports
    from the packages.
    """
    known: dict[str, Any] = {"Path": Path, "Any": Any, "Literal": Literal, "Annotated": Annotated}
    known |= {"ClassVar": ClassVar, "Field": FieldSettings.of, "Address": str}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == module.partition(".")[0]:
            named = {alias.name for alias in node.names if alias.name.isupper()}
            known |= {name: value for name, value in constants(str(node.module)).items() if name in named}
    return known | constants(module)


@cache
def constants(module: str) -> dict[str, Any]:
    """The names that a module gives to literals."""
    found = {}
    for node in parsed(module).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                """No literal: a declaration that uses it fails loudly."""
    return found


def fields_of(
    node: ast.ClassDef, classes: Mapping[str, ast.ClassDef], known: Mapping[str, Any]
) -> Iterator[tuple[str, Declared]]:
    """The annotated fields of a class and of its bases in the same module, each with the docstring below it."""
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from fields_of(classes[base.id], classes, known)
    for line, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            kind = evaluated(line.annotation, known)
            if get_origin(kind) is ClassVar:
                continue
            value = evaluated(line.value, known) if line.value else REQUIRED
            settings = value if isinstance(value, FieldSettings) else FieldSettings.of(value)
            yield line.target.id, declaration(kind, settings, docstring(below))


def evaluated(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """The value of an expression of the package's own source."""
    return eval(compile(ast.Expression(node), "<declaration>", "eval"), dict(known))


def docstring(node: ast.stmt | None) -> str:
    """The first paragraph of the text below a field, in one line."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.partition("\n\n")[0].split())
    return ""


def declaration(annotation: Any, settings: Mapping[str, Any], words: str) -> Declared:
    """A field by its annotation and the arguments of its `Field(...)`."""
    kind, several = kind_of(annotation)
    inner = (one for part in get_args(annotation) for one in get_args(part) if isinstance(one, FieldSettings))
    # Of a field with several values, each value has the bounds.
    bounded: Mapping[str, Any] = next(inner, {}) if several and kind is not str else settings
    bounds = {name: bounded[key] for key, name in (("ge", "min"), ("le", "max")) if key in bounded}
    return Declared(kind, several, settings["default"], bounds=bounds, help=words)


def kind_of(annotation: Any) -> tuple[type, bool]:
    """The type of one value, and whether there may be several."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        (annotation, *others) = (part for part in parts if part is not type(None))
        return (str, False) if others else kind_of(annotation)
    if origin is Annotated:
        return kind_of(parts[0])
    if origin is tuple and parts[1:] == (...,):
        return kind_of(parts[0])[0], True
    if origin in (dict, list, tuple):
        return str, True
    return (annotation, False) if annotation in PLAIN else (str, False)
