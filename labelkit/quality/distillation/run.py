"""Distil a judge: train a cross-encoder on the labels of a dataset, calibrate it, and let it pass the gate.

The training itself is a function that the caller gives, because labelkit does not import its sister package.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import ArtifactError, DataError
from labelkit.judging.annotate import annotate
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.progress import ShowProgress, silent
from labelkit.quality.calibration.fit import fit_calibration
from labelkit.quality.calibration.models import write_calibration
from labelkit.quality.distillation.gate import Gate, gate
from labelkit.quality.distillation.held_out import held_out_pairs, judges_of, pool_of_pairs, write_training
from labelkit.quality.distillation.options import DistilOptions
from labelkit.quality.options import CalibrateOptions
from labelkit.storage import folders, tables
from labelkit.storage.atomic import write_text
from labelkit.storage.labels import judges_in
from labelkit.storage.manifest import DATASET, JUDGE, MODEL, JudgeFacts
from labelkit.storage.outputs import claimed

log = logging.getLogger(__name__)

METHOD = "rerank"
CALIBRATION = "calibration.json"
BEGUN = "training.json"
"""File with the settings and the dataset of the training that was begun."""
Train = Callable[[Path, Path, Mapping[str, Any]], Any]
"""Function from a dataset folder, a folder to write, and the settings of the training: it writes the trained model."""


class Distilled(NamedTuple):
    """A distilled judge."""

    gate: Gate
    facts: JudgeFacts

    def to_json(self) -> dict[str, Any]:
        """Convert to plain dicts and lists, for `json.dumps`."""
        return self.facts.as_json()


def distil(
    dataset: Path | str,
    output: Path | str,
    options: DistilOptions,
    *,
    train: Train,
    command: str = "labelkit.distil",
    progress: ShowProgress = silent,
) -> Distilled:
    """Train a cross-encoder on the labels of people and models in a dataset, and make it a judge.

    Args:
        dataset: dataset folder with labels of a model (the teacher) and grades of people on some of the same pairs.
        output: folder to write: `model`, which `annotate` runs with method rerank, and `calibration.json`, fitted to
            the held-out queries. The same call resumes an interrupted training.
        options: start model, teacher, share of held-out queries, settings of the training.
        train: function that trains, such as one around `trainer.fit`.
        command: the command that the manifests record as the origin of the folders.
        progress: called as held-out pairs are scored.

    Returns:
        The agreement of judge and teacher with people, and the provenance of the judge, as its manifest has it.

    Raises:
        DataError: the judge fails the gate, or there are too few human grades.
        UsageError: the dataset has several models and no teacher is named.
    """
    source, target = Path(dataset), Path(output)
    folders.read_manifest(source, DATASET, verify=options.verify)
    settings = options.training()
    with claimed(target, JUDGE) as place, tables.temporary() as db:
        work = place.beside(".distilling")
        judges = judges_of(db, source, options.teacher)
        pairs = held_out_pairs(judges, options.held_out, options.seed)
        counts = write_training(source, work / "dataset", {query_id for query_id, _ in pairs}, command=command)
        if not trained(work, settings):
            log.info(f"training on {counts['queries']:,} queries, without {len({q for q, _ in pairs}):,} held-out ones")
            train(work / "dataset", work / "model", settings)
        judging = AnnotateOptions(model=str(work / "model"), method=METHOD, passage_tokens=options.passage_tokens)
        annotate(pool_of_pairs(source, pairs), work / "labels", judging, command=command, progress=progress).check()
        found = gate(db, source, work / "labels", teacher=judges.teacher.rater_id)
        refuse_failed(found, options, work)
        facts = facts_of(found, work, counts, source=source)
        with folders.writing(target, JUDGE, command) as draft:
            calibration = fit_calibration([work / "labels"], CalibrateOptions(human=source), command=command)
            write_calibration(calibration, draft.path / CALIBRATION)
            shutil.copytree(work / "model", draft.path / "model")
            draft.inputs = {str(source): folders.file_sha256(source / folders.MANIFEST)}
            draft.facts = facts
        shutil.rmtree(work)
    return Distilled(found, facts)


def trained(work: Path, settings: Mapping[str, Any]) -> bool:
    """Check whether the model of an earlier call was trained on this dataset with these settings.

    The files of a call with another dataset or other settings are removed. Scores of the held-out pairs are removed
    always, because they may be of another model, of other pairs or of other lengths.
    """
    shutil.rmtree(work / "labels", ignore_errors=True)
    wanted = json.dumps({"settings": settings, "files": folders.known_sha256(work / "dataset")}, default=str)
    begun = work / BEGUN
    if not begun.is_file() or begun.read_text(encoding="utf-8") != wanted:
        for path in work.glob("model*"):
            shutil.rmtree(path, ignore_errors=True)
        write_text(begun, wanted)
    try:
        folders.read_manifest(work / "model", MODEL)
    except ArtifactError:
        return False
    return True


def refuse_failed(found: Gate, options: DistilOptions, work: Path) -> None:
    """Raise `DataError` for a judge that fails the gate, unless it is wanted anyway."""
    if not found.faults:
        return
    words = f"the distilled judge fails the gate: {'; '.join(found.faults)}. {'. '.join(found.lines())}"
    if options.write_anyway:
        log.warning(words)
        return
    raise DataError(
        f"{words}. Train on more labels or longer (--config), use the teacher, or add --write-anyway to the same "
        f"command, which writes the judge from {work} without another training"
    )


def facts_of(found: Gate, work: Path, counts: Mapping[str, int], *, source: Path) -> JudgeFacts:
    """Collect the provenance of a judge: its labels, judges, counts, training and agreement."""
    (own,) = judges_in(work / "labels")
    taught = [
        {"judge_id": judge.judge_id, "name": judge.name, "kind": judge.kind, "revision": judge.revision}
        for judge in judges_in(source)
    ]
    model = folders.read_manifest(work / "model", MODEL, verify=False)
    return JudgeFacts(
        judge_id=own.judge_id,
        method=METHOD,
        reading=own.reading,
        taught_by=tuple(taught),
        trained_on=dict(counts),
        training=dict(model.facts.config),
        packages=dict(model.facts.packages),
        gate=found.to_json(),
    )
