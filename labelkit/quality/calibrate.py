"""Human grades -> a calibration file: `labelkit calibrate`."""

from collections.abc import Sequence
from pathlib import Path

from labelkit.quality.calibration.fit import fit_calibration
from labelkit.quality.calibration.models import Calibration, write_calibration
from labelkit.quality.options import CalibrateOptions
from labelkit.quality.selection import chances


def calibrate(
    labels: Sequence[Path], output: Path | str, options: CalibrateOptions, *, command: str = "labelkit.calibrate"
) -> Calibration:
    """Fit the scores of judges to human grades and write the calibration as JSON.

    Args:
        labels: labels folders; every judge in them is a feature.
        output: the JSON file.
        options: human grades, retrievers that are features, and the threshold of the estimates.
        command: the words that the file names as its origin.

    Returns:
        The calibration. Its `report` has figures on held-out queries before and after, with 95% confidence intervals.

    Raises:
        UsageError: no human grades are given.
        DataError: the labelled pairs are too few.
    """
    weights = chances(options.selection) if options.selection else None
    fitted = fit_calibration(labels, options, weights=weights, command=command)
    write_calibration(fitted, Path(output))
    return fitted
