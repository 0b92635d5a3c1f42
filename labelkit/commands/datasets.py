"""Commands that make datasets and look into them: mix, audit, show."""

from pathlib import Path
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import DatasetFolder, Given, Json, Output, takes
from labelkit.datasets.policies import explained


@takes(
    "labelkit.datasets.options:MixOptions",
    helps={"policy": f"How the judgements of a pair become its label. {explained()}"},
)
def mix(output: Output, given: Given, as_json: Json = False) -> None:
    """Turn human and LLM judgements into one multi-positive dataset. Unsure pairs are ignored."""
    totals = labelkit.mix(output, labelkit.MixOptions(**given), command=console.command_line("labelkit"))
    if as_json:
        console.result_json(totals)
    told = {name.replace("_", " "): value for name, value in totals.items() if value != {}}
    console.say(f"{output}: " + ", ".join(f"{name} {value}" for name, value in told.items()))


@takes("labelkit.datasets.options:AuditOptions")
def audit(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")], given: Given, as_json: Json = False
) -> None:
    """Look for leakage, twins, contradictions, likely false negatives, biases and attacks; keep it with the dataset."""
    from labelkit.commands.dataset_tables import print_findings

    findings = labelkit.audit(dataset, labelkit.AuditOptions(**given), command=console.command_line("labelkit"))
    if as_json:
        console.result_json([finding._asdict() for finding in findings], indent=2)
    else:
        print_findings(findings)


@takes("labelkit.datasets.options:ShowOptions")
def show(dataset: DatasetFolder, given: Given, as_json: Json = False) -> None:
    """Show a query's labels and what stands behind them: judge, prompt, request, raw reply, price, date."""
    from labelkit.commands.dataset_tables import print_shown

    options = labelkit.ShowOptions(**given)
    found = labelkit.show(dataset, options)
    if as_json:
        console.result_json(found.to_json(), indent=2)
    else:
        print_shown(found.example, found.labels, everything=options.passage is not None)
