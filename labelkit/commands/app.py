"""The command line `labelkit`: every command by the name that users type. Their bodies stand in `labelkit.commands`."""

from collections.abc import Callable

import typer

from labelkit.commands import console, datasets, exchange, judging, quality, storage
from labelkit.commands.parameters import Command

COMMANDS: dict[str, Callable[..., None]] = {
    "pool": judging.pool,
    "plan": judging.plan,
    "annotate": judging.annotate,
    "import": exchange.import_made,
    "agree": quality.agree,
    "bias": quality.bias,
    "calibrate": quality.calibrate,
    "select": quality.select,
    "report": quality.report,
    "redteam": quality.redteam,
    "mix": datasets.mix,
    "audit": datasets.audit,
    "show": datasets.show,
    "export": exchange.export,
    "publish": exchange.publish,
    "pull": exchange.pull,
    "review": exchange.review,
    "replay": storage.replay,
    "tidy": storage.tidy,
    "verify": storage.verify,
    "prompts": judging.prompts,
}

app = typer.Typer(
    name="labelkit",
    help="Relevance labels from language models and people, as datasets that train retrievers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, command in COMMANDS.items():
    app.command(name, cls=Command)(command)


def main() -> None:
    """Entry point of the console command."""
    console.run_commands(app)
