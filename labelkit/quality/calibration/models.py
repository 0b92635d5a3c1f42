"""The three models of a calibration, from scores of a pair to probabilities of its grades, and the calibration file.

Each model returns `[n, 3]` probabilities that the grade is at least 1, 2 and 3. Scores are standardised first; a
missing score is replaced by the mean.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, ValidationError, field_validator

from labelkit.errors import DataError
from labelkit.quality.agreement_metrics import GRADES, RELEVANT, Floats, Ints
from labelkit.quality.calibration.features import Feature
from labelkit.quality.calibration.thresholds import CUTS, MIDDLES, choose_thresholds, graded
from labelkit.records import Record
from labelkit.storage.atomic import write_text
from labelkit.storage.names import missing

STEEPEST = 10.0
"""Greatest absolute value of the logarithm of the distance between two thresholds of the ordinal model."""
BLOCK = 1_048_576
"""Number of pairs whose probabilities are in memory at a time."""
PENALTY = 1.0
"""Weight of the squared coefficients, as scikit-learn's C = 1."""


class KnownJudge(Record):
    """A judge whose scores a calibration reads."""

    judge_id: str
    name: str
    kind: str
    """llm or imported."""
    imported: bool
    """Whether its grades were imported; then another import with the same kind and name is the same judge."""


class Calibration(Record):
    """A fitted model, as stored in its JSON file."""

    features: tuple[Feature, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    model: str
    """Name in `MODELS`."""
    parameters: dict[str, Any]
    relative: bool
    """Whether the mean of the query is subtracted from scores."""
    grade_lines: tuple[float, ...]
    """Thresholds of the expected grade above which a pair gets grade 1, 2 and 3, for the greatest kappa with people."""
    judges: tuple[KnownJudge, ...] = ()
    """The judges among the features; empty in files of older versions."""
    worse_than_raw: bool = False
    """Whether its grades agreed with people less than the grades of its best judge, on held-out queries."""
    report: dict[str, Any] = Field(default_factory=dict)
    """Figures on held-out queries, with the command and the inputs that gave them."""

    @field_validator("parameters")
    @classmethod
    def _finite(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        json.dumps(parameters, allow_nan=False)
        return parameters


class CalibrationModel(NamedTuple):
    """The functions that fit and apply a model."""

    fit: Callable[[Floats, Ints], dict[str, Any]]
    """(standardised scores `[n, F]`, grades `[n]`) -> parameters that can be stored as JSON."""
    predict: Callable[[dict[str, Any], Floats], Floats]
    """(parameters, scores `[n, F]`) -> `[n, 3]`."""


def fit_platt(scores: Floats, grades: Ints) -> dict[str, Any]:
    """Fit a logistic regression for each cut (Platt 1999, for several scores)."""
    from sklearn.linear_model import LogisticRegression

    weights, intercepts = [], []
    for cut in CUTS:
        above = grades >= cut
        if above.all() or not above.any():
            weights.append([0.0] * scores.shape[1])
            intercepts.append(float(np.log((above.sum() + 1) / ((~above).sum() + 1))))
            continue
        fitted = LogisticRegression(C=1 / PENALTY).fit(scores, above)
        weights.append(fitted.coef_[0].tolist())
        intercepts.append(float(fitted.intercept_[0]))
    return {"weights": weights, "intercepts": intercepts}


def predict_platt(parameters: dict[str, Any], scores: Floats) -> Floats:
    logits = scores @ np.array(parameters["weights"]).T + np.array(parameters["intercepts"])
    # The probability of grade >= k must not increase with k.
    return np.minimum.accumulate(sigmoid(logits), axis=1)


def fit_ordinal(scores: Floats, grades: Ints) -> dict[str, Any]:
    """Fit a proportional odds model: one direction and three ordered thresholds (McCullagh 1980).

    Pseudo-observations of each grade at the mean, with total weight 1, keep the thresholds finite if a grade is
    missing.
    """
    from scipy.optimize import minimize

    features = scores.shape[1]
    shown = np.vstack([scores, np.zeros((GRADES, features))])
    given = np.concatenate([grades, np.arange(GRADES)])
    weight = np.concatenate([np.ones(len(grades)), np.full(GRADES, 1 / GRADES)])
    start = np.zeros(features + GRADES - 1)
    best = minimize(ordinal_loss, start, args=(shown, given, weight), jac=True, method="L-BFGS-B").x
    return {"slopes": best[:features].tolist(), "thresholds": thresholds(best[features:]).tolist()}


def ordinal_loss(point: Floats, scores: Floats, grades: Ints, weight: Floats) -> tuple[float, Floats]:
    """Compute the penalised negative log-likelihood of proportional odds at slopes and thresholds, and its gradient."""
    features = scores.shape[1]
    slopes, steps = point[:features], point[features:]
    # Column k is P(grade >= k), which is 1 in the first and 0 in the last column; the density is 0 in both.
    above = np.pad(sigmoid((scores @ slopes)[:, None] - thresholds(steps)), ((0, 0), (1, 1)))
    above[:, 0] = 1.0
    density = above * (1 - above)
    rows = np.arange(len(grades))
    probability = np.maximum(above[rows, grades] - above[rows, grades + 1], 1e-12)
    lower, upper = density[rows, grades], density[rows, grades + 1]
    pull = -weight / probability
    by_threshold = (
        np.bincount(grades, pull * -lower, GRADES) + np.bincount(grades + 1, pull * upper, GRADES + 1)[:GRADES]
    )
    # A step moves its own threshold and all higher ones.
    by_step = np.cumsum(by_threshold[:0:-1])[::-1] * np.concatenate([[1.0], step_sizes(steps)])
    by_step[1:] *= np.abs(steps[1:]) <= STEEPEST
    loss = -(weight * np.log(probability)).sum() + PENALTY * (slopes @ slopes) / 2
    return float(loss), np.concatenate([scores.T @ (pull * (lower - upper)) + PENALTY * slopes, by_step])


def thresholds(point: Floats) -> Floats:
    """Compute ordered thresholds from the first threshold and the logarithms of the steps after it."""
    return np.cumsum(np.concatenate([point[:1], step_sizes(point)]))


def step_sizes(point: Floats) -> Floats:
    sizes: Floats = np.exp(np.clip(point[1:], -STEEPEST, STEEPEST))
    return sizes


def predict_ordinal(parameters: dict[str, Any], scores: Floats) -> Floats:
    return sigmoid((scores @ np.array(parameters["slopes"]))[:, None] - np.array(parameters["thresholds"]))


def fit_isotonic(scores: Floats, grades: Ints) -> dict[str, Any]:
    """Fit an isotonic function for each cut over the direction of the ordinal model (Zadrozny and Elkan 2002).

    Probabilities stay between 1 / (n + 2) and 1 - 1 / (n + 2), since n labels do not support more extreme values.
    """
    from sklearn.isotonic import IsotonicRegression

    slopes = np.array(fit_ordinal(scores, grades)["slopes"])
    floor = 1 / (len(grades) + 2)
    curves = []
    for cut in CUTS:
        fitted = IsotonicRegression(y_min=floor, y_max=1 - floor).fit(scores @ slopes, grades >= cut)
        curves.append({"x": fitted.X_thresholds_.tolist(), "y": fitted.y_thresholds_.tolist()})
    return {"slopes": slopes.tolist(), "curves": curves}


def predict_isotonic(parameters: dict[str, Any], scores: Floats) -> Floats:
    place = scores @ np.array(parameters["slopes"])
    columns = [np.interp(place, curve["x"], curve["y"]) for curve in parameters["curves"]]
    return np.minimum.accumulate(np.stack(columns, axis=1), axis=1)


MODELS = {
    "platt": CalibrationModel(fit_platt, predict_platt),
    "ordinal": CalibrationModel(fit_ordinal, predict_ordinal),
    "isotonic": CalibrationModel(fit_isotonic, predict_isotonic),
}


def sigmoid(logits: Floats) -> Floats:
    from scipy.special import expit

    found: Floats = expit(logits)
    return found


def by_grade(above: Floats) -> Floats:
    """Convert `[n, 3]` probabilities of grade >= 1, 2 and 3 to `[n, 4]` probabilities of each grade."""
    ends = np.ones((len(above), 1))
    return -np.diff(np.hstack([ends, above, 0 * ends]), axis=1)


def fit(features: tuple[Feature, ...], scores: Floats, grades: Ints, model: str, *, relative: bool) -> Calibration:
    """Fit a model to one of both views of the scores, `[2, n, F]`, and human grades, without thresholds of grades."""
    view = scores[int(relative)]
    known = np.isfinite(view)
    counts = np.maximum(known.sum(0), 1)
    means = np.where(known, view, 0.0).sum(0) / counts
    scales = np.sqrt((np.where(known, view - means, 0.0) ** 2).sum(0) / counts)
    scales = np.where(scales > 0, scales, 1.0)
    return Calibration(
        features=features,
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        model=model,
        parameters=MODELS[model].fit(standardised(view, means, scales), grades),
        relative=relative,
        grade_lines=MIDDLES,
    )


def with_thresholds(calibration: Calibration, scores: Floats, grades: Ints) -> Calibration:
    """Add to a calibration the thresholds between grades that agree best with human grades, `[n]`."""
    expected = predict(calibration, scores).sum(1)
    return calibration.model_copy(update={"grade_lines": choose_thresholds(expected, grades)})


def standardised(scores: Floats, means: Floats, scales: Floats) -> Floats:
    return np.nan_to_num((scores - means) / scales)


def predict(calibration: Calibration, scores: Floats) -> Floats:
    """Compute `[n, 3]` probabilities of grade >= 1, 2 and 3 from both views of raw scores, `[2, n, F]`."""
    view = scores[int(calibration.relative)]
    ready = standardised(view, np.array(calibration.means), np.array(calibration.scales))
    return MODELS[calibration.model].predict(calibration.parameters, ready)


def grades_of(calibration: Calibration, above: Floats) -> Ints:
    """Compute `[n]` grades from `[n, 3]` probabilities of grade >= 1, 2 and 3."""
    return graded(above.sum(1), calibration.grade_lines)


def relevance(above: Floats) -> Floats:
    """Return `[n]` probabilities of relevance from `[n, 3]` probabilities of grade >= 1, 2 and 3."""
    return above[:, RELEVANT - 1]


def relevances(calibration: Calibration, scores: Floats) -> Floats:
    """Compute `[n]` probabilities of relevance from both views of raw scores, `[2, n, F]`, in blocks of pairs."""
    found = np.zeros(scores.shape[1])
    for start in range(0, len(found), BLOCK):
        part = slice(start, start + BLOCK)
        found[part] = relevance(predict(calibration, scores[:, part]))
    return found


def write_calibration(calibration: Calibration, path: Path) -> None:
    write_text(path, calibration.model_dump_json(indent=2) + "\n")


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file. Raises `DataError` if it is missing or invalid."""
    if not path.is_file():
        raise DataError(f"{missing(path)}; labelkit calibrate writes such a file")
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{path} is not a file of labelkit calibrate ({error.errors()[0]['msg']}); make it again"
        ) from None
