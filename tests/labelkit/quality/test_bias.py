"""Biases that were planted, and judges without any."""

import numpy as np
import pytest
from present import present

from labelkit.corpora.beir import Data
from labelkit.errors import UsageError
from labelkit.judging.reading import Reading
from labelkit.quality.agreement import Rater
from labelkit.quality.bias import BiasInputs, biases, consistency, drift, effect, effect_of_place
from labelkit.quality.options import BiasOptions
from labelkit.records import Judgement, Passage, Query
from labelkit.statistics.intervals import mean
from labelkit.storage import folders
from labelkit.storage.labels import read_labels


def world(rule, authors=None):
    """Twenty queries of fifteen passages with human grades 0 to 3; `rule` makes the judge's score of them."""
    draw = np.random.default_rng(0)
    corpus, grades, judgements = {}, {}, {}
    queries = {f"q{n}": Query(query_id=f"q{n}", text="alpha beta gamma delta") for n in range(20)}
    for query_id in queries:
        for place in range(15):
            pid = f"{query_id}p{place}"
            grade, words, shared = int(draw.integers(0, 4)), int(draw.integers(5, 80)), int(draw.integers(0, 5))
            text = " ".join(["alpha", "beta", "gamma", "delta"][:shared] + ["filler"] * words)
            corpus[pid] = Passage(passage_id=pid, title="", text=text)
            grades[query_id, pid] = grade
            score = float(rule(grade, np.log2(words + shared), shared, pid) + draw.normal() / 2)
            judgements[query_id, pid] = Judgement(
                query_id=query_id, passage_id=pid, judge_id="j", grade=min(3, max(0, round(score))), score=score
            )
    return Rater("j", "folder/model", "llm", judgements), BiasInputs(Data(corpus, queries, {}), authors or {}, grades)


def slope(name, rule, authors=None):
    rater, material = world(rule, authors)
    found = present(effect(rater, name, material))
    deviation = np.std([row.score for row in rater.judgements.values()])
    return present(found.slope.value) * deviation, found


def test_a_judge_that_sees_relevance_alone_has_no_bias():
    for name in ("length", "overlap"):
        _, found = slope(name, lambda grade, length, shared, pid: grade)
        assert found.slope.low < 0 < found.slope.high
        assert abs(found.slope.value) < 0.1


def test_planted_slopes_are_found():
    value, found = slope("length", lambda grade, length, shared, pid: grade + 0.4 * length)
    assert value == pytest.approx(0.4, abs=0.08)
    assert found.slope.low > 0
    assert [one["score"] for one in found.curve] == sorted(one["score"] for one in found.curve)
    # A word of four is two and a half tenths of the query.
    value, _ = slope("overlap", lambda grade, length, shared, pid: grade + 0.5 * shared)
    assert value == pytest.approx(0.2, abs=0.04)


def test_a_property_of_good_passages_is_no_bias_between_equals():
    """Longer passages are better here, and the judge sees only that they are better."""
    rater, material = world(lambda grade, length, shared, pid: grade)
    longer = {
        pid: passage.model_copy(update={"text": passage.text + " more" * 60 * material.grades[pid.split("p")[0], pid]})
        for pid, passage in material.data.corpus.items()
    }
    data = material.data._replace(corpus=longer)
    same = present(effect(rater, "length", material._replace(data=data)))
    ungraded = present(effect(rater, "length", material._replace(data=data, grades={})))
    assert abs(present(same.slope.value)) < 0.1
    assert present(ungraded.slope.value) > 0.3


def test_self_preference_needs_known_authors():
    authors = {f"q{n}p{place}": "model" if place % 2 else "somebody" for n in range(20) for place in range(15)}
    rule = lambda grade, length, shared, pid: grade + (authors[pid] == "model")  # noqa: E731
    value, found = slope("own", rule, authors)
    assert value == pytest.approx(1, abs=0.15)
    assert found.pairs == 300
    rater, material = world(rule)
    assert effect(rater, "own", material) is None


def ballots(rule, orders=3):
    """Six queries of ten passages, each shown in several orders."""
    draw = np.random.default_rng(1)
    rows = []
    for query in range(6):
        for seed in range(orders):
            for place, pid in enumerate(draw.permutation(10), 1):
                grade = 2 * int(rule(int(pid), place))
                rows.append(
                    Judgement(
                        query_id=f"q{query}",
                        passage_id=f"p{pid}",
                        judge_id="j",
                        grade=grade,
                        score=float(grade),
                        position=place,
                        permutation_seed=seed,
                    )
                )
    return Rater("j", "judge", "llm", {}), rows


def test_a_judge_that_takes_the_first_places_is_seen():
    rater, rows = ballots(lambda pid, place: place <= 3)
    found, agreed = present(effect_of_place(rater, rows, {})), present(consistency(rater, rows))
    assert present(found.slope.high) < -1
    shares = [one["relevant"] for one in agreed.by_place]
    assert (shares[0], shares[-1]) == (1, 0)
    assert present(agreed.same.value) < 0.75


def test_a_judge_that_does_not_look_at_places_is_consistent():
    rater, rows = ballots(lambda pid, place: pid < 4)
    same = present(consistency(rater, rows)).same
    assert (same.value, same.high) == (1, 1)
    assert 0 < present(same.low) < 1, "Clopper and Pearson's interval"
    assert present(effect_of_place(rater, rows, {})).slope.value == pytest.approx(0, abs=1e-9)
    assert consistency(rater, []) is None


def test_drift_is_measured_on_the_same_judge_alone():
    rater, _ = world(lambda grade, length, shared, pid: grade)
    pairs = list(rater.judgements)[:50]
    moved = {
        pair: rater.judgements[pair].model_copy(update={"score": rater.judgements[pair].score + 1}) for pair in pairs
    }
    (found,) = drift([rater], [rater._replace(judgements=moved)])
    deviation = np.std([rater.judgements[pair].score for pair in pairs])
    assert (found.pairs, found.same.value) == (50, 1)
    assert found.shift.value == pytest.approx(1 / deviation)
    with pytest.raises(UsageError, match="same judge"):
        drift([rater], [rater._replace(rater_id="other")])
    imported = rater._replace(imported=True)
    (again,) = drift([imported], [imported._replace(rater_id="another file", judgements=moved)])
    assert again == found


def test_means_are_clustered_by_query():
    assert mean(["a", "a", "b"], [1, 2, 6]).value == 3
    assert mean([], []).value is None


def test_the_command_reads_orders_and_a_second_run(labelkit, beir, candidates, judge, tmp_path):
    judge(candidates, tmp_path / "first", method="relsel", reading=Reading(permutations=3))
    judge(candidates, tmp_path / "again", method="relsel", reading=Reading(permutations=3), limit=4)
    options = BiasOptions(data=beir, human=beir / "qrels" / "test.tsv", again=(tmp_path / "again",))
    found = biases([tmp_path / "first"], options)
    assert found.consistency[0].orders == 3
    assert found.consistency[0].same.value == 1
    assert (found.drift[0].same.value, found.drift[0].shift.value) == (1, 0)
    called = labelkit("bias", tmp_path / "first", "--data", beir, "--human", beir / "qrels" / "test.tsv")
    assert called.code == 0, called.err
    assert "3 orders agree on a share of 1.000" in called.out
    assert folders.manifest_kind(tmp_path / "first") == "labels"
    assert read_labels(tmp_path / "first")[0]


def test_authors_are_read_line_by_line(labelkit, beir, candidates, judge, tmp_path):
    judge(candidates, tmp_path / "labels")
    (tmp_path / "authors.tsv").write_text("p1\toverlap\np2\tsomebody\n")
    command = ("bias", tmp_path / "labels", "--data", beir, "--authors", tmp_path / "authors.tsv")
    assert labelkit(*command).code == 0
    (tmp_path / "authors.tsv").write_text("p1 overlap\n")
    called = labelkit(*command)
    assert (called.code, "authors.tsv:1" in called.err) == (1, True)
