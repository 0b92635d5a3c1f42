"""The command line `trainer`: every command by the name that users type. Their bodies stand in `trainer.commands`."""

from collections.abc import Callable

import typer

from labelkit.commands import console
from labelkit.commands.parameters import Command
from trainer.commands import measuring, training

COMMANDS: dict[str, Callable[..., None]] = {
    "fit": training.fit,
    "bakeoff": training.bakeoff,
    "eval": measuring.evaluate,
    "suspects": training.suspects,
    "verify": measuring.verify,
}

app = typer.Typer(
    name="trainer",
    help="Train dense retrievers on multi-positive datasets, and measure them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: loading rich costs 0.2 s
)
for name, command in COMMANDS.items():
    app.command(name, cls=Command)(command)


def main() -> None:
    """Entry point of the console command."""
    console.run_commands(app)
