"""Relabels a training set: judge its negatives, and on request its positives, and change the labels that are wrong.

The pairs become a pool, `annotate` or a cascade judges it, and the decided labels are written back in the format of the
training set. Pool and labels are stored beside the output, so that a run that was killed resumes, and nothing is paid
for twice. RLHN (arXiv 2505.16967) relabels false negatives in this way.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from labelkit.datasets.card import dataset_card
from labelkit.datasets.stored_examples import label_counts
from labelkit.errors import UsageError
from labelkit.judging.annotate import annotate
from labelkit.judging.methods import method_named
from labelkit.judging.options import AnnotateOptions, JudgeOptions, PlanOptions
from labelkit.judging.plan import Plan, plan
from labelkit.judging.progress import ShowProgress, silent
from labelkit.quality.cascade import Cascade, cascade
from labelkit.quality.options import CascadeOptions
from labelkit.relabelling.dataset_folder import save_dataset
from labelkit.relabelling.foreign_files import readme, save_files
from labelkit.relabelling.options import RelabelOptions
from labelkit.relabelling.rules import Flips, decide, flips_of, total
from labelkit.relabelling.training_sets import TrainingSet, pool_of, training_set
from labelkit.storage import folders, tables
from labelkit.storage.atomic import write_text
from labelkit.storage.manifest import DATASET, EXPORT, ExportFacts, PoolFacts
from labelkit.storage.outputs import Place, claimed, name_of, refuse_own_input
from labelkit.storage.remote import local

log = logging.getLogger(__name__)

SCRATCH = ".scratch"
"""Folder in a draft for the session."""


class Relabelled(NamedTuple):
    """The numbers of a run of `labelkit relabel`."""

    judged: int
    """Labels that were to be judged."""
    promoted: int
    """Negatives that became positives."""
    ignored: int
    """Labels that are ignored: neither positive nor negative."""
    kept: int
    without_grade: int
    """Labels that did not change because the judge gave no grade."""
    not_judged: Mapping[str, int]
    """Source and role of labels that were left out by the rules -> their number."""
    by_source: tuple[Flips, ...]
    rows: Mapping[str, int]
    """Files of another tool: numbers of rows that were changed, added and left out."""
    usd: float | None
    """US dollars of all judges; None if a price is unknown."""
    cascade: Cascade | None
    """Saving and loss of the cascade; None for one judge."""

    def as_json(self) -> dict[str, Any]:
        """Convert to plain dicts and lists, for `json.dumps`."""
        plain: dict[str, Any] = jsonable(self)
        return plain


class Judged(NamedTuple):
    """The judgments of a pool."""

    labels: Path
    """Folder with the judgments that decide."""
    judge_id: str | None
    """Judge that decides; None for a folder with one judgment per pair."""
    parts: tuple[Path, ...]
    """Labels folder of each judge, with its journal."""
    usd: float | None
    cascade: Cascade | None


def relabel(
    dataset: Path | str,
    output: Path | str,
    options: RelabelOptions,
    *,
    judge: AnnotateOptions,
    strong: CascadeOptions | None = None,
    command: str = "labelkit.relabel",
    progress: ShowProgress = silent,
) -> Relabelled:
    """Judge the labels of a training set, and promote or ignore those that are wrong.

    A negative that is judged relevant becomes a positive; a negative of which the judge is unsure, and with
    `positives` a positive that is judged irrelevant, are ignored. Labels by people are judged and changed only with
    `overturn_human`.

    Args:
        dataset: dataset folder, or a file or folder in a training format of another tool; may be at s3://, gs:// or
            hf://.
        output: folder to write, in the same format. Pool and labels are stored beside it, with the suffixes `.pool`
            and `.labels`, or `.cascade` with `strong`; the same call resumes them.
        options: the labels that are judged, and the thresholds.
        judge: options of `annotate` for the judge, including its spending limits.
        strong: stronger judge for the pairs of which `judge` is unsure.
        command: the command that the manifests record as the origin of the folders.
        progress: called as pairs are judged.

    Returns:
        The numbers of changed labels by role and source, with confidence intervals over queries.

    Raises:
        BudgetError: the spending limits left pairs unjudged; nothing is written, and the same call resumes.
        UsageError: there is no label to judge, the format cannot be written back, or a judge gives no grades.
        LabelkitError: any error of `annotate`.
    """
    refuse_score_only(judge, strong)
    path, target = local(str(dataset)), Path(output)
    refuse_own_input(target, [path])
    source = training_set(path, options, verify=judge.verify)
    with claimed(target, DATASET if source.format is None else EXPORT) as place:
        pool = place.beside(".pool")
        facts = pool_of(source, pool, options, command=command)
        judged = judge_pool(pool, place, judge, strong=strong, command=command, progress=progress)
        return write(source, target, options, judged=judged, pool=pool, facts=facts, command=command)


def plan_relabel(
    dataset: Path | str,
    output: Path | str,
    options: RelabelOptions,
    *,
    judge: AnnotateOptions,
    strong: CascadeOptions | None = None,
    command: str = "labelkit.plan_relabel",
) -> dict[str, Plan]:
    """Count the calls, tokens and US dollars of `relabel` with the same arguments. Nothing is sent.

    Args:
        dataset: the training set, as for `relabel`.
        output: the folder that `relabel` would write; only the pool beside it is written.
        options: the labels that are judged.
        judge: options of `annotate` for the judge.
        strong: stronger judge for the pairs of which `judge` is unsure.
        command: the command that the manifest of the pool records as its origin.

    Returns:
        The plan of `judge` for all pairs, and of `strong` for as many pairs as it will judge, counted on the first
        ones, by `judge` and `strong`.

    Raises:
        UsageError: as for `relabel`.
    """
    refuse_score_only(judge, strong)
    path, target = local(str(dataset)), Path(output)
    source = training_set(path, options, verify=judge.verify)
    with claimed(target, DATASET if source.format is None else EXPORT) as place:
        pool = place.beside(".pool")
        pool_of(source, pool, options, command=command)
        found = {"judge": plan(pool, planned(judge), command=command)}
        if strong is not None:
            share = max(1, round(strong.share * found["judge"].pairs))
            found["strong"] = plan(pool, planned(strong.judge(judge)).but(limit=share), command=command)
    return found


def planned(judge: AnnotateOptions) -> PlanOptions:
    """Return the options of a plan for a judge."""
    return PlanOptions(**{name: getattr(judge, name) for name in JudgeOptions.model_fields})


def refuse_score_only(judge: AnnotateOptions, strong: CascadeOptions | None) -> None:
    """Raise `UsageError` for a judge that gives scores without grades."""
    for each in (judge, strong.judge(judge)) if strong else (judge,):
        if method_named(each.method).score_only:
            raise UsageError(
                f"relabel needs a judge that gives grades: method {each.method} gives scores, and no threshold is known"
            )


def judge_pool(
    pool: Path,
    place: Place,
    judge: AnnotateOptions,
    *,
    strong: CascadeOptions | None,
    command: str,
    progress: ShowProgress,
) -> Judged:
    """Judge all pairs of a pool, or resume. Raises `BudgetError` if pairs are left unjudged."""
    if strong is None:
        folder = place.beside(".labels")
        outcome = annotate(pool, folder, judge, command=command, progress=progress)
        for line in outcome.lines(folder):
            log.info(line)
        outcome.check()
        return Judged(folder, outcome.judge_id, (folder,), usd=outcome.usd, cascade=None)
    folder = place.beside(".cascade")
    made = cascade(pool, folder, judge, strong=strong, command=command, progress=progress)
    parts = tuple(folder.with_name(f"{folder.name}{suffix}") for suffix in (".cheap", ".strong"))
    return Judged(folder, None, parts, usd=made.usd, cascade=made)


def write(
    source: TrainingSet,
    target: Path,
    options: RelabelOptions,
    judged: Judged,
    *,
    pool: Path,
    facts: PoolFacts,
    command: str,
) -> Relabelled:
    """Decide the labels and write the training set."""
    kind = DATASET if source.format is None else EXPORT
    with folders.writing(target, kind, command) as draft:
        with tables.session(draft.path / SCRATCH) as db:
            decide(db, pool, judged.labels, options=options, judge_id=judged.judge_id)
            found = counted(flips_of(db), facts, judged)
            if source.format is None:
                save_folder(db, draft, source, options=options, judged=judged, found=found, target=target)
            else:
                rows = save_files(db, draft, source, options=options, pool=pool, labels=judged.labels)
                found = found._replace(rows=rows)
                run = {"rules": options.rules, **found.as_json()}
                draft.facts = ExportFacts(format=source.format, relabelled=run)
                write_text(draft.path / "README.md", readme(target, source, draft.rows, facts=run, command=command))
        labels = {str(folder): folders.file_sha256(folder / folders.MANIFEST) for folder in judged.parts}
        draft.inputs = draft.inputs | source.inputs | labels
    return found


def save_folder(
    db: DuckDBPyConnection,
    draft: folders.Draft,
    source: TrainingSet,
    *,
    options: RelabelOptions,
    judged: Judged,
    found: Relabelled,
    target: Path,
) -> None:
    """Write a dataset folder with its facts and its card."""
    manifest = folders.read_manifest(source.path, DATASET, verify=False)
    judges = save_dataset(db, draft, source.path, manifest=manifest, parts=judged.parts)
    run = {"rules": options.rules, **found.as_json()}
    counts = label_counts(db, draft.path / "train.parquet") | {"relabelled": (*manifest.facts.relabelled, run)}
    facts = manifest.facts.model_copy(update=counts)
    draft.facts, draft.inputs = facts, dict(manifest.inputs)
    card = dataset_card(name_of(target), draft.rows, facts, judges=judges, command=draft.command)
    write_text(draft.path / "README.md", card)


def counted(flips: tuple[Flips, ...], facts: PoolFacts, judged: Judged) -> Relabelled:
    """Add the numbers of all roles and sources."""
    names = ("judged", "promoted", "ignored", "kept", "without_grade")
    return Relabelled(
        **{name: total(flips, name) for name in names},
        not_judged=dict(facts.relabel.get("not_judged", {})),
        by_source=flips,
        rows={},
        usd=judged.usd,
        cascade=judged.cascade,
    )


def jsonable(value: Any) -> Any:
    """Convert named tuples to dicts, and tuples to lists."""
    if hasattr(value, "_asdict"):
        return {name: jsonable(one) for name, one in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: jsonable(one) for name, one in value.items()}
    return [jsonable(one) for one in value] if isinstance(value, tuple | list) else value
