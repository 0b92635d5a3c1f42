"""Calibration on worlds whose probabilities are known, and its arithmetic against scikit-learn and hand values."""

import json
import math

import numpy as np
import pytest
from made_raters import judgements_in_memory
from present import present
from sklearn.metrics import brier_score_loss, log_loss

from labelkit.errors import DataError
from labelkit.quality.calibration.apply import apply_calibration
from labelkit.quality.calibration.features import Feature, both_views
from labelkit.quality.calibration.figures import (
    ALIKE,
    BETTER,
    WORSE,
    expected_calibration_error,
    reliability,
    skill,
    verdict,
)
from labelkit.quality.calibration.figures import log_loss as losses
from labelkit.quality.calibration.fit import LabelledPairs, best_fit, choices, fit_calibration, held_out, some_queries
from labelkit.quality.calibration.judges import match
from labelkit.quality.calibration.models import MODELS, by_grade, fit, ordinal_loss, predict, read_calibration
from labelkit.quality.options import CalibrateOptions
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.selection import Chosen, Quota, chances, choose, draw
from labelkit.statistics.intervals import Estimate
from labelkit.storage import tables
from labelkit.storage.labels import read_labels

pytestmark = pytest.mark.slow  # every test annotates and fits

FEATURES = (Feature("judge", "j"),)


def world(count: int, seed: int = 0):
    """Scores whose true P(grade >= cut) is a logistic function, and grades drawn from it."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(count, 1))
    true = 1 / (1 + np.exp(-(2 * scores - np.array([-1.0, 0.5, 1.5]))))
    grades = (draw.random((count, 1)) < true).sum(1)
    return both_views(scores, np.zeros(count, dtype=np.int64)), grades, true


@pytest.mark.parametrize("model", MODELS)
def test_every_model_finds_the_true_probabilities(model):
    scores, grades, true = world(6000)
    found = predict(fit(FEATURES, scores, grades, model, relative=False), scores)
    assert np.abs(found - true).mean() < 0.03
    assert (np.diff(found, axis=1) <= 1e-12).all()
    assert by_grade(found).sum(1) == pytest.approx(np.ones(6000))
    assert (by_grade(found) >= -1e-12).all()


@pytest.mark.parametrize("model", MODELS)
def test_grades_that_nobody_gave_are_possible_and_rare(model):
    scores, grades, _ = world(400)
    found = by_grade(predict(fit(FEATURES, scores, np.minimum(grades, 2), model, relative=False), scores))
    assert np.isfinite(found).all()
    assert 0 < found[:, 3].mean() < 0.02


def test_a_missing_score_counts_as_the_mean():
    scores, grades, _ = world(300)
    fitted = fit(FEATURES, scores, grades, "ordinal", relative=False)
    missing, mean = np.full((2, 1, 1), np.nan), np.full((2, 1, 1), scores[0].mean())
    assert predict(fitted, missing) == pytest.approx(predict(fitted, mean))


def test_scores_within_queries_have_mean_zero_and_keep_their_gaps():
    scores = np.array([[1.0], [3.0], [np.nan], [10.0], [20.0]])
    absolute, relative = both_views(scores, np.array([0, 0, 0, 1, 1]))
    assert np.array_equal(absolute, scores, equal_nan=True)
    assert np.array_equal(relative[:, 0], [-1, 1, np.nan, -5, 5], equal_nan=True)


def test_the_gradient_of_the_ordinal_loss_is_its_slope():
    scores, grades, _ = world(200)
    draw = np.random.default_rng(2)
    weight, point = draw.random(200), draw.normal(size=4)
    loss = lambda place: ordinal_loss(place, scores[0], grades, weight)  # noqa: E731
    steps = 1e-5 * np.eye(4)
    slopes = [(loss(point + step)[0] - loss(point - step)[0]) / 2e-5 for step in steps]
    assert loss(point)[1] == pytest.approx(slopes, rel=1e-4)


def several_queries(queries: int) -> LabelledPairs:
    """Twelve pairs of each query; the judge is right within queries, and moves all its scores of a query at random."""
    draw = np.random.default_rng(0)
    query = np.repeat(np.arange(queries), 12)
    grades = np.tile(np.arange(12) % 4, queries)
    scores = (grades + 8 * draw.normal(size=queries)[query] + draw.normal(size=len(query)) / 2)[:, None]
    return LabelledPairs(np.arange(len(query), dtype=np.int32), both_views(scores, query), grades, query)


@pytest.mark.parametrize(("queries", "relative"), [(19, False), (20, True)])
def test_a_model_is_chosen_only_with_enough_queries(queries, relative):
    fitted = best_fit(several_queries(queries), FEATURES, choices(queries))
    assert fitted.relative is relative
    assert relative or fitted.model == "ordinal"


def test_a_model_is_chosen_from_random_whole_queries_and_fitted_to_all(monkeypatch):
    known = several_queries(40)
    assert some_queries(known, len(known.pair)) is known
    some = some_queries(known, 150)
    assert np.unique(some.query, return_counts=True)[1].tolist() == [12] * 12
    assert some.queries < 13 < some.query.max()
    whole = best_fit(known, FEATURES, choices(40))
    monkeypatch.setattr("labelkit.quality.calibration.fit.CHOSEN_FROM", 150)
    assert best_fit(known, FEATURES, choices(40)) == whole


def test_a_fold_has_seen_neither_the_query_nor_its_share_of_relevant_pairs():
    known = several_queries(5)
    wrong = known._replace(grades=np.where(known.query == 2, 3 - known.grades, known.grades))
    found, other = (held_out(data, FEATURES, choices(5)) for data in (known, wrong))
    out = known.query == 2
    for before, after in ((found.above, other.above), (found.grades, other.grades), (found.base, other.base)):
        assert np.array_equal(before[out], after[out])
        assert not np.array_equal(before[~out], after[~out]) or before is found.grades or before is found.base
    assert found.base == pytest.approx(0.5)


def test_skill_is_measured_against_the_base_rate():
    """By hand: losses 0.1 and 0.3 where the base rate has 0.4 and 0.4, in two queries: 1 - 0.4 / 0.8."""
    assert skill(np.array([0, 1]), np.array([0.1, 0.3]), np.array([0.4, 0.4])).value == pytest.approx(0.5)
    assert skill(np.array([0, 1]), np.array([0.4, 0.4]), np.array([0.4, 0.4])).value == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Estimate(-0.01, -0.1, 0.1), WORSE),
        (Estimate(-0.01), WORSE),
        (Estimate(0.0, 0.0, 0.0), ALIKE),
        (Estimate(0.1, -0.1, 0.2), ALIKE),
        (Estimate(0.1), ALIKE),
        (Estimate(None), ALIKE),
        (Estimate(0.1, 0.05, 0.2), BETTER),
    ],
)
def test_the_verdict_follows_the_held_out_change(change, expected):
    assert verdict(change) == expected


def test_losses_are_those_of_scikit_learn():
    draw = np.random.default_rng(1)
    truth, said = draw.integers(0, 2, 200).astype(float), draw.random(200)
    assert losses(truth, said).mean() == pytest.approx(log_loss(truth, said))
    assert ((truth - said) ** 2).mean() == pytest.approx(brier_score_loss(truth, said))


def test_calibration_error_by_hand():
    """Ten pairs said at 0.2 and ten at 0.9; 4 and 9 were relevant: (0.2 + 0) / 2."""
    said = np.array([0.2] * 10 + [0.9] * 10)
    truth = np.array([1.0] * 4 + [0.0] * 6 + [1.0] * 9 + [0.0])
    bins = reliability(truth, said)
    assert sum(one["pairs"] for one in bins) == 20
    halves = [np.mean([one["was"] for one in bins if one["said"] < 0.5]), 0.9]
    assert halves[0] == pytest.approx(0.4)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0
    assert expected_calibration_error(np.array([0.0, 0.0]), np.array([0.3, 0.3])) == pytest.approx(0.3)


@pytest.fixture
def judged(labelkit, write_beir, write_qrels, tmp_path):
    """Eight queries with eighteen passages each, judged by the scripted judge, which is right half of the time."""
    draw = np.random.default_rng(0)
    places = [(query, place) for query in range(8) for place in range(18)]
    words = {pair: int(draw.integers(0, 7)) for pair in places}
    passages = {f"p{q}x{k}": ("", " ".join([f"w{q}x{n}" for n in range(words[q, k])] + ["filler"])) for q, k in places}
    queries = {f"q{q}": " ".join(f"w{q}x{n}" for n in range(6)) for q in range(8)}
    grades = {pair: int(np.clip(words[pair] / 2 + draw.normal() / 2, 0, 3)) for pair in places}
    qrels = {f"q{q}": {f"p{q}x{k}": grades[q, k] for k in range(18)} for q in range(8)}
    beir = write_beir(tmp_path / "world", passages, queries, qrels)
    human = beir / "qrels" / "test.tsv"
    run = tmp_path / "all.run"
    run.write_text("".join(f"q{q} Q0 p{q}x{k} {k + 1} {99 - k} x\n" for q, k in places))
    assert labelkit("pool", beir, "-o", tmp_path / "pool", "--bm25", 0, "--run", f"{run}:18").code == 0
    command = ("annotate", tmp_path / "pool", "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
    assert labelkit(*command).code == 0
    return beir, human, tmp_path / "pool", tmp_path / "labels"


def test_held_out_queries_show_what_calibration_gains(judged):
    beir, human, _, labels = judged
    fitted = fit_calibration([labels], CalibrateOptions(human=human, data=beir, bm25=True))
    report = fitted.report
    (before,) = report["before"].values()
    assert (report["pairs"], report["queries"], report["folds"]) == (144, 8, 8)
    assert report["after"]["log_loss"]["value"] < before["log_loss"]["value"]
    assert report["after"]["kappa"]["value"] > before["kappa"]["value"]
    assert len(report["models_of_folds"]) == 8
    assert report["after"]["brier_skill"]["value"] > 0
    assert report["gain"]["kappa"]["value"] == pytest.approx(
        report["after"]["kappa"]["value"] - before["kappa"]["value"]
    )
    assert report["verdict"] == BETTER
    assert [feature.kind for feature in fitted.features] == ["judge", "bm25"]


def test_the_command_writes_reads_and_applies(labelkit, judged, tmp_path):
    beir, human, _, labels = judged
    file = tmp_path / "calibration.json"
    called = labelkit("calibrate", labels, "--human", human, "--data", beir, "--bm25", "-o", file)
    assert called.code == 0, called.err
    assert "each query scored by a fit to other queries" in called.out
    assert labelkit("calibrate", labels, "--apply", file, "--data", beir, "-o", tmp_path / "new").code == 0
    judgements, (judge,), _ = read_labels(tmp_path / "new")
    assert len(judgements) == 144
    assert judge.label_grades == (0, 1, 2, 3)
    assert all(math.isclose(sum(present(row.probs)), 1, abs_tol=1e-9) for row in judgements)
    agreed = json.loads(labelkit("agree", tmp_path / "new", "--human", human, "--json").out)
    raw = json.loads(labelkit("agree", labels, "--human", human, "--json").out)
    kappas = [found["comparisons"][0]["figures"]["kappa"]["value"] for found in (raw, agreed)]
    assert kappas[1] > kappas[0]
    mixed = labelkit("mix", "--data", beir, "--llm", tmp_path / "new", "-o", tmp_path / "set", "--llm-positive", 0.6)
    assert mixed.code == 0, mixed.err


def test_what_a_calibration_needs_is_asked_for(labelkit, judged, tmp_path):
    beir, human, _, labels = judged
    file = tmp_path / "calibration.json"
    assert labelkit("calibrate", labels, "--human", human, "--data", beir, "--bm25", "-o", file).code == 0
    without = labelkit("calibrate", labels, "--apply", file, "-o", tmp_path / "new")
    assert (without.code, "--data" in without.err) == (2, True)
    labelkit("import", human, "-o", tmp_path / "other", "--judge", "x")
    other = labelkit("calibrate", tmp_path / "other", "--apply", file, "-o", tmp_path / "new", "--data", beir)
    assert (other.code, "needs judge" in other.err) == (2, True)
    assert labelkit("calibrate", labels, "--human", human, "--as", "x", "-o", file).code == 2
    assert labelkit("calibrate", labels, "-o", file).code == 2
    file.write_text("{}")
    assert (
        "is not a file of labelkit calibrate"
        in labelkit("calibrate", labels, "--apply", file, "-o", tmp_path / "new").err
    )
    with pytest.raises(DataError, match="does not exist"):
        read_calibration(tmp_path / "no.json")


def test_people_are_fitted_to_and_are_no_feature(labelkit, judged, write_qrels, tmp_path):
    _, human, _, labels = judged
    wrong = write_qrels(tmp_path / "wrong.tsv", {"q0": {"p0x0": 3}})
    assert labelkit("import", wrong, "-o", tmp_path / "people", "--judge", "x", "--kind", "human").code == 0
    fitted = fit_calibration([tmp_path / "people", labels], CalibrateOptions(human=human))
    assert [feature.kind for feature in fitted.features] == ["judge"]
    assert (fitted.report["human"], fitted.report["pairs"]) == (str(human), 144)


def test_too_few_labels_are_refused_with_their_number(judged, write_qrels, tmp_path):
    _, _, _, labels = judged
    few = write_qrels(tmp_path / "few.tsv", {"q0": {f"p0x{k}": k % 2 * 3 for k in range(12)}})
    with pytest.raises(DataError, match=r"12 labelled pairs \(at least 50 needed\), 6 of them with grade 2 or 3"):
        fit_calibration([labels], CalibrateOptions(human=few))
    binary = write_qrels(tmp_path / "binary.tsv", {"q0": {f"p0x{k}": k % 2 for k in range(12)}})
    with pytest.raises(DataError, match="no grade is 2 or 3: for binary qrels give --scale 0-1"):
        fit_calibration([labels], CalibrateOptions(human=binary))


def test_a_pair_on_which_every_judge_failed_stays_a_failure(labelkit, judged, tmp_path):
    _, human, pool, _ = judged
    command = ("annotate", pool, "-o", tmp_path / "garbage", "--engine", "scripted", "--model", "garbage")
    assert labelkit(*command).code == 0
    fitted = fit_calibration([tmp_path / "garbage"], CalibrateOptions(human=human))
    with tables.temporary() as db:
        found = match(fitted, raters_of(db, [tmp_path / "garbage"]))
        judgements = judgements_in_memory(apply_calibration(fitted, found, db).judgements)
    failed = {(row.query_id, row.passage_id) for row in read_labels(tmp_path / "garbage")[0] if row.grade is None}
    assert {(row.query_id, row.passage_id) for row in judgements if row.failure} == failed
    assert failed


def test_a_random_draw_is_stratified_and_carries_its_chance():
    believed = np.arange(100) / 100
    chosen = draw(believed, 20, 0)
    fifths = [one.place // 20 for one in chosen]
    assert [fifths.count(fifth) for fifth in range(5)] == [4] * 5
    assert {one.score for one in chosen} == {0.2}
    assert draw(believed, 20, 0) == chosen


def test_the_rest_goes_to_what_is_unsure_and_disputed():
    believed, spread = np.arange(21) / 20, np.zeros(21)
    spread[[0, 20, 10]] = (0.4, 0.3, 0.1)
    chosen = choose(believed, spread, Quota(6, 0.0, 0))
    assert [(one.place, one.reason) for one in chosen] == [
        (0, "select:disputed"),
        (20, "select:disputed"),
        (10, "select:disputed"),
        (9, "select:unsure"),
        (11, "select:unsure"),
        (8, "select:unsure"),
    ]
    assert choose(believed, np.zeros(21), Quota(2, 0.0, 0)) == [
        Chosen(10, "select:unsure", 0.5),
        Chosen(9, "select:unsure", 0.45),
    ]


def test_a_selection_is_a_pool_that_another_judge_grades(labelkit, judged, write_qrels, tmp_path):
    beir, human, pool, labels = judged
    done = write_qrels(tmp_path / "done.tsv", {"q0": {f"p0x{k}": 0 for k in range(18)}})
    command = ("select", labels, "--pool", pool, "--budget", 40, "--random-share", 0.5, "--human", done)
    called = labelkit(*command, "-o", tmp_path / "chosen", "--json")
    assert called.code == 0, called.err
    assert sum(json.loads(called.out).values()) == 40
    with tables.temporary() as db:
        (rater,) = raters_of(db, [labels])
        assert np.isfinite(chances(db, rater.pairs, tmp_path / "chosen")).sum() == 20
    again = ("annotate", tmp_path / "chosen", "-o", tmp_path / "more", "--engine", "scripted", "--model", "overlap")
    assert labelkit(*again, "--method", "binary").code == 0
    assert {row.query_id for row in read_labels(tmp_path / "more")[0]}.isdisjoint({"q0"})
    calibrate = ("calibrate", labels, "--human", human, "--data", beir, "-o", tmp_path / "c.json")
    assert labelkit(*calibrate, "--selection", tmp_path / "chosen").code == 0
    assert read_calibration(tmp_path / "c.json").report["estimate"]["labelled"] == 20
    assert labelkit(*calibrate, "--selection", pool).code == 1
