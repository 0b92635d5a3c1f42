"""Commands that exchange data with other tools, the Hub and annotators: import, export, publish, pull, review."""

from pathlib import Path
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import DatasetFolder, Given, Output, takes

Repository = Annotated[str, typer.Argument(metavar="ORG/NAME", help="Dataset repository on the Hugging Face Hub.")]
FORMAT_NAMES = (
    "beir, trec, qrels, msmarco, tevatron, tevatron-classic, flag-embedding, st-triplet, st-ntuple, st-labeled-list, "
    "argilla, label-studio"
)


@takes("labelkit.exchange.options:ImportOptions", flags={"format": "--from"})
def import_made(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="File or folder, local or at s3://, gs:// or hf://.")],
    output: Output,
    given: Given,
) -> None:
    """Import grades or a dataset made with other tools. Grades become a labels folder, a dataset becomes a dataset
    folder.
    """
    from labelkit.exchange.importing import makes_labels

    options, command = labelkit.ImportOptions(**given), console.command_line("labelkit")
    if makes_labels(options.format):
        count = labelkit.import_grades(source, output, options, command=command)
        console.say(f"{output}: {count:,} grades of {options.judge}")
    else:
        counts = labelkit.import_dataset(source, output, options, command=command)
        console.say(f"{output}: " + ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items()))


@takes("labelkit.exchange.options:ExportOptions", helps={"to": f"Output format: {FORMAT_NAMES}."})
def export(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="Dataset folder, or labels folder with --to qrels; local or at s3://, gs:// or hf://.",
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write to, local or at s3:// or gs://.")],
    given: Given,
) -> None:
    """Write a dataset in the format of another tool. Labels folders become qrels. The information that the format
    cannot store is listed.
    """
    options = labelkit.ExportOptions(**given)
    made = labelkit.export(dataset, output, options, command=console.command_line("labelkit"))
    console.say(f"{output}: " + ", ".join(f"{file} {rows:,}" for file, rows in made.rows.items()))
    console.say(f"  {options.to} cannot store: {'; '.join(made.lacks)}")
    for what, count in made.left_out.items():
        console.say(f"  left out: {count:,} {what}")


@takes("labelkit.exchange.options:PublishOptions")
def publish(dataset: DatasetFolder, repo: Repository, given: Given) -> None:
    """Upload a dataset with its card to the Hugging Face Hub. Run the same command again to resume an interrupted
    upload.
    """
    options = labelkit.PublishOptions(**given)
    plan = labelkit.publish(dataset, repo, options)
    if options.dry_run:
        console.result(f"{plan.repo_id}, {'private' if plan.private else 'public'}, tag {plan.tag}")
        for file in plan.files:
            console.result(f"{file.size:>14,}  {file.name}")
        console.result(f"\n{plan.card}")
    else:
        console.say(f"{plan.repo_id}: {len(plan.files)} files, tag {plan.tag}")


@takes("labelkit.exchange.options:PullOptions")
def pull(repo: Repository, output: Output, given: Given) -> None:
    """Download a published dataset and check every file. Run the same command again to resume a download."""
    manifest = labelkit.pull(repo, output, labelkit.PullOptions(**given))
    console.say(f"{output}: {len(manifest.files)} files, identical to the published ones")


@takes("labelkit.review.options:ReviewOptions")
def review(
    labels: Annotated[Path, typer.Argument(help="Labels folder whose judges are checked by the human grades.")],
    output: Output,
    given: Given,
    browser: Annotated[bool, typer.Option(help="Open the page in a web browser.")] = True,
) -> None:
    """Grade pairs in a local web page, with notes, alone or in a team. The judges' grades are hidden. Run the same
    command again to resume.
    """
    import webbrowser

    from labelkit.review.options import ReviewOptions
    from labelkit.review.session import review as run

    def ready(address: str) -> None:
        console.say(f"open {address} in a web browser")
        if browser:
            webbrowser.open(address)

    options = ReviewOptions(**given)
    found = run(labels, output, options, ready=ready, command=console.command_line("labelkit"))
    console.say(f"{output}: {found.graded:,} pairs graded by {options.name}, {found.cannot_tell:,} cannot tell")
    if found.left:
        console.say(f"  {found.left:,} pairs are left; run the same command again to resume")
