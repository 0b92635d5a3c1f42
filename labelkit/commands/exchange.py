"""Commands that trade with other tools and the Hub: import, export, publish, pull, review."""

from pathlib import Path
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import DatasetFolder, Given, Output, takes

Repository = Annotated[str, typer.Argument(metavar="ORG/NAME", help="Dataset repository on the Hugging Face Hub.")]
FORMAT_NAMES = (
    "beir, trec, msmarco, tevatron, tevatron-classic, flag-embedding, st-triplet, st-ntuple, st-labeled-list, "
    "argilla, label-studio"
)


@takes("labelkit.exchange.options:ImportOptions", flags={"format": "--from"})
def import_made(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="File or folder, local or at s3://, gs://, hf://.")],
    output: Output,
    given: Given,
) -> None:
    """Turn grades made elsewhere into a labels folder, or a dataset made elsewhere into a dataset."""
    from labelkit.exchange.importing import makes_labels

    options, command = labelkit.ImportOptions(**given), console.command_line("labelkit")
    if makes_labels(options.format):
        count = labelkit.import_grades(source, output, options, command=command)
        console.say(f"{output}: {count:,} grades of {options.judge}")
    else:
        counts = labelkit.import_dataset(source, output, options, command=command)
        console.say(f"{output}: " + ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items()))


@takes("labelkit.exchange.options:ExportOptions", helps={"to": f"Format: {FORMAT_NAMES}."})
def export(
    dataset: DatasetFolder,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write, local or at s3:// or gs://.")],
    given: Given,
) -> None:
    """Write a dataset in the format of another tool, and say what that format cannot hold."""
    options = labelkit.ExportOptions(**given)
    made = labelkit.export(dataset, output, options, command=console.command_line("labelkit"))
    console.say(f"{output}: " + ", ".join(f"{file} {rows:,}" for file, rows in made.rows.items()))
    console.say(f"  {options.to} has no place for: {'; '.join(made.lacks)}")
    for what, count in made.left_out.items():
        console.say(f"  left out: {count:,} {what}")


@takes("labelkit.exchange.options:PublishOptions")
def publish(dataset: DatasetFolder, repo: Repository, given: Given) -> None:
    """Send a dataset with its card to the Hugging Face Hub. The same command again resumes where it stopped."""
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
    """Fetch a published dataset and check every file. The same command again resumes where it stopped."""
    manifest = labelkit.pull(repo, output, labelkit.PullOptions(**given))
    console.say(f"{output}: {len(manifest.files)} files as they were published")


@takes("labelkit.review.options:ReviewOptions")
def review(
    labels: Annotated[Path, typer.Argument(help="Labels folder whose judges are to be checked.")],
    output: Output,
    given: Given,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Grade pairs by keyboard in a local page, blind to the judges. The same command again resumes."""
    import webbrowser

    from labelkit.review.options import ReviewOptions
    from labelkit.review.session import review as run

    def ready(address: str) -> None:
        console.say(f"open {address}")
        if browser:
            webbrowser.open(address)

    options = ReviewOptions(**given)
    graded = run(labels, output, options, ready=ready, command=console.command_line("labelkit"))
    console.say(f"{output}: {graded:,} pairs graded by {options.name}")
