"""Compare engine `openai` with a plain `AsyncOpenAI` gather loop, on a server that answers immediately.

    python benchmarks/openai_overhead.py [--requests 2000] [--concurrency 64] [--rounds 5]

The server runs in its own process and always sends the same completion, with the log-probabilities of 20 tokens. Both
clients send the same requests, in turn. Prints requests per second of each round and the ratio of the medians.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from labelkit.engines import Request, Settings
from labelkit.engines.dialects import Dialect, chat_body
from labelkit.engines.openai import OpenAIEngine
from labelkit.judging.prompts import load_prompt

LABELS = ("0", "1", "2", "3")
TOP = [{"token": str(n), "logprob": -0.1 - n, "bytes": [48 + n % 10]} for n in range(20)]
COMPLETION = json.dumps(
    {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "instant",
        "system_fingerprint": "instant-1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "0"},
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": "0", "logprob": -0.1, "bytes": [48], "top_logprobs": TOP}]},
            }
        ],
        "usage": {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 301},
    }
).encode()


class Instant(asyncio.Protocol):
    """Minimal HTTP/1.1 server with persistent connections."""

    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(COMPLETION)

    def __init__(self) -> None:
        self.unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.unread += data
        head, found, rest = self.unread.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if found and len(rest) >= length:
            self.unread = rest[length:]
            self.transport.write(self.answer + COMPLETION)


def serve(port: Connection) -> None:
    """Send the port through the pipe, then answer requests until the process is ended."""

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", 0, backlog=512)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def main() -> None:
    """Time both clients in turn."""
    parser = argparse.ArgumentParser(description="Compare engine openai with a plain AsyncOpenAI gather loop.")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    prompt = load_prompt("graded")
    requests = [
        Request(f"k{n}", "q", prompt.render("judge", "how do cats sleep", [f"passage {n} " + "word " * 100]), LABELS)
        for n in range(given.requests)
    ]
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    rates: dict[str, list[float]] = {"engine openai": [], "plain AsyncOpenAI": []}
    for _ in range(given.rounds):
        for name, judge in (("engine openai", ours), ("plain AsyncOpenAI", plain)):
            start = time.perf_counter()
            judge(url, requests, given.concurrency)
            rates[name].append(len(requests) / (time.perf_counter() - start))
            print(f"{name}: {rates[name][-1]:.0f} requests/s", flush=True)
    server.terminate()
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print(", ".join(f"{name} {rate:.0f}/s" for name, rate in medians.items()), end="; medians, ratio ")
    print(f"{medians['engine openai'] / medians['plain AsyncOpenAI']:.2f}")


def ours(url: str, requests: Sequence[Request], concurrency: int) -> None:
    """Send the requests with the engine, which reads and checks the replies."""
    engine = OpenAIEngine(Settings("instant", base_urls=(url,), concurrency=concurrency))
    assert all(reply.text == "0" and reply.label_logprobs for reply in engine.run(requests))


def plain(url: str, requests: Sequence[Request], concurrency: int) -> None:
    """Send the requests with a simple client: a semaphore, a gather, the text of each completion."""
    from openai import AsyncOpenAI

    async def everything() -> None:
        gate = asyncio.Semaphore(concurrency)
        async with AsyncOpenAI(api_key="none", base_url=url) as client:

            async def one(request: Request) -> str | None:
                body = chat_body("instant", request, Dialect())
                extra = {"structured_outputs": body.pop("structured_outputs")}
                async with gate:
                    completion = await client.chat.completions.create(**body, extra_body=extra)
                text: str | None = completion.choices[0].message.content
                return text

            assert set(await asyncio.gather(*map(one, requests))) == {"0"}

    asyncio.run(everything())


if __name__ == "__main__":
    main()
