"""Commands for every folder that labelkit or trainer wrote, and for data that is damaged: replay, tidy, verify."""

from pathlib import Path
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import Given, Json, Output, takes
from labelkit.errors import ArtifactError


def verify(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Any folder that labelkit or trainer wrote.")],
) -> None:
    """Check a folder: every file byte for byte, the rows of its tables, every record of a journal."""
    found = labelkit.verify(folder)
    replies = "" if found.replies is None else f", {found.replies} replies in the journal"
    console.say(f"{folder}: {found.kind}, {found.files} files as they were written{replies}")


@takes("labelkit.datasets.options:ReplayOptions")
def replay(
    folder: Annotated[Path, typer.Argument(help="Labels folder or dataset.")], given: Given, as_json: Json = False
) -> None:
    """Show that labels come from their replies: rebuild each request, byte for byte, and read its reply again."""
    replayed = labelkit.replay(folder, labelkit.ReplayOptions(**given))
    if as_json:
        console.result_json(replayed._asdict())
    for line in replayed.mismatches[:20]:
        console.say(f"  {line}")
    said = f"{folder}: {replayed.labels} of {replayed.of} labels replayed, {len(replayed.mismatches)} differ"
    if replayed.mismatches:
        raise ArtifactError(f"{said}; a reply, a text or a prompt is not what these labels were made from")
    console.say(said)


def tidy(
    data: Annotated[Path, typer.Argument(help="BEIR folder with lines that cannot be read.")], output: Output
) -> None:
    """Copy a BEIR folder without the lines that cannot be read; they are listed with file, line and reason."""
    from labelkit.corpora.tidy import ASIDE

    counts = labelkit.tidy(data, output, command=console.command_line("labelkit"))
    for file, count in counts.items():
        console.say(f"{file}: {count} lines set aside")
    console.say(f"{output}: {sum(counts.values())} lines set aside in all; {output / ASIDE} says which and why")
