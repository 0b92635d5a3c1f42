"""Commands that check or repair files: replay, tidy, verify."""

from pathlib import Path
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import Given, Json, Output, takes
from labelkit.errors import ArtifactError


def verify(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder written by labelkit or trainer.")],
) -> None:
    """Check a folder for damaged or changed files. Every file is compared with its checksum; table rows and journal
    records are checked too.
    """
    found = labelkit.verify(folder)
    replies = "" if found.replies is None else f", {found.replies} replies in the journal"
    console.say(f"{folder}: {found.kind}, {found.files} files unchanged{replies}")


@takes("labelkit.datasets.options:ReplayOptions")
def replay(
    folder: Annotated[Path, typer.Argument(help="Labels folder or dataset.")], given: Given, as_json: Json = False
) -> None:
    """Verify that labels follow from their stored replies. Each request is rebuilt byte for byte, and its reply is
    parsed again.
    """
    replayed = labelkit.replay(folder, labelkit.ReplayOptions(**given))
    if as_json:
        console.result_json(replayed._asdict())
    for line in replayed.mismatches[:20]:
        console.say(f"  {line}")
    said = f"{folder}: {replayed.labels} of {replayed.of} labels replayed, {len(replayed.mismatches)} differ"
    if replayed.mismatches:
        raise ArtifactError(f"{said}; a reply, text or prompt has changed since the labels were made")
    console.say(said)


@takes("labelkit.corpora.options:ColumnOptions")
def tidy(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Collection: folder, or s3://, gs://, hf:// or irds:.")],
    output: Output,
    given: Given,
    scale: Annotated[
        str | None, typer.Option(help="Scale of the qrels' grades, if it is not 0 to 3: 0-1, 0-4, 1-5, or a mapping.")
    ] = None,
) -> None:
    """Copy a collection without its unreadable lines. The copy is a BEIR folder, and removed lines are listed with
    file, line number and reason.
    """
    from labelkit.corpora.options import ColumnOptions
    from labelkit.corpora.tidy import ASIDE

    counts = labelkit.tidy(data, output, ColumnOptions(**given), scale=scale, command=console.command_line("labelkit"))
    for file, count in counts.items():
        console.say(f"{file}: {count} lines removed")
    console.say(f"{output}: {sum(counts.values())} lines removed in total; {output / ASIDE} lists them with reasons")
