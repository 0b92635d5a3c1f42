"""Read the answers of the rerank API: a score for each passage of a request.

An answer is preserved as it came if it lacks a score. It stands with the first pair that lacks one.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

from labelkit.engines import Reply, Request, token_count
from labelkit.engines.completions import MALFORMED, with_bytes, word
from labelkit.engines.event_stream import read_json
from labelkit.engines.http import REASON_LENGTH, spoken
from labelkit.engines.tokenizers import most_prompt_tokens


def read_scores(body: bytes, batch: Sequence[Request], dialect: str) -> list[Reply]:
    """Read an answer: one reply per request, with `error` if the answer has no valid score for it.

    The dialect is the fingerprint of the replies, because another one may give scores on another scale.
    """
    raw = body.decode("utf-8-sig", errors="replace")
    replies = read_text(raw, batch, dialect)
    lacking = next((number for number, reply in enumerate(replies) if reply.error), None)
    if lacking is not None:
        replies[lacking] = with_bytes(replies[lacking].model_copy(update={"raw": raw}), body)
    return replies


def read_text(raw: str, batch: Sequence[Request], dialect: str) -> list[Reply]:
    """Read the text of an answer."""
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
        if index is not None and not isinstance(score, bool | str) and isfinite(score):
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
