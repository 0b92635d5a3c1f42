"""No command reads a number that is not finite for a score, a probability or a weight."""

import math

import numpy as np
import pyarrow as pa
import pytest

from labelkit.errors import DataError
from labelkit.quality.calibration.features import Feature
from labelkit.quality.calibration.models import fit, read_calibration, write_calibration
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge
from labelkit.storage import folders
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import KIND


def write_labels(folder, **numbers):
    """A labels folder of two judgements, as another program or a damaged one could have written it."""
    judge = Judge(judge_id="graded-m", kind="llm", name="m", label_grades=(0, 1, 2, 3))
    good = {"judge_id": "graded-m", "grade": 2, "score": 2.0, "probs": [0.0, 0.0, 1.0, 0.0]}
    rows = [good | {"query_id": "q1", "passage_id": pid} for pid in ("p1", "p5")]
    rows[1] |= numbers
    with folders.writing(folder, KIND, "test") as draft:
        draft.write_table("judgements", pa.Table.from_pylist(rows, schema=JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([judge], JUDGE_SCHEMA))
    return folder


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"score": math.nan}, "score = nan"),
        ({"score": math.inf}, "score = inf"),
        ({"probs": [0.0, math.nan, 1.0, 0.0]}, "probs.1 = nan"),
        ({"cost": -math.inf}, "cost = -inf"),
    ],
)
def test_labels_with_a_number_that_is_not_finite_are_refused(labelkit, beir, tmp_path, numbers, words):
    labels, human = write_labels(tmp_path / "labels", **numbers), beir / "qrels" / "test.tsv"
    for command in (
        ("agree", labels, "--human", human),
        ("bias", labels, "--human", human, "--data", beir),
        ("calibrate", labels, "--human", human, "-o", tmp_path / "made.json"),
        ("select", labels, "--human", human, "-o", tmp_path / "made"),
        ("report", labels, "--human", human, "-o", tmp_path / "made.html"),
    ):
        called = labelkit(*command)
        assert called.code in (1, 2)
        assert "Traceback" not in called.err
        if called.code == 1:
            assert "judgements.parquet, row 2" in called.err
            assert words in called.err
    assert not list(tmp_path.glob("made*"))


@pytest.mark.parametrize("numbers", [{"score": math.nan}, {"probs": [0.0, math.nan, 1.0, 0.0]}, {"probs": [2.0]}])
def test_mix_refuses_them_with_the_pair(labelkit, beir, tmp_path, numbers):
    labels = write_labels(tmp_path / "labels", **numbers)
    called = labelkit("mix", "--data", beir, "--llm", labels, "-o", tmp_path / "made")
    assert called.code == 1
    assert "gave the pair 'q1', 'p5' the score" in called.err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("option", ["--llm-positive", "--llm-negative", "--human-fraction"])
def test_a_line_that_is_no_number_is_refused(labelkit, beir, tmp_path, option):
    labels = write_labels(tmp_path / "labels")
    called = labelkit("mix", "--data", beir, "--llm", labels, "-o", tmp_path / "made", option, "nan")
    assert called.code == 2
    assert f"{option} nan: expected a number" in called.err


@pytest.mark.parametrize("field", ["means", "scales", "weights", "intercepts", "grade_lines"])
def test_a_calibration_with_such_a_number_is_refused(tmp_path, field):
    numbers = np.random.default_rng(0)
    scores = numbers.normal(size=(2, 40, 1))
    grades = numbers.integers(0, 4, 40)
    made = fit((Feature("judge", "m"),), scores, grades, "platt", relative=False)
    path = tmp_path / "calibration.json"
    write_calibration(made, path)
    assert read_calibration(path) == made
    before, name, after = path.read_text().partition(f'"{field}": [')
    digits = after.index(next(char for char in after if char in "-0123456789"))
    end = next(place for place in range(digits, len(after)) if after[place] in ",\n]")
    path.write_text(f"{before}{name}{after[:digits]}NaN{after[end:]}")
    with pytest.raises(DataError, match="is not a file of labelkit calibrate"):
        read_calibration(path)
