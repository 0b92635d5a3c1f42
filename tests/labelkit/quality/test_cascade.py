"""A cheap judge for most pairs and a strong one for the rest: what is asked, what is joined, what is said of it."""

import json

import pytest

from labelkit.errors import UsageError
from labelkit.quality.cascade import cascade
from labelkit.storage.labels import read_labels


@pytest.fixture
def judges(judge):
    """The scripted judge with three grades twice: as the cheap one with yes and no, and as the strong one."""
    cheap = lambda pool, folder: judge(pool, folder, method="binary")  # noqa: E731
    strong = lambda pool, folder: judge(pool, folder, method="graded")  # noqa: E731
    return cheap, strong


def test_every_pair_has_one_judgement_and_the_unsure_ones_are_the_strong_judge_s(wide, judges, tmp_path):
    found = cascade(wide, tmp_path / "labels", *judges, share=0.2, seed=0, command="test")
    judgements, who, _ = read_labels(tmp_path / "labels")
    assert len(judgements) == found.pairs == len(wide.candidates)
    assert len({(row.query_id, row.passage_id) for row in judgements}) == found.pairs
    kinds = {judge.judge_id: judge.method for judge in who}
    by_strong = {(row.query_id, row.passage_id) for row in judgements if kinds[row.judge_id] == "graded"}
    assert len(by_strong) == found.strong_pairs == round(0.2 * found.pairs)
    assert found.saved == pytest.approx(0.8, abs=0.01)
    cheap = {(row.query_id, row.passage_id): row for row in read_labels(tmp_path / "labels.cheap")[0]}
    sure = [abs(row.probs[1] - 0.5) for pair, row in cheap.items() if pair not in by_strong]
    unsure = sorted(abs(cheap[pair].probs[1] - 0.5) for pair in by_strong)
    # Three quarters of the strong judge's share are the least sure pairs, the rest is random.
    assert unsure[len(unsure) * 3 // 4 - 1] <= min(sure) + 1e-9
    assert found.compared == round(0.25 * found.strong_pairs)
    assert found.kappa.value is not None


def test_the_same_cascade_again_asks_nothing(wide, judges, tmp_path):
    first = cascade(wide, tmp_path / "labels", *judges, share=0.2, seed=0, command="test")
    asked = []

    def counting(run):
        def wrapped(pool, folder):
            outcome = run(pool, folder)
            asked.append(outcome.asked)
            return outcome

        return wrapped

    again = cascade(wide, tmp_path / "labels", *map(counting, judges), share=0.2, seed=0, command="test")
    assert asked == [0, 0]
    assert again == first


def test_two_equal_judges_lose_nothing(wide, judge, tmp_path):
    same = lambda pool, folder: judge(pool, folder, method="graded")  # noqa: E731
    found = cascade(wide, tmp_path / "labels", same, same, share=0.3, seed=0, command="test")
    assert (found.kappa.value, found.lost.value) == (1, 0)


def test_a_failed_second_opinion_leaves_the_first(wide, judge, tmp_path):
    cheap = lambda pool, folder: judge(pool, folder)  # noqa: E731
    strong = lambda pool, folder: judge(pool, folder, "garbage")  # noqa: E731
    cascade(wide, tmp_path / "labels", cheap, strong, share=0.3, seed=0, command="test")
    assert any(row.grade is None for row in read_labels(tmp_path / "labels.strong")[0])
    assert all(row.grade is not None for row in read_labels(tmp_path / "labels")[0])


def test_a_share_that_makes_no_sense_is_refused(wide, judges, tmp_path):
    for share in (0, 1, 0.0001):
        with pytest.raises(UsageError, match="--cascade-share"):
            cascade(wide, tmp_path / "labels", *judges, share=share, seed=0, command="test")


def test_the_command_says_what_was_saved(labelkit, pool, beir, tmp_path):
    command = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
    called = labelkit(*command, "--cascade", "overlap", "--cascade-share", 0.5, "--json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["saved"] == pytest.approx(3 / 7)
    assert "of its work saved" in called.err
    assert labelkit("verify", tmp_path / "labels").code == 0
    mixed = labelkit("mix", "--data", beir, "--llm", tmp_path / "labels", "-o", tmp_path / "dataset")
    assert mixed.code == 0, mixed.err
