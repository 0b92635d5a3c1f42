"""Options of the commands: flags made from the fields of option records, and flags that several commands share."""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from labelkit.commands.declared import REQUIRED, Declared, declared

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write the result to.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DatasetFolder = Annotated[
    str, typer.Argument(metavar="DATASET", help="Dataset folder, local or at s3://, gs:// or hf://.")
]
Source = Annotated[
    str, typer.Argument(metavar="POOL", help="Pool folder, or a collection, which is first pooled with the defaults.")
]
Given = dict[str, Any]
"""Field of an option record -> the value given on the command line."""
Command = Callable[..., None]


def takes(
    record: str,
    into: str = "given",
    *,
    only: Collection[str] = (),
    flags: Mapping[str, str] | None = None,
    helps: Mapping[str, str] | None = None,
    loose: Collection[str] = (),
) -> Callable[[Command], Command]:
    """Add to a command a flag for each field of an option record, `module:Class`. The flags replace its parameter
    `into`, which receives the given values.

    `only` names the fields that get a flag; if it is empty, all do. `flags` and `helps` replace the name or the help of
    single flags. The flags of the fields in `loose` are optional; without them the field gets no value.
    """
    fields = {name: field for name, field in declared(record).items() if not only or name in only}
    named = {name: (flags or {}).get(name, flag_of(name, field)) for name, field in fields.items()}
    added = {
        name: parameter(named[name], field._replace(help=(helps or {}).get(name, field.help)), loose=name in loose)
        for name, field in fields.items()
    }

    def decorate(body: Command) -> Command:
        @wraps(body)
        def command(**values: Any) -> None:
            typed = {name: values.pop(one.name) for name, one in added.items()}
            given = {
                name: not value if fields[name].default is True else value
                for name, value in typed.items()
                if value not in (None, [])
            }
            body(**values, **{into: given})

        own = [one for name, one in inspect.signature(body).parameters.items() if name != into]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *added.values())]
        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate


def flag_of(name: str, field: Declared) -> str:
    """Return the flag of a field: `--max-usd` for `max_usd`; `--no-verify` for `verify`, which is true by default."""
    return f"--{'no-' if field.default is True else ''}{name.replace('_', '-')}"


def parameter(flag: str, field: Declared, *, loose: bool) -> inspect.Parameter:
    """Turn a field into a parameter from which Typer makes a flag."""
    words, default = field.help, field.default
    if default is True:
        default = False
    elif loose or field.several:
        if default not in (REQUIRED, None, False, (), "", {}) and "efault" not in words:
            shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
            words = f"{words} Default: {shown}.".strip()
        default = None
    kind: Any = list[field.kind] if field.several else field.kind  # type: ignore[name-defined]
    return inspect.Parameter(
        "flag_" + flag.strip("-").replace("-", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is REQUIRED else default,
        annotation=Annotated[kind | None if default is None else kind, typer.Option(flag, help=words, **field.bounds)],
    )
