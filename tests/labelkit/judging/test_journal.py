"""The journal under SIGKILL, damage and a second process."""

import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from present import present

from labelkit.engines import Reply
from labelkit.errors import JournalError
from labelkit.judging.journal import FILE, Answer, Arrival, Asked, Charge, Journal
from labelkit.records import Judge

REPOSITORY = Path(__file__).parents[3]

APPENDER = """
import sys
from pathlib import Path
from labelkit.engines import Reply
from labelkit.judging.journal import Arrival, Journal
with Journal(Path(sys.argv[1])) as journal:
    for number in range(10_000):
        key = f"{sys.argv[2]}-{number}"
        journal.append([Arrival(Reply(key=key, text=f"answer to {key}"))])
        print(key, flush=True)
"""

HOLDER = """
import sys, time
from pathlib import Path
from labelkit.judging.journal import Journal
with Journal(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def judge(judge_id: str = "j-1") -> Judge:
    return Judge(judge_id=judge_id, kind="llm", name="model")


def asked(query_id: str, passage_id: str, key: str, *, variant: int = 0) -> Asked:
    return Asked("j-1", query_id, passage_id, variant, 0, 0, None, key)


def append(folder: Path, *keys: str, text: str = "2") -> None:
    with Journal(folder) as journal:
        for key in keys:
            journal.append([Arrival(Reply(key=key, text=text))])


def answered(journal: Journal) -> set[str]:
    """The keys whose last reply is not an error."""
    good = journal.answered()
    return {key for key, *_ in journal.records() if key in good}


def keys(folder: Path) -> set[str]:
    with Journal(folder) as journal:
        return answered(journal)


def test_a_killed_writer_loses_no_acknowledged_reply(tmp_path):
    chance = random.Random(0)
    printed: set[str] = set()
    for run in range(6):
        child = start(APPENDER, tmp_path, run)
        seen = [present(child.stdout).readline().strip() for _ in range(chance.randint(1, 200))]
        time.sleep(chance.random() / 50)
        child.send_signal(signal.SIGKILL)
        seen += present(child.stdout).read().split()
        assert child.wait() == -signal.SIGKILL
        printed |= set(seen)
    with Journal(tmp_path) as journal:
        kept = {key: journal.reply(key) for key in answered(journal)}
    assert printed <= set(kept)
    assert len(kept) <= len(printed) + 6
    assert all(present(reply).text == f"answer to {key}" for key, reply in kept.items())


def test_what_was_appended_is_read_again(tmp_path):
    reply = Reply(key="k", text="x\u2028\0é", label_logprobs={"0": -0.1, "1": -9999.0}, finish_reason="stop", model="m")
    with Journal(tmp_path) as journal:
        journal.append([Arrival(reply)])
    with Journal(tmp_path) as journal:
        assert answered(journal) == {"k"}
        assert journal.reply("k") == reply


def test_the_last_reply_of_a_key_counts_and_the_first_is_kept(tmp_path):
    append(tmp_path, "k", text="1")
    append(tmp_path, "k", text="3")
    with Journal(tmp_path) as journal:
        assert present(journal.reply("k")).text == "3"
    rows = sqlite3.connect(tmp_path / FILE).execute("SELECT attempt FROM replies ORDER BY attempt").fetchall()
    assert rows == [(1,), (2,)]


@pytest.mark.parametrize("again", [(), ("b",), ("b", "b", "c")], ids=["once", "twice", "often"])
def test_replies_that_are_read_together_are_those_that_are_read_alone(tmp_path, again):
    prices = {"a": 0.5, "b": 0.25, "c": None, "d": None}
    with Journal(tmp_path) as journal:
        for number, key in enumerate([*prices, *again]):
            charge = None if key == "d" else Charge(number, prices[key])
            journal.append([Arrival(Reply(key=key, text=str(number)), charge)])
        found = journal.answers(["a", "b", "c", "d", "e"])
        assert found == {key: Answer(present(journal.reply(key)), journal.cost(key)) for key in prices}
    assert found["b"].usd == 0.25 * (1 + again.count("b"))


def test_judges_and_pairs_are_read_in_order(tmp_path):
    pairs = [asked("q2", "p1", "c"), asked("q1", "p2", "b"), asked("q1", "p1", "a")]
    with Journal(tmp_path) as journal:
        journal.register(judge("j-2"), b"two", [])
        journal.register(judge("j-1"), b"one", pairs)
    with Journal(tmp_path) as journal:
        assert journal.judges() == [(judge("j-1"), b"one"), (judge("j-2"), b"two")]
        assert list(journal.asked("j-1")) == pairs[::-1]
        assert list(journal.asked("j-2")) == []


def test_a_whole_window_supersedes_what_was_asked_of_its_query(tmp_path):
    before = [asked("q1", "p1", "a"), asked("q1", "p2", "a"), asked("q2", "p1", "b")]
    after = [asked("q1", "p2", "c"), asked("q1", "p3", "c")]
    with Journal(tmp_path) as journal:
        journal.register(judge(), b"one", before, whole=True)
        journal.register(judge(), b"one", after, whole=True)
        assert list(journal.asked("j-1")) == [*after, before[2]]


def test_a_journal_of_another_release_is_refused(tmp_path):
    append(tmp_path, "k")
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("PRAGMA user_version=1")
    with pytest.raises(JournalError, match="written by another release"):
        keys(tmp_path)


def flip(path: Path, marker: bytes, bit: int) -> None:
    """Flip one bit of the byte behind every copy of `marker` in the file."""
    data = bytearray(path.read_bytes())
    places = [match.end() for match in re.finditer(re.escape(marker), bytes(data))]
    assert places
    for place in places:
        data[place] ^= bit
    path.write_bytes(data)


@pytest.mark.parametrize("bit", [1, 2, 128], ids=["bit 0", "bit 1", "no UTF-8"])
def test_a_flipped_bit_in_a_reply_loses_that_reply_alone(tmp_path, bit):
    append(tmp_path, *(f"key{number}" for number in range(50)), text="stable")
    append(tmp_path, "bad", text="the damaged one")
    flip(tmp_path / FILE, b"the damaged on", bit)
    assert keys(tmp_path) == {f"key{number}" for number in range(50)}
    append(tmp_path, "bad")
    assert "bad" in keys(tmp_path)


def test_a_flipped_digest_loses_that_reply_alone(tmp_path):
    append(tmp_path, "good", "bad")
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("UPDATE replies SET digest = zeroblob(32) WHERE key = 'bad'")
    assert keys(tmp_path) == {"good"}


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"something else entirely" * 100)
    with pytest.raises(JournalError, match=r"journal\.sqlite cannot be read"):
        keys(tmp_path)
    (tmp_path / FILE).unlink()
    assert keys(tmp_path) == set()


def test_a_journal_with_destroyed_pages_is_refused_in_one_line(tmp_path):
    append(tmp_path, *(f"key{number}" for number in range(500)), text="x" * 100)
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(JournalError):
        keys(tmp_path)


def test_a_second_process_is_refused_fast_and_learns_who_holds(tmp_path):
    child = start(HOLDER, tmp_path)
    try:
        assert present(child.stdout).readline() == "held\n"
        # The holder holds on for a minute: whoever waited for it would get the lock.
        with pytest.raises(JournalError, match=rf"process {child.pid}\b"):
            keys(tmp_path)
    finally:
        child.kill()
        child.wait()


def test_the_lock_of_a_killed_holder_is_free(tmp_path):
    child = start(HOLDER, tmp_path)
    assert present(child.stdout).readline() == "held\n"
    child.kill()
    child.wait()
    assert keys(tmp_path) == set()


def test_a_lock_is_free_when_the_block_ends_with_an_error(tmp_path):
    with pytest.raises(RuntimeError), Journal(tmp_path):
        raise RuntimeError
    assert keys(tmp_path) == set()


def test_a_disk_that_takes_no_more_stops_the_run_and_keeps_what_was_acknowledged(tmp_path):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))" + APPENDER
    child = subprocess.Popen(
        [sys.executable, "-c", limited, tmp_path, "x"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert re.search(r"JournalError: .*journal\.sqlite cannot be written .*run the command again", err)
    assert out.split()
    assert set(out.split()) <= keys(tmp_path)
