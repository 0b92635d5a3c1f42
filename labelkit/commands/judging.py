"""Commands that lead from a collection to judgements: pool, plan, annotate, judges, prompts."""

import os
from typing import Annotated

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.options import Given, Json, Output, Source, takes

CASCADE_FLAGS = {
    "model": "--cascade",
    "share": "--cascade-share",
    "engine": "--cascade-engine",
    "base_url": "--cascade-base-url",
}
"""Field of `CascadeOptions` -> its flag."""


@takes("labelkit.pooling.options:PoolOptions")
def pool(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Collection: folder, or s3://, gs://, hf:// or irds:.")],
    output: Output,
    given: Given,
) -> None:
    """Collect the candidate passages of each query for judging. Each candidate lists the sources that found it."""
    from labelkit.commands.progress import StageBar

    options = labelkit.PoolOptions(**given)
    command = console.command_line("labelkit")
    made = labelkit.write_pool(data, output, options, command=command, report=StageBar())
    if os.environ.get("RANK", "0") != "0":
        return  # the first process of torchrun reports for all
    console.say(f"{output}: {made.candidates:,} candidates for {made.queries:,} queries")


@takes("labelkit.judging.options:PlanOptions")
def plan(source: Source, given: Given, as_json: Json = False) -> None:
    """Estimate the calls, tokens, cost and time of an annotation. Nothing is sent to a model."""
    from labelkit.judging.plan import lines
    from labelkit.quality.agreement import plain

    options = labelkit.PlanOptions(**given)
    made = labelkit.plan(source, options, command=console.command_line("labelkit"))
    if as_json:
        console.result_json(plain(made), indent=2)
    else:
        console.result("\n".join(lines(made, options.model, options.prices)))


@takes("labelkit.judging.options:AnnotateOptions", loose=("model",))
@takes("labelkit.quality.options:CascadeOptions", "strong", flags=CASCADE_FLAGS, only=CASCADE_FLAGS, loose=("model",))
def annotate(
    source: Source,
    output: Output,
    given: Given,
    strong: Given,
    reparse: Annotated[
        bool, typer.Option("--reparse", help="Parse the stored replies again with the current parser; send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge the pairs of a pool with a language model. Run the same command again to resume; no reply is paid for
    twice.
    """
    from labelkit.commands.progress import ProgressBar
    from labelkit.judging.annotate import reason_lines

    command = console.command_line("labelkit")
    if reparse:
        failures = labelkit.reparse(source, output, verify=given["verify"], command=command)
        console.say(f"{output}: replies parsed again, {sum(failures.values())} failed", *reason_lines(failures))
        return
    options, bar = labelkit.AnnotateOptions(**given), ProgressBar()
    if "model" in strong:
        better = labelkit.CascadeOptions(**strong)
        joined = labelkit.cascade(source, output, options, strong=better, command=command, progress=bar)
        if as_json:
            console.result_json(joined._asdict())
        console.say(f"{output}: {words_of(joined)}")
        return
    outcome = labelkit.annotate(source, output, options, command=command, progress=bar)
    if as_json:
        console.result_json(outcome._asdict())
    console.say(*outcome.lines(output))
    outcome.check()


def words_of(found: "labelkit.Cascade") -> str:
    """Describe the saving and the loss of a cascade in two sentences."""
    from labelkit.judging.prices import dollars

    money = "" if found.saved_usd is None else f", {dollars(found.saved_usd)} US dollars"
    return (
        f"the strong judge judged {found.strong_pairs:,} of {found.pairs:,} pairs: {found.saved:.0%} of its work saved"
        f"{money}. On {found.compared:,} random pairs the two judges agree with kappa {found.kappa}; of the pairs that "
        f"only the cheap judge judged, the strong one would have decided a share of {found.lost} differently"
    )


def judges(
    labels: Annotated[str, typer.Argument(metavar="LABELS", help="Labels folder, local or at s3://, gs:// or hf://.")],
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Remove this judge and its labels. Replies that were paid for stay in the journal: annotate with the "
            "same options and --add-judge brings the labels back without a request.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the judges of a labels folder, or remove one. The list shows labels, failures and cost."""
    if drop is None:
        found = labelkit.judges(labels)
    else:
        found = labelkit.drop_judge(labels, drop, command=console.command_line("labelkit"))
        console.say(f"{labels}: judge {drop} and its labels are removed; replies that were paid for stay")
    if as_json:
        console.result_json([one._asdict() for one in found], indent=2)
        return
    from labelkit.judging.prices import dollars

    for one in found:
        cost = "unknown cost" if one.usd is None else f"{dollars(one.usd)} US dollars"
        asked = ", ".join(filter(None, (f"model {one.model}", one.method and f"method {one.method}")))
        console.result(f"{one.judge_id}  {one.kind}, {asked}: {one.labels:,} labels, {one.failures:,} failures, {cost}")
    if not found:
        console.say(f"{labels}: no judge has labels in this folder")


def prompts(
    name: Annotated[
        str | None, typer.Argument(help="Shipped prompt or TOML file to show. Default: list all shipped prompts.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model (local folder or Hub id) whose tokenizer must distinguish the labels.")
    ] = None,
) -> None:
    """List the shipped prompts, or check and show one prompt."""
    from labelkit.judging.prompts import load_prompt, shipped_prompts

    if name is None:
        for shipped in map(load_prompt, sorted(shipped_prompts())):
            console.result(f"{shipped.name:9} version {shipped.version}, method {shipped.method}: {shipped.citation}")
        return
    prompt = load_prompt(name)
    if model is not None:
        from labelkit.engines import Settings
        from labelkit.engines.local import first_label_tokens, load_tokenizer

        first_label_tokens(load_tokenizer(Settings(model)), prompt.label_texts)
    console.result(f"# {prompt.name} version {prompt.version}, method {prompt.method}, sha256 {prompt.sha256}")
    console.result(prompt.content.decode().rstrip())
