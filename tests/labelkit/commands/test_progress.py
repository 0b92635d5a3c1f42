"""What the screen says while a run goes on, and when it is interrupted."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from present import present

from labelkit.commands.progress import ProgressBar
from labelkit.judging.journal import Charge
from labelkit.judging.progress import Progress, clock
from labelkit.judging.reading import Reading

REPOSITORY = Path(__file__).parents[3]


def test_rates_money_and_time_are_those_of_the_replies(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("labelkit.judging.progress.time.monotonic", lambda: now[0])
    progress = Progress(total=1000, done=200, show=ProgressBar())
    progress.judged(100, failures=[], cached=True)
    now[0] += 50
    for _ in range(100):
        progress.judged(1, failures=[], cached=False)
        progress.paid([Charge(30, 0.01)])
    progress.judged(0, failures=["no answer: a", "no answer: b", "no label in 'x'"], cached=False)
    assert progress.words() == (
        "2.0 pairs/s, 60 tokens/s, 100 new, 100 cached, 3 failed (2 x no answer, 1 x no label), "
        "1.00 of about 7.00 US dollars, 5:00 left"
    )
    progress.close()
    assert capsys.readouterr().err.splitlines()[-1].startswith("judged 400/1000, 2.0 pairs/s")


def test_an_unknown_price_is_not_shown_as_money(capsys):
    progress = Progress(total=2, done=0, show=ProgressBar())
    progress.judged(1, failures=[], cached=False)
    progress.paid([Charge(30, None)])
    progress.close()
    assert "dollars" not in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3600, "1:00:00"), (None, "unknown time")])
def test_the_clock(seconds, text):
    assert clock(seconds) == text


def test_the_last_line_counts_what_is_new_and_what_was_cached(judge, wide, tmp_path, capsys):
    judge(wide, tmp_path / "one", method="utilsel", limit=120, cache=tmp_path / "cache")
    capsys.readouterr()
    judge(wide, tmp_path / "two", method="utilsel", cache=tmp_path / "cache", reading=Reading(), progress=ProgressBar())
    assert re.match(
        r"judged 300/300, .* pairs/s, .* tokens/s, 180 new, 120 cached, 0 failed, 0:00 left", capsys.readouterr().err
    )


class Slow(http.server.BaseHTTPRequestHandler):
    """A server that answers after a tenth of a second."""

    protocol_version = "HTTP/1.1"
    answers = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.1)
        choice = {"index": 0, "message": {"role": "assistant", "content": "2"}, "finish_reason": "stop"}
        sent = json.dumps({"model": "m", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)
        Slow.answers += 1

    def log_message(self, *arguments):
        """Quiet."""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(labelkit, wide, tmp_path, sent):
    Slow.answers = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = ["annotate", tmp_path / "wide.pool", "-o", tmp_path / "labels", "--engine", "openai", "--model", "m"]
    command += ["--base-url", f"http://127.0.0.1:{server.server_port}/v1", "--concurrency", "4"]
    arguments = ["labelkit", *map(str, command)]
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{handler}; import sys; sys.argv = {arguments!r}; from labelkit.commands.app import main; main()",
        ],
        cwd=REPOSITORY,
        env=os.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while Slow.answers < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(sent)
    _, err = child.communicate(timeout=60)
    server.shutdown()
    assert child.returncode == 130, err
    assert "Traceback" not in err
    first, last = err.splitlines()[-2:]
    judged = int(present(re.match(r"judged (\d+)/300", first))[1])
    assert 0 < judged < 300
    assert last == "stopped; run the same command again to resume"
