"""Commands that ask how far a judge is to be trusted: agree, redteam."""

from pathlib import Path
from typing import Annotated

import typer

from labelkit.commands import console
from labelkit.commands.options import MODEL, ApplyAnyway, EngineName, Json, Output, Revision, Tokenizer
from labelkit.commands.parameters import SEEDS
from labelkit.errors import UnknownNameError, UsageError

DEFENCES = ("none", "strip", "strip,second-look")


def agree(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders or a dataset: every judge in them is a rater.")],
    human: Annotated[list[Path] | None, typer.Option(help="Human qrels; several for several people.")] = None,
    run: Annotated[
        list[Path] | None, typer.Option(help="TREC runs of systems, to compare how they are ranked.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Break down by length, source, position, overlap or language.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="BEIR folder, for --by length, overlap, language.")] = None,
    pool: Annotated[Path | None, typer.Option(help="Pool that was judged, for --by source.")] = None,
    as_json: Json = False,
) -> None:
    """Compare judges with people and with each other: kappa, alpha, AUC and more, with intervals."""
    from labelkit.commands.quality_tables import print_agreement, print_parts, print_systems
    from labelkit.quality import agreement as agreement
    from labelkit.quality.by_group import BY, GroupInputs, break_down
    from labelkit.quality.system_rankings import compare_systems

    if unknown := set(by or ()) - set(BY):
        raise UnknownNameError("breakdown", min(unknown), BY)
    found = agreement.agree(labels, human or [])
    reference, *judges = agreement.raters_of(labels, human or [])
    systems = [row for judge in judges for row in compare_systems(reference, judge, run)] if run else []
    parts = [
        part
        for judge in judges
        for name in by or ()
        for part in break_down(reference, GroupInputs(judge, data, pool), name)
    ]
    if as_json:
        everything = found._asdict() | {"systems": systems, "by": parts}
        console.result_json(agreement.plain(everything), indent=2)
        return
    print_agreement(found)
    print_systems(systems)
    print_parts(parts)


def redteam(
    data: Annotated[Path, typer.Argument(help="BEIR folder with the texts.")],
    output: Output,
    human: Annotated[Path, typer.Option(help="Human qrels: pairs of grade 0 are attacked.")],
    model: Annotated[str, MODEL],
    engine: EngineName = "local",
    prompt: Annotated[list[str] | None, typer.Option(help="Prompt to attack; several times for several.")] = None,
    defence: Annotated[
        list[str] | None,
        typer.Option(
            help="Such as strip, or strip,nonce together; several times to compare. "
            "Default: none, strip, and strip with second-look."
        ),
    ] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Attack class; default: all.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of human grade 0 to attack.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Of the draw of pairs.")] = 0,
    revision: Revision = None,
    base_url: Annotated[list[str] | None, typer.Option(help="Address of an OpenAI-compatible server.")] = None,
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Try to fool a judge: attack success by class, prompt and defence, and what a defence costs in agreement."""
    from labelkit.commands.progress import ProgressBar
    from labelkit.commands.quality_tables import print_attacks
    from labelkit.engines import Settings
    from labelkit.judging.defences import defences_of
    from labelkit.quality.redteam.run import redteam as run

    found = run(
        data,
        human,
        output,
        engine_name=engine,
        settings=Settings(model, revision, base_urls=tuple(base_url or ())),
        prompts=prompt or ["graded", "binary"],
        defences=[defences_of(item.split(","), once=True) for item in defence or DEFENCES],
        pairs=pairs,
        seed=seed,
        attacks=attack or [],
        command=console.command_line("labelkit"),
        tokenizer=tokenizer,
        progress=ProgressBar(),
    )
    if as_json:
        console.result_json(found, indent=2)
    else:
        print_attacks(found)


def calibrate(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders: every judge in them is a feature.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write; with --apply a labels folder.")],
    human: Annotated[Path | None, typer.Option(help="Human qrels to fit to.")] = None,
    apply: Annotated[Path | None, typer.Option(help="A calibration to apply to these labels.")] = None,
    data: Annotated[Path | None, typer.Option(help="BEIR folder, where retrieval scores are features.")] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="BM25 is a feature.")] = False,
    dense: Annotated[list[str] | None, typer.Option(help="A dense model whose similarity is a feature.")] = None,
    line: Annotated[
        float, typer.Option(min=0, max=1, help="Probability from which a pair is a positive in the estimates.")
    ] = 0.5,
    selection: Annotated[
        Path | None, typer.Option(help="Pool of labelkit select: the estimates use its random share alone.")
    ] = None,
    renamed: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="With --apply: these labels are by the judge that the calibration calls NAME; JUDGE=NAME where there "
            "are several judges.",
        ),
    ] = None,
    apply_anyway: ApplyAnyway = False,
    as_json: Json = False,
) -> None:
    """Turn scores into probabilities and grades that agree with people; with --apply, write them as labels."""
    command = console.command_line("labelkit")
    if (human is None) == (apply is None):
        raise UsageError("give either --human QRELS to fit, or --apply FILE to use a calibration")
    if apply:
        from labelkit.quality.calibration.apply import recalibrate

        names = dict(judge_as(item) for item in renamed or ())
        count = recalibrate(apply, labels, data, output, command=command, renamed=names, anyway=apply_anyway)
        console.say(f"{output}: {count:,} judgements, calibrated")
        return
    from labelkit.commands.quality_tables import print_calibration
    from labelkit.quality.calibration.fit import calibrate as run
    from labelkit.quality.calibration.models import write_calibration
    from labelkit.quality.selection import chances

    assert human is not None
    if renamed or apply_anyway:
        raise UsageError("--as and --apply-anyway go with --apply FILE")
    weights = chances(selection) if selection else None
    fitted = run(labels, human, data=data, bm25=bm25, dense=dense or [], line=line, weights=weights, command=command)
    write_calibration(fitted, output)
    if as_json:
        console.result_json(fitted.model_dump(mode="json"), indent=2)
    else:
        print_calibration(fitted)
    console.say(f"{output}: {fitted.model} on {fitted.report['pairs']:,} pairs")


def judge_as(item: str) -> tuple[str, str]:
    """`JUDGE=NAME` or `NAME` -> the judge of the labels ("" is the only one), and its name in the calibration."""
    judge, _, name = item.rpartition("=")
    return judge, name


def select(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders of that pool.")],
    output: Output,
    pool: Annotated[Path, typer.Option(help="Pool that was judged.")],
    budget: Annotated[int, typer.Option(min=1, help="Pairs to choose.")],
    random_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of them drawn at random, which keeps estimates unbiased.")
    ] = 0.3,
    human: Annotated[Path | None, typer.Option(help="Human qrels: pairs that they grade are left out.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="Calibration that says how sure the judges are.")] = None,
    data: Annotated[Path | None, typer.Option(help="BEIR folder, where the calibration uses retrieval scores.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Of the random share.")] = 0,
    as_json: Json = False,
) -> None:
    """Choose the pairs worth a person's or a stronger judge's time, as a pool: unsure, disputed, and a random share."""
    from labelkit.quality.selection import Quota
    from labelkit.quality.selection import select as run

    counts = run(
        labels,
        pool,
        output,
        Quota(budget, random_share, seed),
        human=human,
        calibration=calibration,
        data=data,
        command=console.command_line("labelkit"),
    )
    if as_json:
        console.result_json(counts)
    console.say(f"{output}: " + ", ".join(f"{count} {reason.partition(':')[2]}" for reason, count in counts.items()))


def bias(
    labels: Annotated[list[Path], typer.Argument(help="Labels folders, or a dataset.")],
    data: Annotated[Path | None, typer.Option(help="BEIR folder with the texts; a dataset has them.")] = None,
    human: Annotated[
        Path | None, typer.Option(help="Human qrels: passages are compared with others of the same human grade.")
    ] = None,
    authors: Annotated[Path | None, typer.Option(help="TSV of passage id and author, for self-preference.")] = None,
    again: Annotated[
        list[Path] | None, typer.Option(help="Labels folder in which the same judge judged some pairs again: drift.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a judge rewards besides relevance: length, shared words, place, its own writing; and drift."""
    from labelkit.commands.quality_tables import print_biases
    from labelkit.quality.agreement import plain
    from labelkit.quality.bias import biases

    found = biases(labels, data=data, human=human, authors=authors, again=again or [])
    if as_json:
        console.result_json(plain(found), indent=2)
    else:
        print_biases(found)


def report(
    folders: Annotated[list[Path], typer.Argument(help="A dataset folder, or labels folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
    human: Annotated[list[Path] | None, typer.Option(help="Human qrels; a dataset has its own.")] = None,
    data: Annotated[Path | None, typer.Option(help="BEIR folder with the texts; a dataset has them.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="File of labelkit calibrate.")] = None,
    attacks: Annotated[
        list[Path] | None, typer.Option(help="attacks.json of labelkit redteam; several for several.")
    ] = None,
) -> None:
    """Write one HTML page on labels or a dataset: judges, agreement, calibration, bias, attacks, examples, audit."""
    from labelkit.quality.report import report as run

    run(
        folders,
        output,
        human=human or [],
        data=data,
        calibration=calibration,
        attacks=attacks or (),
        command=console.command_line("labelkit"),
    )
    console.say(f"{output}: {output.stat().st_size:,} bytes")
