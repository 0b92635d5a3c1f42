"""Precision, recall and prevalence of labels: the truth where all pairs are labelled, and covered where some are."""

import json
from pathlib import Path

import numpy as np
import pytest

from labelkit.corpora.qrels import read_qrels
from labelkit.quality.calibration.label_quality import label_quality
from labelkit.storage.labels import read_labels

VALIDATION = Path(__file__).parents[3] / ".." / "shared" / "data" / "llmjudge-val"


def population(seed: int):
    """400 queries of ten pairs: a probability that is right on average in no place, and one label in eight."""
    draw = np.random.default_rng(seed)
    pairs = [(f"q{n // 10:03}", f"p{n}") for n in range(4000)]
    true = draw.beta(0.8, 2, 4000)
    relevant = draw.random(4000) < true
    said = np.clip(true**0.5, 0, 1)
    rows = np.sort(draw.choice(4000, 500, replace=False))
    return pairs, relevant, said, rows


def labels_of(pairs, relevant, rows):
    return {pairs[row]: bool(relevant[row]) for row in rows}


def test_precision_and_recall_cover_the_truth():
    inside = {"precision": 0, "recall": 0, "prevalence": 0}
    for seed in range(25):
        pairs, relevant, said, rows = population(seed)
        taken = said >= 0.6
        found = label_quality(pairs, taken, said, relevant=labels_of(pairs, relevant, rows))
        truth = {
            "precision": relevant[taken].mean(),
            "recall": taken[relevant].mean(),
            "prevalence": relevant.mean(),
        }
        for name, value in truth.items():
            inside[name] += found[name].low <= value <= found[name].high
        # The mean of the probabilities themselves is far off.
        assert said[taken].mean() - truth["precision"] > 0.1
    assert all(count >= 21 for count in inside.values()), inside


def test_with_every_pair_labelled_the_estimate_is_the_truth():
    pairs, relevant, said, _ = population(0)
    taken = said >= 0.6
    found = label_quality(pairs, taken, said, relevant=labels_of(pairs, relevant, range(4000)))
    assert found["precision"].value == pytest.approx(relevant[taken].mean(), abs=1e-12)
    assert found["recall"].value == pytest.approx(taken[relevant].mean(), abs=1e-12)
    assert found["prevalence"].value == pytest.approx(relevant.mean(), abs=1e-12)
    assert (found["judged"], found["labelled"], found["positives"]) == (4000, 4000, taken.sum())


def test_a_stratified_draw_is_corrected_by_its_chances():
    """Four of five labels come from the confident half; weighted, the prevalence is right all the same."""
    values = []
    for seed in range(10):
        pairs, relevant, said, _ = population(seed)
        draw = np.random.default_rng(seed)
        chance = np.where(said > np.median(said), 0.4, 0.1)
        rows = np.flatnonzero(draw.random(4000) < chance)
        weights = {pairs[row]: 1 / chance[row] for row in rows}
        found = label_quality(
            pairs, said >= 0.6, said, relevant=labels_of(pairs, relevant, range(4000)), weights=weights
        )
        values.append(found["prevalence"].value - relevant.mean())
    assert abs(np.mean(values)) < 0.01


def counted(labels: Path, human: Path, line: float) -> tuple[int, float, float]:
    """Number, precision and recall of the pairs of a calibrated labels folder that reach the threshold."""
    grades = {(query, pid): grade for query, graded in read_qrels(human).items() for pid, grade in graded.items()}
    rows = read_labels(labels)[0]
    taken = {(row.query_id, row.passage_id) for row in rows if row.probs and sum(row.probs[2:]) >= line}
    relevant = {(row.query_id, row.passage_id) for row in rows if grades[row.query_id, row.passage_id] >= 2}
    return len(taken), len(taken & relevant) / len(taken), len(taken & relevant) / len(relevant)


@pytest.mark.skipif(not VALIDATION.is_dir(), reason="needs ../shared/data/llmjudge-val beside the repository")
@pytest.mark.parametrize(("judge", "line"), [("gpt-4o", 0.5), ("llama-3-70b", 0.3)])
def test_calibrate_prints_the_truth_of_real_labels(labelkit, tmp_path, judge, line):
    human, labels, file = VALIDATION / "qrels" / "test.tsv", tmp_path / "labels", tmp_path / "calibration.json"
    labelkit("import", VALIDATION / f"llm.{judge}.tsv", "-o", labels, "--judge", judge, "--kind", "llm")
    called = labelkit("calibrate", labels, "--human", human, "--line", line, "-o", file, "--json")
    assert called.code == 0, called.err
    assert labelkit("calibrate", labels, "--apply", file, "-o", tmp_path / "new", "--apply-anyway").code == 0
    said = json.loads(called.out)["report"]["estimate"]
    number, precision, recall = counted(tmp_path / "new", human, line)
    assert (said["positives"], said["labelled"]) == (number, 1731)
    assert said["precision"]["value"] == pytest.approx(precision, abs=1e-12)
    assert said["recall"]["value"] == pytest.approx(recall, abs=1e-12)
