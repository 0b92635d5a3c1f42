"""Command that makes queries for a corpus: queries."""

from typing import Annotated, Any

import typer

import labelkit
from labelkit.commands import console
from labelkit.commands.declared import declared
from labelkit.commands.options import Given, Json, Output, flag_of, takes
from labelkit.errors import UsageError

RECORD = "labelkit.queries.options:WriteOptions"
OF_LOGS = ("log", "sample", "by_frequency")
"""Fields of `LogOptions` with flags of their own; the command takes its other fields from the flags of the writer."""
SHARED = ("text_field", "seed")
"""Fields of both records."""


@takes(RECORD, loose=("model",))
@takes("labelkit.queries.options:LogOptions", "logged", only=OF_LOGS, loose=("log",))
def queries(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Collection: folder, or s3://, gs://, hf:// or irds:.")],
    output: Output,
    given: Given,
    logged: Given,
    estimate: Annotated[
        bool, typer.Option("--plan", help="Estimate requests, tokens and cost, and send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make queries for a corpus, by a model or from a log. What a model writes is checked and graded. Run the same
    command again to resume; no reply is paid for twice.
    """
    from labelkit.commands.progress import ProgressBar, StageBar

    command = console.command_line("labelkit")
    refuse_mixed(given, logged, estimate=estimate)
    if "log" in logged:
        options = labelkit.LogOptions(**logged, **{name: given[name] for name in SHARED if name in given})
        taken = labelkit.sample_log(data, output, options, command=command)
        told(taken._asdict(), taken.lines(output), as_json=as_json)
        return
    writing = labelkit.WriteOptions(**given)
    if estimate:
        planned = labelkit.plan_queries(data, writing)
        parts = {name: plan._asdict() for name, plan in planned.writing.items()}
        judging = planned.judging and planned.judging._asdict()
        document = {"passages": planned.passages, "writing": parts, "judging": judging, "most_usd": planned.most_usd}
        console.result_json(document, indent=2) if as_json else console.result("\n".join(planned.lines()))
        return
    made = labelkit.write_queries(data, output, writing, command=command, progress=ProgressBar(), report=StageBar())
    told(made._asdict(), made.lines(output), as_json=as_json)


def refuse_mixed(given: dict[str, Any], logged: dict[str, Any], *, estimate: bool) -> None:
    """Raise `UsageError` for options of a model together with a log, or options of a log without one."""
    fields = declared(RECORD)
    if "log" not in logged:
        if unused := [name for name in OF_LOGS if logged.get(name)]:
            raise UsageError(f"--{unused[0].replace('_', '-')} is for queries from a log: give --log FILE")
        return
    typed = [name for name, value in given.items() if name not in SHARED and value != fields[name].default]
    if typed or estimate:
        flag = "--plan" if estimate else flag_of(typed[0], fields[typed[0]])
        raise UsageError(f"{flag} is for queries that a model writes: leave it out, or leave out --log")


def told(document: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Print a result for programs if they asked for it, and for people."""
    if as_json:
        console.result_json(document)
    console.say(*lines)
