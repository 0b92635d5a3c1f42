"""Commands that make and inspect datasets: mix, audit, show."""

from pathlib import Path
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import DatasetFolder, Given, Json, Output, takes
from labelkit.datasets.policies import explained


@takes(
    "labelkit.datasets.options:MixOptions",
    helps={"policy": f"Policy that turns the judgments of a pair into its label. {explained()}"},
)
def mix(output: Output, given: Given, as_json: Json = False) -> None:
    """Mix human and LLM judgments into a multi-positive dataset. Undecided pairs are ignored: neither positive nor
    negative.
    """
    totals = labelkit.mix(output, labelkit.MixOptions(**given), command=console.command_line("labelkit"))
    if as_json:
        console.result_json(totals)
    told = {name.replace("_", " "): value for name, value in totals.items() if value != {}}
    console.say(f"{output}: " + ", ".join(f"{name} {value}" for name, value in told.items()))


@takes("labelkit.datasets.options:AuditOptions")
def audit(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")], given: Given, as_json: Json = False
) -> None:
    """Check a dataset for leaks, duplicates, biases and attacks. Contradictions and likely false negatives are found
    too. All findings are stored in the dataset folder.
    """
    from labelkit.commands.dataset_tables import print_findings

    findings = labelkit.audit(dataset, labelkit.AuditOptions(**given), command=console.command_line("labelkit"))
    if as_json:
        console.result_json([finding._asdict() for finding in findings], indent=2)
    else:
        print_findings(findings)


@takes("labelkit.datasets.options:ShowOptions")
def show(dataset: DatasetFolder, given: Given, as_json: Json = False) -> None:
    """Show the labels of a query with their origin. Shown are judge, prompt, request, raw reply, price and date."""
    from labelkit.commands.dataset_tables import print_shown

    options = labelkit.ShowOptions(**given)
    found = labelkit.show(dataset, options)
    if as_json:
        console.result_json(found.to_json(), indent=2)
    else:
        print_shown(found.example, found.labels, everything=options.passage is not None)
