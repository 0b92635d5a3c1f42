"""Many requests under way at once, on an event loop that runs only while a reply is wanted."""

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
    """Replies, those that came together in one list. At most `most` requests are under way or answered and not yet
    taken; where `alone` holds for a request, the next one is begun when some reply came.

    What `answer` raises ends the flow, after the replies that came before it; requests under way are cancelled then.
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
            # Replies that came as the last wait ended were taken with it, and leave nothing but their signal.
            while not done:
                runner.run(_wait(ready))
            together = done.copy()
            done.clear()
            running.difference_update(together)
            if replies := [task.result() for task in together if task.exception() is None]:
                yield replies
            # What came was given out before an error ends the run.
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
