"""Commands that trade with other tools and people: import, export."""

from pathlib import Path
from typing import Annotated

import typer

from labelkit import console
from labelkit.errors import UnknownNameError, UsageError
from labelkit.options import Output, PositiveGrade

FORMAT_NAMES = (
    "beir, trec, msmarco, tevatron, tevatron-classic, flag-embedding, st-triplet, st-ntuple, st-labeled-list, "
    "argilla, label-studio"
)


def import_made(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File or folder that was made elsewhere.")],
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
    from labelkit.formats import FORMATS, GRADES
    from labelkit.import_grades import KINDS, import_dataset, import_grades

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
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    to: Annotated[str, typer.Option(help=f"Format: {FORMAT_NAMES}.")],
    output: Output,
) -> None:
    """Write a dataset in the format of another tool, and say what that format cannot hold."""
    from labelkit.export import export as run

    made = run(dataset, output, to, console.command_line("labelkit"))
    console.say(f"{output}: " + ", ".join(f"{file} {rows:,}" for file, rows in made.rows.items()))
    console.say(f"  {to} has no place for: {'; '.join(made.lacks)}")
    for what, count in made.left_out.items():
        console.say(f"  left out: {count:,} {what}")
