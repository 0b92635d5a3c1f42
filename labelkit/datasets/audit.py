"""The audit of a dataset: `labelkit audit` writes its findings to `audit.json` in the dataset folder.

The audit contains the sha256 of the manifest that it checked, so a dataset that is written again counts as unaudited.
`trainer fit` and `labelkit publish` read the audit and refuse known leaks.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from duckdb import DuckDBPyConnection
from pydantic import TypeAdapter, ValidationError

from labelkit.corpora.evaluation_sets import read_evaluation
from labelkit.datasets.audit_checks import CHECKS, open_train, run_checks
from labelkit.datasets.audit_findings import GIVEN_BY, AuditScope, Finding
from labelkit.datasets.inputs import register_judges
from labelkit.datasets.options import AuditOptions, MixRules
from labelkit.errors import ArtifactError, MissingPackageError, UsageError
from labelkit.records import Judge
from labelkit.storage import folders, tables
from labelkit.storage.atomic import write_text
from labelkit.storage.dataset import AUDIT, KIND
from labelkit.storage.labels import read_records
from labelkit.storage.manifest import DatasetFacts, first_fault
from labelkit.storage.outputs import claimed

EXAMPLES = 5
"""Number of examples of each finding."""


def audit(
    folder: Path | str,
    options: AuditOptions = AuditOptions(),  # noqa: B008 (a frozen record)
    *,
    command: str = "labelkit.audit",
) -> list[Finding]:
    """Check a dataset for leaks, duplicates, contradictions, likely false negatives, biases and attacks.

    Needs free space beside the folder, about as much as the dataset takes. Checks for near-duplicates are skipped if
    the package rensa is not installed.

    Args:
        folder: dataset folder; the findings are written to its `audit.json`.
        options: evaluation sets and models that the dataset is compared with.
        command: the command that the audit records as its origin.

    Returns:
        A finding for each check, errors first; `found` is the number of its items, None if the check was not possible.

    Raises:
        ArtifactError: the folder is damaged.
        DataError: an evaluation set is malformed.
    """
    folder = Path(folder)
    folders.manifest_kind(folder)  # fails for a missing folder before anything is written beside it
    with claimed(folder) as place:
        manifest = folders.read_manifest(folder, KIND, verify=options.verify)
        known = [
            read_evaluation(path, options.eval_split, scale=options.eval_scale, fields=options.fields)
            for path in options.eval
        ]
        scratch = place.beside(".audit")
        with tables.session(scratch) as db:
            open_dataset(db, folder, manifest.facts.calibrated_judges)
            scope = AuditScope(
                rules_of(folder, manifest.facts),
                scratch,
                licence=manifest.facts.licence,
                evaluations=known,
                models=options.model,
            )
            findings = findings_of(db, run_possible_checks(db, scope))
        document = {
            "dataset": folders.file_sha256(folder / folders.MANIFEST),
            "command": command,
            "evaluations": {path: digest for one in known for path, digest in one.files.items()},
            "models": list(options.model),
            "findings": [finding._asdict() for finding in findings],
        }
        write_text(folder / AUDIT, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return findings


def open_dataset(db: DuckDBPyConnection, folder: Path, silent: Sequence[str]) -> None:
    """Open the tables of a dataset folder for the checks. Judgements by the `silent` judges do not count."""
    open_train(db, folder)
    for name in ("judgements", "queries"):
        db.execute(f"CREATE VIEW {name} AS FROM {tables.parquet(folder / f'{name}.parquet')}")
    judges = read_records(folder, "judges", Judge)
    register_judges(db, judges, {}, silent=silent)
    db.execute("CREATE TABLE set_aside (query_id VARCHAR)")


def rules_of(folder: Path, facts: DatasetFacts) -> MixRules:
    """Return the rules by which a dataset was mixed, or the default rules if it was not made by `mix`.

    Raises `ArtifactError` if this release does not know the rules.
    """
    try:
        return TypeAdapter(MixRules).validate_python(dict(facts.rules))
    except (ValidationError, UsageError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else error
        raise ArtifactError(f"{folder}: its rules cannot be read ({fault}); mix it again") from None


def run_possible_checks(db: DuckDBPyConnection, scope: AuditScope) -> dict[str, str]:
    """Run the checks for which all data and packages are there. Returns the name of each other one -> the reason."""
    skipped = {}
    for name, check in CHECKS.items():
        if check.needs is not None and not getattr(scope, check.needs):
            skipped[name] = GIVEN_BY[check.needs]
            continue
        try:
            run_checks(db, scope, [name])
        except MissingPackageError as error:
            skipped[name] = str(error)
    return skipped


def findings_of(db: DuckDBPyConnection, skipped: Mapping[str, str]) -> list[Finding]:
    """Collect the finding of each check: errors first, then warnings and notes, each in the order of `CHECKS`."""
    findings = []
    for name, check in CHECKS.items():
        items = f"SELECT query_id, passage_id, note FROM found WHERE finding = '{name}'"
        count = None if name in skipped else tables.value(db, f"SELECT count(*) FROM ({items})")
        rows = db.execute(f"{items} ORDER BY ALL LIMIT {EXAMPLES}").fetchall()
        examples = [dict(zip(("query_id", "passage_id", "note"), row, strict=True)) for row in rows]
        found = Finding(name, check.severity, check.what, found=count, cure=check.cure, examples=examples)
        findings.append(found._replace(skipped=skipped.get(name)))
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))
