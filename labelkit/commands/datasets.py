"""Commands that make and inspect datasets: mix, mine, audit, show."""

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
    from labelkit.commands.dataset_tables import mix_lines

    totals = labelkit.mix(output, labelkit.MixOptions(**given), command=console.command_line("labelkit"))
    if as_json:
        console.result_json(totals)
    console.say(*mix_lines(output, totals))


@takes("labelkit.datasets.options:MineOptions")
def mine(dataset: DatasetFolder, output: Output, given: Given, as_json: Json = False) -> None:
    """Add hard negatives to a dataset from the ranking of a retriever. Known positives, their near-duplicates and pairs
    that are labelled already are left out.
    """
    from labelkit.commands.progress import StageBar
    from labelkit.datasets.mining.rules import REASONS

    options = labelkit.MineOptions(**given)
    command = console.command_line("labelkit")
    made = labelkit.mine(dataset, output, options, command=command, report=StageBar())
    if as_json:
        console.result_json(made._asdict())
    console.say(
        f"{output}: {made.negatives:,} of {made.candidates:,} candidates of {made.retriever} are negatives of "
        f"{made.queries:,} queries"
    )
    for reason, count in made.left_out.items():
        if count:
            console.say(f"  left out {count:,}: {REASONS[reason]}")
    for what, count in (("a positive", made.queries_without_positives), ("a ranking", made.queries_without_ranking)):
        if count:
            console.say(f"  {count:,} queries without {what}")


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
