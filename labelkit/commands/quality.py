"""Commands that measure how reliable a judge is: agree, bias, calibrate, select, redteam, report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import Given, Json, Output, takes


@takes("labelkit.quality.options:AgreeOptions")
def agree(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders, or a dataset, whose judges are compared.")],
    given: Given,
    as_json: Json = False,
) -> None:
    """Compare judges with people and with each other. The tables show kappa, alpha, AUC and other figures, with 95%
    confidence intervals.
    """
    from labelkit.commands.quality_tables import print_agreement, print_parts, print_systems

    found = labelkit.agree(labels, labelkit.AgreeOptions(**given))
    if as_json:
        console.result_json(found.to_json(), indent=2)
        return
    print_agreement(found.agreement)
    print_systems(found.systems)
    print_parts(found.by)
    if found.advice:
        console.say(f"No person's grades are among them: {found.advice}.")


@takes("labelkit.quality.options:RedteamOptions")
def redteam(
    data: Annotated[Path, typer.Argument(help="BEIR folder with the texts.")],
    output: Output,
    given: Given,
    as_json: Json = False,
) -> None:
    """Measure how often attacks mislead a judge. The tables show the success rate by attack class, prompt and defence,
    and the loss of agreement by defence.
    """
    from labelkit.commands.progress import ProgressBar
    from labelkit.commands.quality_tables import print_attacks

    options, command = labelkit.RedteamOptions(**given), console.command_line("labelkit")
    found = labelkit.redteam(data, output, options, command=command, progress=ProgressBar())
    if as_json:
        console.result_json(found, indent=2)
    else:
        print_attacks(found)


@takes(
    "labelkit.judging.options:AnnotateOptions",
    helps={
        "prompt": "Prompt to start from: the name of a shipped prompt, or a TOML file. Default: the shipped prompt of "
        "the method.",
        "seed": "Seed of the split into halves, of the examples and of the proposals.",
        "max_usd": "Spend at most this many US dollars on the output folder, all prompts and proposals together.",
        "max_tokens": "Use at most this many tokens for the output folder, all prompts and proposals together.",
    },
)
@takes("labelkit.quality.options:TuneOptions", "tuning")
def tune(
    source: Annotated[str, typer.Argument(metavar="DATA", help="BEIR folder with the texts, or a pool folder.")],
    output: Output,
    given: Given,
    tuning: Given,
    as_json: Json = False,
) -> None:
    """Tune a judge's prompt to human grades. Half of the queries choose among proposed wordings and examples, and the
    other half reports the difference to the old prompt, with its confidence interval.
    """
    from labelkit.commands.progress import ProgressBar
    from labelkit.commands.tuning_tables import print_tuned

    options, wanted = labelkit.AnnotateOptions(**given), labelkit.TuneOptions(**tuning)
    command = console.command_line("labelkit")
    found = labelkit.tune(source, output, options, tuning=wanted, command=command, progress=ProgressBar())
    if as_json:
        console.result_json(found.to_json(), indent=2)
    else:
        print_tuned(found)
    console.say(f"{output}: {found.verdict}", *([f"tuned prompt: {found.prompt}"] if found.prompt else []))


@takes("labelkit.quality.options:CalibrateOptions", flags={"renamed": "--as"})
def calibrate(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders, whose judges are features.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write; with --apply, labels folder.")],
    given: Given,
    as_json: Json = False,
) -> None:
    """Fit the scores of judges to human grades. The calibration gives probabilities and grades; --apply writes them as
    labels.
    """
    from labelkit.commands.quality_tables import print_calibration

    options, command = labelkit.CalibrateOptions(**given), console.command_line("labelkit")
    if options.apply:
        count = labelkit.recalibrate(labels, output, options, command=command)
        console.say(f"{output}: {count:,} calibrated judgments")
        return
    fitted = labelkit.calibrate(labels, output, options, command=command)
    if as_json:
        console.result_json(fitted.model_dump(mode="json"), indent=2)
    else:
        print_calibration(fitted)
    console.say(f"{output}: model {fitted.model}, fitted to {fitted.report['pairs']:,} pairs")


@takes("labelkit.quality.distillation.options:DistilOptions")
def distil(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder with labels of a model and grades of people.")],
    output: Output,
    given: Given,
    as_json: Json = False,
) -> None:
    """Train a small judge on the labels of a dataset. It is refused if it agrees with people significantly less than
    the model that made the labels, on held-out queries.
    """
    import trainer
    from labelkit.commands.progress import ProgressBar

    command = console.command_line("labelkit")

    def train(folder: Path, model: Path, settings: Mapping[str, Any]) -> None:
        trainer.fit(folder, model, trainer.FitConfig(**settings), command=command)

    options = labelkit.DistilOptions(**given)
    found = labelkit.distil(dataset, output, options, train=train, command=command, progress=ProgressBar())
    if as_json:
        console.result_json(found.to_json(), indent=2)
    how = f"--method rerank --model {output}/model --passage-tokens {options.passage_tokens}"
    console.say(
        *found.gate.lines(),
        f"wrote {output}: judge with labelkit annotate POOL {how} -o LABELS, and mix the labels with --calibration "
        f"{output}/calibration.json",
    )


@takes("labelkit.quality.options:SelectOptions")
def select(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders with judgments of the pool.")],
    output: Output,
    given: Given,
    as_json: Json = False,
) -> None:
    """Choose the most useful pairs for a person or a stronger judge. The result is a pool of unsure pairs, disputed
    pairs and a random sample.
    """
    options = labelkit.SelectOptions(**given)
    counts = labelkit.select(labels, output, options, command=console.command_line("labelkit"))
    if as_json:
        console.result_json(counts)
    console.say(f"{output}: " + ", ".join(f"{count} {reason.partition(':')[2]}" for reason, count in counts.items()))


@takes("labelkit.quality.options:BiasOptions")
def bias(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders, or a dataset, whose judges are measured.")],
    given: Given,
    as_json: Json = False,
) -> None:
    """Measure what raises a judge's scores besides relevance. Measured are passage length, words shared with the query,
    position in the list, own writing, and drift over time.
    """
    from labelkit.commands.quality_tables import print_biases
    from labelkit.quality.agreement import plain

    found = labelkit.bias(labels, labelkit.BiasOptions(**given))
    if as_json:
        console.result_json(plain(found), indent=2)
    else:
        print_biases(found)


@takes("labelkit.quality.options:ReportOptions")
def report(
    folders: Annotated[list[Path], typer.Argument(help="A dataset folder, or labels folders, to report on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
    given: Given,
) -> None:
    """Write an HTML report on labels or a dataset. It shows judges, agreement, calibration, biases, attacks,
    disagreements and audit.
    """
    options = labelkit.ReportOptions(**given)
    labelkit.report(folders, output, options, command=console.command_line("labelkit"))
    console.say(f"{output}: {output.stat().st_size:,} bytes")
