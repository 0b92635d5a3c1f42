"""Commands that train: fit, bakeoff, suspects."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelkit.commands import console
from trainer.commands.packages import load_training_packages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from sentence_transformers import SentenceTransformer

    from trainer.config.fit_config import FitConfig
    from trainer.retrieval.evaluate import EvalResult
    from trainer.retrieval.search import Collection
    from trainer.training.fit import Measure, StageReport

DatasetArgument = Annotated[
    Path,
    typer.Argument(help="Folder of `labelkit mix`, or data of Tevatron, sentence-transformers, …"),
]
ModelArgument = Annotated[str | None, typer.Option(help="Model to start from: a local folder or a name on the Hub.")]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings; flags override it.")]
AllowLeaks = Annotated[
    bool | None, typer.Option("--allow-leaks", help="Train although there are queries of the evaluation in it.")
]

FLAGS_OF_SUSPECTS = ("model", "objective", "labels", "epochs", "max_steps", "batch_size", "seed")


def fit(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the trained model.")],
    model: ModelArgument = None,
    objective: Annotated[
        str | None, typer.Option(help="singlelh, rand1lh, jointlh, summarglh, lsepair, … An unknown name lists all.")
    ] = None,
    config: Config = None,
    labels: Annotated[
        str | None, typer.Option(help="Whose labels make positives: 'human', '20% human + llm', … Default all.")
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", help="Labels of a stage, given once for each: --stage llm --stage human."),
    ] = None,
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
    trust_remote_code: Annotated[
        bool | None, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = None,
    allow_leaks: AllowLeaks = None,
    pooling: Annotated[str | None, typer.Option(help="mean, cls, lasttoken, … Default: the model's.")] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Pool whose unjudged passages are negatives where judged ones are too few.")
    ] = None,
    false_negative_margin: Annotated[
        float | None,
        typer.Option(help="Unjudged passages this much more similar than the best positive are no negatives."),
    ] = None,
    gradient_cache: Annotated[
        bool | None, typer.Option("--gradient-cache", help="Little memory for large batches, at twice the encoding.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 (default), bf16 or fp16.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Train adapters of this rank and merge them.")] = None,
    mini_batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens encoded at a time. Default 2048 (CPU), 16384.")
    ] = None,
    max_query_length: Annotated[int | None, typer.Option(help="Tokens; default: the model's limit.")] = None,
    max_passage_length: Annotated[int | None, typer.Option(help="Tokens; default: the model's limit.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that prepare batches. Default 0.")] = None,
    dev: Annotated[
        str | None, typer.Option(help="BEIR folder (split dev) or FOLDER:SPLIT; the best epoch there is kept.")
    ] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without gain on --dev.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default 0.")] = None,
    evaluate: Annotated[
        list[str] | None,
        typer.Option("--eval", help="Measure on this BEIR folder (split test) too, for the card. May be repeated."),
    ] = None,
) -> None:
    """Train a retriever on a dataset. The same command again goes on where a killed run stopped."""
    flags = {name: value for name, value in locals().items() if name not in ("dataset", "output", "config", "evaluate")}
    from labelkit.storage.outputs import name_of
    from trainer.config.fit_config import read_config

    settings = read_config(config, flags | {"stages": stages or None})
    with held(output, "model"):
        load_training_packages()
        from trainer.retrieval.search import read_collections
        from trainer.training.fit import fit as run

        collections = read_collections([Path(folder) for folder in evaluate or ()], "test")
        measure = card_measure(settings, name_of(output), collections) if collections else None
        report = run(dataset, output, settings, console.command_line("trainer"), measure, collections)
    if os.environ.get("RANK", "0") != "0":
        return  # one of the processes of torchrun speaks for all
    for number, (stage, done) in enumerate(zip(settings.stage_configs(), report.stages, strict=True), start=1):
        say_stage(f"stage {number}: " if settings.stages else "", stage, done)
    console.say(f"wrote {output}: {report.steps} steps of {settings.objective} in {report.seconds:.0f} s")


def bakeoff(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")],
    evaluate: Annotated[list[str], typer.Option("--eval", help="BEIR folder to measure on. May be repeated.")],
    config: Annotated[
        str | None,
        typer.Option(help="TOML file, or a shipped one: paper-nq.toml, paper-msmarco.toml, …"),
    ] = None,
    model: ModelArgument = None,
    objectives: Annotated[
        str | None, typer.Option(help="Names with commas between them. Default: the five of the paper.")
    ] = None,
    regime: Annotated[
        list[str] | None,
        typer.Option(help="Labels of a regime, commas between its stages: 'human', 'llm, human'. May be repeated."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each that differ in their seed. Default 3.")] = None,
    dev: Annotated[
        str | None, typer.Option(help="BEIR folder (split dev) or FOLDER:SPLIT that chooses weights.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which qrels of --eval.")] = "test",
    epochs: Annotated[int | None, typer.Option(help="Passes over the queries.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Take exactly this many steps instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Queries a step.")] = None,
    relevant_grade: Annotated[
        int | None, typer.Option(min=1, help="Lowest grade that RR, AP and R call relevant.")
    ] = None,
    keep_models: Annotated[bool | None, typer.Option("--keep-models", help="Keep the model of every run.")] = None,
    allow_leaks: AllowLeaks = None,
) -> None:
    """Train every objective on every regime of labels with several seeds, and say what the numbers support."""
    from trainer.bakeoff.config import parse_regimes, read_bakeoff

    names = [name.strip() for name in objectives.split(",")] if objectives else None
    own = {"objectives": names, "regimes": parse_regimes(regime), "seeds": seeds}
    own |= {"relevant_grade": relevant_grade, "keep_models": keep_models}
    fit_flags = {"model": model, "dev": dev, "epochs": epochs, "max_steps": max_steps, "batch_size": batch_size}
    fit_flags |= {"allow_leaks": allow_leaks}
    settings = read_bakeoff(config, own, fit_flags)
    with held(output):
        load_training_packages()
        from trainer.bakeoff.report import write_report
        from trainer.bakeoff.runner import bakeoff as run
        from trainer.retrieval.search import read_collections

        collections = read_collections([Path(folder) for folder in evaluate], split)
        command = console.command_line("trainer")
        results = run(dataset, output, settings, collections, command)
        title = f"{dataset.name}, measured on {', '.join(one.name for one in collections)}"
        for line in write_report(output, results, title, command):
            console.say(line)
    console.say(f"table and charts: {output / 'report.html'}")


def suspects(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the list.")],
    model: ModelArgument = None,
    objective: Annotated[str | None, typer.Option(help="As in fit.")] = None,
    config: Config = None,
    labels: Annotated[str | None, typer.Option(help="Whose labels make positives. Default all.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the queries. Default 1.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Take exactly this many steps instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Queries a step. Default 32.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default 0.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the queries; so many models are trained.")] = 5,
    show: Annotated[int, typer.Option(min=0, help="Print so many of the most doubted.")] = 20,
) -> None:
    """List the labels that models trained on other queries disagree with most, for a second look."""
    flags = dict(locals())
    from trainer.config.fit_config import read_config

    settings = read_config(config, {name: flags[name] for name in FLAGS_OF_SUSPECTS})
    with held(output, "suspects"):
        load_training_packages()
        from trainer.suspects import by_source
        from trainer.suspects import suspects as run

        found = run(dataset, output, settings, folds, console.command_line("trainer"))
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    table = Table("doubt", "label", "query", "passage", title="most doubted labels")
    for one in found[:show]:
        grade = "" if one.grade is None else f", grade {one.grade}"
        cells = [f"{one.doubt:.2f}", f"{one.side}{grade}, {one.source}", one.query[:60], one.passage[:80]]
        table.add_row(*cells)
    Terminal().print(table)
    for name, (every, doubted) in by_source(found, 0.5).items():
        console.say(f"{name}: {doubted:,} of {every:,} doubted by more than 0.5")
    console.say(f"{output}: all in suspects.tsv; to judge three of each query again, pool them first:")
    console.say(f"labelkit pool DATA --bm25 0 --run {output}/suspects.run:3 -o POOL")


def held(output: Path, kind: str | None = None) -> "AbstractContextManager[object]":
    """Hold an output from the start, before packages are loaded that take longer than a second process should wait.

    Of the processes of torchrun the first one writes.
    """
    from labelkit.storage.outputs import claimed

    return claimed(output, kind) if os.environ.get("RANK", "0") == "0" else nullcontext()


def say_stage(prefix: str, settings: "FitConfig", stage: "StageReport") -> None:
    """What a stage did, in a few lines."""
    console.say(
        prefix + "loss over the first fifth of the steps {:.4f}, over the last {:.4f}".format(*stage.loss_at_ends())
    )
    console.say(f"{prefix}waited for batches {stage.idle_share:.1%} of the time")
    left_out, queries = stage.counts["queries_left_out"], stage.counts["queries"]
    if left_out:
        whose = "" if settings.labels == "all" else f" of {settings.labels}"
        why = "are held out or have no positive" if settings.held_out else "have no positive"
        console.say(f"{prefix}{left_out} of {queries} queries {why}{whose} and were left out")
    if stage.dev:
        best = max(stage.dev, key=lambda point: point["value"])
        console.say(f"{prefix}best on dev at step {best['step']:.0f}: nDCG@10 {best['value']:.3f}")


def card_measure(settings: "FitConfig", name: str, collections: "Sequence[Collection]") -> "Measure":
    """Measures the trained model and the one it started from."""
    from labelkit.pooling.dense_search import Lengths
    from trainer.retrieval.evaluate import Contender, evaluate, load_contender

    def measure(model: "SentenceTransformer") -> "EvalResult":
        lengths = Lengths(settings.max_query_length, settings.max_passage_length)
        before = load_contender(settings.model, trust_remote_code=settings.trust_remote_code)
        return evaluate([Contender(name, model), before], collections, lengths=lengths, progress=console.say)

    return measure
