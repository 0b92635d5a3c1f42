"""Transport against servers that are slow, hostile, overloaded or down: deadlines, caps, windows, fleets."""

import asyncio
import gzip
import itertools
import json
import random
import resource
import socket
import ssl
import threading
import time
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from labelkit.engines import Settings, client, concurrency, http, open_engine
from labelkit.errors import EngineError, UsageError
from labelkit.judging.reply_parser import Failure, read_label

LABELS = ("0", "1", "2", "3")


@pytest.fixture
def fleet(server, ask, monkeypatch):
    """Ask several addresses for these passages; replies by passage."""
    monkeypatch.setattr(concurrency, "SILENT", 3)

    def run(urls, passages, concurrency=8):
        engine = open_engine("openai", Settings("m", base_urls=tuple(urls), concurrency=concurrency))
        return {r.key.removeprefix("q | "): r for r in engine.run(ask("q", passage) for passage in passages)}

    return run


@pytest.fixture
def other(server):
    second = type(server)()
    yield second
    second.close()


@pytest.fixture
def raw():
    """A server that answers each connection with the bytes of `pieces()`, one piece after each pause."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve(pieces, pause):
        def one(connection):
            with connection:
                connection.recv(1 << 16)
                for piece in pieces():
                    if stopped.wait(pause):
                        return
                    try:
                        connection.sendall(piece)
                    except OSError:
                        return

        def forever():
            while not stopped.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=forever, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield serve
    stopped.set()
    listener.close()


def test_a_dripping_server_costs_the_deadline_and_the_others_keep_their_rate(
    fleet, server, raw, monkeypatch, completion, Answer, passage_of
):
    monkeypatch.setattr(client, "CALL_SECONDS", 3.0)
    monkeypatch.setattr("labelkit.engines.openai.SOON_SECONDS", 1.0)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    dripping = raw(lambda: itertools.chain([head], itertools.repeat(b" ")), 0.1)
    server.script = lambda body: Answer(completion("1"))
    replies = list(fleet([server.url, dripping], map(str, range(120)), concurrency=16).values())
    assert len(replies) == 120
    dripped = [reply for reply in replies if reply.error]
    assert 0 < len(dripped) <= 16
    assert all(reply.error.startswith("DeadlineError: no answer within 3 s") for reply in dripped)
    # The slots that do not drip are free for the rest: all of it was answered before the first deadline.
    assert replies[-len(dripped) :] == dripped


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_packed_bomb_is_refused_without_growing(answer_all, server, completion, Answer, passage_of, encoding):
    packer = zlib.compressobj(1, wbits=31 if encoding == "gzip" else 15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    assert len(packed) < http.BODY_BYTES
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    server.script = lambda body: (
        Answer(packed, headers={"Content-Encoding": encoding})
        if passage_of(body) == "bomb"
        else Answer(completion("1"))
    )
    replies = answer_all("a", "bomb", "b")
    assert replies["bomb"].error == "APIResponseError: the answer is larger than 4 MB"
    assert replies["a"].text == replies["b"].text == "1"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 100


def test_a_body_without_end_is_given_up_at_the_limit(fleet, raw):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    endless = raw(lambda: itertools.chain([head], itertools.repeat(b"[" * (1 << 18))), 0)
    assert fleet([endless], ["a"])["a"].error == "APIResponseError: the answer is larger than 4 MB"


def test_a_packed_answer_is_read_and_one_that_ends_early_is_asked_again(answer_all, server, completion, Answer):
    packed = gzip.compress(json.dumps(completion("3")).encode())
    bodies = iter([packed[:-9], packed])
    server.script = lambda body: Answer(next(bodies), headers={"Content-Encoding": "gzip"})
    assert answer_all("a")["a"].text == "3"
    assert len(server.ledger) == 2
    server.script = lambda body: Answer(packed, headers={"Content-Encoding": "br"})
    assert "compressed as 'br'" in answer_all("a")["a"].error


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0.25", 0.25, 0.25),
        ("-3", 0, 0),
    ],
)
def test_retry_after_is_seconds(header, low, high):
    assert low <= http.seconds_to_wait(header) <= high


@pytest.mark.parametrize(("hours", "low", "high"), [(1, 3500, 3600), (-1, 0, 0)])
def test_retry_after_may_be_a_date(hours, low, high):
    header = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
    assert low <= http.seconds_to_wait(header) <= high


@pytest.mark.parametrize("header", [None, "", "soon", "Mon, 99 Foo 2020", "1e", "١"])
def test_a_retry_after_that_is_neither_is_none(header):
    assert http.seconds_to_wait(header) in (None, 1.0)


def test_a_wait_longer_than_the_deadline_is_not_begun(answer_all, server, Answer, monkeypatch):
    monkeypatch.setattr(client, "CALL_SECONDS", 20.0)
    server.script = lambda body: Answer({"error": "full"}, 429, {"Retry-After": "4000"})
    began = time.monotonic()
    assert answer_all("a")["a"].error.startswith("RateLimitError: status 429")
    assert time.monotonic() - began < 5
    assert len(server.ledger) == 1


def test_refusals_halve_what_is_under_way_and_answers_raise_it_again(answer_all, server, completion, Answer):
    """The server bears 4 at once; the engine was allowed 32."""
    refused = []

    def script(body):
        if server.busy > 4:
            refused.append(len(server.ledger))
            return Answer({}, 429)
        time.sleep(0.01)
        return Answer(completion("1"))

    server.script = script
    replies = answer_all(*map(str, range(160)), concurrency=32)
    assert {reply.text for reply in replies.values()} == {"1"}
    assert len(server.ledger) == 160 + len(refused)
    late = [place for place in refused if place > len(server.ledger) / 2]
    assert len(late) < 0.35 * len(server.ledger) / 2


def test_the_window_halves_once_a_round_and_grows_by_one():
    server = concurrency.Server("http://127.0.0.1/v1", 64)
    server.busy = 64
    server.refused(sent=1.0, now=2.0)
    for sent in (1.0, 1.5, 1.9):
        server.refused(sent, now=2.1)
    assert server.limit == 32
    for _ in range(32):
        server.answered()
    assert server.limit == pytest.approx(33, abs=0.02)
    for _ in range(10_000):
        server.answered()
    assert server.limit == 64
    server.busy = 1
    for now in range(3, 20):
        server.refused(sent=now, now=now)
    assert server.limit == 1


def test_servers_of_a_fleet_take_turns(fleet, server, other, completion, Answer):
    def slow(body):
        time.sleep(0.005)
        return Answer(completion("1"))

    server.script = other.script = slow
    replies = fleet([server.url, other.url], map(str, range(100)))
    assert {reply.text for reply in replies.values()} == {"1"}
    assert len(server.ledger) + len(other.ledger) == 100
    assert min(len(server.ledger), len(other.ledger)) > 25


def test_a_server_that_is_down_is_left_out_and_said(fleet, server, completion, Answer, capsys):
    down = "http://127.0.0.1:9/v1"
    replies = fleet([down, server.url], map(str, range(60)))
    assert {reply.text for reply in replies.values()} == {"2"}
    assert len(server.ledger) == 60
    assert capsys.readouterr().err.count(f"{down} does not answer (Connection refused") == 1


def test_a_server_that_refuses_beside_one_that_is_gone_still_listens(server, Answer, monkeypatch):
    """Before: calls whose last try met the one that is gone said that nothing listens at both."""
    monkeypatch.setattr(client, "CALL_SECONDS", 1.0)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(client, "LOST", 1000)
    monkeypatch.setattr(concurrency, "SILENT", 10_000)
    server.script = lambda body: Answer({}, 429)

    async def call():
        async with client.Client(("http://127.0.0.1:9/v1", server.url), ceiling=20, insecure=False) as both:
            return await asyncio.gather(*(both.post("/x", b"{}") for _ in range(20)), return_exceptions=True)

    errors = asyncio.run(call())
    assert {type(error) for error in errors} <= {http.NoConnectionError, http.RateLimitError, http.DeadlineError}
    assert http.NoConnectionError in map(type, errors)


def test_a_server_that_comes_back_is_used_again_and_said(fleet, server, other, completion, Answer, capsys, monkeypatch):
    monkeypatch.setattr(concurrency, "OUT_SECONDS", 0.1)
    # Many more than the faults in a row that put a server aside: answers that come at once are read in any order.
    health = itertools.chain(itertools.repeat(503, 16), itertools.repeat(200))

    def slow(body):
        time.sleep(0.005)
        return Answer(completion("1"))

    server.script = slow
    other.script = lambda body: Answer(completion("1"), next(health))
    replies = fleet([other.url, server.url], map(str, range(200)))
    assert {reply.text for reply in replies.values()} == {"1"}
    said = capsys.readouterr().err
    assert said.count(f"{other.url} does not answer (status 503") == 1
    assert said.count(f"{other.url} answers again") == 1
    assert len(other.ledger) > 20


def test_under_every_fault_the_pairs_end_in_a_state_and_the_ledger_is_whole(
    answer_all, server, completion, Answer, passage_of
):
    """20% 429 with Retry-After, 5% 500, 5% reset, 2% truncated, 2% HTML, 1% wrong types, in one run of 150 pairs."""
    chance, lock, sent = random.Random(7), threading.Lock(), []

    def script(body):
        with lock:
            draw = chance.random()
            sent.append(passage_of(body))
        right = completion(LABELS[int(passage_of(body)) % 4])
        table = [
            (0.20, Answer({}, 429, {"Retry-After": "0.005"})),
            (0.25, Answer({}, 500)),
            (0.30, Answer(b"", length=50)),
            (0.32, Answer(right, length=100_000)),
            (0.34, Answer(b"<html>3</html>", headers={"Content-Type": "text/html"})),
            (0.35, Answer(right | {"choices": {"0": "3"}})),
        ]
        return next((answer for bound, answer in table if draw < bound), Answer(right))

    server.script = script
    replies = answer_all(*map(str, range(150)), concurrency=64)
    labels = {passage: read_label(reply, LABELS) for passage, reply in replies.items()}
    failed = {passage for passage, label in labels.items() if isinstance(label, Failure)}
    assert 0 < len(failed) < 20
    assert all(label == LABELS[int(passage) % 4] for passage, label in labels.items() if passage not in failed)
    assert set(sent) == set(replies)
    assert len(sent) == len(server.ledger)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://gpu.example.com/v1", "unencrypted; use https"),
        ("https://user:sk-canary@example.com/v1", "leave out user, password"),
        ("https://example.com/v1?key=sk-canary", "leave out user, password"),
        ("ftp://example.com", r"expected http\(s\)"),
        ("localhost:8000", r"expected http\(s\)"),
        ("", r"expected http\(s\)"),
    ],
)
def test_addresses_that_would_leak_or_cannot_work_are_refused(monkeypatch, url, reason):
    monkeypatch.setenv("LABELKIT_API_KEY", "k")
    with pytest.raises(UsageError, match=reason) as refused:
        open_engine("openai", Settings("m", base_urls=(url,)))
    assert "sk-canary" not in str(refused.value)


def test_plain_http_elsewhere_goes_with_a_flag(monkeypatch):
    monkeypatch.setenv("LABELKIT_API_KEY", "k")
    settings = Settings("m", base_urls=("http://gpu.example.com/v1",))
    with pytest.raises(UsageError, match="unencrypted"):
        open_engine("openai", settings)
    assert open_engine("openai", settings._replace(insecure=True)).facts.engine == "openai"


def test_a_certificate_that_nobody_signed_is_trusted_with_a_flag_alone(server, ask, completion, Answer):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("self_signed.pem"))
    server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
    settings = Settings("m", base_urls=(server.url.replace("http:", "https:"),))
    with pytest.raises(EngineError, match="skip the verification with --insecure"):
        list(open_engine("openai", settings).run([ask("q", "a")]))
    assert server.ledger == []
    (reply,) = open_engine("openai", settings._replace(insecure=True)).run([ask("q", "a")])
    assert reply.text == "2"


@pytest.mark.parametrize(("tokens", "seconds"), [(8, 300.0), (900, 300.0), (2048, 2048 / client.SLOWEST)])
def test_a_long_answer_has_a_later_deadline(tokens, seconds):
    assert client.seconds_for(tokens) == seconds
