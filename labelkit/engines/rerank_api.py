"""Score pairs through the rerank API of a server, as vLLM, Jina, Cohere, Text Embeddings Inference and others speak it.

The passages of a query are sent together. A first request, sent alone with one passage, shows which dialect the server
speaks: dialects that ask for raw logits come first. A request that the server refuses is sent again in halves, so that
a bad passage fails alone.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

from labelkit.engines import Reply, Request, token_count
from labelkit.engines.client import Client
from labelkit.engines.completions import MALFORMED, word
from labelkit.engines.event_stream import read_json
from labelkit.engines.http import (
    REASON_LENGTH,
    APIStatusError,
    AuthenticationError,
    CallError,
    DeadlineError,
    RetriedError,
    spoken,
)
from labelkit.engines.in_flight import flow
from labelkit.engines.stopping import FinalErrors
from labelkit.engines.tokenizers import most_prompt_tokens

log = logging.getLogger(__name__)

DOCUMENTS = 32
"""Most passages of a request: the default limit of Text Embeddings Inference, and below the limits of the others."""
EARLY = 10
"""Number of first scores that must all lie between 0 and 1 before the run logs that they are probabilities."""


class Dialect(NamedTuple):
    """A form of the rerank API. All of them may return results in any order, with the index of each passage."""

    path: str
    body: Callable[[str, str, list[str]], dict[str, Any]]
    """(model, query, passages) -> JSON body of a request."""


DIALECTS: dict[str, Dialect] = {
    "vllm": Dialect(
        "/rerank",
        lambda model, query, texts: {"model": model, "query": query, "documents": texts, "use_activation": False},
    ),
    "tei": Dialect("/rerank", lambda model, query, texts: {"query": query, "texts": texts, "raw_scores": True}),
    "jina": Dialect(
        "/rerank",
        lambda model, query, texts: {"model": model, "query": query, "documents": texts, "return_documents": False},
    ),
    "cohere": Dialect("/rerank", lambda model, query, texts: {"model": model, "query": query, "documents": texts}),
    "score": Dialect(
        "/score",
        lambda model, query, texts: {"model": model, "text_1": query, "text_2": texts, "use_activation": False},
    ),
}
"""Name of a dialect -> its requests, in the order in which they are tried. `score` is the older API of vLLM."""


class RerankApi:
    """The rerank API of servers that serve one model."""

    def __init__(self, client: Client, model: str, final: FinalErrors) -> None:
        self._client = client
        self._model = model
        self._final = final
        self._dialect: str | None = None
        """Dialect that the server speaks; None before it has answered."""
        self._seen = 0
        """Number of scores so far that all lie between 0 and 1; -1 once it does not matter."""

    def together(self, runner: asyncio.Runner, requests: Iterable[Request], most: int) -> Iterator[list[Reply]]:
        """Yield one reply per request; at most `most` calls to the server are in progress."""
        batches = self._batches(requests)
        for arrived in flow(runner, self._answer, batches, most=most, alone=lambda batch: self._dialect is None):
            yield list(chain.from_iterable(arrived))

    def _batches(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        """Yield the requests of a query together; only one request until the dialect is known."""
        waiting: list[Request] = []
        for request in requests:
            full = self._dialect is None or len(waiting) == DOCUMENTS
            if waiting and (full or request.group != waiting[0].group):
                yield waiting
                waiting = []
            waiting.append(request)
        if waiting:
            yield waiting

    async def _answer(self, batch: list[Request]) -> list[Reply]:
        """Send a batch with retries; a failure becomes replies with `error`, unless it is final for the run."""
        faults: list[str] = []
        try:
            return await self._call(batch, faults)
        except (RetriedError, DeadlineError) as error:
            return [Reply(key=request.key, error=spoken(error), tries=max(1, len(faults))) for request in batch]
        except CallError as error:
            self._final.refuse(error)
            if len(batch) == 1:
                return [Reply(key=batch[0].key, error=spoken(error), tries=1 + len(faults))]
        half = len(batch) // 2
        return [*await self._answer(batch[:half]), *await self._answer(batch[half:])]

    async def _call(self, batch: Sequence[Request], faults: list[str]) -> list[Reply]:
        """Send a batch in the dialect of the server, or in one dialect after the other until one is answered."""
        query, texts = batch[0].messages[0].content, [request.messages[1].content for request in batch]
        refused: list[str] = []
        for name in DIALECTS if self._dialect is None else (self._dialect,):
            dialect = DIALECTS[name]
            body = json.dumps(dialect.body(self._model, query, texts)).encode()
            try:
                answer = await self._client.post(dialect.path, body, faults)
            except (RetriedError, DeadlineError, AuthenticationError):
                raise
            except CallError as error:
                if self._dialect is not None or self._final.problem(error, any_path=True):
                    raise
                refused.append(f"{name}: {error}")
                continue
            replies = read_scores(answer.decode("utf-8-sig", errors="replace"), batch, name)
            if self._dialect is not None or any(reply.error is None for reply in replies):
                self._dialect = name
                self._see(replies)
                return [reply.model_copy(update={"tries": 1 + len(faults)}) for reply in replies]
            refused.append(f"{name}: {replies[0].error}")
        reasons = "; ".join(reason[: REASON_LENGTH // len(DIALECTS)] for reason in refused)
        raise APIStatusError(f"no known rerank API (paths /rerank and /score after the address): {reasons}")

    def _see(self, replies: Sequence[Reply]) -> None:
        """Log once, early in a run, that a server gives probabilities."""
        for reply in replies:
            if self._seen < 0 or reply.score is None:
                continue
            self._seen = self._seen + 1 if 0 <= reply.score <= 1 else -1
            if self._seen == EARLY:
                log.info(
                    "the server gives scores between 0 and 1, which are probabilities instead of raw logits: they are "
                    "preserved as they are"
                )
                self._seen = -1


def read_scores(raw: str, batch: Sequence[Request], dialect: str) -> list[Reply]:
    """Read an answer: one reply per request, with `error` if the answer has no valid score for it.

    The dialect is the fingerprint of the replies, because another one may give scores on another scale.
    """
    try:
        answer = read_json(raw)
        found = scores_in(answer, len(batch))
        tokens = tokens_in(answer, batch)
    except MALFORMED as error:
        problem = f"the answer is not a list of scores ({spoken(error)}): {raw[:REASON_LENGTH]!r}"
        return [Reply(key=request.key, error=problem) for request in batch]
    model = word(answer.get("model")) if isinstance(answer, dict) else None
    replies = []
    for number, request in enumerate(batch):
        score = found.get(number)
        lacking = None if score is not None else f"the server gives no score for this passage: {raw[:REASON_LENGTH]!r}"
        replies.append(
            Reply(
                key=request.key,
                score=score,
                error=lacking,
                finish_reason=None if lacking else "stop",
                model=model,
                fingerprint=dialect,
                prompt_tokens=tokens[number],
                completion_tokens=0,
            )
        )
    return replies


def scores_in(answer: Any, size: int) -> dict[int, float]:
    """Return the finite score of each passage by its index. Raises one of `MALFORMED`.

    An index out of range raises it, too, because a server that counts from 1 means another passage by each index. All
    scores of an index that occurs twice are ignored.
    """
    entries = answer if isinstance(answer, list) else answer["results" if "results" in answer else "data"]
    found: dict[int, list[float]] = {}
    for entry in entries:
        index, score = token_count(entry.get("index")), entry.get("relevance_score", entry.get("score"))
        if entry.get("index") is not None and (index is None or index >= size):
            raise ValueError(f"index {entry['index']!r} of {size} passages")
        if index is not None and not isinstance(score, bool | str) and math.isfinite(score):
            found.setdefault(index, []).append(float(score))
    return {index: scores[0] for index, scores in found.items() if len(scores) == 1}


def tokens_in(answer: Any, batch: Sequence[Request]) -> list[int | None]:
    """Divide the stated tokens of an answer among its pairs by their lengths; None for all if the count is missing or
    impossible.
    """
    usage = answer.get("usage") or (answer.get("meta") or {}).get("tokens") if isinstance(answer, dict) else None
    stated = usage if isinstance(usage, dict) else {}
    names = ("prompt_tokens", "total_tokens", "input_tokens")
    # Some servers state 0 prompt tokens beside the total.
    total = max((count for name in names if (count := token_count(stated.get(name)))), default=0)
    sizes = [sum(len(message.content) for message in request.messages) + 1 for request in batch]
    if not 0 < total <= sum(most_prompt_tokens(request.messages) for request in batch):
        return [None] * len(batch)
    ends = [round(total * sum(sizes[:number]) / sum(sizes)) for number in range(len(sizes) + 1)]
    return [end - start for start, end in pairwise(ends)]
