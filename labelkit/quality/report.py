"""The report on the reliability of labels or a dataset: one HTML file that needs no network.

All numbers on the page are also printed by the commands that it names.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.beir import Data
from labelkit.errors import UsageError
from labelkit.quality import report_sections
from labelkit.quality.agreement import Rater, agree_raters, raters_of
from labelkit.quality.bias import BiasInputs, ballots_of, biases_of, check_texts, grades_by, people_apart, texts_of
from labelkit.quality.options import ReportOptions
from labelkit.records import Judge, Judgement
from labelkit.statistics.charts import STYLE
from labelkit.storage.atomic import write_text
from labelkit.storage.dataset import KIND as DATASET
from labelkit.storage.dataset import read_audit
from labelkit.storage.folders import manifest_kind, read_manifest
from labelkit.storage.labels import judgements_in
from labelkit.storage.manifest import Manifest
from labelkit.storage.outputs import refuse_other_file
from labelkit.storage.shipped import SHIPPED
from labelkit.version import __version__

TEMPLATE = "report.html.jinja"


class Subject(NamedTuple):
    """The contents of the folders that a report is about: one dataset folder, or labels folders."""

    folders: list[Path]
    dataset: Path | None
    raters: list[Rater]
    """People first."""
    judges: list[Judge]
    ballots: list[Judgement]
    manifests: dict[str, Manifest[Any]]
    data: Data | None
    """Texts of the pairs; None if they are not given."""


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
    subject = read_subject(folders, options)
    people, judging = people_apart(subject.raters)
    grades = grades_by(people)
    shared = any(grades.keys() & rater.judgements.keys() for rater in judging)
    agreement = agree_raters(subject.raters) if shared else None
    texts, dataset = subject.data, subject.dataset
    found = biases_of(judging, subject.ballots, BiasInputs(texts, {}, grades if shared else {})) if texts else None
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
        "disagreements": report_sections.disagreements(people[0], judging, texts) if shared and texts else None,
        "audit": read_audit(dataset) if dataset else None,
        "provenance": provenance(subject),
    }
    names = {"judges": "Judges", "dataset": "Dataset", "agreement": "Agreement", "calibration": "Calibration"}
    names |= {"bias": "Bias", "attacks": "Attacks", "disagreements": "Disagreements", "audit": "Audit"}
    contents = [(key, name) for key, name in names.items() if parts[key]] + [("provenance", "Provenance")]
    named = ", ".join(folder.name for folder in folders)
    labelled = sum(len(rater.judgements) for rater in judging)
    page = render(
        parts
        | {
            "title": f"Reliability of {named}",
            "subtitle": f"{labelled:,} judgments by {len(judging)} judges, {len(grades):,} pairs with human grades",
            "contents": contents,
            "chart_style": STYLE,
            "commands": commands_of(folders, options),
            "command": command,
            "version": __version__,
        }
    )
    write_text(Path(output), page)


def read_subject(folders: Sequence[Path], options: ReportOptions) -> Subject:
    """Read judgements, judges and texts of the folders."""
    datasets = [folder for folder in folders if manifest_kind(folder) == DATASET]
    if datasets and len(folders) > 1:
        raise UsageError("a report is about one dataset or about labels folders; give the dataset alone")
    raters = raters_of(folders, options.human, options.scale)
    judges = [judge for folder in folders for judge in judgements_in(folder)[1]]
    ballots = [row for folder in folders for row in ballots_of(folder)]
    manifests = {str(folder): read_manifest(folder, manifest_kind(folder), verify=False) for folder in folders}
    dataset = datasets[0] if datasets else None
    texts = texts_of(dataset, options.data)
    if texts:
        for rater in raters:
            check_texts(rater, texts)
    return Subject(list(folders), dataset, raters, judges=judges, ballots=ballots, manifests=manifests, data=texts)


def judge_rows(subject: Subject) -> list[dict[str, Any]]:
    """Make the rows of the table of judges, one per rater. A sum is None if one of its parts is unknown."""
    by_id = {judge.judge_id: judge for judge in subject.judges}
    rows = []
    for rater in subject.raters:
        judge, given = by_id.get(rater.rater_id), list(rater.judgements.values())
        tokens, costs = [row.tokens for row in given], [row.cost for row in given]
        rows.append(
            {
                "judge_id": rater.rater_id,
                "name": Path(rater.name).name,
                "kind": rater.kind,
                "method": judge and judge.method,
                "prompt": judge and judge.prompt_name and f"{judge.prompt_name} {judge.prompt_version}",
                "engine": judge and judge.engine and f"{judge.engine}, {judge.dtype or 'unknown dtype'}",
                "pairs": len(given),
                "failures": sum(row.failure is not None for row in given),
                "tokens": None if None in tokens else sum(filter(None, tokens)),
                "usd": None if None in costs else sum(filter(None, costs)),
            }
        )
    return rows


def provenance(subject: Subject) -> list[dict[str, str]]:
    """Return all manifests and judges as texts with their names."""
    manifests = [
        {"name": f"Manifest of {name}", "text": manifest.as_text().rstrip()}
        for name, manifest in subject.manifests.items()
    ]
    judges = [
        {"name": f"Judge {judge.judge_id}", "text": judge.model_dump_json(indent=2, exclude_none=True)}
        for judge in subject.judges
    ]
    return manifests + judges


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
