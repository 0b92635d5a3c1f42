"""Biases that were planted, and judges without any."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from duckdb import DuckDBPyConnection
from made_raters import Made, in_session
from present import present

from labelkit.errors import UsageError
from labelkit.judging.reading import Reading
from labelkit.quality.ballots import Ballots, consistency
from labelkit.quality.bias import AUTHOR_SCHEMA, BiasInputs, biases, drift, effect, effect_of_place, grades_by
from labelkit.quality.options import BiasOptions
from labelkit.records import PASSAGE_SCHEMA, QUERY_SCHEMA, Judgement
from labelkit.statistics.intervals import mean
from labelkit.storage import folders, tables
from labelkit.storage.labels import read_labels


@pytest.fixture
def db() -> Iterator[DuckDBPyConnection]:
    with tables.temporary() as opened:
        yield opened


def judged(query_id, passage_id, grade, score=None):
    return Judgement(query_id=query_id, passage_id=passage_id, judge_id="j", grade=grade, score=score)


def world(db, rule, authors=None, *, extra=lambda grade: ""):
    """Twenty queries of fifteen passages with human grades 0 to 3; `rule` makes the judge's score of them, and `extra`
    adds words to a passage by its human grade.
    """
    draw = np.random.default_rng(0)
    corpus, grades, judgements = {}, {}, {}
    for query_id in [f"q{n}" for n in range(20)]:
        for place in range(15):
            pid = f"{query_id}p{place}"
            grade, words, shared = int(draw.integers(0, 4)), int(draw.integers(5, 80)), int(draw.integers(0, 5))
            corpus[pid] = " ".join(["alpha", "beta", "gamma", "delta"][:shared] + ["filler"] * words) + extra(grade)
            grades[query_id, pid] = judged(query_id, pid, grade)
            score = float(rule(grade, np.log2(words + shared), shared, pid) + draw.normal() / 2)
            judgements[query_id, pid] = judged(query_id, pid, min(3, max(0, round(score))), score)
    people, rater = in_session(
        db, Made("h", "h", "human", grades), Made("j", "folder/model", "llm", judgements, source=1)
    )
    texts = [{"passage_id": pid, "title": "", "text": text} for pid, text in corpus.items()]
    queries = [{"query_id": f"q{n}", "text": "alpha beta gamma delta"} for n in range(20)]
    db.register("corpus", pa.Table.from_pylist(texts, schema=PASSAGE_SCHEMA))
    db.register("queries", pa.Table.from_pylist(queries, schema=QUERY_SCHEMA))
    rows = [(number, pid, author) for number, (pid, author) in enumerate((authors or {}).items())]
    tables.stage(db, "authors", AUTHOR_SCHEMA, rows)
    return rater, BiasInputs(db, rater.pairs, grades_by([people]))


def slope(db, name, rule, authors=None):
    rater, material = world(db, rule, authors)
    found = present(effect(rater, name, material))
    return present(found.slope.value) * np.std(rater.score), found


def test_a_judge_that_sees_relevance_alone_has_no_bias(db):
    for name in ("length", "overlap"):
        _, found = slope(db, name, lambda grade, length, shared, pid: grade)
        assert found.slope.low < 0 < found.slope.high
        assert abs(found.slope.value) < 0.1


def test_planted_slopes_are_found(db):
    value, found = slope(db, "length", lambda grade, length, shared, pid: grade + 0.4 * length)
    assert value == pytest.approx(0.4, abs=0.08)
    assert found.slope.low > 0
    assert [one["score"] for one in found.curve] == sorted(one["score"] for one in found.curve)
    # A word of four is two and a half tenths of the query.
    value, _ = slope(db, "overlap", lambda grade, length, shared, pid: grade + 0.5 * shared)
    assert value == pytest.approx(0.2, abs=0.04)


def test_a_property_of_good_passages_is_no_bias_between_equals(db):
    """Longer passages are better here, and the judge sees only that they are better."""
    rule = lambda grade, length, shared, pid: grade  # noqa: E731
    rater, material = world(db, rule, extra=lambda grade: " more" * 60 * grade)
    same = present(effect(rater, "length", material))
    ungraded = present(effect(rater, "length", BiasInputs(db, rater.pairs, None)))
    assert abs(present(same.slope.value)) < 0.1
    assert present(ungraded.slope.value) > 0.3


def test_self_preference_needs_known_authors(db):
    authors = {f"q{n}p{place}": "model" if place % 2 else "somebody" for n in range(20) for place in range(15)}
    rule = lambda grade, length, shared, pid: grade + (authors[pid] == "model")  # noqa: E731
    value, found = slope(db, "own", rule, authors)
    assert value == pytest.approx(1, abs=0.15)
    assert found.pairs == 300
    rater, material = world(db, rule)
    assert effect(rater, "own", material) is None


def ballots(db, rule, orders=3):
    """Six queries of ten passages, each shown in several orders."""
    draw = np.random.default_rng(1)
    rows = [
        (query, int(pid), 2 * int(rule(int(pid), place)), place, seed)
        for query in range(6)
        for seed in range(orders)
        for place, pid in enumerate(draw.permutation(10), 1)
    ]
    (rater,) = in_session(
        db, Made("j", "judge", "llm", {(f"q{query}", f"p{pid}"): judged("q", "p", 0) for query, pid, *_ in rows})
    )
    query, passage, grade, position, seed = np.array(rows).T
    return rater, Ballots(query, passage, grade, score=grade.astype(float), position=position, seed=seed)


def test_a_judge_that_takes_the_first_places_is_seen(db):
    rater, rows = ballots(db, lambda pid, place: place <= 3)
    found, agreed = present(effect_of_place(rater, rows, None)), present(consistency(rater, rows))
    assert present(found.slope.high) < -1
    shares = [one["relevant"] for one in agreed.by_place]
    assert (shares[0], shares[-1]) == (1, 0)
    assert present(agreed.same.value) < 0.75


def test_a_judge_that_does_not_look_at_places_is_consistent(db):
    rater, rows = ballots(db, lambda pid, place: pid < 4)
    same = present(consistency(rater, rows)).same
    assert (same.value, same.high) == (1, 1)
    assert 0 < present(same.low) < 1, "Clopper and Pearson's interval"
    assert present(effect_of_place(rater, rows, None)).slope.value == pytest.approx(0, abs=1e-9)
    none = np.zeros(len(rows.query), dtype=bool)
    assert consistency(rater, Ballots._make(column[none] for column in rows)) is None


def test_drift_is_measured_on_the_same_judge_alone(db):
    draw = np.random.default_rng(0)
    pairs = [(f"q{n % 20}", f"p{n}") for n in range(100)]
    first = {pair: judged(*pair, 2, float(draw.normal())) for pair in pairs}
    moved = {pair: judged(*pair, 2, present(first[pair].score) + 1) for pair in pairs[:50]}
    then, now = in_session(db, Made("j", "m", "llm", first), Made("j", "m", "llm", moved, source=1))
    (found,) = drift([then], [now])
    deviation = np.std([first[pair].score for pair in sorted(pairs[:50])])
    assert (found.pairs, found.same.value) == (50, 1)
    assert found.shift.value == pytest.approx(1 / deviation)
    with pytest.raises(UsageError, match="same judge"):
        drift([then], [now._replace(rater_id="other")])
    (again,) = drift([then._replace(imported=True)], [now._replace(imported=True, rater_id="another file")])
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
