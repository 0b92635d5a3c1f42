"""Retry-After of any kind: never fewer seconds than our own pauses, never more than the stated maximum, and said."""

import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

from labelkit.engines import Message, Request, Settings, client, concurrency, http, open_engine

SECONDS = 10.0
PAIRS = 8
PAST = format_datetime(datetime.now(UTC) - timedelta(days=900), usegmt=True)
HEADERS = ("0", "-1", "-0.0", "0.0000001", PAST, "NaN", "-inf", "Infinity", "1e999", "soon", "", "0, 0")
"""What asks for nothing."""


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("1e9", 1e9, 1e9), ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9, 1e12), ("1" * 5000, None, None), ("nan", None, None)],
    ids=["1e9", "a late date", "digits", "NaN"],
)
def test_a_wait_is_a_finite_number_or_none(header, low, high):
    found = http.seconds_to_wait(header)
    assert found is None if low is None else low <= found <= high


@pytest.fixture
def refuse(server, ask, Answer, completion, passage_of, monkeypatch):
    """Let servers answer 429 with each of these headers for `SECONDS`, all at once: passages asked about, by header."""
    monkeypatch.setattr(client, "CALL_SECONDS", SECONDS)

    def run(headers):
        sent = {}

        def one(header):
            mine = type(server)()
            refused = Answer({}, 429, {} if header is None else {"Retry-After": header})
            # The first request finds out, alone, what the server can do.
            mine.script = lambda body: Answer(completion("1")) if passage_of(body) == "first" else refused
            engine = open_engine("openai", Settings("m", base_urls=(mine.url,), concurrency=PAIRS))
            first, *replies = engine.run(ask("q", passage) for passage in ("first", *map(str, range(PAIRS))))
            if first.text == "1" and all(reply.error for reply in replies):
                sent[header] = [passage_of(request) for request in mine.ledger[1:]]
            mine.close()

        threads = [threading.Thread(target=one, args=(header,)) for header in headers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(sent) == set(headers)
        return sent

    return run


def test_a_header_that_asks_for_nothing_gets_the_requests_of_our_own_backoff(refuse, monkeypatch):
    """Measured before: 11,000 to 14,000 requests in 10 s."""
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.5)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 30.0)
    sent = {header: len(requests) for header, requests in refuse((None, *HEADERS)).items()}
    assert 3 * PAIRS < sent[None] < 12 * PAIRS
    assert {header: count for header, count in sent.items() if count > 2 * sent[None]} == {}


def test_a_wait_has_a_maximum_and_is_said(refuse, monkeypatch, capsys):
    monkeypatch.setattr(client, "LONGEST_WAIT", 3.0)
    monkeypatch.setattr(concurrency, "SAID_SECONDS", 1.0)
    sent = refuse(["1e9", "3"])
    # At 0, 3, 6 and 9 s.
    assert {header: set(Counter(requests).values()) for header, requests in sent.items()} == {"1e9": {4}, "3": {4}}
    said = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("waiting 3 s for http://127.0.0.1")
    ]
    assert sum("not the 1000000000 s that it asks for (status 429" in line for line in said) in (3, 4)
    assert len(said) <= 8


def test_a_submission_waits_no_longer_than_the_maximum_and_says_so(completion, monkeypatch, capsys, tmp_path, server):
    """The orders of a batch meet 429 with a wait of 30 years."""
    monkeypatch.setattr(client, "LONGEST_WAIT", 0.2)
    monkeypatch.setattr(concurrency, "SAID_SECONDS", 0.1)
    orders = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/files":
                return self.answer({"id": "file-1"})
            orders.append(time.monotonic())
            return self.answer({"id": "batch-1"}, 429 if len(orders) < 4 else 200)

        def do_GET(self):
            if self.path.startswith("/v1/batches?"):
                return self.answer({"data": [], "has_more": False})
            if self.path == "/v1/batches/batch-1":
                return self.answer({"status": "completed", "output_file_id": "file-2"})
            row = {"custom_id": "k", "response": {"status_code": 200, "body": completion("1")}}
            return self.answer(row)

        def answer(self, body, status=200):
            sent = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.send_header("Retry-After", "1e9")
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format, *args):
            """Quiet."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{listener.server_port}/v1"
    monkeypatch.setattr("labelkit.engines.openai_batch.POLL_SECONDS", 0.01)
    monkeypatch.setattr("labelkit.engines.batch_services.FIRST_PAUSE", 0.001)
    engine = open_engine("openai-batch", Settings("m", base_urls=(url,), folder=tmp_path, wait=True))
    (reply,) = engine.run([Request("k", "q", (Message("user", "grade this"),), ("0", "1"))])
    listener.shutdown()
    assert reply.text == "1"
    pauses = [later - earlier for earlier, later in pairwise(orders)]
    assert len(pauses) == 3
    assert all(0.2 <= pause < 1 for pause in pauses)
    said = capsys.readouterr().err
    assert f"waiting 0 s for {url}, not the 1000000000 s that it asks for (status 429" in said
