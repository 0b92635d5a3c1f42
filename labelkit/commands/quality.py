"""Commands that ask how far a judge is to be trusted: agree, bias, calibrate, select, redteam, report."""

from pathlib import Path
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import Given, Json, Output, takes


@takes("labelkit.quality.options:AgreeOptions")
def agree(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders or a dataset: every judge in them is a rater.")],
    given: Given,
    as_json: Json = False,
) -> None:
    """Compare judges with people and with each other: kappa, alpha, AUC and more, with intervals."""
    from labelkit.commands.quality_tables import print_agreement, print_parts, print_systems

    found = labelkit.agree(labels, labelkit.AgreeOptions(**given))
    if as_json:
        console.result_json(found.to_json(), indent=2)
        return
    print_agreement(found.agreement)
    print_systems(found.systems)
    print_parts(found.by)


@takes("labelkit.quality.options:RedteamOptions")
def redteam(
    data: Annotated[Path, typer.Argument(help="BEIR folder with the texts.")],
    output: Output,
    given: Given,
    as_json: Json = False,
) -> None:
    """Try to fool a judge: attack success by class, prompt and defence, and what a defence costs in agreement."""
    from labelkit.commands.progress import ProgressBar
    from labelkit.commands.quality_tables import print_attacks

    options, command = labelkit.RedteamOptions(**given), console.command_line("labelkit")
    found = labelkit.redteam(data, output, options, command=command, progress=ProgressBar())
    if as_json:
        console.result_json(found, indent=2)
    else:
        print_attacks(found)


@takes("labelkit.quality.options:CalibrateOptions", flags={"renamed": "--as"})
def calibrate(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders: every judge in them is a feature.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write; with --apply a labels folder.")],
    given: Given,
    as_json: Json = False,
) -> None:
    """Turn scores into probabilities and grades that agree with people; with --apply, write them as labels."""
    from labelkit.commands.quality_tables import print_calibration

    options, command = labelkit.CalibrateOptions(**given), console.command_line("labelkit")
    if options.apply:
        count = labelkit.recalibrate(labels, output, options, command=command)
        console.say(f"{output}: {count:,} judgements, calibrated")
        return
    fitted = labelkit.calibrate(labels, output, options, command=command)
    if as_json:
        console.result_json(fitted.model_dump(mode="json"), indent=2)
    else:
        print_calibration(fitted)
    console.say(f"{output}: {fitted.model} on {fitted.report['pairs']:,} pairs")


@takes("labelkit.quality.options:SelectOptions")
def select(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders of that pool.")],
    output: Output,
    given: Given,
    as_json: Json = False,
) -> None:
    """Choose the pairs worth a person's or a stronger judge's time, as a pool: unsure, disputed, and a random share."""
    options = labelkit.SelectOptions(**given)
    counts = labelkit.select(labels, output, options, command=console.command_line("labelkit"))
    if as_json:
        console.result_json(counts)
    console.say(f"{output}: " + ", ".join(f"{count} {reason.partition(':')[2]}" for reason, count in counts.items()))


@takes("labelkit.quality.options:BiasOptions")
def bias(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders, or a dataset.")],
    given: Given,
    as_json: Json = False,
) -> None:
    """Show what a judge rewards besides relevance: length, shared words, place, its own writing; and drift."""
    from labelkit.commands.quality_tables import print_biases
    from labelkit.quality.agreement import plain

    found = labelkit.bias(labels, labelkit.BiasOptions(**given))
    if as_json:
        console.result_json(plain(found), indent=2)
    else:
        print_biases(found)


@takes("labelkit.quality.options:ReportOptions")
def report(
    folders: Annotated[list[Path], typer.Argument(help="A dataset folder, or labels folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
    given: Given,
) -> None:
    """Write one HTML page on labels or a dataset: judges, agreement, calibration, bias, attacks, examples, audit."""
    options = labelkit.ReportOptions(**given)
    labelkit.report(folders, output, options, command=console.command_line("labelkit"))
    console.say(f"{output}: {output.stat().st_size:,} bytes")
