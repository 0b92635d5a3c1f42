"""Fits a calibration to human grades and writes its file: `labelkit calibrate`."""

from collections.abc import Sequence
from pathlib import Path

from labelkit.quality.calibration.fit import fit_calibration
from labelkit.quality.calibration.models import Calibration, write_calibration
from labelkit.quality.options import CalibrateOptions
from labelkit.storage.outputs import refuse_other_file


def calibrate(
    labels: Sequence[Path], output: Path | str, options: CalibrateOptions, *, command: str = "labelkit.calibrate"
) -> Calibration:
    """Fit the scores of judges to human grades, and write the calibration as JSON.

    Args:
        labels: labels folders; the score of every judge in them is a feature.
        output: JSON file to write.
        options: human grades, retrievers whose scores are features, and the threshold of the estimates.
        command: the command that the file records as its origin.

    Returns:
        The calibration. Its `report` has figures on held-out queries for the judges and for the calibration, with 95%
        confidence intervals.

    Raises:
        UsageError: no human grades are given.
        DataError: there are too few labelled pairs.
        ArtifactError: `output` is a file that this command did not write.
    """
    refuse_other_file(Path(output), b'{\n  "features":', "calibration")
    fitted = fit_calibration(labels, options, command=command)
    write_calibration(fitted, Path(output))
    return fitted
