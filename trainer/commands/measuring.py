"""Commands that measure: eval, verify."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelkit.commands import console
from labelkit.errors import LabelkitError
from trainer.commands.packages import load_training_packages

if TYPE_CHECKING:
    from trainer.retrieval.evaluate import EvalResult


def evaluate(
    model: Annotated[str, typer.Argument(help="sentence-transformers folder or name on the Hub.")],
    data: Annotated[list[Path], typer.Argument(help="BEIR folders: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.")],
    split: Annotated[str, typer.Option(help="Which qrels.")] = "test",
    compare: Annotated[list[str] | None, typer.Option(help="Another model; may be given several times.")] = None,
    relevant_grade: Annotated[int, typer.Option(min=1, help="Lowest grade that RR, AP and R call relevant.")] = 1,
    cutoffs: Annotated[list[int] | None, typer.Option("--recall", help="Cutoff of Recall. Default 100.")] = None,
    index: Annotated[str, typer.Option(help="exact, or approximate: faiss, usearch.")] = "exact",
    max_query_length: Annotated[int | None, typer.Option(help="Tokens; default: the model's limit.")] = None,
    max_passage_length: Annotated[int | None, typer.Option(help="Tokens; default: the model's limit.")] = None,
    dimensions: Annotated[int | None, typer.Option(help="Keep the first so many of an embedding.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder for a TREC run a model and collection.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, values per query included.")
    ] = False,
) -> None:
    """Measure a model on one or several collections, with 95% intervals and paired tests against others."""
    load_training_packages()
    from trainer.retrieval.evaluate import evaluate as run
    from trainer.retrieval.evaluate import load_contender
    from trainer.retrieval.search import Lengths, read_collections

    # All data and models first: a wrong name should not cost an hour.
    collections = read_collections(data, split)
    contenders = [load_contender(name, trust_remote_code=trust_remote_code) for name in (model, *(compare or ()))]
    result = run(
        contenders,
        collections,
        relevant_grade=relevant_grade,
        cutoffs=tuple(cutoffs or (100,)),
        index=index,
        lengths=Lengths(max_query_length, max_passage_length),
        dimensions=dimensions,
        runs=runs,
        progress=console.say if len(contenders) * len(data) > 1 else lambda words: None,
    )
    if as_json:
        print(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    else:
        print_result(result)


def print_result(result: "EvalResult") -> None:
    """Tables of means and differences, and the notes that go with them."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from labelkit.statistics.paired import show_p

    screen = Console()
    called = short_names(result.models)
    labels = list(result.measured[0].means)
    several = len(result.collections) > 1
    title = ", ".join(f"{entry.name} {entry.split} ({entry.queries:,} queries)" for entry in result.collections)
    table = Table("model", *(["data"] if several else []), *labels, title=escape(title))
    table.caption = "mean [95% jackknife interval over queries]"
    for entry in result.measured:
        cells = [
            called[entry.model],
            *([entry.data] if several else []),
            *(mean.shown() for mean in entry.means.values()),
        ]
        table.add_row(*map(escape, cells))
        for half, means in entry.by_overlap.items():
            cells = [f"  {half}", *([""] if several else []), *(mean.shown() for mean in means.values())]
            table.add_row(*map(escape, cells), style="dim")
    screen.print(table)
    if result.compared:
        table = Table("difference to", *(["data"] if several else []), *labels, title=escape(called[result.models[0]]))
        table.caption = "paired permutation tests, p after Holm's correction for all differences in this table"
        for gap in result.compared:
            cells = [f"{test.difference.shown('+.3f')} {show_p(test.p_holm)}" for test in gap.tests.values()]
            table.add_row(*map(escape, [called[gap.against], *([gap.data] if several else []), *cells]))
        screen.print(table)
    for words in _notes(result, called):
        console.say(words)


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Models as a table has room for them: without the folder or organisation before the name, where that leaves them
    apart."""
    names = {model: Path(model).name for model in models}
    return names if len(set(names.values())) == len(names) else {model: model for model in models}


def _notes(result: "EvalResult", called: Mapping[str, str]) -> Iterator[str]:
    from labelkit.statistics.intervals import few_queries
    from labelkit.statistics.paired import TELLING

    if result.index != "exact":
        yield f"searched with {result.index}, which is approximate: a passage may be missed"
    for entry in result.collections:
        if warning := few_queries(entry.queries):
            yield f"{entry.name}: {warning}"
        if entry.queries_without_relevant:
            yield (
                f"{entry.queries_without_relevant} of {entry.queries} queries have no passage of grade "
                f"{result.relevant_grade} or above; they count with 0 in RR, AP and R"
            )
    for measured in result.measured:
        if measured.unjudged:
            yield (
                f"{called[measured.model]} on {measured.data}: nobody judged {measured.unjudged:.0%} of its first ten "
                "ranks; they count as not relevant"
            )
    for gap in result.compared:
        needed = gap.tests["nDCG@10"].queries_needed
        if needed is not None:
            other = called[gap.against]
            yield f"{gap.data} against {other}: to see {TELLING} in nDCG@10 you need {needed}"


def verify(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps. Default: what PyTorch finds.")] = None,
) -> None:
    """Check on this machine that tiles, caches, masks and processes change no loss and no gradient."""
    load_training_packages()
    import torch
    from rich.console import Console
    from rich.table import Table

    from trainer.self_check import CHECKS
    from trainer.self_check import verify as run

    if device is None:
        device = accelerator.type if (accelerator := torch.accelerator.current_accelerator()) else "cpu"
    table = Table("check", "what was compared", "difference", "allowed", "", title=f"trainer verify on {device}")
    missed = []
    for number, check in enumerate(run(device), start=1):
        console.say(f"{number}/{len(CHECKS)} {check.name}: {'held' if check.held else 'MISSED'}")
        table.add_row(
            check.name,
            check.what,
            f"{check.difference:.0e}",
            f"{check.allowed:.0e}",
            "held" if check.held else "MISSED",
        )
        missed += [] if check.held else [check.name]
    Console().print(table)
    if missed:
        raise LabelkitError(
            f"{', '.join(missed)} missed on {device}: do not trust results of this set-up, and report the table"
        )
