"""A judge without a model: deterministic, instant, for tests and dry runs.

The model name says what it does: `overlap` grades by the share of the query's words that stand in the passage;
`garbage` answers a third of the pairs with something that is no label.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator

from labelkit.engines import EngineFacts, Reply, Request, Settings
from labelkit.errors import UnknownNameError, UsageError

SCRIPTS = ("overlap", "garbage")


def open_engine(settings: Settings) -> "ScriptedEngine":
    """Start a script by its name."""
    if settings.model not in SCRIPTS:
        raise UnknownNameError("script", settings.model, SCRIPTS)
    if settings.base_url:
        raise UsageError("engine scripted takes no --base-url")
    return ScriptedEngine(settings.model)


class ScriptedEngine:
    """Replies computed from the words of the request."""

    def __init__(self, script: str) -> None:
        self._script = script
        self.facts = EngineFacts(engine="scripted", engine_version="1", model_answered=f"scripted-{script}")

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """Any labels can be told apart here."""

    def run(self, requests: Iterable[Request]) -> Iterator[Reply]:
        return map(self._answer, requests)

    def close(self) -> None:
        """Nothing to give back."""

    def _answer(self, request: Request) -> Reply:
        prompt = request.messages[-1].content
        tokens = len(prompt.split())
        if self._script == "garbage" and hashlib.sha256(request.key.encode()).digest()[0] % 3 == 0:
            return Reply(key=request.key, text="I would say 3/10", finish_reason="stop", prompt_tokens=tokens)
        share = _overlap(prompt)
        last = len(request.labels) - 1
        logits = [-4.0 * abs(share - index / last) for index in range(last + 1)]
        norm = math.log(math.fsum(math.exp(logit) for logit in logits))
        logprobs = {label: logit - norm for label, logit in zip(request.labels, logits, strict=True)}
        return Reply(
            key=request.key,
            text=max(logprobs, key=lambda label: logprobs[label]),
            label_logprobs=logprobs,
            finish_reason="stop",
            model=self.facts.model_answered,
            prompt_tokens=tokens,
            completion_tokens=1,
        )


def _overlap(prompt: str) -> float:
    """Share of the words of the prompt's first paragraph (the query) that stand in the rest of it."""
    query, _, passage = prompt.partition("\n\n")
    wanted = set(re.findall(r"\w+", query.casefold())) - {"query"}
    return len(wanted & set(re.findall(r"\w+", passage.casefold()))) / max(1, len(wanted))
