"""Commands that make collections: corpus, split."""

from pathlib import Path
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import Given, Json, Output, takes

MOST_KINDS = 8
"""Most kinds of files whose numbers are shown."""


@takes("labelkit.corpora.options:CorpusOptions")
def corpus(
    folder: Annotated[Path, typer.Argument(help="Folder with documents.")], output: Output, given: Given
) -> None:
    """Convert a folder of documents into passages. Text, Markdown, HTML, reStructuredText, PDF, Word documents and
    notebooks are split at headings and sentences, and repeated passages are left out.
    """
    options = labelkit.CorpusOptions(**given)
    made = labelkit.corpus(folder, output, options, command=console.command_line("labelkit"))
    for counts, what, where in (
        (made.skipped, "files are no documents", ""),
        (made.left_out, "documents give no passages", f"; {output / 'left_out.jsonl'} lists them with reasons"),
    ):
        if counts:
            shown = [f"{count:,} {kind}" for kind, count in list(counts.items())[:MOST_KINDS]]
            kinds = ", ".join(shown) + (", and others" if len(counts) > MOST_KINDS else "")
            console.say(f"{sum(counts.values()):,} {what}: {kinds}{where}")
    repeats = f", {made.repeated:,} repeated passages left out" if made.repeated else ""
    console.say(f"{output}: {made.passages:,} passages of {made.documents:,} documents{repeats}")


@takes("labelkit.corpora.options:SplitOptions")
def split(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Collection: folder, or s3://, gs://, hf:// or irds:.")],
    output: Output,
    given: Given,
    as_json: Json = False,
) -> None:
    """Divide the queries of a collection into train, dev and test. Near-duplicate queries are in one split, and with
    --by document all queries about one document.
    """
    options = labelkit.SplitOptions(**given)
    made = labelkit.split(data, output, options, command=console.command_line("labelkit"))
    if as_json:
        console.result_json(made._asdict())
    sizes = [f"{name} {count:,} queries, {made.pairs[name]:,} pairs" for name, count in made.queries.items()]
    console.say(f"{output}: {'; '.join(sizes)}")
