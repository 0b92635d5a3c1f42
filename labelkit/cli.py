"""The command line `labelkit`: every command by the name that users type. Their bodies stand in `labelkit.commands`."""

from collections.abc import Callable

import typer

from labelkit import console
from labelkit.commands import datasets, exchange, judges, judging, upkeep

COMMANDS: dict[str, Callable[..., None]] = {
    "pool": judging.pool,
    "plan": judging.plan,
    "annotate": judging.annotate,
    "import": exchange.import_made,
    "agree": judges.agree,
    "bias": judges.bias,
    "calibrate": judges.calibrate,
    "select": judges.select,
    "report": judges.report,
    "redteam": judges.redteam,
    "mix": datasets.mix,
    "audit": datasets.audit,
    "show": datasets.show,
    "export": exchange.export,
    "publish": exchange.publish,
    "pull": exchange.pull,
    "review": exchange.review,
    "replay": upkeep.replay,
    "tidy": upkeep.tidy,
    "verify": upkeep.verify,
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
    app.command(name)(command)


def main() -> None:
    """Entry point of the console command."""
    console.run(app)


if __name__ == "__main__":
    main()
