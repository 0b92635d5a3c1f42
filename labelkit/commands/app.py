"""The command line `labelkit`: a table of all commands by name. Their functions are in the modules beside this one."""

from collections.abc import Callable

from labelkit.commands import console, corpora, datasets, exchange, installation, judging, quality, queries, storage
from labelkit.commands.parameters import command_line

COMMANDS: dict[str, Callable[..., None]] = {
    "corpus": corpora.corpus,
    "queries": queries.queries,
    "split": corpora.split,
    "pool": judging.pool,
    "plan": judging.plan,
    "annotate": judging.annotate,
    "judges": judging.judges,
    "import": exchange.import_made,
    "agree": quality.agree,
    "bias": quality.bias,
    "calibrate": quality.calibrate,
    "distil": quality.distil,
    "select": quality.select,
    "report": quality.report,
    "redteam": quality.redteam,
    "tune": quality.tune,
    "mix": datasets.mix,
    "mine": datasets.mine,
    "relabel": datasets.relabel,
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
    "doctor": installation.doctor,
}

app = command_line(
    "labelkit", "Make relevance labels with language models and people, and datasets that train retrievers.", COMMANDS
)


def main() -> None:
    """Run the command `labelkit`."""
    console.run_commands(app)
