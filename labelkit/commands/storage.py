"""Commands for every folder that labelkit or trainer wrote, and for data that is damaged: replay, tidy, verify."""

from pathlib import Path
from typing import Annotated

import typer

from labelkit.commands import console
from labelkit.commands.options import Json, Output, here
from labelkit.commands.parameters import SEEDS
from labelkit.errors import ArtifactError


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", parser=here, help="Any folder that labelkit or trainer wrote.")
    ],
) -> None:
    """Check a folder: every file byte for byte, the rows of its tables, every record of a journal."""
    from labelkit.judging.journal import FILE, Journal
    from labelkit.storage.folders import manifest_kind, read_manifest, read_table

    manifest = read_manifest(folder, manifest_kind(folder))
    for name, count in manifest.rows.items():
        if f"{name}.parquet" in manifest.files and read_table(folder, name).num_rows != count:
            raise ArtifactError(f"{folder}: {name} has not the {count} rows that its manifest says")
    said = f"{folder}: {manifest.kind}, {len(manifest.files)} files as they were written"
    if (folder / FILE).is_file():
        with Journal(folder) as journal:
            journal.check()
            said += f", {journal.spent().replies} replies in the journal"
    console.say(said)


def replay(
    folder: Annotated[Path, typer.Argument(help="Labels folder or dataset.")],
    sample: Annotated[int, typer.Option(min=1, help="Labels to replay, drawn at random.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Of the draw.")] = 0,
    pool: Annotated[
        Path | None, typer.Option(help="Pool of a labels folder, if not where it was when they were made.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json, its folder or Hub id, if not where it was then.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show that labels come from their replies: rebuild each request, byte for byte, and read its reply again."""
    from labelkit.datasets.replay import replay as run

    replayed = run(folder, sample, seed=seed, pool=pool, tokenizer=tokenizer)
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
    from labelkit.corpora.tidy import tidy as run

    counts = run(data, output, console.command_line("labelkit"))
    for file, count in counts.items():
        console.say(f"{file}: {count} lines set aside")
    console.say(f"{output}: {sum(counts.values())} lines set aside in all; {output / ASIDE} says which and why")
