"""The bound on requests that are paid and not yet in the journal."""

import asyncio
import random
from collections.abc import Iterator

import pytest

from labelkit.engines import Reply, Request
from labelkit.engines.in_flight import flow


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("alone", [False, True])
def test_never_more_under_way_or_untaken_than_the_bound(seed, alone):
    chance, most, taken, begun = random.Random(seed), 1 if alone else 4, 0, 0

    def requests() -> Iterator[Request]:
        nonlocal begun
        for number in range(200):
            begun += 1
            assert begun - taken <= most
            yield Request(str(number), "q", ())

    async def answer(request: Request) -> Reply:
        # Answers that end a few turns of the loop apart meet the end of a wait in every way.
        for _ in range(chance.randint(0, 4)):
            await asyncio.sleep(0)
        return Reply(key=request.key)

    with asyncio.Runner() as runner:
        for replies in flow(runner, answer, requests(), 4, lambda request: alone):
            assert replies
            taken += len(replies)
    assert taken == 200
