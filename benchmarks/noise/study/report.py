"""What the runs show, as one page and one figure."""

from pathlib import Path

from study.grid import PARTS
from study.hypotheses import break_even_chart, h1, h2, h3, h4, h5, h6
from study.tables import Study, cell_tables


def write_report(folder: Path, name: str) -> None:
    """Write report.md and break_even.svg of a part of the study; print the report."""
    study = Study(folder, PARTS[name])
    hypotheses = (h1, h2, h3, h4, h5, h6) if name == "whole" else (h4,)
    parts = [
        "# Results of the study of objectives, labels and judges",
        f"{len(study.results.lines)} runs; the design is in STUDY.md. Intervals of cells are 95% each; intervals of "
        "differences are simultaneous within their table.",
        "\n".join(["| block | runs done |", "|---|---|", *study.missing()]),
        *cell_tables(study),
        *(text for make in hypotheses for text in make(study)),
    ]
    text = "\n\n".join(parts) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    if (chart := break_even_chart(study)) is not None:
        (folder / "break_even.svg").write_text(chart, encoding="utf-8")
    print(text)
