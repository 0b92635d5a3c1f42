"""The fault rig: a judge's server with faults on order, real processes that are killed, and the means to look inside.

The server answers each request with a grade drawn by a hash of its messages, so that every run of the same pairs has
the same right answers, and keeps a ledger of what arrived. Judging processes are forked from one that has everything
imported: a run starts in milliseconds and is killed like any other process.
"""

import asyncio
import contextlib
import functools
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.engines import Reply, client
from labelkit.errors import LabelkitError
from labelkit.judging import annotate as annotation
from labelkit.judging.budget import Caps
from labelkit.judging.journal import Arrival, Journal
from labelkit.judging.options import AnnotateOptions
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import Pool, make_pool, read_pool

CONCURRENCY = 64
FOLDER = str(Path(__file__).parent)
# Faults by the hundred: what is shown does not depend on how long a pause is.
client.FIRST_PAUSE, client.LONGEST_PAUSE = 0.01, 0.1


class Sent(NamedTuple):
    """An answer of any kind, byte for byte."""

    content: bytes
    status: int = 200
    headers: bytes = b""


Plan = Callable[[int, dict[str, Any]], str | Sent | None]
"""(number of the request, its body) -> the name of a fault, an answer of any kind, or None for a good answer."""


def grade_of(messages: list[dict[str, str]]) -> str:
    """The right answer to a request."""
    text = "\x1f".join(turn["content"] for turn in messages)
    return str(hashlib.sha256(text.encode()).digest()[0] % 4)


def completion(body: dict[str, Any], content: Any = None, **changes: Any) -> dict[str, Any]:
    """A chat completion with the right answer."""
    words = sum(len(turn["content"].split()) for turn in body["messages"])
    message = {"role": "assistant", "content": grade_of(body["messages"]) if content is None else content}
    return {
        "model": "served",
        "system_fingerprint": "fp",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": words, "completion_tokens": 1},
    } | changes


class Server:
    """An OpenAI-compatible server on loopback, in a thread of its own. `plan` orders its faults."""

    def __init__(self, plan: Plan = lambda number, body: None, latency: float = 0.0) -> None:
        self.plan = plan
        self.latency = latency
        self.arrived = 0
        self.ledger: Counter[str] = Counter()
        """Fault, or `answered` -> requests."""
        self.asked: Counter[str] = Counter()
        """Hash of a request -> times that it arrived."""
        self.keys: set[str] = set()
        """That requests brought."""
        self.billed = 0
        """Tokens, the worst case for what was not answered."""
        self.on_arrival: Callable[[int], None] = lambda number: None
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        ready.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=512))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        self._loop.run_forever()
        talks = asyncio.all_tasks(self._loop)
        for talk in talks:
            talk.cancel()
        self._loop.run_until_complete(asyncio.gather(*talks, return_exceptions=True))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if head.startswith(b"get "):
                    # The list of models, which this server does not have.
                    self._write(writer, Sent(b"{}", 404))
                    continue
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                self.keys.add(head.partition(b"authorization: bearer ")[2].split(b"\r\n")[0].decode())
                body = json.loads(await reader.readexactly(length))
                self.arrived += 1
                fault = self.plan(self.arrived, body)
                answered = isinstance(fault, Sent) and fault.status == 200
                refused = fault == "429" or (isinstance(fault, Sent) and 400 <= fault.status < 500)
                self.ledger["answered" if answered or not fault else str(fault)] += 1
                self.asked[hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()] += 1
                words = sum(len(turn["content"].split()) for turn in body["messages"])
                limit = body.get("max_tokens") or body.get("max_completion_tokens")
                self.billed += 0 if refused else words + (limit if fault and not answered else 1)
                self.on_arrival(self.arrived)
                if self.latency:
                    await asyncio.sleep(self.latency)
                if not self._answer(writer, body, fault):
                    break
                await writer.drain()
        writer.close()

    def _answer(self, writer: asyncio.StreamWriter, body: dict[str, Any], fault: str | Sent | None) -> bool:
        """Send what the fault makes of the answer; whether the connection stays."""
        if isinstance(fault, Sent):
            self._write(writer, fault)
            return True
        whole = json.dumps(completion(body)).encode()
        sent = {
            None: (200, whole, b""),
            "429": (429, b"{}", b"Retry-After: 0.01\r\n"),
            "500": (500, b"overloaded", b""),
            "truncated": (200, whole, b""),
            "malformed": (200, whole[: len(whole) // 2], b""),
            "html": (200, b"<html>Bad gateway, score 3</html>", b""),
            "types": (200, json.dumps(completion(body, content={"grade": 3}, model=7)).encode(), b""),
            "gzip": (200, bomb() if fault == "gzip" else b"", b"Content-Encoding: gzip\r\n"),
            "drift": (200, json.dumps(completion(body, model="another")).encode(), b""),
        }
        if fault == "reset":
            writer.transport.abort()
            return False
        status, content, headers = sent[fault]
        self._write(writer, Sent(content, status, headers), half=fault == "truncated")
        return fault != "truncated"

    def _write(self, writer: asyncio.StreamWriter, sent: Sent, *, half: bool = False) -> None:
        """Send an answer, or half of its body."""
        size = len(sent.content)
        head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % (sent.status, size)
        writer.write(head + sent.headers + b"\r\n" + sent.content[: size // 2 if half else size])


@functools.cache
def bomb() -> bytes:
    """256 MB of spaces, packed to a quarter of one."""
    return gzip.compress(b" " * (256 << 20))


def mix(seed: int) -> Plan:
    """The mix of faults of promise 7, drawn anew for every request that arrives."""
    shares = {
        "429": 0.20,
        "500": 0.05,
        "reset": 0.05,
        "truncated": 0.02,
        "malformed": 0.01,
        "html": 0.01,
        "types": 0.01,
    }

    def plan(number: int, body: dict[str, Any]) -> str | None:
        draw = random.Random(f"{seed} {number}").random()
        for fault, share in shares.items():
            draw -= share
            if draw < 0:
                return fault
        return None

    return plan


def make_pairs(folder: Path, pairs: int) -> Pool:
    """A pool of so many pairs, 50 a query, made once."""
    target = folder / f"pool-{pairs}"
    if not target.is_dir():
        beir = folder / f"beir-{pairs}"
        beir.mkdir(parents=True, exist_ok=True)
        passages = [{"_id": f"p{n:05d}", "text": f"word{n % 97} word{n % 89} tea number {n}"} for n in range(50)]
        queries = [{"_id": f"q{n:05d}", "text": f"tea number word{n % 97} {n}"} for n in range(pairs // 50)]
        for name, rows in (("corpus", passages), ("queries", queries)):
            (beir / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = make_pool(beir, target, PoolOptions(bm25=50))
        assert len(made.candidates) == pairs
    return read_pool(target)


class Job(NamedTuple):
    """What a judging process is told."""

    pool: Path
    folder: Path
    url: str
    acknowledged: Path
    """File that gets the key of every reply whose commit has returned."""
    concurrency: int = CONCURRENCY
    max_tokens: int | None = None


def run_job(job: Job) -> None:
    """Judge, in a process of its own; ends as the command line does."""
    handle = os.open(job.acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    append = Journal.append

    def told(self: Journal, arrivals: Sequence[Arrival]) -> list[Reply]:
        kept = append(self, arrivals)
        os.write(handle, "".join(f"{reply.key}\n" for reply in kept).encode())
        return kept

    Journal.append = told  # type: ignore[method-assign]
    sys.stderr = io.StringIO()
    try:
        outcome = judge(read_pool(job.pool), job.folder, job.url, job.concurrency, Caps(None, job.max_tokens))
        sys.exit(1 if outcome.pending else 0)
    except LabelkitError as error:
        job.acknowledged.with_suffix(".error").write_text(str(error))
        sys.exit(error.exit_code)


def judge(
    pool: Pool,
    folder: Path,
    url: str,
    concurrency: int = CONCURRENCY,
    caps: Caps = Caps(),  # noqa: B008
) -> annotation.Outcome:
    """One annotation run against the server, in this process."""
    options = AnnotateOptions(
        model="m",
        engine="openai",
        base_url=(url,),
        concurrency=concurrency,
        defence=("none",),
        max_usd=caps.usd,
        max_tokens=caps.tokens,
    )
    return annotation.annotate(pool, folder, options, command="rig")


def forks() -> Any:
    """Starts processes in milliseconds, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    # That process finds modules of this folder by PYTHONPATH alone, and leaves out silently what it does not find.
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if FOLDER not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([FOLDER, *paths])
    # A script that imports the promises does so in each of its processes.
    context.set_forkserver_preload(["promises", "rig", "aiohttp", "labelkit.engines.openai"])
    return context


def start(job: Job) -> Any:
    """The process of a job."""
    process = forks().Process(target=run_job, args=(job,))
    process.start()
    return process


def kill(process: Any) -> None:
    """SIGKILL, and wait for the end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def killed_at(server: Server, job: Job, arrivals: int, chance: random.Random) -> int | None:
    """Run a job and kill it a moment after so many more requests arrived; its exit code."""
    process = start(job)
    target = server.arrived + arrivals
    while process.is_alive() and server.arrived < target:
        time.sleep(0.001)
    time.sleep(chance.random() / 20)
    kill(process)
    code: int | None = process.exitcode
    return code


@contextlib.contextmanager
def constants(module: Any, **values: Any) -> Iterator[None]:
    """Other values of a module's constants while the block runs."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def keys_in(path: Path) -> list[str]:
    """Acknowledged keys, in their order."""
    return path.read_text().split("\n")[:-1] if path.is_file() else []


def replies_in(folder: Path) -> dict[str, str]:
    """Key -> last reply, in the order of the first ones; read without the journal's own code."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT key, reply FROM replies ORDER BY row"))


def all_replies_in(folder: Path) -> list[str]:
    """All replies, also the ones that a later reply to the same key replaces."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True)) as db:
        return [reply for (reply,) in db.execute("SELECT reply FROM replies")]


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A tmpfs of `size` bytes at `folder`; False where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = os.system(f"mount -t tmpfs -o size={size} tmpfs '{folder}' 2>/dev/null") == 0
    try:
        yield mounted
    finally:
        if mounted:
            os.system(f"umount '{folder}'")
