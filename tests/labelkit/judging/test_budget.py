"""Caps on tokens and dollars: set aside before a request is sent, never passed, whatever fails or is killed."""

import http.server
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from present import present

from labelkit.engines import Message, Reply, Request, traits_of
from labelkit.engines.tokenizers import Words
from labelkit.errors import JournalError, UsageError
from labelkit.judging.budget import Budget, Caps
from labelkit.judging.journal import Arrival, Journal
from labelkit.judging.prices import Price
from labelkit.storage.labels import read_labels

pytestmark = pytest.mark.slow  # every test annotates several times

REPOSITORY = Path(__file__).parents[3]
PRICES = "[overlap]\nprompt = 1000.0\ncompletion = 2000.0\n"


def request(key, words=10, max_tokens=5):
    return Request(key, "q", (Message("user", "word " * words),), max_tokens=max_tokens)


def test_the_worst_case_is_set_aside_and_gives_way_to_what_was_counted(tmp_path):
    with Journal(tmp_path) as journal:
        budget = Budget(
            journal,
            Caps(tokens=40),
            price=Price(prompt=1e6, completion=1e6),
            tokens=Words(),
            traits=traits_of("scripted"),
        )
        assert budget.reserve(request("a"))
        assert budget.reserve(request("b"))
        assert not budget.reserve(request("c"))
        assert (budget.tokens, budget.usd) == (30, 30)
        reply = Reply(key="a", text="x", prompt_tokens=10, completion_tokens=1)
        journal.append([Arrival(reply, budget.charge(reply))])
        assert (budget.tokens, budget.usd) == (26, 26)
        assert not budget.reserve(request("c"))
        lost = Reply(key="b", error="timed out")
        journal.append([Arrival(lost, budget.charge(lost))])
        assert budget.tokens == 26  # a timeout counts as spent
    with Journal(tmp_path) as journal:
        assert Budget(journal, Caps(), price=None, tokens=Words(), traits=traits_of("scripted")).tokens == 26


def test_what_a_killed_run_set_aside_stays_spent(tmp_path):
    with Journal(tmp_path) as journal:
        assert Budget(journal, Caps(tokens=100), price=None, tokens=Words(), traits=traits_of("scripted")).reserve(
            request("a")
        )
    with Journal(tmp_path) as journal:
        again = Budget(journal, Caps(tokens=100), price=None, tokens=Words(), traits=traits_of("scripted"))
        assert again.reserve(request("a"))
        assert again.tokens == 30
        reply = Reply(key="a", text="x", prompt_tokens=10, completion_tokens=1)
        journal.append([Arrival(reply, again.charge(reply))])
        assert again.tokens == 26


def test_a_submitted_batch_is_not_set_aside_twice(tmp_path):
    for _ in range(2):
        with Journal(tmp_path) as journal:
            budget = Budget(journal, Caps(tokens=100), price=None, tokens=Words(), traits=traits_of("openai-batch"))
            assert budget.reserve(request("a"))
            assert budget.tokens == 15


def test_faults_that_may_have_been_billed_are_counted(tmp_path):
    with Journal(tmp_path) as journal:
        budget = Budget(journal, Caps(tokens=1000), price=None, tokens=Words(), traits=traits_of("openai"))
        assert budget.reserve(request("a"))
        worst = budget.tokens
        budget.charge(Reply(key="a", text="x", prompt_tokens=10, completion_tokens=1, tries=3))
        assert budget.tokens == 11 + 2 * worst // 8


def test_a_damaged_charge_is_never_read_as_another(tmp_path):
    with Journal(tmp_path) as journal:
        Budget(journal, Caps(tokens=100), price=None, tokens=Words(), traits=traits_of("scripted")).reserve(
            request("a")
        )
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        db.execute("UPDATE aside SET tokens = 1")
    with Journal(tmp_path) as journal, pytest.raises(JournalError, match="damaged"):
        Budget(journal, Caps(), price=None, tokens=Words(), traits=traits_of("scripted"))


def test_a_cap_in_dollars_needs_a_price(judge, candidates, tmp_path):
    with pytest.raises(UsageError, match="--max-usd needs a price for 'overlap'"):
        judge(candidates, tmp_path / "labels", caps=Caps(usd=1.0))
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize("method", ["graded", "utilsel"])
def test_a_capped_run_goes_on_with_a_higher_cap_to_the_same_labels(judge, wide, tmp_path, method):
    (tmp_path / "prices.toml").write_text(PRICES)
    whole = judge(wide, tmp_path / "whole", method=method, prices=tmp_path / "prices.toml")
    assert whole.usd > 0
    judgements, _, _ = read_labels(tmp_path / "whole")
    assert sum(present(row.cost) for row in judgements) == pytest.approx(whole.usd)
    spent = []
    for share in (0.3, 0.6, 50):
        caps = Caps(tokens=int(share * whole.tokens))
        spent.append(judge(wide, tmp_path / "part", method=method, caps=caps, prices=tmp_path / "prices.toml"))
        assert spent[-1].tokens <= caps.tokens
    assert [outcome.pending > 0 for outcome in spent] == [True, True, False]
    assert sum(outcome.asked for outcome in spent) == whole.asked
    assert spent[-1].tokens == whole.tokens
    parts = [(tmp_path / name / "judgements.parquet").read_bytes() for name in ("part", "whole")]
    assert parts[0] == parts[1]


def test_a_cap_in_dollars_holds_and_the_command_says_how_to_go_on(labelkit, wide, tmp_path):
    (tmp_path / "prices.toml").write_text(PRICES)
    command = (
        "annotate",
        tmp_path / "wide.pool",
        "-o",
        tmp_path / "labels",
        "--engine",
        "scripted",
        "--model",
        "overlap",
    )
    called = labelkit(*command, "--prices", tmp_path / "prices.toml", "--max-usd", "2")
    assert called.code == 1
    assert "pairs are not judged: the caps allow no more requests" in called.err
    # Prompts cost 1,000 dollars per million tokens: a request costs a few cents to a few tens of cents.
    assert re.search(
        r"the next request could cost up to 0\.\d\d US dollars, and 0\.\d+ of --max-usd 2 are left\n", called.err
    ), called.err
    judgements, _, manifest = read_labels(tmp_path / "labels")
    assert 0 < len(judgements) < 300
    assert manifest.facts.pending == 300 - len(judgements)
    assert labelkit(*command).code == 0


KILLS = 3


def test_a_cap_holds_under_faults_and_kills(labelkit, wide, tmp_path):
    """The server bills every request that reaches it at its largest, also those that it fails or drops."""
    chance, lock = random.Random(5), threading.Lock()
    billed, arrived = [0], [0]
    child: list[subprocess.Popen[bytes]] = []
    cap, kill_at = 60_000, [25, 60, 10**9]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            words = sum(len(turn["content"].split()) for turn in body["messages"])
            with lock:
                draw = chance.random()
                billed[0] += words + (1 if draw > 0.2 else body["max_tokens"])
                arrived[0] += 1
                if arrived[0] == kill_at[0]:
                    kill_at.pop(0)
                    child[-1].send_signal(signal.SIGKILL)
            if draw < 0.1:
                self.close_connection = True
                return
            usage = {"prompt_tokens": words, "completion_tokens": 1}
            choice = {"index": 0, "message": {"role": "assistant", "content": "2"}, "finish_reason": "stop"}
            sent = json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode()
            self.send_response(500 if draw < 0.2 else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *arguments):
            """Quiet."""

    class Listener(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments):
            """A client that was killed is no news."""

    listener = Listener(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    command = [
        sys.executable,
        "-m",
        "labelkit",
        "annotate",
        tmp_path / "wide.pool",
        "-o",
        tmp_path / "labels",
    ]
    command += ["--engine", "openai", "--model", "m", "--base-url", f"http://127.0.0.1:{listener.server_port}/v1"]
    # What four requests set aside, all tries included, leaves room for two kills.
    command += ["--max-tokens", str(cap), "--concurrency", "4"]
    codes = []
    for _ in range(KILLS):
        child.append(subprocess.Popen(command, cwd=REPOSITORY, env=os.environ, stderr=subprocess.PIPE))
        child[-1].communicate(timeout=60)
        codes.append(child[-1].returncode)
    listener.shutdown()
    assert codes[:2] == [-signal.SIGKILL] * 2
    assert codes[2] == 1
    assert 3_000 < billed[0] <= cap
