"""Builds both command lines from their commands, and checks the parameters of every command.

A range does not exclude NaN, which is neither above nor below any bound. So every number of every command is checked
here, whatever its option declares. A wrong value of any parameter is reported in one line.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from labelkit.commands.declared import constants
from labelkit.errors import UsageError

MOST = constants("labelkit.options")["MOST"]


class Command(TyperCommand):
    """A command whose parameters are checked before it runs. Raises `UsageError` with one line."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        try:
            context = super().make_context(info_name, args, *rest, **extra)
        except typer.BadParameter as error:
            raise UsageError(f"{error.format_message()} See: {info_name} --help") from None
        for parameter in self.params:
            given = context.params.get(str(parameter.name))
            for value in given if isinstance(given, list | tuple) else [given]:
                if isinstance(value, int | float) and not acceptable(value):
                    raise UsageError(f"{max(parameter.opts, key=len)} {value}: expected a number from -1e15 to 1e15")
        return context


def command_line(name: str, words: str, commands: Mapping[str, Callable[..., None]]) -> typer.Typer:
    """Build the command line `name` with the help text `words`; `commands` are functions by the name to type."""
    app = typer.Typer(
        name=name,
        help=words,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: loading rich costs 0.2 s
    )
    for command, body in commands.items():
        app.command(command, cls=Command)(body)
    return app


def acceptable(value: float) -> bool:
    """Return whether a number is finite and its absolute value at most `MOST`."""
    finite = not isinstance(value, float) or math.isfinite(value)
    return bool(finite and abs(value) <= MOST)
