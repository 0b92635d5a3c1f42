"""The report on the reliability of labels or a dataset: one HTML file that needs no network.

All numbers on the page are also printed by the commands that it names.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from labelkit.errors import UsageError
from labelkit.quality import report_sections
from labelkit.quality.agreement import agree_raters
from labelkit.quality.ballots import open_ballots
from labelkit.quality.bias import BiasInputs, biases_of, grades_by, people_apart, stage_authors
from labelkit.quality.disagreements import disagreements
from labelkit.quality.options import ReportOptions
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.raters import FAILED, Rater
from labelkit.quality.texts import check_texts, open_texts
from labelkit.records import Judge
from labelkit.statistics.charts import STYLE
from labelkit.storage import tables
from labelkit.storage.atomic import write_text
from labelkit.storage.dataset import KIND as DATASET
from labelkit.storage.dataset import read_audit
from labelkit.storage.folders import manifest_kind, read_manifest
from labelkit.storage.labels import judgements_sql, read_records
from labelkit.storage.manifest import Manifest
from labelkit.storage.outputs import refuse_other_file
from labelkit.storage.shipped import SHIPPED
from labelkit.version import __version__

TEMPLATE = "report.html.jinja"


Spent = tuple[int | None, float | None]
"""Tokens and US dollars; None if they are unknown for a judgement."""


class Subject(NamedTuple):
    """The contents of the folders that a report is about: one dataset folder, or labels folders."""

    db: DuckDBPyConnection
    """The session in which raters and texts are read."""
    folders: list[Path]
    dataset: Path | None
    raters: list[Rater]
    """People first."""
    judges: list[Judge]
    spent: dict[tuple[int, str], Spent]
    """Number of a rater's folder (`Rater.source`) and its id -> the cost of its judgements."""
    manifests: dict[str, Manifest[Any]]
    has_texts: bool


def report(
    folders: Sequence[Path],
    output: Path | str,
    options: ReportOptions = ReportOptions(),  # noqa: B008 (a frozen record)
    *,
    command: str = "labelkit.report",
) -> None:
    """Write an HTML report on labels or a dataset: judges, agreement, calibration, biases, attacks, disagreements,
    audit.

    Args:
        folders: a dataset folder, or labels folders.
        output: HTML file to write; it loads nothing from the network.
        options: human grades, texts, calibration and attack results to include.
        command: the command that the page shows as its origin.

    Raises:
        UsageError: there is a dataset and another folder.
        ArtifactError: `output` is a file that this command did not write.
    """
    refuse_other_file(Path(output), b"<!doctype html>", "report")
    with tables.temporary() as db:
        page = render(contents_of(read_subject(db, folders, options), options) | {"command": command})
    write_text(Path(output), page)


def contents_of(subject: Subject, options: ReportOptions) -> dict[str, Any]:
    """Prepare all sections of a page for the template."""
    people, judging = people_apart(subject.raters)
    grades, dataset = grades_by(people), subject.dataset
    shared = grades is not None and any((grades[rater.pair] != FAILED).any() for rater in judging)
    agreement = agree_raters(subject.raters) if shared else None
    found = None
    if subject.has_texts and judging:
        material = BiasInputs(subject.db, judging[0].pairs, grades if shared else None)
        found = biases_of(judging, material)
    parts: dict[str, Any] = {
        "judges": judge_rows(subject),
        "grade_charts": [chart for rater in subject.raters for chart in report_sections.histograms(rater)],
        "dataset": report_sections.dataset_section(dataset, subject.manifests[str(dataset)].facts) if dataset else None,
        "agreement": report_sections.agreement_section(agreement, people[0].name) if agreement else None,
        "alpha": report_sections.alpha_line(agreement) if agreement else None,
        "few": report_sections.query_warning(agreement),
        "calibration": report_sections.calibration_section(options.calibration) if options.calibration else None,
        "bias": report_sections.bias_section(found, shared) if found and (found.effects or found.consistency) else None,
        "attacks": [report_sections.attack_section(path) for path in options.attacks],
        "disagreements": disagreements(subject.db, people[0], judging) if shared and subject.has_texts else None,
        "audit": read_audit(dataset) if dataset else None,
        "provenance": provenance(subject),
    }
    names = {"judges": "Judges", "dataset": "Dataset", "agreement": "Agreement", "calibration": "Calibration"}
    names |= {"bias": "Bias", "attacks": "Attacks", "disagreements": "Disagreements", "audit": "Audit"}
    contents = [(key, name) for key, name in names.items() if parts[key]] + [("provenance", "Provenance")]
    named = ", ".join(folder.name for folder in subject.folders)
    labelled = sum(len(rater.pair) for rater in judging)
    graded = int(people[0].graded.sum()) if people else 0
    return parts | {
        "title": f"Reliability of {named}",
        "subtitle": f"{labelled:,} judgments by {len(judging)} judges, {graded:,} pairs with human grades",
        "verdict": report_sections.verdict(agreement, people[0].name if people else None, subject.folders),
        "contents": contents,
        "chart_style": STYLE,
        "commands": commands_of(subject.folders, options),
        "version": __version__,
    }


def read_subject(db: DuckDBPyConnection, folders: Sequence[Path], options: ReportOptions) -> Subject:
    """Read judgements, judges and texts of the folders into a session."""
    datasets = [folder for folder in folders if manifest_kind(folder) == DATASET]
    if datasets and len(folders) > 1:
        raise UsageError("a report is about one dataset or about labels folders; give the dataset alone")
    raters = raters_of(db, folders, options.human, scale=options.scale)
    judges = [judge for folder in folders for judge in read_records(folder, "judges", Judge)]
    spent = {
        (source, judge_id): cost
        for source, folder in enumerate(folders, len(options.human))
        for judge_id, cost in spent_in(db, folder)
    }
    open_ballots(db, folders)
    stage_authors(db, None)
    manifests = {str(folder): read_manifest(folder, manifest_kind(folder), verify=False) for folder in folders}
    data = datasets[0] if datasets else options.data
    if data:
        open_texts(db, data)
        for rater in raters:
            check_texts(db, rater.pairs, rater.pair, where=rater.name)
    dataset = datasets[0] if datasets else None
    return Subject(
        db,
        list(folders),
        dataset,
        raters=raters,
        judges=judges,
        spent=spent,
        manifests=manifests,
        has_texts=data is not None,
    )


def judge_rows(subject: Subject) -> list[dict[str, Any]]:
    """Make the rows of the table of judges, one per rater. A sum is None if one of its parts is unknown."""
    by_id = {judge.judge_id: judge for judge in subject.judges}
    rows = []
    for rater in subject.raters:
        judge = by_id.get(rater.rater_id)
        tokens, usd = subject.spent.get((rater.source, rater.rater_id), (None, None))
        rows.append(
            {
                "judge_id": rater.rater_id,
                "name": Path(rater.name).name,
                "kind": rater.kind,
                "method": judge and judge.method,
                "prompt": judge and judge.prompt_name and f"{judge.prompt_name} {judge.prompt_version}",
                "engine": judge and ", ".join(filter(None, (judge.engine, judge.dtype))),
                "pairs": len(rater.pair),
                "failures": int((rater.grade == FAILED).sum()),
                "tokens": tokens,
                "usd": usd,
            }
        )
    return rows


def spent_in(db: DuckDBPyConnection, folder: Path) -> Iterator[tuple[str, Spent]]:
    """Yield each judge of a folder with the tokens and US dollars that its judgements took."""
    counted, paid = "count(tokens) = count(*)", "count(cost) = count(*)"
    spent = f"if({counted}, coalesce(sum(tokens), 0)::BIGINT, NULL), if({paid}, coalesce(fsum(cost), 0.0), NULL)"
    rows = db.sql(
        f"""
        SELECT judge_id, {spent} FROM {tables.parquet(folder / "judges.parquet")}
        LEFT JOIN {judgements_sql(db, folder)} USING (judge_id) GROUP BY judge_id
        """
    ).fetchall()
    yield from ((judge_id, (tokens, usd)) for judge_id, tokens, usd in rows)


def provenance(subject: Subject) -> list[dict[str, Any]]:
    """Return all manifests and judges as tables with their names."""
    manifests = {f"Manifest of {name}": manifest.as_json() for name, manifest in subject.manifests.items()}
    judges = {f"Judge {judge.judge_id}": judge.model_dump(mode="json") for judge in subject.judges}
    return [{"name": name, "rows": list(table_rows(document))} for name, document in (manifests | judges).items()]


def table_rows(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of a JSON document with their names; a nested name follows the names above it. Empty values are
    left out.
    """
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from table_rows(value, f"{above}{name}: ")
        elif isinstance(value, list | tuple) and value:
            yield above + name, ", ".join(one if isinstance(one, str) else json.dumps(one) for one in value)
        elif value is not None and value != [] and value != ():
            yield above + name, value if isinstance(value, str) else json.dumps(value)


def commands_of(folders: Sequence[Path], options: ReportOptions) -> Mapping[str, str]:
    """Return the commands that print the numbers of the sections."""
    labels = " ".join(map(str, folders))
    people = "".join(f" --human {path}" for path in options.human)
    people += f" --scale {shlex.quote(options.scale)}" if options.scale else ""
    texts = f" --data {options.data}" if options.data else ""
    return {"agree": f"labelkit agree {labels}{people}", "bias": f"labelkit bias {labels}{people}{texts}"}


def render(context: Mapping[str, Any]) -> str:
    """Render the page. Every string is escaped; charts are `Markup`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(SHIPPED)
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return page.get_template(TEMPLATE).render(context)
