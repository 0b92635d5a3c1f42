"""Replies across runs and folders: found by what decides them, and by nothing else."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labelkit.engines import Reply
from labelkit.errors import JournalError
from labelkit.judging.prompts import shipped_prompts
from labelkit.judging.reading import Reading
from labelkit.judging.reply_cache import FILE, Cache
from labelkit.pooling.pool import make_pool

pytestmark = pytest.mark.slow  # every test annotates several times

REPOSITORY = Path(__file__).parents[3]


def judged(folder):
    return (folder / "judgements.parquet").read_bytes()


@pytest.mark.parametrize("method", ["graded", "utilsel"])
def test_another_folder_buys_nothing_and_says_the_same(judge, wide, tmp_path, method):
    cache, one, other = tmp_path / "cache", tmp_path / "one", tmp_path / "other"
    first = judge(wide, one, method=method, cache=cache)
    second = judge(wide, other, method=method, cache=cache)
    assert (first.asked > 0, first.cached) == (True, 0)
    assert (second.asked, second.cached) == (0, first.asked)
    assert judged(one) == judged(other)
    again = judge(wide, other, method=method, cache=cache)
    assert (again.asked, again.cached, again.known) == (0, 0, 300)


def test_a_new_passage_buys_one_judgement(judge, write_beir, tmp_path):
    def asked(name, passages):
        beir = write_beir(tmp_path / name, passages, {"q": "red"}, {})
        pool = make_pool(beir, tmp_path / f"{name}.pool")
        return judge(pool, tmp_path / f"{name}.labels", cache=tmp_path / "cache").asked

    passages = {f"p{number}": ("", f"red {number}") for number in range(20)}
    assert asked("one", passages) == 20
    assert asked("two", passages | {"new": ("", "red roses")}) == 1
    assert asked("three", {f"x{pid}": text for pid, text in passages.items()}) == 0  # ids decide nothing


def test_whatever_decides_a_reply_is_part_of_its_key(judge, candidates, tmp_path):
    """One thing changed at a time, in a folder of its own: everything is asked again."""
    prompt = tmp_path / "mine.toml"
    prompt.write_text(shipped_prompts()["graded"].read_text() + "# a comment\n")
    cache = tmp_path / "cache"
    pairs = judge(candidates, tmp_path / "labels0", cache=cache).asked
    changed: list[dict[str, Any]] = [
        {"model": "garbage"},
        {"method": "binary"},
        {"prompt": str(prompt)},
        {"reading": Reading(passage_tokens=3)},
        {"reading": Reading(votes=2)},
    ]
    for number, options in enumerate(changed, 1):
        outcome = judge(candidates, tmp_path / f"labels{number}", cache=cache, **options)
        assert (outcome.cached, outcome.asked >= pairs) == (0, True), options
    same = judge(candidates, tmp_path / "same", cache=cache, max_model_len=4096)
    assert (same.asked, same.cached) == (0, pairs)


def test_what_a_killed_run_bought_is_published_by_the_next(judge, candidates, tmp_path):
    first = judge(candidates, tmp_path / "one", limit=3)  # killed before it could publish: no cache
    second = judge(candidates, tmp_path / "one", cache=tmp_path / "cache")
    other = judge(candidates, tmp_path / "other", cache=tmp_path / "cache")
    assert (other.asked, other.cached) == (0, first.asked + second.asked)


def test_more_votes_buy_only_the_new_ones(judge, candidates, tmp_path):
    two = judge(candidates, tmp_path / "two", reading=Reading(votes=2), cache=tmp_path / "cache")
    three = judge(candidates, tmp_path / "three", reading=Reading(votes=3), cache=tmp_path / "cache")
    assert (two.asked, three.asked, three.cached) == (2 * two.pairs, two.pairs, two.asked)


def test_failed_replies_are_asked_again_in_spite_of_the_cache(judge, wide, tmp_path):
    judge(wide, tmp_path / "one", "garbage", cache=tmp_path / "cache")
    first = judge(wide, tmp_path / "two", "garbage", cache=tmp_path / "cache")
    again = judge(wide, tmp_path / "two", "garbage", cache=tmp_path / "cache", retry_failed=True)
    assert first.asked == 0
    assert again.asked == sum(first.failures.values()) > 0


def test_an_interrupted_run_publishes_what_it_bought(wide, tmp_path):
    stopped = """
import sys
from pathlib import Path
from labelkit.engines import scripted
from labelkit.judging import journal
from labelkit.judging.annotate import annotate
from labelkit.judging.options import AnnotateOptions
scripted.BLOCK = 1
append, left = journal.Journal.append, 40
def counted(self, arrivals):
    global left
    kept = append(self, arrivals)
    left -= 1
    if left == 0:
        raise KeyboardInterrupt
    return kept
journal.Journal.append = counted
options = AnnotateOptions(model="overlap", engine="scripted", method="graded", defence="none", cache=sys.argv[3])
annotate(sys.argv[1], sys.argv[2], options, command="test")
"""
    command = [sys.executable, "-c", stopped, tmp_path / "wide.pool", tmp_path / "labels", tmp_path / "cache"]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode != 0
    with sqlite3.connect(tmp_path / "cache" / FILE) as db:
        assert db.execute("SELECT count(*) FROM replies").fetchone()[0] >= 39


def test_a_damaged_reply_is_not_found(tmp_path):
    cache = Cache(tmp_path)
    cache.add([Reply(key="good", text="2"), Reply(key="bad", text="2")])
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("UPDATE replies SET reply = replace(reply, '2', '3') WHERE key = 'bad'")
    assert [reply.key for reply in cache.find(["good", "bad", "absent"])] == ["good"]


def test_a_file_that_is_no_cache_is_one_line(tmp_path):
    (tmp_path / FILE).write_bytes(b"something else" * 100)
    with pytest.raises(JournalError, match=r"cache\.sqlite cannot be used"):
        Cache(tmp_path).find(["key"])


def test_a_lost_cache_costs_money_and_nothing_else(judge, candidates, tmp_path):
    judge(candidates, tmp_path / "one", cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    judge(candidates, tmp_path / "two", cache=tmp_path / "cache")
    assert judged(tmp_path / "one") == judged(tmp_path / "two")
