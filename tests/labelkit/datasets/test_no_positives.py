"""A dataset without positives says why, with the option that would change it; the option then does."""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from labelkit.datasets.mix import mix
from labelkit.datasets.options import MixOptions
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.storage.dataset import records_to_table
from labelkit.storage.folders import writing

JUDGE = Judge(judge_id="it's-a", kind="llm", name="it's a", label_grades=(0, 2))


def write_labels(
    folder: Path,
    probabilities: Sequence[float | None],
    grades: Sequence[int | None],
    queries: Sequence[str] = ("q1",) * 5,
) -> Path:
    rows = [
        Judgement(
            query_id=queries[number - 1],
            passage_id=f"p{number}",
            judge_id=JUDGE.judge_id,
            grade=grade,
            probs=None if probability is None else (1 - probability, probability),
            failure="no label" if grade is None else None,
        )
        for number, (probability, grade) in enumerate(zip(probabilities, grades, strict=True), start=1)
    ]
    with writing(folder, "labels", "test") as draft:
        draft.write_table("judgements", records_to_table(rows, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([JUDGE], JUDGE_SCHEMA))
    return folder


@pytest.mark.parametrize(
    ("probabilities", "grades", "words"),
    [
        (
            (0.3, 0.4, 0.5, 0.6, 0.65),
            (0, 0, 2, 2, 2),
            "P(grade >= 2) of 5 judgments: lowest 0.30, quartiles 0.40, 0.50 and 0.60, highest 0.65; --llm-positive is "
            "0.7; --llm-positive 0.6 would make 2 pairs positive",
        ),
        (
            (0.1, 0.2, 0.3, 0.4, 0.45),
            (0, 0, 0, 0, 0),
            "--llm-positive is 0.7 and cannot be below 0.5: calibrate the judge (labelkit calibrate), or use --by",
        ),
        ((None,) * 5, (0, 1, 1, 0, 0), "3 of grade 0, 2 of grade 1; --llm-positive-grade is 2; --llm-positive-grade 1"),
        ((None,) * 5, (0,) * 5, "5 of grade 0; no passage has a higher grade: pool other passages"),
        ((None,) * 5, (None,) * 5, "none of its 5 judgments has a grade"),
    ],
)
def test_the_option_that_makes_positives_is_named(
    beir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    probabilities: Sequence[float | None],
    grades: Sequence[int | None],
    words: str,
) -> None:
    # A command that ran in this process before has its screen on the logger.
    monkeypatch.setattr(logging.getLogger("labelkit"), "handlers", [caplog.handler])
    options = MixOptions(data=beir, llm=(write_labels(tmp_path / "labels", probabilities, grades),))
    assert mix(tmp_path / "dataset", options)["positives"] == 0
    assert "no pair became a positive" in caplog.text
    assert re.search(rf"  it's a: .*{re.escape(words)}", caplog.text)
    if found := re.search(r"--(llm-positive\S*) ([\d.]+) would make (\d+) pairs positive", caplog.text):
        name, value, count = found.groups()
        changed = options.but(**{name.replace("-", "_"): float(value), "llm_negative_grade": 0})
        assert mix(tmp_path / "dataset", changed)["positives"] == int(count)


def test_a_dataset_with_few_positives_is_explained(
    beir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("labelkit"), "handlers", [caplog.handler])
    labels = write_labels(tmp_path / "labels", (0.75, 0.5, 0.4, 0.45), (2, 2, 0, 0), queries=("q1", "q2", "q2", "q2"))
    totals = mix(tmp_path / "dataset", MixOptions(data=beir, llm=(labels,)))
    assert (totals["positives"], totals["negatives"], totals["queries_without_positives"]) == (1, 0, 1)
    assert "1 of 2 queries have no positive" in caplog.text
    wanted = "--llm-positive 0.56 would make 1 pairs positive; --llm-negative is 0.3; --llm-negative 0.44 would make 1"
    assert wanted in caplog.text
    caplog.clear()
    sure = write_labels(tmp_path / "sure", (0.55, 0.6, 0.65), (2, 2, 2))
    mix(tmp_path / "dataset", MixOptions(data=beir, llm=(sure,)))
    assert "--llm-negative 0.5 would make 0 pairs negative" in caplog.text
    caplog.clear()
    mix(tmp_path / "dataset", MixOptions(data=beir, llm=(labels,), llm_positive=0.5))
    assert "no positive" not in caplog.text


def test_a_policy_that_leaves_no_positive_is_named(
    beir: Path,
    write_qrels: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("labelkit"), "handlers", [caplog.handler])
    labels = write_labels(tmp_path / "labels", (0.9, 0.8), (2, 2))
    human = write_qrels(tmp_path / "human.tsv", {"q2": {"p3": 3}})
    mix(tmp_path / "dataset", MixOptions(data=beir, human=human, llm=(labels,), policy="agreement"))
    assert "2 of its 2 judgments reach the threshold, but --policy agreement or --drop leaves none" in caplog.text
