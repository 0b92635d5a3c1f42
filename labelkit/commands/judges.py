"""Commands that ask how far a judge is to be trusted: agree."""

import json
from pathlib import Path
from typing import Annotated

import typer

from labelkit.options import Json


def agree(
    labels: Annotated[Path, typer.Argument(help="Labels folder.")],
    human: Annotated[Path, typer.Option(help="Human qrels, BEIR or TREC.")],
    as_json: Json = False,
) -> None:
    """Compare a judge with human grades: kappa, alpha, AUC, confusion matrix."""
    from labelkit.agree import agree as run
    from labelkit.agree import print_agreement

    found = run(labels, human)
    if as_json:
        print(json.dumps([agreement._asdict() for agreement in found], indent=2))
    else:
        for agreement in found:
            print_agreement(agreement)
