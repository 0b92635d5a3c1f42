"""Agreement figures against scikit-learn, krippendorff and scipy, on random and degenerate grades; two real judges."""

import json
import math
import warnings
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path

import ir_measures
import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_raters import Made, make_raters, raters_of_one_query
from present import present
from scipy.stats import kendalltau, spearmanr
from sklearn import metrics

from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement import advise, agree_raters, agreement_of, alpha_of_all, compare, spread_of
from labelkit.quality.agreement_metrics import FIGURES, GradedPair, figure_interval, rated
from labelkit.quality.by_group import GroupInputs, break_down
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.system_rankings import compare_systems, kendall, tau_ap
from labelkit.records import Judgement
from labelkit.statistics.intervals import estimate
from labelkit.storage import tables

VALIDATION = Path(__file__).parents[3] / ".." / "shared" / "data" / "llmjudge-val"
DOMAIN = [0, 1, 2, 3]


def figures(humans: Sequence[int], theirs: Sequence[int], scores: Sequence[float] | None = None, queries=None):
    """Every figure over all pairs, without intervals; nan becomes None."""
    pairs = rated(map(GradedPair, queries or ["q"] * len(humans), humans, theirs, scores or theirs))
    once = np.ones(pairs.queries, dtype=np.int64)
    counts = pairs.count(once)
    values = {name: figure.of(counts) for name, figure in FIGURES.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def by_packages(humans, theirs, scores) -> dict[str, float | None]:
    """The same figures by scikit-learn and krippendorff."""
    relevant, selected = [grade >= 2 for grade in humans], [grade >= 2 for grade in theirs]
    both_classes = len(set(relevant)) == 2
    alpha = None
    if len(set(humans) | set(theirs)) > 1:
        alpha = krippendorff.alpha([humans, theirs], level_of_measurement="ordinal", value_domain=DOMAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            "kappa": metrics.cohen_kappa_score(humans, theirs, labels=DOMAIN),
            "kappa_quadratic": metrics.cohen_kappa_score(humans, theirs, labels=DOMAIN, weights="quadratic"),
            "mae": metrics.mean_absolute_error(humans, theirs),
            "bias": float(np.mean(theirs) - np.mean(humans)),
            "auc": metrics.roc_auc_score(relevant, scores) if both_classes else None,
            "average_precision": metrics.average_precision_score(relevant, scores) if any(relevant) else None,
            "precision": metrics.precision_score(relevant, selected) if any(selected) else None,
            "recall": metrics.recall_score(relevant, selected) if any(relevant) else None,
            "selected": sum(selected),
            "alpha_ordinal": alpha,
        }
        for grade in (1, 2, 3):
            cut = [[int(value >= grade) for value in values] for values in (humans, theirs)]
            found[f"kappa_{grade}"] = metrics.cohen_kappa_score(*cut, labels=[0, 1])
    return {name: None if value is None or not math.isfinite(value) else float(value) for name, value in found.items()}


def assert_same(one: dict[str, float | None], other: dict[str, float | None]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value is None) == (other[name] is None), name
        assert value is None or math.isclose(value, present(other[name]), abs_tol=1e-9), name


GRADES = st.integers(0, 3)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(GRADES, GRADES, st.floats(-5, 5)), min_size=1, max_size=15))
def test_every_figure_is_that_of_the_packages(rows):
    humans, theirs, scores = map(list, zip(*rows, strict=True))
    assert_same(figures(humans, theirs, scores), by_packages(humans, theirs, scores))


@pytest.mark.parametrize(
    ("humans", "theirs"),
    [
        ([0], [0]),
        ([3], [0]),
        ([2, 2], [2, 2]),
        ([0, 1, 2, 3], [1, 1, 1, 1]),
        ([1, 1, 1, 1], [0, 1, 2, 3]),
        ([0, 1, 2, 3], [3, 2, 1, 0]),
        ([0, 2, 3, 3, 0], [0, 2, 3, 2, 2]),
    ],
)
def test_degenerate_grades_too(humans, theirs):
    assert_same(figures(humans, theirs), by_packages(humans, theirs, theirs))


def test_a_hand_value_of_kappa():
    """Agreement on 6 of 8, chance 22/64."""
    found = figures([0, 0, 0, 0, 3, 3, 1, 1], [0, 0, 0, 1, 3, 3, 1, 3])
    assert found["kappa"] == pytest.approx((6 / 8 - 22 / 64) / (1 - 22 / 64))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), GRADES), min_size=6, max_size=6), min_size=2, max_size=5))
def test_alpha_of_several_raters_with_gaps_is_that_of_the_package(rows):
    found, units = alpha_of_all(raters_of_one_query(rows))
    matrix = np.array([[np.nan if grade is None else grade for grade in row] for row in rows], dtype=float)
    paired = (~np.isnan(matrix)).sum(0) >= 2
    assert units == paired.sum()
    values = matrix[:, paired]
    if len(set(values[~np.isnan(values)])) < 2:
        assert found.value is None
    else:
        expected = krippendorff.alpha(values, level_of_measurement="ordinal", value_domain=DOMAIN)
        assert found.value == pytest.approx(expected, abs=1e-9)


def judged(number: int, grade: int | None, query: str = "q") -> Judgement:
    failure = "no label" if grade is None else None
    return Judgement(query_id=query, passage_id=f"p{number}", judge_id="j", grade=grade, failure=failure)


def test_a_query_drawn_twice_counts_as_two_copies_of_it():
    """A figure weighs pairs by how often their query counts; that must be what repeating them gives."""
    draw = np.random.default_rng(1)
    queries = ["a"] * 5 + ["b"] * 7 + ["c"] * 4
    humans, theirs = draw.integers(0, 4, 16).tolist(), draw.integers(0, 4, 16).tolist()
    scores = draw.normal(size=16).round(1).tolist()
    pairs = rated(map(GradedPair, queries, humans, theirs, scores))
    draws = np.array([2, 0, 1])
    copies = [row for row, query in enumerate(queries) for _ in range({"a": 2, "b": 0, "c": 1}[query])]
    # Copies are queries of their own: three in all, as drawn.
    repeated = rated(GradedPair("x", humans[row], theirs[row], scores[row]) for row in copies)
    for name, figure in FIGURES.items():
        expected = figure.of(repeated.count(np.ones(1, dtype=np.int64))) / (3 if name == "selected" else 1)
        assert figure.of(pairs.count(draws)) == pytest.approx(expected), name


def test_the_range_of_a_figure_is_that_of_the_queries_one_by_one():
    draw = np.random.default_rng(4)
    names = [f"q{n}" for n in draw.integers(0, 25, 400)]
    humans, theirs = draw.integers(0, 4, 400), draw.integers(0, 4, 400)
    scores = draw.normal(size=400).round(1)
    found = spread_of(rated(map(GradedPair, names, humans.tolist(), theirs.tolist(), scores.tolist())))
    alone = []
    for name in set(names):
        rows = [row for row, one in enumerate(names) if one == name]
        alone.append(figures(humans[rows].tolist(), theirs[rows].tolist(), scores[rows].tolist()))
    for name in FIGURES:
        values = [one[name] for one in alone if one[name] is not None]
        assert found[name] == (min(values), float(np.median(values)), max(values), len(values)), name


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Means of 40 clusters with a cluster effect: 95% within a few points, over 200 worlds."""
    draw = np.random.default_rng(0)
    worlds = draw.normal(size=(200, 40)) + draw.normal(size=(200, 40)) / 3
    inside = 0
    for world in worlds:
        found = estimate(lambda draws, world=world: float(draws @ world / draws.sum()), 40)  # type: ignore[misc]
        inside += present(found.low) <= 0 <= present(found.high)
    assert 0.89 <= inside / 200 <= 0.99


def test_advice_says_what_halves_the_interval():
    """Without an effect of the query, four times the labels halve it; the test draws both worlds."""

    def world(queries: int):
        draw = np.random.default_rng(queries)
        humans = draw.integers(0, 4, queries * 10)
        theirs = np.where(draw.random(queries * 10) < 0.5, humans, draw.integers(0, 4, queries * 10))
        names = [f"q{number // 10:04}" for number in range(queries * 10)]
        return rated(map(GradedPair, names, humans.tolist(), theirs.tolist(), theirs.tolist()))

    small, large = world(60), world(240)
    advice = present(advise(small))
    assert (advice.labels, advice.queries) == (1800, 180)
    widths = []
    for pairs in (small, large):
        found = figure_interval("kappa", pairs)
        widths.append(present(found.high) - present(found.low))
    assert widths[1] / widths[0] == pytest.approx(0.5, abs=0.1)


def test_more_labels_on_the_same_queries_do_not_help_where_queries_differ():
    """Agreement is perfect on one half of the queries and chance on the other."""
    draw = np.random.default_rng(3)
    humans = draw.integers(0, 4, 400)
    names = [f"q{number // 40}" for number in range(400)]
    theirs = np.where(np.arange(400) < 200, humans, draw.integers(0, 4, 400))
    advice = present(advise(rated(map(GradedPair, names, humans.tolist(), theirs.tolist(), theirs.tolist()))))
    assert advice.same_queries is None


def test_failures_are_counted_and_measured_nowhere():
    rows: list[list[int | None]] = [[0, 1, 2, 3, 3], [0, None, 2, 3, None], [None] * 5]
    human, judge, silent = raters_of_one_query(rows)
    found = compare(human, judge)
    assert (found.pairs, found.failures, found.figures["kappa"].value) == (3, 2, 1)
    found = compare(human, silent)
    assert (found.pairs, found.failures, found.figures["kappa"].value) == (0, 5, None)


def test_pairs_that_only_one_side_graded_are_left_out(labelkit, tmp_path, write_qrels):
    theirs = write_qrels(tmp_path / "theirs.tsv", {"q1": {"a": 3, "b": 0, "c": 1}, "q9": {"a": 1}})
    human = write_qrels(tmp_path / "human.tsv", {"q1": {"a": 3, "b": 0, "z": 2}})
    labelkit("import", theirs, "-o", tmp_path / "labels", "--judge", "x", "--kind", "llm")
    (found,) = agreement_of([tmp_path / "labels"], [human]).comparisons
    assert (found.pairs, found.judge, found.figures["kappa"].value) == (2, "x", 1)
    other = write_qrels(tmp_path / "other.tsv", {"q7": {"a": 1}})
    with pytest.raises(DataError, match="have no pair in common"):
        agreement_of([tmp_path / "labels"], [other])
    with pytest.raises(UsageError, match="needs two judges or people"):
        agreement_of([tmp_path / "labels"], [])


def test_every_rater_is_compared_with_every_other_people_first(labelkit, beir, pool, tmp_path):
    for method in ("graded", "binary"):
        command = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
        assert labelkit(*command, "--method", method, "--add-judge").code == 0
    found = agreement_of([tmp_path / "labels"], [beir / "qrels" / "test.tsv"])
    kinds = [(one.reference_kind, one.judge_id.split("-")[0]) for one in found.comparisons]
    assert kinds == [("human", "binary"), ("human", "graded"), ("llm", "graded")]
    assert found.raters == 3


def test_a_judge_s_name_is_printed_as_it_is(labelkit, beir, tmp_path):
    human = beir / "qrels" / "test.tsv"
    assert labelkit("import", human, "-o", tmp_path / "labels", "--judge", "[/b] [red]x").code == 0
    called = labelkit("agree", tmp_path / "labels", "--human", human)
    assert called.code == 0
    assert "[/b] [red]x" in called.out


def write_run(path: Path, ranked: dict[str, list[str]]) -> Path:
    rows = [f"{qid} Q0 {pid} {n} {100 - n} x" for qid, pids in ranked.items() for n, pid in enumerate(pids, 1)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_systems_are_correlated_as_scipy_does(tmp_path):
    draw = np.random.default_rng(0)
    queries, passages = [f"q{n}" for n in range(8)], [f"p{n:02}" for n in range(30)]
    humans = {(qid, pid): int(draw.integers(0, 4)) for qid in queries for pid in passages}
    theirs = {pair: min(3, max(0, grade + int(draw.integers(-1, 2)))) for pair, grade in humans.items()}
    made = [
        Made(name, name, kind, {pair: judged(0, grade) for pair, grade in grades.items()})
        for name, kind, grades in (("people", "human", humans), ("judge", "llm", theirs))
    ]
    raters = make_raters(*made)
    files = [
        write_run(tmp_path / f"run{n:02}", {qid: draw.permutation(passages).tolist() for qid in queries})
        for n in range(14)
    ]
    everything, best = compare_systems(raters[0], raters[1], files)
    measure, means = ir_measures.nDCG @ 10, []
    for grades in (humans, theirs):
        qrels = {qid: {pid: grades[qid, pid] for pid in passages} for qid in queries}
        runs = (list(ir_measures.read_trec_run(str(path))) for path in files)
        means.append([ir_measures.calc_aggregate([measure], qrels, run)[measure] for run in runs])
    assert everything.systems == 14
    assert everything.kendall.value == pytest.approx(kendalltau(*means).statistic)
    assert everything.spearman.value == pytest.approx(spearmanr(*means).statistic)
    top = np.argsort(-np.array(means[0]), kind="stable")[:10]
    assert (best.systems, best.which) == (10, "best 10")
    assert everything.tau_ap.value == pytest.approx(tau_ap(*map(np.array, means)))
    assert best.kendall.value == pytest.approx(kendalltau(*(np.array(mean)[top] for mean in means)).statistic)
    with pytest.raises(UsageError, match="at least 3"):
        compare_systems(raters[0], raters[1], files[:2])


def tau_ap_by_loops(reference: Sequence[float], judged: Sequence[float]) -> float:
    """Yilmaz et al., equation 2, over every order of the systems that the judge ties; a tie of the reference is half
    right.
    """
    groups = [[n for n, one in enumerate(judged) if one == score] for score in sorted(set(judged), reverse=True)]
    found = []
    for orders in product(*map(permutations, groups)):
        ranked = [system for order in orders for system in order]
        total = 0.0
        for i in range(1, len(ranked)):
            above = [reference[ranked[j]] - reference[ranked[i]] for j in range(i)]
            total += sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in above) / i
        found.append(2 / (len(ranked) - 1) * total - 1)
    return sum(found) / len(found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6))
def test_tau_ap_is_that_of_literal_loops(rows):
    reference, judged = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    assert tau_ap(reference, judged) == pytest.approx(tau_ap_by_loops(reference.tolist(), judged.tolist()))


def test_tau_ap_punishes_mistakes_at_the_top():
    """Of five systems the judge swaps the best two, or the worst two: the same tau, another tau_ap."""
    people = np.array([5.0, 4, 3, 2, 1])
    top, bottom = np.array([4.0, 5, 3, 2, 1]), np.array([5.0, 4, 3, 1, 2])
    assert kendall(people, top) == pytest.approx(kendall(people, bottom)) == pytest.approx(0.8)
    assert tau_ap(people, top) == pytest.approx(2 / 4 * (0 + 1 + 1 + 1) - 1)
    assert tau_ap(people, bottom) == pytest.approx(2 / 4 * (1 + 1 + 1 + 3 / 4) - 1)
    assert (tau_ap(people, people), tau_ap(people, -people)) == (1, -1)


def test_two_judges_are_compared_on_the_pairs_that_all_three_graded():
    source = np.random.default_rng(2)
    keys = [(f"q{n % 12:02}", f"p{n:03}") for n in range(240)]
    humans = dict(zip(keys, source.integers(0, 4, 240).tolist(), strict=True))

    def rater(name, kind, right, left_out=()):
        grades = {key: own if source.random() < right else int(source.integers(0, 4)) for key, own in humans.items()}
        rows = {key: judged(0, grade, key[0]) for key, grade in grades.items() if key not in left_out}
        return Made(name, name, kind, rows)

    made = [rater("people", "human", 1.0), rater("good", "llm", 0.9, keys[:10]), rater("poor", "llm", 0.4, keys[10:30])]
    people, good, poor = make_raters(*made)
    (found,) = agree_raters([people, good, poor]).differences
    assert (found.judge, found.other, found.pairs, found.queries) == ("good", "poor", 210, 12)
    rest = np.array([number for number, pair in enumerate(sorted(keys)) if pair in keys[30:]])
    alone = [compare(people, one, rest).figures for one in (good, poor)]
    for name, difference in found.figures.items():
        assert difference.value == pytest.approx(present(alone[0][name].value) - present(alone[1][name].value))
    kappa, width = found.figures["kappa"], lambda one: one.high - one.low
    assert 0 < present(kappa.low) < present(kappa.value) < present(kappa.high)
    assert width(kappa) < width(alone[0]["kappa"]) + width(alone[1]["kappa"])
    assert agree_raters([good, poor]).differences == [], "nobody to be right about"


@pytest.mark.slow
def test_a_breakdown_puts_every_pair_into_one_third(labelkit, beir, pool, tmp_path):
    human = beir / "qrels" / "test.tsv"
    labelkit("annotate", pool, "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
    command = ("agree", tmp_path / "labels", "--human", human, "--json", "--data", beir, "--pool", pool)
    called = labelkit(*command, "--by", "length", "--by", "overlap", "--by", "language", "--by", "source")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    pairs = found["comparisons"][0]["pairs"]
    for by in ("length", "overlap", "language"):
        assert sum(part["comparison"]["pairs"] for part in found["by"] if part["by"] == by) == pairs
    assert {part["group"] for part in found["by"] if part["by"] == "source"} == {"bm25", "human"}
    assert labelkit(*command, "--by", "colour").code == 2
    assert labelkit("agree", tmp_path / "labels", "--human", human, "--by", "length").code == 2
    assert "no positions" in labelkit(*command, "--by", "position").err


def test_positions_of_a_listwise_method_break_down(labelkit, candidates, judge, beir, tmp_path):
    judge(candidates, tmp_path / "labels", method="relsel")
    with tables.temporary() as db:
        people, selection = raters_of(db, [tmp_path / "labels"], [beir / "qrels" / "test.tsv"])
        parts = break_down(people, GroupInputs(db, selection, None, None), "position")
    assert sum(part.comparison.pairs for part in parts) == compare(people, selection).pairs


@pytest.mark.skipif(not VALIDATION.is_dir(), reason=f"{VALIDATION} is not on this machine")
def test_two_real_judges_agree_as_published(labelkit, tmp_path):
    expected = {"gpt-4o": (0.279, 0.298, 0.505), "llama-3-70b": (0.172, 0.257, 0.352)}
    for name in expected:
        file = VALIDATION / f"llm.{name}.tsv"
        assert labelkit("import", file, "-o", tmp_path / name, "--judge", name, "--kind", "llm").code == 0
    found = agreement_of([tmp_path / name for name in expected], [VALIDATION / "qrels" / "test.tsv"])
    against_people = {one.judge: one for one in found.comparisons if one.reference_kind == "human"}
    for name, values in expected.items():
        one = against_people[name]
        assert (one.pairs, one.queries, one.failures) == (1731, 5, 0)
        measured = [one.figures[figure] for figure in ("kappa", "kappa_2", "kappa_quadratic")]
        assert [figure.value for figure in measured] == pytest.approx(values, abs=0.0005)
        assert all(present(one.low) < present(one.value) < present(one.high) for one in measured)
    assert len(found.comparisons) == 3
    (difference,) = found.differences
    assert difference.figures["kappa"].value == pytest.approx(0.279 - 0.172, abs=0.001)
    gap = difference.figures["kappa"]
    assert present(gap.low) < 0.107 < present(gap.high)
