"""Reads the fields of option records from their source code, without importing them.

An option record is a pydantic class, and importing pydantic would take longer than everything else that `--help` does.
A test compares each field that is read here with the field in the pydantic class.
"""

import ast
import types
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin

REQUIRED = object()
"""Stands for the default of a field that has none and must be set."""
PLAIN = (bool, int, float, str, Path)
"""Types of single values on the command line; values of every other type are typed as text."""


class Declared(NamedTuple):
    """A field of an option record, as its class declares it."""

    kind: type
    """One of `PLAIN`."""
    several: bool
    """Whether the flag may be repeated."""
    default: Any
    """`REQUIRED` if the field has none."""
    bounds: dict[str, Any]
    """Inclusive bounds of the value, as `min` and `max`."""
    help: str


class FieldSettings(dict[str, Any]):
    """The arguments of a field's `Field(...)`."""

    @classmethod
    def of(cls, default: Any = REQUIRED, **settings: Any) -> Self:
        """Collect the arguments of `Field(...)`, in whose place this function is called."""
        return cls(settings, default=default)


@cache
def declared(record: str) -> dict[str, Declared]:
    """Read the fields of an option record, `module:Class`; fields of base classes come first."""
    module, _, name = record.partition(":")
    tree = parsed(module)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    elsewhere = {
        alias.name: f"{node.module}:{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.endswith("Options") and alias.name != "Options"
    }
    return dict(fields_of(classes[name], classes, known_names(module, tree), elsewhere=elsewhere))


@cache
def parsed(module: str) -> ast.Module:
    """Parse the source of a module."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def known_names(module: str, tree: ast.Module) -> dict[str, Any]:
    """Collect the names that a declaration may use: types of the standard library, constants of its module, and
    constants imported from our packages.
    """
    known: dict[str, Any] = {"Path": Path, "Any": Any, "Literal": Literal, "Annotated": Annotated}
    known |= {"ClassVar": ClassVar, "Field": FieldSettings.of}
    known |= dict.fromkeys(("Address", "CollectionPlace", "ScaleText"), str)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == module.partition(".")[0]:
            named = {alias.name for alias in node.names if alias.name.isupper()}
            # Finding a module imports its package, so modules without constants are left alone.
            found = constants(str(node.module)) if named else {}
            known |= {name: value for name, value in found.items() if name in named}
    return known | constants(module)


@cache
def constants(module: str) -> dict[str, Any]:
    """Collect the names that a module assigns to literals."""
    found = {}
    for node in parsed(module).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                """The value is not a literal; a declaration that uses the name raises `NameError`."""
    return found


def fields_of(
    node: ast.ClassDef,
    classes: Mapping[str, ast.ClassDef],
    known: Mapping[str, Any],
    *,
    elsewhere: Mapping[str, str],
) -> Iterator[tuple[str, Declared]]:
    """Yield the annotated fields of a class and of its bases, each with the docstring below it.

    `elsewhere` has the option records that the module imports: name -> `module:Class`.
    """
    for base in reversed(node.bases):  # the order of pydantic
        if isinstance(base, ast.Name) and base.id in classes:
            yield from fields_of(classes[base.id], classes, known, elsewhere=elsewhere)
        elif isinstance(base, ast.Name) and base.id in elsewhere:
            yield from declared(elsewhere[base.id]).items()
    for line, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            kind = evaluated(line.annotation, known)
            if get_origin(kind) is ClassVar:
                continue
            value = evaluated(line.value, known) if line.value else REQUIRED
            settings = value if isinstance(value, FieldSettings) else FieldSettings.of(value)
            yield line.target.id, declaration(kind, settings, docstring(below))


def evaluated(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """Evaluate an expression of the package's own source."""
    return eval(compile(ast.Expression(node), "<declaration>", "eval"), dict(known))


def docstring(node: ast.stmt | None) -> str:
    """Return the first paragraph of the docstring below a field, in one line."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.partition("\n\n")[0].split())
    return ""


def declaration(annotation: Any, settings: Mapping[str, Any], words: str) -> Declared:
    """Describe a field by its annotation, the arguments of its `Field(...)` and its help text."""
    kind, several = kind_of(annotation)
    inner = (one for part in get_args(annotation) for one in get_args(part) if isinstance(one, FieldSettings))
    # The bounds of a field with several values apply to each value.
    bounded: Mapping[str, Any] = next(inner, {}) if several and kind is not str else settings
    bounds = {name: bounded[key] for key, name in (("ge", "min"), ("le", "max")) if key in bounded}
    return Declared(kind, several, settings["default"], bounds=bounds, help=words)


def kind_of(annotation: Any) -> tuple[type, bool]:
    """Return the type of one value of a field, and whether it may have several."""
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
