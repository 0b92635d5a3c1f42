"""Commands that make datasets and look into them: mix, audit, show."""

import math
from pathlib import Path
from typing import Annotated

import typer

from labelkit.commands import console
from labelkit.commands.options import ApplyAnyway, DatasetFolder, Json, NoVerify, Output, PositiveGrade, here
from labelkit.commands.parameters import SEEDS
from labelkit.datasets.policies import MixRules, explained
from labelkit.errors import UsageError

Evaluations = Annotated[
    list[Path] | None, typer.Option("--eval", help="BEIR folder that training must not know; may be repeated.")
]
EvaluationSplit = Annotated[str, typer.Option("--eval-split", help="Its split.")]


def mix(
    output: Output,
    data: Annotated[Path, typer.Option(metavar="DATA", parser=here, help="BEIR folder with the texts.")],
    human: Annotated[Path | None, typer.Option(help="Human qrels, or a labels folder of people's grades.")] = None,
    llm: Annotated[list[Path] | None, typer.Option(help="Labels folder; may be given several times.")] = None,
    policy: Annotated[
        str, typer.Option(help=f"How the judgements of a pair become its label. {explained()}")
    ] = "human-first",
    positive_grade: PositiveGrade = 2,
    by: Annotated[
        str, typer.Option(help="What LLM labels are held against the lines by: probability or grade.")
    ] = "probability",
    llm_positive: Annotated[
        float, typer.Option(min=0.5, max=1, help="P(grade >= 2) from which an LLM label is positive.")
    ] = 0.7,
    llm_negative: Annotated[
        float, typer.Option(min=0, max=0.5, help="P(grade >= 2) up to which it is negative; between is unsure.")
    ] = 0.3,
    llm_positive_grade: Annotated[
        int, typer.Option(min=1, max=3, help="The same by grade, and for LLM labels without probabilities.")
    ] = 2,
    llm_negative_grade: Annotated[int, typer.Option(min=0, max=2, help="The same.")] = 0,
    agree: Annotated[int, typer.Option(min=1, help="Policy agreement: judges that must say the same.")] = 2,
    weight: Annotated[
        list[str] | None, typer.Option(help="Policy weighted: JUDGE=WEIGHT, by name or id; else 1.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="File of `labelkit calibrate`: its probabilities speak for its judges.")
    ] = None,
    apply_anyway: ApplyAnyway = False,
    human_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Use human labels for this share of the queries that have any.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Of the draw of those queries.")] = 0,
    max_positives: Annotated[
        int | None, typer.Option(min=1, help="Keep so many positives a query, best first; the rest is ignored.")
    ] = None,
    max_negatives: Annotated[
        int | None, typer.Option(min=1, help="Keep so many negatives a query, those of the highest grade first.")
    ] = None,
    evaluation: Evaluations = None,
    split: EvaluationSplit = "test",
    drop: Annotated[
        list[str] | None,
        typer.Option(help="Finding of the audit whose labels are ignored and whose queries are left out; repeatable."),
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Go on although training queries repeat queries of --eval.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="Of the texts; default: from dataset_info.json in the BEIR folder.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of the texts; the same.")] = None,
    no_verify: NoVerify = False,
    as_json: Json = False,
) -> None:
    """Turn human and LLM judgements into one multi-positive dataset. Unsure pairs are ignored."""
    from labelkit.datasets.inputs import Inputs
    from labelkit.datasets.mix import mix as run

    rules = MixRules(
        policy,
        positive_grade,
        by,
        llm_positive,
        llm_negative,
        llm_positive_grade,
        llm_negative_grade,
        agree,
        human_fraction,
        seed,
        max_positives,
        max_negatives,
        tuple(sorted(set(drop or ()))),
        allow_leaks,
    )
    weights = dict(with_weight(item) for item in weight or ())
    inputs = Inputs(
        data,
        human,
        llm or [],
        weights,
        licence,
        revision,
        calibration,
        evaluation or [],
        split,
        not no_verify,
        apply_anyway,
    )
    totals = run(inputs, rules, output, console.command_line("labelkit"))
    if as_json:
        console.result_json(totals)
    told = {name.replace("_", " "): value for name, value in totals.items() if value != {}}
    console.say(f"{output}: " + ", ".join(f"{name} {value}" for name, value in told.items()))


def audit(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    evaluation: Evaluations = None,
    split: EvaluationSplit = "test",
    model: Annotated[
        list[str] | None, typer.Option(help="Retriever that is to be trained or measured; may be repeated.")
    ] = None,
    no_verify: NoVerify = False,
    as_json: Json = False,
) -> None:
    """Look for leakage, twins, contradictions, likely false negatives, biases and attacks; keep it with the dataset."""
    from labelkit.commands.dataset_tables import print_findings
    from labelkit.datasets.audit import audit as run

    command = console.command_line("labelkit")
    findings = run(dataset, evaluation or [], split, model or [], command, verify=not no_verify)
    if as_json:
        console.result_json([finding._asdict() for finding in findings], indent=2)
    else:
        print_findings(findings)


def show(
    dataset: DatasetFolder,
    query: Annotated[str, typer.Option(help="Id of a query.")],
    passage: Annotated[str | None, typer.Option(help="Id of one of its passages: show this label alone.")] = None,
    as_json: Json = False,
) -> None:
    """Show a query's labels and what stands behind them: judge, prompt, request, raw reply, price, date."""
    from labelkit.commands.dataset_tables import print_shown
    from labelkit.datasets.evidence import find
    from labelkit.datasets.show import as_json as plain

    example, shown = find(dataset, query, passage)
    if as_json:
        console.result_json(plain(example, shown), indent=2)
    else:
        print_shown(example, shown, everything=passage is not None)


def with_weight(text: str) -> tuple[str, float]:
    """`JUDGE=WEIGHT` taken apart."""
    name, _, weight = text.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not name or not 0 < value < math.inf:
        raise UsageError(f"--weight {text}: expected JUDGE=WEIGHT with a weight above 0, such as gpt-4o=2")
    return name, value
