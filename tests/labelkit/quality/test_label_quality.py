"""Precision, recall and prevalence of labels: the truth where all pairs are labelled, and covered where some are."""

import json
from pathlib import Path

import numpy as np
import pytest

from labelkit.corpora.qrels import read_qrels
from labelkit.quality.calibration.label_quality import Judged, in_words, label_quality
from labelkit.statistics.intervals import Estimate
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


def measured(pairs, taken, said, *, blind, relevant, rows, weights=None):
    """The estimates from the labels of some rows."""
    query = np.unique([query_id for query_id, _ in pairs], return_inverse=True)[1]
    known = np.full(len(pairs), np.nan)
    known[rows] = relevant[rows]
    weights = np.ones(len(pairs)) if weights is None else weights
    return label_quality(Judged(query, taken, said, blind=blind, relevant=known, weight=weights))


def test_precision_and_recall_cover_the_truth():
    inside = {"precision": 0, "recall": 0, "prevalence": 0}
    for seed in range(25):
        pairs, relevant, said, rows = population(seed)
        taken = said >= 0.6
        found = measured(pairs, taken, said, blind=taken, relevant=relevant, rows=rows)
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
    found = measured(pairs, taken, said, blind=taken, relevant=relevant, rows=range(4000))
    assert found["precision"].value == pytest.approx(relevant[taken].mean(), abs=1e-12)
    assert found["recall"].value == pytest.approx(taken[relevant].mean(), abs=1e-12)
    assert found["prevalence"].value == pytest.approx(relevant.mean(), abs=1e-12)
    assert (found["judged"], found["labelled"], found["positives"]) == (4000, 4000, taken.sum())


def said_of(found):
    return in_words(
        {name: one._asdict() if isinstance(one, Estimate) else one for name, one in found.items()} | {"line": 0.6}
    )


def test_there_is_no_interval_where_nothing_is_estimated():
    pairs, relevant, said, _ = population(0)
    taken = said >= 0.6
    found = measured(pairs, taken, said, blind=taken, relevant=relevant, rows=range(4000))
    for name in ("precision", "recall"):
        assert (found[name].low, found[name].high) == (None, None)
    words = in_words(
        {name: one._asdict() if isinstance(one, Estimate) else one for name, one in found.items()} | {"line": 0.6}
    )
    assert words.endswith("exact, because every judged pair has a human label")


def test_there_is_no_interval_where_too_few_labelled_queries_have_a_positive():
    pairs, relevant, said, rows = population(1)
    for queries, known in ((2, False), (3, True), (30, True)):
        some = {pairs[row][0] for row in rows[:: len(rows) // queries][:queries]}
        labelled = {pairs[row] for row in rows}
        blind = said >= 0.5
        taken = np.array(
            [pair[0] in some or (pair not in labelled and seen) for pair, seen in zip(pairs, blind, strict=True)]
        )
        for one, other in ((taken, blind), (blind, taken)):
            found = measured(pairs, one, said, blind=other, relevant=relevant, rows=rows)
            assert (found["precision"].low is not None) == known
            assert known or found["recall"].low is None
        if not known:
            assert "no interval, because fewer than 3 labelled queries" in said_of(found)


def test_a_fit_that_took_what_people_called_relevant_is_not_believed():
    """Labels that chose the pairs: the product's estimate is too good, and its interval reaches down to the truth."""
    covers = {"blind": 0, "seeing": 0}
    for seed in range(25):
        pairs, relevant, _, rows = population(seed)
        said = np.full(4000, relevant[rows].mean())
        blind = np.random.default_rng(seed).random(4000) > 0.9
        taken = blind & (relevant | ~np.isin(np.arange(4000), rows))
        truth = relevant[taken].mean()
        for name, other in (("blind", blind), ("seeing", taken)):
            found = measured(pairs, taken, said, blind=other, relevant=relevant, rows=rows)
            covers[name] += found["precision"].low <= truth <= found["precision"].high
    assert covers["blind"] >= 23 > 5 >= covers["seeing"], covers


def test_a_stratified_draw_is_corrected_by_its_chances():
    """Four of five labels come from the confident half; weighted, the prevalence is right all the same."""
    values = []
    for seed in range(10):
        pairs, relevant, said, _ = population(seed)
        draw = np.random.default_rng(seed)
        chance = np.where(said > np.median(said), 0.4, 0.1)
        rows = np.flatnonzero(draw.random(4000) < chance)
        weights = np.full(4000, np.nan)
        weights[rows] = 1 / chance[rows]
        taken = said >= 0.6
        found = measured(pairs, taken, said, blind=taken, relevant=relevant, rows=range(4000), weights=weights)
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
