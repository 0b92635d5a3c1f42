"""Answer many requests concurrently, on an event loop that runs only while a reply is wanted."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from labelkit.engines import Reply, Request


def flow(
    runner: asyncio.Runner,
    answer: Callable[[Request], Coroutine[Any, Any, Reply]],
    requests: Iterable[Request],
    most: int,
    alone: Callable[[Request], bool] = lambda request: False,
) -> Iterator[list[Reply]]:
    """Yield replies, in lists of replies that arrived together.

    At most `most` requests are in progress or answered but not yet yielded. After a request for which `alone` is true,
    the next one starts only once a reply has arrived. An error raised by `answer` ends the flow after the replies that
    arrived before it, and cancels the requests in progress.
    """
    source = iter(requests)
    loop = runner.get_loop()
    running: set[asyncio.Task[Reply]] = set()
    done: list[asyncio.Task[Reply]] = []
    ready = asyncio.Event()

    def finished(task: asyncio.Task[Reply]) -> None:
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


async def _stop(tasks: set[asyncio.Task[Reply]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
