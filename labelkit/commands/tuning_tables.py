"""Tables of a tuned prompt, on standard output."""

from labelkit.quality.agreement_metrics import FIGURES
from labelkit.quality.tuning.result import FIGURE, Tuned
from labelkit.statistics.intervals import few_queries


def print_tuned(found: Tuned) -> None:
    """Print the prompts that were tried, and the chosen one compared with its parent."""
    from rich.table import Table

    from labelkit.commands.terminal import Terminal

    out = Terminal()
    choosing, reporting = found.counts["choosing"], found.counts["reporting"]
    title = f"choosing half: {choosing.labels:,} labels of {choosing.queries:,} queries"
    table = Table("prompt", f"{FIGURES[FIGURE].label} [95%]", "pairs without a grade", title=title)
    for name, score in found.choosing.items():
        table.add_row(name, str(score), str(found.failures[name]))
    table.caption = "the best of several prompts looks better here than it is: the other half reports it"
    out.print(table)
    for line in found.rejected:
        out.print(line)
    if found.reporting:
        title = f"reporting half: {reporting.labels:,} labels of {reporting.queries:,} queries"
        table = Table("figure", found.parent, found.chosen, "difference [95%]", title=title)
        for name, figure in found.reporting.items():
            difference = figure.difference.shown("+.3f")
            table.add_row(FIGURES[name].label, str(figure.parent), str(figure.tuned), difference)
        out.print(table)
        if warning := few_queries(reporting.queries):
            out.print(f"{warning}.")
