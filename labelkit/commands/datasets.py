"""Commands that make and inspect datasets: mix, mine, audit, show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.judging import CASCADE_FLAGS, words_of
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


@takes("labelkit.relabelling.options:RelabelOptions", "rules", flags={"format": "--from"})
@takes("labelkit.judging.options:AnnotateOptions")
@takes("labelkit.quality.options:CascadeOptions", "strong", flags=CASCADE_FLAGS, only=CASCADE_FLAGS, loose=("model",))
def relabel(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Dataset folder, or training files of another tool.")
    ],
    output: Output,
    rules: Given,
    given: Given,
    strong: Given,
    estimate: Annotated[
        bool, typer.Option("--plan", help="Estimate requests, tokens and cost, and send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge the negatives of a training set, and correct wrong ones. Relevant ones become positives, unsure ones are
    ignored. Run the same command again to resume; no reply is paid for twice.
    """
    from labelkit.commands.dataset_tables import print_flips
    from labelkit.commands.progress import ProgressBar

    command, options = console.command_line("labelkit"), labelkit.RelabelOptions(**rules)
    judge = labelkit.AnnotateOptions(**given)
    better = labelkit.CascadeOptions(**strong) if "model" in strong else None
    if estimate:
        plans = labelkit.plan_relabel(dataset, output, options, judge=judge, strong=better, command=command)
        print_plans(plans, judge, better, as_json=as_json)
        return
    made = labelkit.relabel(
        dataset, output, options, judge=judge, strong=better, command=command, progress=ProgressBar()
    )
    if as_json:
        console.result_json(made.as_json(), indent=2)
    else:
        print_flips(made.by_source)
    console.say(f"{output}: {made.promoted:,} of {made.judged:,} labels are promoted, {made.ignored:,} ignored")
    counts = {"labels without a grade, which are not changed": made.without_grade}
    counts |= {f"{what} not judged": count for what, count in made.not_judged.items()} | dict(made.rows)
    console.say(*(f"  {count:,} {what}" for what, count in counts.items() if count))
    if made.cascade is not None:
        console.say(f"  {words_of(made.cascade)}")


def print_plans(
    plans: "Mapping[str, labelkit.Plan]",
    judge: "labelkit.AnnotateOptions",
    strong: "labelkit.CascadeOptions | None",
    *,
    as_json: bool,
) -> None:
    """Print the plan of each judge."""
    from labelkit.judging.plan import lines

    if as_json:
        console.result_json({name: plan._asdict() for name, plan in plans.items()}, indent=2)
        return
    for name, plan in plans.items():
        model = strong.model if strong and name == "strong" else judge.model
        console.result("\n".join([f"{name}: {model}", *lines(plan, model, judge.prices)]))


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
