"""What is wrong with a dataset, said by the dataset itself: `labelkit audit` writes `audit.json` into its folder.

The audit names the manifest that it looked at by its sha256, so that a dataset that was made anew is unaudited again.
`trainer fit` reads it and refuses known leakage; publishing reads it too.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from labelkit import artifact, duck
from labelkit.checks import CHECKS, open_train, run_checks
from labelkit.dataset import AUDIT, KIND
from labelkit.evaluation import read_evaluation
from labelkit.findings import Finding, Scope
from labelkit.gather import register_judges
from labelkit.policies import Rules
from labelkit.schema import Judge

EXAMPLES = 5
"""Of each finding."""


def audit(
    folder: Path, evaluations: Sequence[Path], split: str, models: Sequence[str], command: str, *, verify: bool = True
) -> list[Finding]:
    """Check a dataset folder and write its audit; the evaluation sets are BEIR folders, of which a split is read.

    Needs space beside the folder for tables of about its size.
    """
    manifest = artifact.read_manifest(folder, KIND, verify=verify)
    known = [read_evaluation(path, split) for path in evaluations]
    scratch = folder.with_name(folder.name + ".audit")
    with duck.session(scratch) as db:
        open_dataset(db, folder, manifest["facts"].get("calibrated_judges", []))
        scope = Scope(
            rules_of(manifest), scratch, (manifest["facts"].get("source") or {}).get("licence"), known, models
        )
        run_checks(db, scope, list(CHECKS))
        findings = findings_of(db, scope)
    document = {
        "dataset": artifact.file_sha256(folder / artifact.MANIFEST),
        "command": command,
        "evaluations": {path: digest for one in known for path, digest in one.files.items()},
        "models": list(models),
        "findings": [finding._asdict() for finding in findings],
    }
    artifact.write_text(folder / AUDIT, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return findings


def open_dataset(db: DuckDBPyConnection, folder: Path, silent: Sequence[str]) -> None:
    """The tables of a dataset folder as the checks read them; the judges that are silent take no side."""
    open_train(db, folder)
    for name in ("judgements", "queries"):
        db.execute(f"CREATE VIEW {name} AS FROM {duck.parquet(folder / f'{name}.parquet')}")
    judges = [Judge(**row) for row in artifact.read_table(folder, "judges").to_pylist()]
    register_judges(db, judges, {}, silent)
    db.execute("CREATE TABLE set_aside (query_id VARCHAR)")


def rules_of(manifest: dict[str, Any]) -> Rules:
    """The rules by which a dataset was mixed; the default ones for a dataset that was made otherwise."""
    return Rules(**manifest["facts"].get("rules", {}))


def findings_of(db: DuckDBPyConnection, scope: Scope) -> list[Finding]:
    """What the checks found, errors first, in the order of the table."""
    findings = []
    for name, check in CHECKS.items():
        made = check.needs is None or bool(getattr(scope, check.needs))
        items = f"SELECT query_id, passage_id, note FROM found WHERE finding = '{name}'"
        count = duck.value(db, f"SELECT count(*) FROM ({items})") if made else None
        rows = db.execute(f"{items} ORDER BY ALL LIMIT {EXAMPLES}").fetchall()
        examples = [dict(zip(("query_id", "passage_id", "note"), row, strict=True)) for row in rows]
        findings.append(Finding(name, check.severity, check.what, count, check.cure, examples))
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def print_findings(findings: Sequence[Finding]) -> None:
    """The findings as a table for people: what there is, then what was not found."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("finding", "severity", "items", "what, an example, and what cures it", show_lines=True)
    for finding in findings:
        if finding.found:
            first = finding.examples[0]
            place = [
                f"{name.removesuffix('_id')} {first[name]}: " for name in ("query_id", "passage_id") if first[name]
            ]
            lines = [finding.what, "  " + "".join(place) + str(first["note"]), "  " + finding.cure]
            table.add_row(finding.name, finding.severity, f"{finding.found:,}", Text("\n".join(lines)))
    out = Console()
    if table.row_count:
        out.print(table)
    for words, count in (("not found", 0), ("not checked", None)):
        names = [finding.name for finding in findings if finding.found == count]
        if names:
            out.print(f"{words}: {', '.join(names)}")
