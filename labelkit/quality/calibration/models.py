"""Scores of a pair -> probabilities of its grades: three models, fitted on human grades, and the file they live in.

Each model gives `[n, 3]` probabilities that the grade is at least 1, 2 and 3. Scores are standardised first; a missing
one counts as the mean.
"""

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, ValidationError, field_validator

from labelkit.errors import DataError
from labelkit.quality.agreement_metrics import GRADES, RELEVANT, STEPS, Floats, Ints, kappa
from labelkit.quality.calibration.features import Feature
from labelkit.records import Record
from labelkit.storage.atomic import write_text

CUTS = range(1, GRADES)
"""A probability is that of a grade at or above each of these."""
LINES = 40
"""Places that are tried for a line between two grades, by quantile."""
ROUNDS = 3
PENALTY = 1.0
"""Weight of the squared coefficients, as scikit-learn's C = 1."""


class Calibration(Record):
    """A fitted model, as its JSON file keeps it."""

    features: tuple[Feature, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    model: str
    """Name in `MODELS`."""
    parameters: dict[str, Any]
    relative: bool
    """Scores are taken against the mean of their query."""
    grade_lines: tuple[float, ...]
    """Expected grades above which a pair gets grade 1, 2 and 3: those that give the greatest kappa with people."""
    report: dict[str, Any] = Field(default_factory=dict)
    """What was measured on held-out queries, by whom, on what."""

    @field_validator("parameters")
    @classmethod
    def _finite(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        json.dumps(parameters, allow_nan=False)
        return parameters


class CalibrationModel(NamedTuple):
    """How a model is fitted and used."""

    fit: Callable[[Floats, Ints], dict[str, Any]]
    """(standardised scores `[n, F]`, grades `[n]`) -> parameters that JSON can hold."""
    predict: Callable[[dict[str, Any], Floats], Floats]
    """(parameters, scores `[n, F]`) -> `[n, 3]`."""


def fit_platt(scores: Floats, grades: Ints) -> dict[str, Any]:
    """A logistic regression for each cut (Platt 1999, for several scores)."""
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
    # A higher grade is never likelier than a lower one.
    return np.minimum.accumulate(sigmoid(logits), axis=1)


def fit_ordinal(scores: Floats, grades: Ints) -> dict[str, Any]:
    """Proportional odds: one direction, three ordered thresholds (McCullagh 1980).

    One pseudo-observation of each grade at the mean keeps the thresholds finite where a grade is missing.
    """
    from scipy.optimize import minimize

    features = scores.shape[1]
    shown = np.vstack([scores, np.zeros((GRADES, features))])
    given = np.concatenate([grades, np.arange(GRADES)])
    weight = np.concatenate([np.ones(len(grades)), np.full(GRADES, 1 / GRADES)])

    def loss(point: Floats) -> float:
        slopes, lines = point[:features], thresholds(point[features:])
        probs = by_grade(sigmoid((shown @ slopes)[:, None] - lines))
        taken = np.maximum(probs[np.arange(len(given)), given], 1e-12)
        return float(-(weight * np.log(taken)).sum() + PENALTY * (slopes @ slopes) / 2)

    start = np.concatenate([np.zeros(features), [0.0], np.zeros(GRADES - 2)])
    best = minimize(loss, start, method="L-BFGS-B").x
    return {"slopes": best[:features].tolist(), "thresholds": thresholds(best[features:]).tolist()}


def thresholds(point: Floats) -> Floats:
    """Ordered thresholds: the first, and the logarithms of the steps behind it."""
    return np.cumsum(np.concatenate([point[:1], np.exp(np.clip(point[1:], -10, 10))]))


def predict_ordinal(parameters: dict[str, Any], scores: Floats) -> Floats:
    return sigmoid((scores @ np.array(parameters["slopes"]))[:, None] - np.array(parameters["thresholds"]))


def fit_isotonic(scores: Floats, grades: Ints) -> dict[str, Any]:
    """A rising step function for each cut over the direction of the ordinal model (Zadrozny and Elkan 2002).

    Probabilities stay within 1 / (n + 2) of 0 and 1: n labels cannot say more.
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
    """`[n, 3]` probabilities of at least each grade -> `[n, 4]` of each grade."""
    ends = np.ones((len(above), 1))
    return -np.diff(np.hstack([ends, above, 0 * ends]), axis=1)


def fit(features: tuple[Feature, ...], scores: Floats, grades: Ints, model: str, *, relative: bool) -> Calibration:
    """Fit one model on both views of the scores, `[2, n, F]`, and human grades; without the lines between grades."""
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
        grade_lines=(0.5, 1.5, 2.5),
    )


def with_lines(calibration: Calibration, scores: Floats, grades: Ints) -> Calibration:
    """The calibration with the lines between grades that agree best with people: a line at a time, three rounds."""
    expected = predict(calibration, scores).sum(1)
    choices = np.unique(np.quantile(expected, np.linspace(0, 1, LINES + 2)[1:-1]))
    lines = [float(np.quantile(expected, np.mean(grades < cut))) for cut in CUTS]

    def agreement(some: list[float]) -> float:
        cells = grades * GRADES + graded(expected, some)
        confusion = np.bincount(cells, minlength=GRADES**2).reshape(GRADES, GRADES).astype(float)
        found = kappa(confusion, (STEPS > 0).astype(float))
        return found if np.isfinite(found) else -1.0

    best = agreement(lines)
    for _ in range(ROUNDS):
        for place, choice in product(range(len(lines)), choices):
            moved = [*lines[:place], float(choice), *lines[place + 1 :]]
            if (value := agreement(moved)) > best:
                best, lines = value, moved
    return calibration.model_copy(update={"grade_lines": tuple(sorted(lines))})


def graded(expected: Floats, lines: Sequence[float]) -> Ints:
    """`[n]` grades: how many lines each expected grade is above."""
    grades: Ints = (expected[:, None] > np.array(lines)).sum(1)
    return grades


def standardised(scores: Floats, means: Floats, scales: Floats) -> Floats:
    return np.nan_to_num((scores - means) / scales)


def predict(calibration: Calibration, scores: Floats) -> Floats:
    """`[n, 3]` probabilities of at least grade 1, 2, 3 from both views of raw scores, `[2, n, F]`."""
    view = scores[int(calibration.relative)]
    ready = standardised(view, np.array(calibration.means), np.array(calibration.scales))
    return MODELS[calibration.model].predict(calibration.parameters, ready)


def grades_of(calibration: Calibration, above: Floats) -> Ints:
    """`[n]` grades from `[n, 3]` probabilities."""
    return graded(above.sum(1), calibration.grade_lines)


def relevance(above: Floats) -> Floats:
    """`[n]` probability of a relevant pair."""
    return above[:, RELEVANT - 1]


def write_calibration(calibration: Calibration, path: Path) -> None:
    write_text(path, calibration.model_dump_json(indent=2) + "\n")


def read_calibration(path: Path) -> Calibration:
    """Raises `DataError` where the file is missing or no calibration."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; labelkit calibrate writes it")
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is no calibration of ours ({error.errors()[0]['msg']})") from None
