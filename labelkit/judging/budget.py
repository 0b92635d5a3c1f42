"""A cap on what a folder of labels may cost, in dollars and in tokens.

The worst case of a request is set aside in the journal before it is sent, and gives way to what the engine counted
when the reply is there. What a killed run had set aside stays spent, for nobody knows whether it was; so the cap holds
across kills and resumes.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from labelkit.engines import Message, Reply, Request
from labelkit.engines.client import TRIES as HTTP_TRIES
from labelkit.engines.tokenizers import FileTokens, Tokens, bound
from labelkit.errors import UsageError
from labelkit.judging.journal import Charge, Journal
from labelkit.judging.prices import Price

log = logging.getLogger(__name__)

TRIES = {"openai": HTTP_TRIES}
"""Times that an engine may send a request before it gives up, where that is more than once."""
WORST_TURN_TOKENS = 16
"""The most that a chat template is taken to add to a turn where the server alone knows it."""


class Caps(NamedTuple):
    """The most that a folder may cost, all runs together; None is no limit."""

    usd: float | None = None
    tokens: int | None = None


class Budget:
    """What was spent and what may still be. Without caps it only counts."""

    def __init__(self, journal: Journal, price: Price | None, tokens: Tokens | None, caps: Caps, engine: str) -> None:
        """`tokens` is the judge's own tokenizer where labelkit renders the prompts itself."""
        self._journal = journal
        self._price = price
        self._tokens = None if isinstance(tokens, FileTokens) else tokens
        self._caps = caps
        self._tries = TRIES.get(engine, 1)
        self._aside: dict[str, Charge] = {}
        if engine == "openai-batch":
            # A batch that was submitted is collected, not submitted again.
            self._aside = journal.aside()
        else:
            journal.write_off()
        spent = journal.spent()
        self.tokens, self.usd = spent.tokens, spent.usd
        for charge in self._aside.values():
            self._add(charge)
        if spent.unpriced and caps.usd is not None:
            log.info(f"{spent.unpriced} earlier replies had no price: they do not count towards --max-usd")

    def reserve(self, request: Request) -> bool:
        """Set the worst case of a request aside, all its tries included; False where it does not fit any more."""
        if self._caps == Caps() or request.key in self._aside:
            return True
        prompt = worst_prompt(request.messages, self._tokens)
        worst = self._cost(prompt, request.max_tokens, times=self._tries)
        if self._caps.tokens is not None and self.tokens + worst.tokens > self._caps.tokens:
            return False
        if self._caps.usd is not None and self.usd + (worst.usd or 0) > self._caps.usd:
            return False
        self._journal.reserve(request.key, worst)
        self._aside[request.key] = worst
        self._add(worst)
        return True

    def charge(self, reply: Reply) -> Charge:
        """What a reply cost, in the place of what was set aside for it.

        A reply without a count of its tokens (a timeout, a broken connection) costs all that was set aside; a try that
        met a fault may have been billed and costs its part of that.
        """
        cost = self._cost(reply.prompt_tokens or 0, reply.completion_tokens or 0)
        aside = self._aside.pop(reply.key, None)
        if aside is not None:
            self._add(Charge(-aside.tokens, None if aside.usd is None else -aside.usd))
            faults = self._tries if reply.prompt_tokens is None else reply.tries - 1
            part = min(1, faults / self._tries)
            usd = None if cost.usd is None else cost.usd + part * (aside.usd or 0)
            cost = Charge(cost.tokens + round(part * aside.tokens), usd)
        self._add(cost)
        return cost

    def _cost(self, prompt: int, completion: int, times: int = 1) -> Charge:
        usd = times * self._price.usd(prompt, completion) if self._price else None
        return Charge(times * (prompt + completion), usd)

    def _add(self, charge: Charge) -> None:
        self.tokens += charge.tokens
        self.usd += charge.usd or 0.0


def worst_prompt(messages: Sequence[Message], tokens: Tokens | None) -> int:
    """The most tokens that a prompt can have: counted where the judge's own tokenizer and template are at hand, else a
    token a byte."""
    if tokens is not None:
        return tokens.prompt(messages)
    return sum(bound(message.content) + WORST_TURN_TOKENS for message in messages) + WORST_TURN_TOKENS


def check_price(price: Price | None, caps: Caps, model: str) -> None:
    """Raise `UsageError` where a cap in dollars meets a model without a price."""
    if caps.usd is not None and price is None:
        raise UsageError(f"--max-usd needs a price for {model!r}: add it to a copy of prices.toml and give --prices")
