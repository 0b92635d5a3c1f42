"""Answer many requests concurrently, on an event loop that runs only while a reply is wanted."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

Sent = TypeVar("Sent")
"""A request, or requests that are sent together."""
Got = TypeVar("Got")
"""A reply, or replies that arrive together."""


def flow(
    runner: asyncio.Runner,
    answer: Callable[[Sent], Coroutine[Any, Any, Got]],
    requests: Iterable[Sent],
    most: int,
    alone: Callable[[Sent], bool] = lambda request: False,
) -> Iterator[list[Got]]:
    """Yield replies, in lists of replies that arrived together.

    At most `most` requests are in progress or answered but not yet yielded. After a request for which `alone` is true,
    the next one starts only once a reply has arrived. An error raised by `answer` ends the flow after the replies that
    arrived before it, and cancels the requests in progress.
    """
    source = iter(requests)
    loop = runner.get_loop()
    running: set[asyncio.Task[Got]] = set()
    done: list[asyncio.Task[Got]] = []
    ready = asyncio.Event()

    def finished(task: asyncio.Task[Got]) -> None:
        done.append(task)
        ready.set()

    try:
        while True:
            for request in source:
                task = loop.create_task(answer(request))
                task.add_done_callback(finished)
                running.add(task)
                if len(running) >= most or alone(request):
                    break
            if not running:
                break
            # Replies that arrived as the last wait ended were yielded then; only their signal is left.
            while not done:
                runner.run(_wait(ready))
            together = done.copy()
            done.clear()
            running.difference_update(together)
            if replies := [task.result() for task in together if task.exception() is None]:
                yield replies
            # Raise errors only after the replies that arrived with them were yielded.
            for task in together:
                task.result()
    finally:
        runner.run(_stop(running))


async def _wait(ready: asyncio.Event) -> None:
    await ready.wait()
    ready.clear()


async def _stop(tasks: set[asyncio.Task[Got]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
