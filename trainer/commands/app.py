"""The command line `trainer`: all commands by name, implemented by the modules of `trainer.commands`."""

from collections.abc import Callable

from labelkit.commands import console
from labelkit.commands.parameters import command_line
from trainer.commands import measuring, training

COMMANDS: dict[str, Callable[..., None]] = {
    "fit": training.fit,
    "bakeoff": training.bakeoff,
    "eval": measuring.evaluate,
    "suspects": training.suspects,
    "verify": measuring.verify,
}

app = command_line("trainer", "Train dense retrievers on multi-positive datasets, and measure them.", COMMANDS)


def main() -> None:
    """Run the console command `trainer`."""
    console.run_commands(app)
