"""Applies a calibration: writes a labels folder of one calibrated judge, which joins all its judges and retrievers."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement import Rater, answered, raters_of
from labelkit.quality.agreement_metrics import GRADES
from labelkit.quality.calibration.features import both_views, matrix
from labelkit.quality.calibration.judges import match, refuse_unknown
from labelkit.quality.calibration.models import Calibration, by_grade, grades_of, predict, read_calibration
from labelkit.quality.options import CalibrateOptions
from labelkit.records import CALIBRATED, CALIBRATED_RERANK, JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.storage import folders
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import KIND
from labelkit.storage.outputs import refuse_own_input

MEASURED = {"report", "judges", "worse_than_raw"}
"""Fields of a calibration that do not affect its judgements."""


def refuse_worse(calibration: Calibration, file: Path) -> None:
    """Raise `DataError` if the grades of a calibration agree with people less than its judge's own grades."""
    if not calibration.worse_than_raw:
        return
    report = calibration.report
    change = report.get("gain", {}).get("kappa", {}).get("value")
    by = "" if change is None else f" (kappa {change:+.3f} on held-out queries)"
    raise DataError(
        f"{file} is not applied: its grades agree with people less than the judge's own grades{by}. Use the "
        f"labels without calibration, calibrate on human grades of more than {report.get('queries', 'these')} queries, "
        "or apply it nevertheless with --apply-anyway"
    )


def apply_calibration(
    calibration: Calibration, by_id: Mapping[str, Rater], data: Path | None = None
) -> tuple[list[Judgement], Judge]:
    """Make a calibrated judgement of every pair that the calibration's judges judged, sorted by pair; and its judge.

    `by_id`: judge id in the calibration -> judge of the labels, as returned by `match`.

    A judgement has a grade, the expected grade as score, and the probabilities of grades 0 to 3. If the only judge is a
    reranker, its raw score is preserved instead of the expected grade. If all judges failed, the calibrated judgement
    is a failure.
    """
    used = [by_id[feature.name] for feature in calibration.features if feature.kind == "judge"]
    pairs = sorted({pair for rater in used for pair in rater.judgements})
    scores = both_views(matrix(calibration.features, pairs, by_id, data=data), [query_id for query_id, _ in pairs])
    above = predict(calibration, scores)
    digest = hashlib.sha256(calibration.model_dump_json(exclude=MEASURED).encode()).hexdigest()
    raw = len(used) == 1 and used[0].score_only
    retrievers = [feature.kind for feature in calibration.features if feature.kind != "judge"]
    judge = Judge(
        judge_id=f"calibrated-{digest[:16]}",
        kind="llm",
        name=" + ".join([rater.name for rater in used] + retrievers),
        revision=f"sha256:{digest}",
        family=", ".join(sorted({rater.family for rater in used if rater.family})) or None,
        method=CALIBRATED_RERANK if raw else CALIBRATED,
        label_grades=tuple(range(GRADES)),
    )
    judgements = []
    rows = zip(pairs, grades_of(calibration, above), above.sum(1), by_grade(above), strict=True)
    for (query_id, passage_id), grade, expected, probs in rows:
        found: dict[str, Any] = {"grade": int(grade), "score": float(expected), "probs": tuple(map(float, probs))}
        if not answered(used, (query_id, passage_id)):
            found = {"failure": "no judge gave a grade"}
        elif raw:
            found["score"] = used[0].judgements[query_id, passage_id].score
        judgements.append(Judgement(query_id=query_id, passage_id=passage_id, judge_id=judge.judge_id, **found))
    return judgements, judge


def recalibrate(
    labels: Sequence[Path], output: Path | str, options: CalibrateOptions, *, command: str = "labelkit.recalibrate"
) -> int:
    """Apply a calibration to labels folders and write the calibrated judgements as a labels folder.

    Args:
        labels: labels folders of the judges to which the calibration was fitted.
        output: labels folder to write; its one judge joins all judges and retrievers of the calibration.
        options: the calibration to apply, and the texts if retrieval scores are features.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The number of judgements.

    Raises:
        UsageError: no calibration is given, or it was fitted to other judges.
    """
    if options.apply is None:
        raise UsageError("no calibration is given: give --apply FILE")
    refuse_own_input(Path(output), labels)
    with folders.writing(Path(output), KIND, command) as draft:
        calibration, raters = read_calibration(options.apply), raters_of(labels, [])
        if not options.apply_anyway:
            refuse_worse(calibration, options.apply)
        found = match(calibration, raters, options.renamed)
        refuse_unknown(calibration, raters, found)
        judgements, judge = apply_calibration(calibration, found, options.data)
        draft.write_table("judgements", records_to_table(judgements, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([judge], JUDGE_SCHEMA))
        read = [options.apply, *(folder / folders.MANIFEST for folder in labels)]
        draft.inputs = {str(path): folders.file_sha256(path) for path in read}
    return len(judgements)
