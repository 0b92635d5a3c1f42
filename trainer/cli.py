"""The command line `trainer`. Heavy imports stand inside the commands, so that `--help` answers at once."""

import json
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelkit import console
from labelkit.errors import LabelkitError, MissingPackageError

if TYPE_CHECKING:
    from trainer.evaluate import Estimate, EvalResult

TRAINING_PACKAGES = {
    "sentence_transformers": "sentence-transformers",
    "accelerate": "accelerate",
    "datasets": "datasets",
    "ir_measures": "ir-measures",
}
"""Module -> package that brings it."""

app = typer.Typer(
    name="trainer",
    help="Train dense retrievers on multi-positive datasets, and measure them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: loading rich costs 0.2 s
)


@app.command()
def fit(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, as `labelkit mix` writes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the trained model.")],
    model: Annotated[str | None, typer.Option(help="Model to start from: a local folder or a name on the Hub.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="singlelh, rand1lh, jointlh, summarglh, lsepair, … An unknown name lists all.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; flags override it.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the queries. Default 1.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Take exactly this many steps instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Queries a step. Default 32.")] = None,
    group_size: Annotated[int | None, typer.Option(help="Passages drawn for a query. Default 8.")] = None,
    max_positives: Annotated[int | None, typer.Option(help="Positives among them, at most. Default 4.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate. Default 2e-5.")] = None,
    warmup_ratio: Annotated[float | None, typer.Option(help="Share of the steps to warm up. Default 0.1.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Default 0.01.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Default 0.05 for cosine, 1.0 for dot.")] = None,
    similarity: Annotated[str | None, typer.Option(help="cosine (default) or dot.")] = None,
    false_negative_margin: Annotated[
        float | None,
        typer.Option(help="Unjudged passages this much more similar than the best positive are no negatives."),
    ] = None,
    gradient_cache: Annotated[
        bool | None, typer.Option("--gradient-cache", help="Little memory for large batches, at twice the encoding.")
    ] = None,
    mini_batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens encoded at a time. Default 2048 (CPU), 16384.")
    ] = None,
    max_query_length: Annotated[int | None, typer.Option(help="Tokens; default: the model's limit.")] = None,
    max_passage_length: Annotated[int | None, typer.Option(help="Tokens; default: the model's limit.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default 0.")] = None,
) -> None:
    """Train a retriever on a dataset."""
    flags = {name: value for name, value in locals().items() if name not in ("dataset", "output", "config")}
    from trainer.config import read_config

    settings = read_config(config, flags)
    _load_training_packages()
    from trainer.fit import fit as run

    report = run(dataset, output, settings, console.command_line("trainer"))
    if os.environ.get("RANK", "0") != "0":
        return  # one of the processes of torchrun speaks for all
    console.say(f"wrote {output}: {report.steps} steps of {settings.objective} in {report.seconds:.0f} s")
    console.say("loss over the first fifth of the steps {:.4f}, over the last {:.4f}".format(*report.loss_at_ends()))
    left_out, queries = report.counts["queries_without_positives"], report.counts["queries"]
    if left_out:
        console.say(f"{left_out} of {queries} queries have no positive and were left out")


@app.command()
def verify(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps. Default: what PyTorch finds.")] = None,
) -> None:
    """Check on this machine that tiles, caches, masks and processes change no loss and no gradient."""
    _load_training_packages()
    import torch
    from rich.console import Console
    from rich.table import Table

    from trainer.verify import CHECKS
    from trainer.verify import verify as run

    if device is None:
        device = accelerator.type if (accelerator := torch.accelerator.current_accelerator()) else "cpu"
    table = Table("check", "what was compared", "difference", "allowed", "", title=f"trainer verify on {device}")
    missed = []
    for number, check in enumerate(run(device), start=1):
        console.say(f"{number}/{len(CHECKS)} {check.name}: {'held' if check.held else 'MISSED'}")
        table.add_row(
            check.name,
            check.what,
            f"{check.difference:.0e}",
            f"{check.allowed:.0e}",
            "held" if check.held else "MISSED",
        )
        missed += [] if check.held else [check.name]
    Console().print(table)
    if missed:
        raise LabelkitError(
            f"{', '.join(missed)} missed on {device}: do not trust results of this set-up, and report the table"
        )


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="sentence-transformers folder or name on the Hub.")],
    data: Annotated[Path, typer.Argument(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.")],
    split: Annotated[str, typer.Option(help="Which qrels.")] = "test",
    compare: Annotated[list[str] | None, typer.Option(help="Another model; may be given several times.")] = None,
    relevant_grade: Annotated[int, typer.Option(min=1, help="Lowest grade that RR and R call relevant.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, values per query included.")
    ] = False,
) -> None:
    """Measure a model: nDCG@10, RR@10 and Recall@100 with 95% intervals."""
    _load_training_packages()
    from trainer.evaluate import evaluate as run

    result = run(
        model,
        data,
        split,
        compare=compare or (),
        relevant_grade=relevant_grade,
    )
    if as_json:
        print(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    else:
        _print_tables(result)


def _print_tables(result: "EvalResult") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    screen = Console()
    title = f"{result.data}, {result.split}: {result.queries:,} queries, {result.passages:,} passages"
    rows: list[tuple[str, dict[str, Estimate], str]] = [(entry.model, entry.means, ".3f") for entry in result.models]
    rows += [(f"difference to {entry.against}", entry.means, "+.3f") for entry in result.differences]
    table = Table("model", *rows[0][1], title=escape(title))
    table.caption = escape("mean [95% bootstrap interval over queries]")
    for name, means, form in rows:
        cells = [f"{e.mean:{form}} [{e.low:{form}}, {e.high:{form}}]" for e in means.values()]
        table.add_row(*(escape(cell) for cell in (name, *cells)))
    screen.print(table)
    if result.queries_without_relevant:
        console.say(
            f"{result.queries_without_relevant} of {result.queries} queries have no passage of grade "
            f"{result.relevant_grade} or above; they count with 0 in RR and R"
        )


def _load_training_packages() -> None:
    for module, package in TRAINING_PACKAGES.items():
        try:
            import_module(module)
        except ModuleNotFoundError:
            raise MissingPackageError(package, "train") from None
    console.hide_loading_bars()


def main() -> None:
    """Entry point of the console command."""
    console.run(app)


if __name__ == "__main__":
    main()
