"""The commands that train: fit, bakeoff, suspects."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

import trainer
from labelkit.commands import console
from labelkit.commands.options import Given, takes

DatasetArgument = Annotated[
    Path,
    typer.Argument(help="Dataset folder of `labelkit mix`, or data in a format of Tevatron, sentence-transformers, …"),
]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings; flags override it.")]
FIT_CONFIG = "trainer.config.fit_config:FitConfig"
OF_FIT = (
    "model",
    "architecture",
    "objective",
    "labels",
    "stages",
    "epochs",
    "max_steps",
    "batch_size",
    "group_size",
    "max_positives",
    "learning_rate",
    "warmup_ratio",
    "weight_decay",
    "temperature",
    "similarity",
    "trust_remote_code",
    "allow_leaks",
    "pooling",
    "pool",
    "false_negative_margin",
    "gradient_cache",
    "precision",
    "lora_rank",
    "mini_batch_tokens",
    "max_query_length",
    "max_passage_length",
    "workers",
    "dev",
    "scale",
    "patience",
    "seed",
)
"""Settings of a fit that have a flag; other settings can only be set in the settings file."""
OF_SUSPECTS = ("model", "objective", "labels", "epochs", "max_steps", "batch_size", "seed")
OF_BAKEOFF = ("model", "pool", "dev", "scale", "epochs", "max_steps", "batch_size", "allow_leaks")
OF_GRID = ("objectives", "regimes", "seeds", "relevant_grade", "keep_models")


@takes(
    FIT_CONFIG,
    only=OF_FIT,
    loose=OF_FIT,
    flags={"stages": "--stage"},
    helps={"stages": "Labels of a stage of a curriculum; repeat it for each stage: --stage llm --stage human."},
)
def fit(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the trained model.")],
    given: Given,
    config: Config = None,
    evaluate: Annotated[
        list[str] | None,
        typer.Option(
            "--eval", help="Collection (split test), or nanobeir, to measure on for the model card; may be repeated."
        ),
    ] = None,
) -> None:
    """Train a retriever on a dataset. The same command resumes an interrupted run."""
    check_input(dataset)
    settings = trainer.read_config(config, given)
    command = console.command_line("trainer")
    with held(output, "model"):
        report = trainer.fit(
            dataset, output, settings, evaluation=evaluate or (), command=command, progress=console.say
        )
    if os.environ.get("RANK", "0") != "0":
        return  # only the first process of torchrun prints
    for number, (stage, done) in enumerate(zip(settings.stage_configs(), report.stages, strict=True), start=1):
        say_stage(f"stage {number}: " if settings.stages else "", stage, done)
    console.say(f"wrote {output}: {report.steps} steps of {settings.objective} in {report.seconds:.0f} s")


@takes(FIT_CONFIG, only=OF_BAKEOFF, loose=OF_BAKEOFF)
@takes(
    "trainer.bakeoffs.config:BakeoffConfig",
    "grid",
    only=OF_GRID,
    loose=OF_GRID,
    flags={"regimes": "--regime"},
    helps={
        "regimes": "Labels of a regime, with commas between its stages: 'human', 'llm, human'; may be repeated. "
        "Default: all.",
        "objectives": "Names of objectives, separated by commas; may be repeated. Default: the five of the paper.",
    },
)
def bakeoff(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")],
    evaluate: Annotated[list[str], typer.Option("--eval", help="Collection to measure on; may be repeated.")],
    given: Given,
    grid: Given,
    config: Annotated[
        str | None,
        typer.Option(help="TOML file of settings, or a file of the package: paper-nq.toml, paper-msmarco.toml, …"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the qrels of the --eval collections. Default: test; train for NanoBEIR."),
    ] = None,
) -> None:
    """Compare objectives and regimes of labels by training. Every objective is trained on every regime, with several
    seeds.
    """
    from trainer.bakeoffs.config import parse_objectives, parse_regimes, read_bakeoff

    check_input(dataset)
    own = grid | {"objectives": parse_objectives(grid.get("objectives")), "regimes": parse_regimes(grid.get("regimes"))}
    settings, command = read_bakeoff(config, own, given), console.command_line("trainer")
    with held(output):
        made = trainer.bakeoff(dataset, output, settings, evaluation=evaluate, split=split, command=command)
    console.say(*made.recommendation, f"table and charts: {output / 'report.html'}")


@takes(FIT_CONFIG, only=OF_SUSPECTS, loose=OF_SUSPECTS)
def suspects(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the list of labels.")],
    given: Given,
    config: Config = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of parts of the queries, and of models to train.")] = 5,
    show: Annotated[int, typer.Option(min=0, help="Number of the most doubted labels to print.")] = 20,
) -> None:
    """List probable label errors. Models trained on other queries disagree most with these labels."""
    check_input(dataset)
    settings = trainer.read_config(config, given)
    with held(output, "suspects"):
        command = console.command_line("trainer")
        found = trainer.suspects(dataset, output, settings, folds=folds, show=show, command=command)
    print_suspects(found.worst)
    for name, (every, doubted) in found.by_source.items():
        console.say(f"{name}: {doubted:,} of {every:,} labels with a doubt above 0.5")
    console.say(f"wrote {output}/suspects.tsv with all labels; to judge three passages per query again, pool them:")
    console.say(f"labelkit pool DATA --bm25 0 --run {output}/suspects.run:3 -o POOL")


def print_suspects(found: "list[trainer.Suspect]") -> None:
    """Print labels and their doubt as a table."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    table = Table("doubt", "label", "query", "passage", title="most doubted labels")
    for one in found:
        grade = "" if one.grade is None else f", grade {one.grade}"
        cells = [f"{one.doubt:.2f}", f"{one.side}{grade}, {one.source}", one.query[:60], one.passage[:80]]
        table.add_row(*cells)
    Terminal().print(table)


def check_input(dataset: Path) -> None:
    """Refuse an input that cannot be trained on, before a fault in the settings is reported or a library is loaded."""
    from trainer.data.input_check import check_dataset

    check_dataset(dataset)


def held(output: Path, kind: str | None = None) -> AbstractContextManager[object]:
    """Lock the output path before slow imports, so that a second process fails at once.

    Only the first process of torchrun takes the lock, because only that process writes.
    """
    from labelkit.storage.outputs import claimed

    return claimed(output, kind) if os.environ.get("RANK", "0") == "0" else nullcontext()


def speed(stage: "trainer.StageReport") -> str:
    """Format tokens per second and operations per second, and on a known GPU their share of its peak."""
    from trainer.training.work import gpu_peak

    rate = stage.operations / stage.seconds
    peak = gpu_peak()
    share = f", {rate / peak:.1%} of the GPU's peak in bf16" if peak else ""
    return f"read {stage.tokens / stage.seconds:,.0f} tokens per second: {rate / 1e12:,.2f} TFLOP/s{share}"


def say_stage(prefix: str, settings: "trainer.FitConfig", stage: "trainer.StageReport") -> None:
    """Print losses, waiting time, counts and dev measurements of a stage."""
    console.say(
        prefix + "mean loss {:.4f} in the first fifth of the steps, {:.4f} in the last".format(*stage.loss_at_ends())
    )
    waited = f"{prefix}waited for batches during {stage.idle_share:.1%} of the time"
    console.say(waited, prefix + speed(stage))
    left_out, queries = stage.counts["queries_left_out"], stage.counts["queries"]
    if left_out:
        whose = "" if settings.labels == "all" else f" of {settings.labels}"
        why = "are held out or have no positive" if settings.held_out else "have no positive"
        console.say(f"{prefix}left out {left_out} of {queries} queries, which {why}{whose}")
    if stage.dev:
        best = max(stage.dev, key=lambda point: point["value"])
        console.say(f"{prefix}best on dev at step {best['step']:.0f}: nDCG@10 {best['value']:.3f}")
