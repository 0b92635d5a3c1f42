"""Find out which options of a request the judge's server accepts, before the requests of a run get their keys.

The options that are sent are part of the judge and of the key of every request. So the first requests of a run are
sent alone, each under the key that belongs to the options that it is sent with, and journalled like all others: the
reply to the last one is the reply of its pair. A later run of the folder takes the options from the journal, and a run
with a cache takes them from the cache; neither probes again. After a run that was killed while it probed, only the
requests without a reply are sent.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from labelkit.engines import Engine, EngineFacts, Reply, Request
from labelkit.engines.answer_text import NO_END, says
from labelkit.errors import EngineError
from labelkit.judging.budget import Budget
from labelkit.judging.journal import Arrival, Journal
from labelkit.judging.pool_texts import PoolTexts
from labelkit.judging.prices import Price
from labelkit.judging.reply_cache import Cache
from labelkit.judging.reply_parser import RAN_OUT, ran_out
from labelkit.judging.request_keys import canonical_json, options_key, sent_of
from labelkit.judging.tasks import Requests
from labelkit.records import Judge

REFUSED, FAULTS = 5, 2
"""Most first requests that are sent alone and refused, and most of them without an answer, or with one that the server
withheld or broke off; if none is answered, the run continues with the options that it began with.
"""
LOOKED_AT = 100
"""Most pairs of an earlier judge among which an answered one is searched."""


class Probing(NamedTuple):
    """The engine that is probed, and the run whose first requests probe it."""

    engine: Engine
    requests: Callable[[EngineFacts], Requests]
    """Makes the requests of a judge with these facts."""
    texts: PoolTexts
    journal: Journal
    budget: Budget
    price: Price | None
    """Price of a single call."""
    batch: bool
    """True if an earlier run may have submitted requests that are not answered yet."""


def settle(probing: Probing, cache: Cache | None) -> list[str]:
    """Let the engine know which options its server accepts; return the keys of the requests that this answered.

    Raises `EngineError` if the server cannot be used, or if the model uses up its tokens by reasoning.
    """
    engine = probing.engine
    judging = probing.requests(engine.facts).judging
    if engine.settled or judging.method.score_only:
        return []  # a reranker is asked without options
    known = options_in_journal(probing.journal, judging.judge, submitted=probing.batch)
    if known is None and cache is not None:
        known = options_in_cache(cache, judging.judge)
    if known is not None:
        engine.adopt(known)
        return []
    with probing.budget.single_calls(probing.price):
        answered = probe(probing)
    if not engine.settled:
        engine.adopt(dict(engine.facts.sent) if answered else None)
    elif cache is not None:
        cache.add([Reply(key=options_key(judging.judge), text=canonical_json(dict(engine.facts.sent)))])
    return answered


def probe(probing: Probing) -> list[str]:
    """Send the first requests one by one, until the options are known; return the keys of the answered ones."""
    engine, answered = probing.engine, list[str]()
    place = refused = faults = 0
    while not engine.settled and refused < REFUSED and faults < FAULTS:
        requests = probing.requests(engine.facts)
        request = next(islice(first_requests(requests, probing.texts), place, None), None)
        if request is None:
            break
        stored = probing.journal.reply(request.key)
        if stored is not None and stored.error is None:
            # A run that was killed while it probed has paid for this reply.
            refuse_silence(stored, requests)
            place += not engine.learn(request, stored)
            continue
        if not probing.budget.reserve(request):
            break
        reply, again = engine.probe(request)
        charge = probing.budget.charge(reply)
        if reply.error is not None and reply.tries == 0:
            probing.journal.release(reply.key)
        else:
            (stored,) = probing.journal.append([Arrival(reply, charge)])
            answered += [] if reply.error else [stored.key]
            refuse_silence(stored, requests)
        place += not again
        refused += not again and reply.error is not None
        faults += not again and reply.tries > 0 and (reply.error is not None or says(reply.finish_reason, NO_END))
    return answered


def first_requests(requests: Requests, texts: PoolTexts) -> Iterator[Request]:
    """Yield the first requests of a run in their order."""
    for number in range(len(texts)):
        shown = texts[number]
        yield from (requests.first_request(shown, task) for task in requests.tasks(shown))


def refuse_silence(reply: Reply, requests: Requests) -> None:
    """Raise `EngineError` if the first answer shows that the model reasons, while no tokens are set apart for that."""
    if ran_out(reply) and not requests.reading.thinking_tokens:
        raise EngineError(f"the judge gives no answer: {RAN_OUT} (for example --thinking-tokens 2048)")


def options_in_journal(journal: Journal, judge: Judge, *, submitted: bool) -> dict[str, Any] | None:
    """Return the options with which an earlier run of this judge was answered, or with `submitted`, sent its requests;
    None if there was none.
    """
    wanted = options_key(judge)
    for earlier, _ in journal.judges():
        if options_key(earlier) == wanted:
            if submitted:
                return sent_of(earlier)
            for pair in islice(journal.asked(earlier.judge_id), LOOKED_AT):
                reply = journal.reply(pair.key)
                if reply is not None and reply.error is None:
                    return sent_of(earlier)
    return None


def options_in_cache(cache: Cache, judge: Judge) -> dict[str, Any] | None:
    """Return the options with which a run that used the same cache was answered; None if there was none."""
    for reply in cache.find([options_key(judge)]):
        found: dict[str, Any] = json.loads(reply.text or "{}")
        return found
    return None
