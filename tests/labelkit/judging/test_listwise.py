"""The listwise methods: every step with the replies written out, whole runs by the scripted judge, and kills."""

import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from killed import KILLED_AFTER_REPLIES
from present import present

from labelkit.engines import Reply
from labelkit.errors import UsageError
from labelkit.judging.methods import METHODS
from labelkit.judging.methods.steps import Verdict, median
from labelkit.judging.methods.utilrank import best_tenth
from labelkit.judging.prompts import load_prompt
from labelkit.judging.reading import Reading
from labelkit.judging.tasks import windows
from labelkit.records import Judgement
from labelkit.storage import folders
from labelkit.storage.labels import read_labels

REPOSITORY = Path(__file__).parents[3]
LISTWISE = ("relsel", "utilsel", "utilrank")


def play(method, size, *texts):
    """Run a method over replies with these texts: what it showed at each step, and what it said in the end."""
    steps = METHODS[method].judge(size, load_prompt(method))
    asks = [next(steps)]
    for text in texts:
        try:
            asks.append(steps.send(Reply(key="k", text=text, finish_reason="stop")))
        except StopIteration as stop:
            return [(ask.step, ask.shown, ask.answer) for ask in asks], stop.value
    raise AssertionError(f"{method} asks again: {asks[-1]}")


def grades(verdicts):
    return [verdict.grade for verdict in verdicts]


def test_relsel_is_one_step():
    asks, verdicts = play("relsel", 4, "[4], [2]")
    assert asks == [("relevance", (0, 1, 2, 3), "")]
    assert grades(verdicts) == [0, 2, 0, 2]
    assert grades(play("relsel", 3, "none")[1]) == [0, 0, 0]


def test_utilsel_shows_the_relevant_ones_under_new_identifiers():
    asks, verdicts = play("utilsel", 5, "[2], [4], [5]", " It is 7. ", "[3], [1]")
    assert asks == [
        ("relevance", (0, 1, 2, 3, 4), ""),
        ("answer", (1, 3, 4), ""),
        ("utility", (1, 3, 4), "It is 7."),
    ]
    assert grades(verdicts) == [0, 2, 0, 1, 2]


def test_utilrank_keeps_the_order_as_score():
    asks, verdicts = play("utilrank", 5, "[2], [4], [5]", "It is 7.", "[3] > [1] > [2]")
    assert [ask[0] for ask in asks] == ["relevance", "answer", "ranking"]
    assert grades(verdicts) == [0, 1, 0, 1, 1]
    assert [verdict.score for verdict in verdicts] == pytest.approx([0, 0.8, 0, 0.6, 1.0])
    assert grades(best_tenth([[verdict] for verdict in verdicts], (0, 1, 2))) == [0, 1, 0, 1, 2]


@pytest.mark.parametrize(("size", "best"), [(1, 1), (9, 1), (10, 1), (19, 1), (20, 2), (31, 3)])
def test_the_best_tenth_is_rounded_down_and_at_least_one(size, best):
    pool = [[Verdict(1, 1 - place / size)] for place in range(size)]
    assert grades(best_tenth(pool, (0, 1, 2))) == [2] * best + [1] * (size - best)


def test_the_best_tenth_of_nothing_relevant_is_nobody():
    failed = Verdict(failure="x")
    assert grades(best_tenth([[Verdict(0, 0.0)], [failed]], (0, 1, 2))) == [0, None]


@pytest.mark.parametrize("method", LISTWISE)
@pytest.mark.parametrize("reply", ["I think [1] and [2]", "[0]", "[9]", "", "<think>[1]</think>"])
def test_a_reply_that_is_no_selection_fails_every_pair(method, reply):
    asks, verdicts = play(method, 3, reply)
    assert len(asks) == 1
    assert grades(verdicts) == [None] * 3
    assert all(verdict.failure for verdict in verdicts)


def test_a_repeated_identifier_fails_its_pair_alone():
    assert grades(play("relsel", 3, "[1], [2], [1]")[1]) == [None, 2, 0]
    _, verdicts = play("utilsel", 3, "[1], [2], [1]", "an answer", "[1]")
    assert grades(verdicts) == [None, 2, 0]
    _, verdicts = play("utilrank", 3, "[1], [2]", "an answer", "[2] > [1] > [2]")
    assert grades(verdicts) == [1, None, 0]


def test_a_later_step_that_fails_leaves_the_verdicts_of_the_first():
    for method in ("utilsel", "utilrank"):
        assert grades(play(method, 3, "[1], [3]", "")[1]) == [None, 0, None]
        assert grades(play(method, 3, "[1], [3]", "an answer", "both of them")[1]) == [None, 0, None]


def test_a_passage_left_out_of_a_ranking_has_no_grade():
    _, verdicts = play("utilrank", 3, "[1], [2], [3]", "an answer", "[3] > [1]")
    assert grades(verdicts) == [1, None, 1]
    assert verdicts[1].failure == "not ranked: the reply leaves identifier [2] out"


def test_several_verdicts_become_the_lower_median():
    assert median([Verdict(2, 2.0), Verdict(0, 0.0)], (0, 2)) == Verdict(0, 1.0, (0.5, 0.5))
    assert median([Verdict(2, 2.0), Verdict(0, 0.0), Verdict(2, 2.0)], (0, 2)).grade == 2
    failed = Verdict(failure="x")
    assert median([failed, Verdict(2, 2.0), Verdict(2, 2.0)], (0, 2)).grade == 2
    assert median([failed, Verdict(2, 2.0)], (0, 2)) == Verdict(failure="1 of 2 answers failed: x")


def slow_rows(folder):
    return {(row.query_id, row.passage_id): row for row in read_labels(folder)[0]}


@pytest.mark.parametrize("method", LISTWISE)
def test_every_pair_of_a_pool_is_judged_with_its_place(judge, wide, tmp_path, method):
    outcome = judge(wide, tmp_path / "labels", method=method)
    rows = slow_rows(tmp_path / "labels")
    assert outcome.pairs == len(rows) == 300
    assert outcome.asked == 10 if method == "relsel" else 10 < outcome.asked <= 30
    assert outcome.failures == {}
    for query_id in wide.queries:
        mine = [row for (qid, _), row in rows.items() if qid == query_id]
        assert sorted(row.position for row in mine) == list(range(1, 31))
        assert {row.permutation_seed for row in mine} == {0}
        assert len({row.reply_ref for row in mine}) == 1
        if method == "utilrank":
            assert sum(row.grade == 2 for row in mine) == min(3, sum(row.score > 0 for row in mine))


def test_the_selection_is_that_of_the_words(judge, candidates, tmp_path):
    judge(candidates, tmp_path / "labels", method="relsel")
    for (query_id, passage_id), row in slow_rows(tmp_path / "labels").items():
        query = set(candidates.queries[query_id].text.split())
        shared = query & set(candidates.passages[passage_id].full_text.casefold().replace(",", "").split())
        assert row.grade == (2 if len(shared) / len(query) >= 0.5 else 0)


def test_orders_are_shuffled_and_the_same_again(judge, wide, tmp_path):
    def places(folder, seed):
        judge(wide, folder, method="relsel", reading=Reading(seed=seed))
        return {pair: row.position for pair, row in slow_rows(folder).items() if row.permutation_seed == seed}

    first = places(tmp_path / "a", 0)
    assert places(tmp_path / "b", 0) == first
    assert places(tmp_path / "c", 1) != first
    by_query = [[pid for (qid, pid), place in sorted(first.items()) if place == 1 and qid == q] for q in wide.queries]
    assert len(set(map(tuple, by_query))) > 3


def test_permutations_keep_a_ballot_an_order(judge, wide, tmp_path):
    labels = tmp_path / "labels"
    one = judge(wide, labels, method="relsel")
    more = judge(wide, labels, method="relsel", reading=Reading(permutations=3), add_judge=True)
    assert (one.asked, more.asked) == (10, 20)  # the first order is known
    judgements, judges, _ = read_labels(labels)
    (joined,) = [found.judge_id for found in judges if '"permutations":3' in present(found.decoding)]
    ballots = [Judgement(**row) for row in folders.read_table(labels, "ballots").to_pylist()]
    assert len(ballots) == 900
    assert {row.judge_id for row in ballots} == {joined}
    assert len({(row.query_id, row.passage_id, row.position) for row in ballots}) > 600
    for row in judgements:
        if row.judge_id == joined:
            mine = [vote for vote in ballots if (vote.query_id, vote.passage_id) == (row.query_id, row.passage_id)]
            assert [vote.permutation_seed for vote in mine] == [0, 1, 2]
            assert row.grade == sorted(present(vote.grade) for vote in mine)[1]
            assert row.score == pytest.approx(sum(present(vote.grade) for vote in mine) / 3)
            assert row.position is None


def test_votes_are_drawn_and_shared_out(judge, wide, tmp_path):
    outcome = judge(wide, tmp_path / "labels", method="graded", limit=40, reading=Reading(votes=5))
    judgements, (found,), _ = read_labels(tmp_path / "labels")
    ballots = folders.read_table(tmp_path / "labels", "ballots").to_pylist()
    assert (outcome.pairs, outcome.asked, len(ballots), len(judgements)) == (40, 200, 200, 40)
    assert '"temperature":1.0,"votes":5' in present(found.decoding)
    assert len({row["grade"] for row in ballots}) > 1
    again = judge(wide, tmp_path / "labels", method="graded", limit=40, reading=Reading(votes=5))
    assert (again.asked, again.known) == (0, 40)


def test_orders_are_for_lists_and_votes_for_pairs(judge, wide, tmp_path):
    with pytest.raises(UsageError, match="--permutations is for listwise methods"):
        judge(wide, tmp_path / "labels", method="graded", reading=Reading(permutations=2))
    with pytest.raises(UsageError, match="--votes is for pointwise methods"):
        judge(wide, tmp_path / "labels", method="relsel", reading=Reading(votes=2))


def test_a_pool_larger_than_the_context_is_judged_in_windows(judge, wide, tmp_path):
    judge(wide, tmp_path / "labels", method="relsel", max_model_len=360)
    judgements, _, manifest = read_labels(tmp_path / "labels")
    windows_a_query = manifest.facts.most_windows
    assert windows_a_query > 1
    assert manifest.facts.queries_in_windows == 10
    mine = [row for row in judgements if row.query_id == "q0"]
    assert len(mine) == 30
    assert len({row.reply_ref for row in mine}) == windows_a_query
    assert max(present(row.position) for row in mine) <= 30 // windows_a_query + 1


def test_windows_are_as_few_as_fit_and_nearly_equal():
    chance = random.Random(0)
    for _ in range(300):
        ids = [str(number) for number in range(chance.randint(1, 40))]
        sizes = {pid: chance.randint(1, 50) for pid in ids}
        room = chance.randint(1, 400)
        parts = windows(ids, sizes, room)
        assert [pid for part in parts for pid in part] == ids
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert len(parts) == len(ids) or all(sum(sizes[pid] for pid in part) <= room for part in parts)
    assert windows(["a", "b"], {}, None) == [["a", "b"]]


def test_a_new_passage_asks_for_its_window_again_and_no_other(judge, write_beir, tmp_path):
    from labelkit.pooling.pool import make_pool

    passages = {"a": ("", "red apples"), "b": ("", "red cherries"), "c": ("", "blue sky")}
    queries = {"q": "red", "r": "blue"}
    labels = tmp_path / "labels"
    beir = write_beir(tmp_path / "one", passages, queries, {})
    judge(make_pool(beir, tmp_path / "one.pool"), labels, method="relsel")
    beir = write_beir(tmp_path / "two", passages | {"d": ("", "red roses")}, queries, {})
    pool = make_pool(beir, tmp_path / "two.pool")
    assert judge(pool, labels, method="relsel").asked == 1
    rows = slow_rows(labels)
    assert {pid for qid, pid in rows if qid == "q"} == {"a", "b", "d"}
    assert {row.grade for row in rows.values()} == {2}


KILLED = f"""{KILLED_AFTER_REPLIES}
from labelkit.judging.annotate import annotate
options = AnnotateOptions(model="overlap", engine="scripted", method="utilsel", defence="none")
annotate(sys.argv[1], sys.argv[2], options, command="test")
"""


def test_a_killed_run_goes_on_at_the_step_where_it_stopped(judge, wide, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    all_steps = judge(wide, whole, method="utilsel").asked
    assert all_steps > 20
    for count in (4, all_steps - 5):  # in the first round, in the last
        command = [sys.executable, "-c", KILLED, tmp_path / "wide.pool", killed, str(count)]
        assert subprocess.run(command, cwd=REPOSITORY).returncode == -signal.SIGKILL
    assert judge(wide, killed, method="utilsel").asked == 1
    with sqlite3.connect(killed / "journal.sqlite") as db:
        assert db.execute("SELECT count(*), max(attempt) FROM replies").fetchone() == (all_steps, 1)
    assert (killed / "judgements.parquet").read_bytes() == (whole / "judgements.parquet").read_bytes()


def test_retry_failed_asks_for_the_failures_alone(judge, wide, tmp_path):
    labels = tmp_path / "labels"
    first = judge(wide, labels, "garbage", method="utilsel")
    assert sum(first.failures.values()) > 0
    assert judge(wide, labels, "garbage", method="utilsel").asked == 0
    again = judge(wide, labels, "garbage", method="utilsel", retry_failed=True)
    assert 0 < again.asked < first.asked
    assert again.failures == first.failures  # the scripted judge says the same again
