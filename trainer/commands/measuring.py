"""The commands that measure: eval, verify."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

import trainer
from labelkit.commands import console
from labelkit.commands.options import Given, takes
from labelkit.errors import LabelkitError


@takes("trainer.retrieval.options:EvaluateOptions")
def evaluate(
    model: Annotated[str, typer.Argument(help="sentence-transformers folder or name on the Hub.")],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Collections: folders, s3://, gs://, hf://, irds:, nanobeir:scifact, mteb:SciFact, or nanobeir for "
            "all of NanoBEIR.",
        ),
    ],
    given: Given,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, including values per query.")
    ] = False,
) -> None:
    """Measure a model on one or several collections. Other models are compared by paired tests."""
    options = trainer.EvaluateOptions(**given)
    several = (1 + len(options.compare)) * len(data) > 1
    result = trainer.evaluate(model, data, options, progress=console.say if several else lambda words: None)
    if os.environ.get("RANK", "0") != "0":
        return  # the first process of torchrun reports for all
    if as_json:
        console.result_json(result.to_json(), indent=2)
    else:
        print_result(result)


def print_result(result: "trainer.EvalResult") -> None:
    """Print tables of means and differences on standard output, and notes on standard error."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal
    from labelkit.statistics.paired import show_p

    screen = Terminal()
    called = short_names(result.models)
    labels = list(result.measured[0].means)
    several = len(result.collections) > 1
    title = ", ".join(f"{entry.name} {entry.split} ({entry.queries:,} queries)" for entry in result.collections)
    table = Table("model", *(["data"] if several else []), *labels, title=title)
    table.caption = "mean [95% jackknife interval over queries]"
    for entry in result.measured:
        means = (mean.shown() for mean in entry.means.values())
        table.add_row(called[entry.model], *([entry.data] if several else []), *means)
        for half, parts in entry.by_overlap.items():
            cells = (mean.shown() for mean in parts.values())
            table.add_row(f"  {half}", *([""] if several else []), *cells, style="dim")
    screen.print(table)
    if result.compared:
        table = Table("difference to", *(["data"] if several else []), *labels, title=called[result.models[0]])
        table.caption = "paired permutation tests, p after Holm's correction for all differences in this table"
        for gap in result.compared:
            cells = (f"{test.difference.shown('+.3f')} {show_p(test.p_holm)}" for test in gap.tests.values())
            table.add_row(called[gap.against], *([gap.data] if several else []), *cells)
        screen.print(table)
    for words in _notes(result, called):
        console.say(words)


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Shorten model names for a table: without folder or organisation, if the short names are still unique."""
    names = {model: Path(model).name for model in models}
    return names if len(set(names.values())) == len(names) else {model: model for model in models}


def _notes(result: "trainer.EvalResult", called: Mapping[str, str]) -> Iterator[str]:
    """Yield the notes on the validity of a result, a line each."""
    from labelkit.statistics.intervals import few_queries
    from labelkit.statistics.paired import ALPHA, TELLING

    if result.index != "exact":
        yield f"searched with {result.index}, which is approximate and may miss passages"
    for entry in result.collections:
        if warning := few_queries(entry.queries):
            yield f"{entry.name}: {warning}"
        if entry.queries_without_relevant:
            yield (
                f"{entry.queries_without_relevant} of {entry.queries} queries have no passage of grade "
                f"{result.relevant_grade} or above; they count as 0 in RR, AP and R"
            )
    for measured in result.measured:
        if measured.unjudged:
            yield (
                f"{called[measured.model]} on {measured.data}: {measured.unjudged:.0%} of the passages in the first "
                "ten ranks are unjudged; they count as not relevant"
            )
    uncertain = [
        test
        for gap in result.compared
        for test in gap.tests.values()
        if test.p_holm > ALPHA and not (test.difference.low or 0.0) <= 0.0 <= (test.difference.high or 0.0)
    ]
    if uncertain:
        yield (
            f"{len(uncertain)} of the differences exclude 0 with p above {ALPHA}: an interval is about one difference "
            "alone, p is corrected for all differences in the table; rely on p"
        )
    for gap in result.compared:
        needed = gap.tests["nDCG@10"].queries_needed
        if needed is not None:
            other = called[gap.against]
            yield f"{gap.data} against {other}: to detect a difference of {TELLING} in nDCG@10 you need {needed}"


def verify(
    device: Annotated[
        str | None, typer.Option(help="Device: cpu, cuda or mps. Default: the accelerator that PyTorch finds.")
    ] = None,
) -> None:
    """Check the computation of losses on this machine. Tiles, caches, masks and processes must not change them."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal
    from trainer.invariance import CHECKS, default_device

    device = device or default_device()
    table = Table("check", "comparison", "difference", "allowed", "", title=f"trainer verify on {device}")
    missed = []
    for number, check in enumerate(trainer.self_check(device), start=1):
        console.say(f"{number}/{len(CHECKS)} {check.name}: {'passed' if check.held else 'FAILED'}")
        table.add_row(
            check.name,
            check.what,
            f"{check.difference:.0e}",
            f"{check.allowed:.0e}",
            "passed" if check.held else "FAILED",
        )
        missed += [] if check.held else [check.name]
    Terminal().print(table)
    if missed:
        raise LabelkitError(
            f"{', '.join(missed)} failed on {device}: do not trust results of this set-up, and report the table"
        )
