"""Judgements made anew by a calibration: a labels folder whose one judge is all its judges and retrievers together."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labelkit.quality.agreement import Rater, grade_of, raters_of
from labelkit.quality.agreement_metrics import GRADES
from labelkit.quality.calibration.features import both_views, matrix
from labelkit.quality.calibration.models import Calibration, by_grade, grades_of, predict, read_calibration
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.storage import folders
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import KIND


def apply_calibration(
    calibration: Calibration, raters: Sequence[Rater], data: Path | None = None
) -> tuple[list[Judgement], Judge]:
    """A judgement of every pair that the calibration's judges gave a grade, sorted by pair; and who speaks in them.

    Grades, expected grades as scores, and the probabilities of grades 0 to 3. Where all judges failed, so does the
    calibrated one.
    """
    by_id: Mapping[str, Rater] = {rater.rater_id: rater for rater in raters}
    used = [by_id[feature.name] for feature in calibration.features if feature.name in by_id]
    pairs = sorted({pair for rater in used for pair in rater.judgements})
    scores = both_views(matrix(calibration.features, pairs, by_id, data), [query_id for query_id, _ in pairs])
    above = predict(calibration, scores)
    digest = hashlib.sha256(calibration.model_dump_json(exclude={"report"}).encode()).hexdigest()
    retrievers = [feature.kind for feature in calibration.features if feature.kind != "judge"]
    judge = Judge(
        judge_id=f"calibrated-{digest[:16]}",
        kind="llm",
        name=" + ".join([rater.name for rater in used] + retrievers),
        revision=f"sha256:{digest}",
        method="calibrated",
        label_grades=tuple(range(GRADES)),
    )
    judgements = []
    rows = zip(pairs, grades_of(calibration, above), above.sum(1), by_grade(above), strict=True)
    for (query_id, passage_id), grade, expected, probs in rows:
        found: dict[str, Any] = {"grade": int(grade), "score": float(expected), "probs": tuple(map(float, probs))}
        if all(grade_of(rater, (query_id, passage_id)) is None for rater in used):
            found = {"failure": "no judge gave a grade"}
        judgements.append(Judgement(query_id=query_id, passage_id=passage_id, judge_id=judge.judge_id, **found))
    return judgements, judge


def recalibrate(file: Path, labels: Sequence[Path], data: Path | None, target: Path, command: str) -> int:
    """Write the judgements of some labels folders, calibrated, as a labels folder; returns how many there are."""
    with folders.writing(target, KIND, command) as draft:
        judgements, judge = apply_calibration(read_calibration(file), raters_of(labels, []), data)
        draft.write_table("judgements", records_to_table(judgements, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([judge], JUDGE_SCHEMA))
        draft.inputs = {
            str(path): folders.file_sha256(path) for path in [file, *(p / folders.MANIFEST for p in labels)]
        }
    return len(judgements)
