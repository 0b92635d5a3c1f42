"""Commands that make and move datasets: mix."""

import json
from pathlib import Path
from typing import Annotated

import typer

from labelkit import console
from labelkit.options import Json, Output, PositiveGrade


def mix(
    output: Output,
    data: Annotated[Path, typer.Option(help="BEIR folder with the texts.")],
    human: Annotated[Path | None, typer.Option(help="Human qrels.")] = None,
    llm: Annotated[list[Path] | None, typer.Option(help="Labels folder; may be given several times.")] = None,
    positive_grade: PositiveGrade = 2,
    llm_positive: Annotated[
        float, typer.Option(min=0.5, max=1, help="P(grade >= 2) from which an LLM label is positive.")
    ] = 0.7,
    llm_negative: Annotated[
        float, typer.Option(min=0, max=0.5, help="P(grade >= 2) up to which it is negative.")
    ] = 0.3,
    max_positives: Annotated[int | None, typer.Option(min=1, help="Keep at most so many positives a query.")] = None,
    as_json: Json = False,
) -> None:
    """Turn human and LLM judgements into one multi-positive dataset. Human grades win; unsure pairs are ignored."""
    from labelkit.mix import Rules, counts
    from labelkit.mix import mix as run

    rules = Rules(positive_grade, llm_positive, llm_negative, max_positives)
    mixture = run(data, human, llm or [], rules, output, console.command_line("labelkit"))
    totals = counts(mixture)
    if as_json:
        print(json.dumps(totals))
    console.say(f"{output}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in totals.items()))
