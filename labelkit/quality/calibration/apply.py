"""Applies a calibration: writes a labels folder of one calibrated judge, which joins all its judges and retrievers."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement_metrics import GRADES, Floats
from labelkit.quality.calibration.features import Scored, both_views, matrix
from labelkit.quality.calibration.judges import match, refuse_unknown
from labelkit.quality.calibration.models import Calibration, by_grade, grades_of, predict, read_calibration
from labelkit.quality.options import CalibrateOptions
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.raters import Rater, answered, pairs_of
from labelkit.records import CALIBRATED, CALIBRATED_RERANK, JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge
from labelkit.storage import folders, tables
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import KIND
from labelkit.storage.outputs import refuse_own_input

BLOCK = 262_144
"""Number of pairs whose judgements are in memory at a time."""
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


class Calibrated(NamedTuple):
    """A calibrated judge, and its judgements sorted by pair in batches with the columns of `JUDGEMENT_SCHEMA`."""

    judge: Judge
    judgements: Iterator[pa.RecordBatch]


def apply_calibration(
    calibration: Calibration, by_id: Mapping[str, Rater], db: DuckDBPyConnection, data: Path | None = None
) -> Calibrated:
    """Make a calibrated judgement of every pair that the calibration's judges judged.

    `by_id`: judge id in the calibration -> judge of the labels, as returned by `match`, read in the session `db`.

    A judgement has a grade, the expected grade as score, and the probabilities of grades 0 to 3. If the only judge is a
    reranker, its raw score is preserved instead of the expected grade. If all judges failed, the calibrated judgement
    is a failure.
    """
    used = [by_id[feature.name] for feature in calibration.features if feature.kind == "judge"]
    digest = hashlib.sha256(calibration.model_dump_json(exclude=MEASURED).encode()).hexdigest()
    raw = used[0] if len(used) == 1 and used[0].score_only else None
    retrievers = [feature.kind for feature in calibration.features if feature.kind != "judge"]
    judge = Judge(
        judge_id=f"calibrated-{digest[:16]}",
        kind="llm",
        name=" + ".join([rater.name for rater in used] + retrievers),
        revision=f"sha256:{digest}",
        family=", ".join(sorted({rater.family for rater in used if rater.family})) or None,
        method=CALIBRATED if raw is None else CALIBRATED_RERANK,
        label_grades=tuple(range(GRADES)),
    )
    pairs, pair = used[0].pairs, pairs_of(used)
    scores = both_views(matrix(calibration.features, Scored(db, pairs, pair, data=data), by_id), pairs.query[pair])
    own = None if raw is None else raw.score[raw.rows(pair)]
    failed = ~answered(used)[pair]

    def judgements() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(pair), BLOCK):
            part = slice(start, start + BLOCK)
            above = predict(calibration, scores[:, part])
            found = {"grade": grades_of(calibration, above), "score": above.sum(1) if own is None else own[part]}
            ids = {"query_id": pairs.query_ids_of(pair[part]), "passage_id": pairs.passage_ids_of(pair[part])}
            yield batch_of(judge, ids, found, probs=by_grade(above), failed=failed[part])

    return Calibrated(judge, judgements())


def batch_of(
    judge: Judge, ids: Mapping[str, pa.Array], found: Mapping[str, Any], *, probs: Floats, failed: NDArray[np.bool_]
) -> pa.RecordBatch:
    """Make the judgements of some pairs from their ids, the columns `found`, and `[n, 4]` probabilities of grades."""
    size = len(failed)
    offsets = pa.array(np.arange(0, probs.size + 1, GRADES), pa.int32())
    columns = {
        **ids,
        "judge_id": pa.repeat(judge.judge_id, size),
        **{name: pa.array(values, mask=failed) for name, values in found.items()},
        "probs": pa.ListArray.from_arrays(offsets, probs.ravel(), mask=pa.array(failed)),
        "failure": pc.if_else(pa.array(failed), "no judge gave a grade", pa.scalar(None, pa.string())),
    }
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(size, field.type)
        for field in JUDGEMENT_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=JUDGEMENT_SCHEMA)


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
    with folders.writing(Path(output), KIND, command) as draft, tables.temporary() as db:
        calibration, raters = read_calibration(options.apply), raters_of(db, labels)
        if not options.apply_anyway:
            refuse_worse(calibration, options.apply)
        found = match(calibration, raters, options.renamed)
        refuse_unknown(calibration, raters, found)
        made = apply_calibration(calibration, found, db, data=options.data)
        draft.write_batches("judgements", JUDGEMENT_SCHEMA, made.judgements)
        draft.write_table("judges", records_to_table([made.judge], JUDGE_SCHEMA))
        read = [options.apply, *(folder / folders.MANIFEST for folder in labels)]
        draft.inputs = {str(path): folders.file_sha256(path) for path in read}
    return draft.rows["judgements"]
