"""Judge without a model, deterministically and instantly, for tests and dry runs.

The model name selects the script. `overlap` grades by the share of the query's words that occur in the passage.
`garbage` grades likewise, but gives an invalid answer to a third of the requests. If the request has no labels, the
words of the prompt's first paragraph (the query) are searched in its lines `[1] ...` (the passages). Depending on the
pattern of the request, the lines with at least half of these words are selected, or all lines are ranked. A reranker's
request gets a score from the share of the query's words. If the first paragraph is a passage, the request is to
write a query, and the reply asks for some long words of the passages.
"""

import hashlib
import math
import random
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice

from labelkit.corpora.words import share
from labelkit.corpora.words import words as words_of
from labelkit.engines import Engine, EngineFacts, Reply, Request, Settings, Traits, choose
from labelkit.engines.tokenizers import stated_context, words
from labelkit.errors import UnknownNameError

TRAITS = Traits(words, stated_context, words=True, pairs=lambda settings: True)
SCRIPTS = ("overlap", "garbage")
QUERY = "Query:"
"""Beginning of a prompt about a query."""
ASKED = 4
"""Words of the passages that a written query asks for."""
BLOCK = 512
"""Replies that are computed before they are returned together."""


def open_engine(settings: Settings) -> "ScriptedEngine":
    """Open a script by its name. Raises `UnknownNameError`."""
    if settings.model not in SCRIPTS:
        raise UnknownNameError("script", settings.model, SCRIPTS)
    return ScriptedEngine(settings.model)


class ScriptedEngine(Engine):
    """An engine that computes replies from the words of the request."""

    def __init__(self, script: str) -> None:
        self._script = script
        self.facts = EngineFacts(engine="scripted", engine_version="1", model_answered=f"scripted-{script}")

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """Do nothing: scripts distinguish any labels."""

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        left = iter(requests)
        while block := list(islice(left, BLOCK)):
            yield list(map(self._answer, block))

    def close(self) -> None:
        """Do nothing: there are no resources."""

    def _score(self, request: Request) -> Reply:
        """Return a score from -4 (no word of the query is in the passage) to 4."""
        query, passage = (message.content for message in request.messages)
        return Reply(
            key=request.key,
            score=8 * share(words_of(query), passage) - 4,
            finish_reason="stop",
            model=self.facts.model_answered,
            prompt_tokens=len(query.split()) + len(passage.split()),
            completion_tokens=0,
        )

    def _answer(self, request: Request) -> Reply:
        prompt = request.messages[-1].content
        tokens = len(prompt.split())
        if request.pair:
            return self._score(request)
        if self._script == "garbage" and hashlib.sha256(request.key.encode()).digest()[0] % 3 == 0:
            text = "I would say 3/10"
            written = len(text.split())
            return Reply(
                key=request.key, text=text, finish_reason="stop", prompt_tokens=tokens, completion_tokens=written
            )
        if not request.labels:
            writes = not request.pattern and not prompt.startswith(QUERY)
            text = _query(prompt, request.seed) if writes else _list(prompt, request.pattern)
            return Reply(
                key=request.key,
                text=text,
                finish_reason="stop",
                model=self.facts.model_answered,
                prompt_tokens=tokens,
                completion_tokens=len(text.split()),
            )
        share = _overlap(prompt)
        last = len(request.labels) - 1
        logits = [-4.0 * abs(share - index / last) for index in range(last + 1)]
        norm = math.log(math.fsum(math.exp(logit) for logit in logits))
        logprobs = {label: logit - norm for label, logit in zip(request.labels, logits, strict=True)}
        return Reply(
            key=request.key,
            text=choose(logprobs, request),
            label_logprobs=logprobs,
            finish_reason="stop",
            model=self.facts.model_answered,
            prompt_tokens=tokens,
            completion_tokens=1,
        )


def _overlap(prompt: str) -> float:
    """Return the share of the words of the prompt's first paragraph (the query) that occur in the rest of it."""
    query, _, passage = prompt.partition("\n\n")
    return _share(query, passage)


def _share(query: str, passage: str) -> float:
    return share(_words_of_query(query), passage)


@lru_cache(maxsize=64)
def _words_of_query(query: str) -> frozenset[str]:
    """Return the words of the first paragraph of a prompt; requests about a query follow each other."""
    return words_of(query) - {"query"}


def _list(prompt: str, pattern: str | None) -> str:
    """Return the selection or the ranking that the pattern allows; without a pattern, return the query."""
    query, _, rest = prompt.partition("\n\n")
    shares = {number: _share(query, line) for number, line in re.findall(r"^(\[\d+\]) (.*)$", rest, re.MULTILINE)}
    selected = ", ".join(number for number, share in shares.items() if share >= 0.5) or "none"
    ranked = " > ".join(sorted(shares, key=lambda number: -shares[number]))
    return next((text for text in (selected, ranked) if pattern and re.fullmatch(pattern, text)), query)


def _query(prompt: str, seed: int | None) -> str:
    """Return a query for some of the longest words of the passages in a prompt."""
    passages = re.findall(r"^\[\d+\] (.*)$", prompt, re.MULTILINE) or [prompt.partition("\n\n")[0]]
    drawn, each = random.Random(seed), ASKED // len(passages)
    asked = list[str]()
    for passage in passages:
        longest = sorted(words_of(passage), key=lambda word: (-len(word), word))[: 2 * each]
        asked += drawn.sample(longest, min(each, len(longest)))
    return f"could somebody explain {' '.join(asked)} to me"
