"""A cheap judge for most pairs and a strong one for the rest: what is asked, what is joined, what is said of it."""

import json
import math

import pytest
from present import present

from labelkit.errors import UsageError
from labelkit.judging.journal import Journal
from labelkit.judging.options import AnnotateOptions
from labelkit.quality.cascade import cascade
from labelkit.quality.options import CascadeOptions
from labelkit.storage.labels import read_labels

pytestmark = pytest.mark.slow  # every test annotates twice

CHEAP = AnnotateOptions(model="overlap", engine="scripted", method="binary", defence=("none",))
"""The scripted judge with yes and no."""
STRONG = CascadeOptions(model="overlap", method="graded")
"""The same with four grades."""


def test_every_pair_has_one_judgement_and_the_unsure_ones_are_the_strong_judge_s(wide, tmp_path):
    found = cascade(wide, tmp_path / "labels", CHEAP, strong=STRONG)
    judgements, who, _ = read_labels(tmp_path / "labels")
    assert len(judgements) == found.pairs == len(wide.candidates)
    assert len({(row.query_id, row.passage_id) for row in judgements}) == found.pairs
    kinds = {judge.judge_id: judge.method for judge in who}
    by_strong = {(row.query_id, row.passage_id) for row in judgements if kinds[row.judge_id] == "graded"}
    assert len(by_strong) == found.strong_pairs == round(0.2 * found.pairs)
    assert found.saved == pytest.approx(0.8, abs=0.01)
    cheap = {(row.query_id, row.passage_id): row for row in read_labels(tmp_path / "labels.cheap")[0]}
    sure = [abs(present(row.probs)[1] - 0.5) for pair, row in cheap.items() if pair not in by_strong]
    unsure = sorted(abs(present(cheap[pair].probs)[1] - 0.5) for pair in by_strong)
    # Three quarters of the strong judge's share are the least sure pairs, the rest is random.
    assert unsure[len(unsure) * 3 // 4 - 1] <= min(sure) + 1e-9
    assert found.compared == round(0.25 * found.strong_pairs)
    assert found.kappa.value is not None


def replies(folder):
    with Journal(folder) as journal:
        return journal.spent().replies


def test_the_same_cascade_again_asks_nothing(wide, tmp_path):
    first = cascade(wide, tmp_path / "labels", CHEAP, strong=STRONG)
    paid = replies(tmp_path / "labels.cheap"), replies(tmp_path / "labels.strong")
    again = cascade(wide, tmp_path / "labels", CHEAP, strong=STRONG)
    assert (replies(tmp_path / "labels.cheap"), replies(tmp_path / "labels.strong")) == paid
    assert again == first


def test_two_equal_judges_lose_nothing(wide, tmp_path):
    same = CascadeOptions(model="overlap", share=0.3)
    found = cascade(wide, tmp_path / "labels", CHEAP.but(method="graded"), strong=same)
    assert (found.kappa.value, found.lost.value) == (1, 0)


def test_a_failed_second_opinion_leaves_the_first(wide, tmp_path):
    strong = CascadeOptions(model="garbage", share=0.3)
    cascade(wide, tmp_path / "labels", CHEAP.but(method="graded"), strong=strong)
    assert any(row.grade is None for row in read_labels(tmp_path / "labels.strong")[0])
    assert all(row.grade is not None for row in read_labels(tmp_path / "labels")[0])


def test_a_share_that_makes_no_sense_is_refused(wide, tmp_path):
    with pytest.raises(UsageError, match="share = "):
        CascadeOptions(model="overlap", share=math.nan)
    for share in (0, 1, 0.0001):
        with pytest.raises(UsageError, match="--cascade-share"):
            cascade(wide, tmp_path / "labels", CHEAP, strong=CascadeOptions(model="overlap", share=share))


def test_the_command_says_what_was_saved(labelkit, pool, beir, tmp_path):
    command = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
    called = labelkit(*command, "--cascade", "overlap", "--cascade-share", 0.5, "--json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["saved"] == pytest.approx(3 / 7)
    assert "of its work saved" in called.err
    assert labelkit("verify", tmp_path / "labels").code == 0
    mixed = labelkit("mix", "--data", beir, "--llm", tmp_path / "labels", "-o", tmp_path / "dataset")
    assert mixed.code == 0, mixed.err
