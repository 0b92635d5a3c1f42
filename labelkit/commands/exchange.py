"""Commands that trade with other tools and the Hub: import, export, publish, pull, review."""

from pathlib import Path
from typing import Annotated

import typer

from labelkit.commands import console
from labelkit.commands.options import DatasetFolder, NoVerify, Output, PositiveGrade, here
from labelkit.commands.parameters import SEEDS
from labelkit.errors import UnknownNameError, UsageError

FORMAT_NAMES = (
    "beir, trec, msmarco, tevatron, tevatron-classic, flag-embedding, st-triplet, st-ntuple, st-labeled-list, "
    "argilla, label-studio"
)


def import_made(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", parser=here, help="File or folder, local or at s3://, gs://, hf://.")
    ],
    output: Output,
    judge: Annotated[str, typer.Option(help="Name of who made these labels.")],
    kind: Annotated[str, typer.Option(help="Of the grades of a qrels file: human, llm or imported.")] = "imported",
    form: Annotated[
        str,
        typer.Option(
            "--from",
            help="qrels, argilla, label-studio (grades: a labels folder), or any other format of export (a dataset).",
        ),
    ] = "qrels",
    positive_grade: PositiveGrade = 2,
) -> None:
    """Turn grades made elsewhere into a labels folder, or a dataset made elsewhere into a dataset."""
    from labelkit.exchange.formats import FORMATS, GRADES
    from labelkit.exchange.importing import KINDS, import_dataset, import_grades

    if kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}; choose one of: {', '.join(KINDS)}")
    readable = ["qrels", *GRADES, *(name for name, known in FORMATS.items() if known.read)]
    if form not in readable:
        raise UnknownNameError("format", form, readable)
    command = console.command_line("labelkit")
    if form == "qrels" or form in GRADES:
        count = import_grades(source, output, judge_name=judge, kind=KINDS[kind], format_name=form, command=command)
        console.say(f"{output}: {count:,} grades of {judge}")
    else:
        counts = import_dataset(
            source, output, format_name=form, judge_name=judge, positive_grade=positive_grade, command=command
        )
        console.say(f"{output}: " + ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items()))


def export(
    dataset: DatasetFolder,
    to: Annotated[str, typer.Option(help=f"Format: {FORMAT_NAMES}.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write, local or at s3:// or gs://.")],
    no_verify: NoVerify = False,
) -> None:
    """Write a dataset in the format of another tool, and say what that format cannot hold."""
    from labelkit.exchange.exporting import KIND
    from labelkit.exchange.exporting import export as run
    from labelkit.storage.remote import delivered

    with delivered(output, KIND) as folder:
        made = run(dataset, folder, to, console.command_line("labelkit"), verify=not no_verify)
    console.say(f"{output}: " + ", ".join(f"{file} {rows:,}" for file, rows in made.rows.items()))
    console.say(f"  {to} has no place for: {'; '.join(made.lacks)}")
    for what, count in made.left_out.items():
        console.say(f"  left out: {count:,} {what}")


def publish(
    dataset: DatasetFolder,
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Dataset repository on the Hugging Face Hub.")],
    licence: Annotated[str | None, typer.Option("--license", help="Of the dataset, such as cc-by-4.0.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Of the texts, such as en; may be repeated.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Dataset that texts or labels come from: Hub id or address; repeatable.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="For the card; default: the folder's name.")] = None,
    note: Annotated[str | None, typer.Option(help="A paragraph for the card.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    tag: Annotated[str | None, typer.Option(help="Name of this version; default: from its manifest's sha256.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Publish in spite of: unlicensed, unaudited, leaking; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print all that would be sent, and send nothing.")] = False,
) -> None:
    """Send a dataset with its card to the Hugging Face Hub. The same command again goes on where it stopped."""
    from labelkit.datasets.card import Publication
    from labelkit.exchange.hub import REFUSALS
    from labelkit.exchange.hub import publish as run

    for name in allow or ():
        if name not in REFUSALS:
            raise UnknownNameError("refusal", name, REFUSALS)
    about = Publication(repo, licence, tuple(language or ()), tuple(source or ()), title, note)
    plan = run(dataset, about, private=private, tag=tag, allow=allow or (), dry_run=dry_run)
    if dry_run:
        console.result(f"{plan.repo_id}, {'private' if private else 'public'}, tag {plan.tag}")
        for file in plan.files:
            console.result(f"{file.size:>14,}  {file.name}")
        console.result(f"\n{plan.card}")
    else:
        console.say(f"{plan.repo_id}: {len(plan.files)} files, tag {plan.tag}")


def pull(
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Dataset repository on the Hugging Face Hub.")],
    output: Output,
    revision: Annotated[str | None, typer.Option(help="Tag, branch or commit; default: the newest.")] = None,
) -> None:
    """Fetch a published dataset and check every file. The same command again goes on where it stopped."""
    from labelkit.exchange.hub import pull as run

    manifest = run(repo, output, revision)
    console.say(f"{output}: {len(manifest.files)} files as they were published")


def review(
    labels: Annotated[Path, typer.Argument(help="Labels folder whose judges are to be checked.")],
    output: Output,
    name: Annotated[str, typer.Option(help="Who grades.")],
    texts: Annotated[
        Path | None, typer.Option(help="Pool, whose pairs alone are taken, or BEIR folder; default: the pool judged.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="random, for an honest agreement, or disagreement: the pairs most in doubt, to repair them."),
    ] = "random",
    pairs: Annotated[int, typer.Option(min=1, help="How many to grade.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Of the draw.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Grade pairs by keyboard in a local page, blind to the judges. The same command again goes on."""
    import webbrowser

    from labelkit.review.session import review as run

    def ready(address: str) -> None:
        console.say(f"open {address}")
        if browser:
            webbrowser.open(address)

    graded = run(
        labels, output, name=name, texts=texts, order=by, limit=pairs, seed=seed, port=port, ready=ready,
        command=console.command_line("labelkit"),
    )  # fmt: skip
    console.say(f"{output}: {graded:,} pairs graded by {name}")
