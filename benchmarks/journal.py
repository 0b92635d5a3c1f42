"""Measure the journal: appends per second, time and memory of resuming from it, and its share of the time of a run.

    python benchmarks/journal.py size [--records 10000000] [--group 64] [--work build/journal]
    python benchmarks/journal.py overhead [--pairs 1500] [--latency 0.3] [--concurrency 64] [--rounds 5]

`size` fills a journal as a run does, in groups of replies, each of which is on disk before the next group starts. Then
a new process opens the journal and finds the unanswered pairs, one in a thousand. `overhead` runs `annotate` with a
server that takes `latency` seconds per answer, in turn with the journal and with a substitute that writes nothing, and
prints the ratio of the medians.
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import resource
import shutil
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self
from unittest.mock import patch

from openai_overhead import Instant

from labelkit.engines import Reply
from labelkit.judging.annotate import annotate
from labelkit.judging.journal import Answer, Arrival, Asked, Charge, Journal, Spent
from labelkit.judging.key_set import KeySet, short
from labelkit.judging.options import AnnotateOptions
from labelkit.pooling.pool import Pool
from labelkit.records import Candidate, Judge, Passage, Query

PASSAGES_A_QUERY = 31
LEFT_OUT = 1000
"""One of this number of pairs has no reply."""
JUDGE = Judge(judge_id="graded-model-0123456789abcdef", kind="llm", name="model")


def pairs(count: int) -> Iterator[Asked]:
    """Yield the pairs of a run, query by query, with the keys of their requests."""
    for number in range(count):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        query_id, passage_id = f"q{number // PASSAGES_A_QUERY:09d}", f"p{number:09d}"
        yield Asked(JUDGE.judge_id, query_id, passage_id, 0, 0, 0, None, key)


def reply_to(pair: Asked) -> Reply:
    """Make a reply with the log-probabilities of four labels, as engines return it."""
    drawn = int(pair.key[:8], 16) / 2**32
    return Reply(
        key=pair.key,
        text=str(int(4 * drawn)),
        label_logprobs={str(grade): -abs(4 * drawn - grade) - 0.123456789012345 for grade in range(4)},
        finish_reason="stop",
        model="served-model",
        fingerprint="fp_0123456789",
        prompt_tokens=300 + int(50 * drawn),
        completion_tokens=1,
    )


def fill(folder: Path, count: int, group: int) -> None:
    """Write a journal of `count` pairs, and print the rate of every tenth of it."""
    with Journal(folder) as journal:
        start = time.perf_counter()
        journal.register(JUDGE, b"prompt", pairs(count))
        print(f"{count:,} pairs registered in {time.perf_counter() - start:.0f} s", flush=True)
        answered = (pair for number, pair in enumerate(pairs(count)) if number % LEFT_OUT)
        done, tenth, begun = 0, max(1, count // 10), time.perf_counter()
        while replies := [reply_to(pair) for pair in islice(answered, group)]:
            journal.append([Arrival(reply, Charge(301, 1e-6)) for reply in replies])
            done += len(replies)
            if done // tenth > (done - len(replies)) // tenth:
                rate = tenth / (time.perf_counter() - begun)
                print(f"{done:,} replies appended, the last {tenth:,} at {rate:,.0f} per second", flush=True)
                begun = time.perf_counter()


def resume(folder: Path) -> None:
    """Measure how long a resumed run takes to find the pairs without a valid reply."""
    start = time.perf_counter()
    with Journal(folder) as journal:
        good = journal.answered()
        pending = [pair for pair in journal.asked(JUDGE.judge_id) if pair.key not in good]
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"resume: {len(pending):,} of {len(good) + len(pending):,} pairs pending, {seconds:.1f} s, {peak:.2f} GiB"
        )


class Memory(Journal):
    """Substitute of the journal that keeps everything in dicts and writes nothing."""

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True)
        self._pairs: list[Asked] = []
        self._judges: list[tuple[Judge, bytes]] = []
        self._kept: dict[str, Reply] = {}
        self._spent = Spent()
        return self

    def __exit__(self, *error: object) -> None:
        """Close nothing."""

    def register(self, judge: Judge, prompt: bytes, asked: Iterable[Asked], *, whole: bool = False) -> None:
        self._judges.append((judge, prompt))
        self._pairs = sorted(asked)

    def append(self, arrivals: Sequence[Arrival]) -> list[Reply]:
        replies = [arrival.reply for arrival in arrivals]
        self._kept.update({reply.key: reply for reply in replies})
        return replies

    def answers(self, keys: Iterable[str]) -> dict[str, Answer]:
        return {key: Answer(self._kept[key], None) for key in keys if key in self._kept}

    def asked(self, judge_id: str) -> Iterator[Asked]:
        return iter(self._pairs)

    def judges(self) -> list[tuple[Judge, bytes]]:
        return self._judges

    def answered(self) -> KeySet:
        return KeySet(b"".join(map(short, self._kept)))

    def one_model(self) -> bool:
        return True

    def last_row(self) -> int:
        return 0

    def write_off(self) -> None:
        """Discard nothing."""

    def reply(self, key: str) -> Reply | None:
        return self._kept.get(key)

    def cost(self, key: str) -> float | None:
        return None


class Slow(Instant):
    """HTTP server that answers after `latency` seconds."""

    latency = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = Later(self.transport, self.latency)  # type: ignore[assignment]


class Later:
    """Transport that delays every write by some seconds."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds

    def write(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._transport.write, data)


def serve(port: Connection, latency: float) -> None:
    """Send the port through the pipe, then answer requests until the process is ended."""

    async def forever() -> None:
        Slow.latency = latency
        server = await asyncio.get_running_loop().create_server(Slow, "127.0.0.1", 0, backlog=512)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def overhead(given: argparse.Namespace) -> None:
    """Measure the seconds of a run with and without the journal, in turn."""
    queries = {
        f"q{n:04d}": Query(query_id=f"q{n:04d}", text=f"how do cats sleep {n}") for n in range(given.pairs // 30)
    }
    ids = [f"p{n:05d}" for n in range(given.pairs)]
    passages = {pid: Passage(passage_id=pid, title="", text=f"passage {pid} " + "word " * 100) for pid in ids}
    candidates = [
        Candidate(query_id=query_id, passage_id=pid, sources=())
        for number, query_id in enumerate(queries)
        for pid in ids[30 * number : 30 * number + 30]
    ]
    pool = Pool(queries, passages, candidates, {})
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, given.latency), daemon=True)
    server.start()
    options = AnnotateOptions(
        model="m",
        engine="openai",
        base_url=(f"http://127.0.0.1:{here.recv()}/v1",),
        concurrency=given.concurrency,
        defence=("none",),
    )
    seconds: dict[str, list[float]] = {"journal": [], "off": []}
    for number in range(given.rounds):
        for name, kind in (("journal", Journal), ("off", Memory)):
            folder = given.work / f"{name}-{number}"
            with patch("labelkit.judging.annotate.Journal", kind):
                start = time.perf_counter()
                annotate(pool, folder, options, command="benchmark")
                seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {len(candidates)} pairs in {seconds[name][-1]:.2f} s", flush=True)
    server.terminate()
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    print(f"medians {medians}, ratio {medians['journal'] / medians['off']:.3f}")


def main() -> None:
    """Run one of the two measurements."""
    parser = argparse.ArgumentParser(description="Measure the speed, memory and overhead of the journal.")
    parser.add_argument("what", choices=("size", "overhead"))
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--latency", type=float, default=0.3)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("build/journal"), help="folder that is emptied first")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    if given.what == "overhead":
        overhead(given)
        return
    fill(given.work, given.records, given.group)
    print(f"{(given.work / 'journal.sqlite').stat().st_size / 2**30:.2f} GiB on disk", flush=True)
    reader = multiprocessing.get_context("spawn").Process(target=resume, args=(given.work,))
    reader.start()
    reader.join()


if __name__ == "__main__":
    main()
