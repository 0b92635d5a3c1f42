"""A cap on what a folder of labels may cost, in dollars and in tokens.

The worst case of a request is set aside in the journal before it is sent, and gives way to what the engine counted
when the reply is there. What a killed run had set aside stays spent, for nobody knows whether it was; so the cap holds
across kills and resumes.
"""

import logging
from typing import NamedTuple

from labelkit.engines import Reply, Request, Traits
from labelkit.engines.tokenizers import FileTokens, Tokens, bound, most_prompt_tokens
from labelkit.errors import UsageError
from labelkit.judging.journal import Charge, Journal
from labelkit.judging.prices import Price

log = logging.getLogger(__name__)


class Caps(NamedTuple):
    """The most that a folder may cost, all runs together; None is no limit."""

    usd: float | None = None
    tokens: int | None = None


class Budget:
    """What was spent and what may still be. Without caps it only counts."""

    def __init__(
        self, journal: Journal, caps: Caps, *, price: Price | None, tokens: Tokens | None, traits: Traits
    ) -> None:
        self._journal = journal
        self._caps = caps
        self._price = price
        self._tokens = tokens
        self._tries = traits.tries
        self._sent: dict[str, Request] = {}
        """Requests under way, by key."""
        self._aside: dict[str, Charge] = {}
        self._told = False
        if traits.batch:
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
        if self._caps != Caps() and request.key not in self._aside:
            worst = self._cost(self._worst_prompt(request), request.max_tokens, times=self._tries)
            if self._caps.tokens is not None and self.tokens + worst.tokens > self._caps.tokens:
                return False
            if self._caps.usd is not None and self.usd + (worst.usd or 0) > self._caps.usd:
                return False
            self._journal.reserve(request.key, worst)
            self._aside[request.key] = worst
            self._add(worst)
        self._sent[request.key] = request
        return True

    def charge(self, reply: Reply) -> Charge:
        """What a reply cost, in the place of what was set aside for it.

        An answer costs the tokens that the engine counted, or our own count where it counted none. A try without an
        answer (a timeout, a broken connection) may have been billed and costs its part of what was set aside.
        """
        request = self._sent.pop(reply.key, None)
        answered = reply.error is None
        cost = self._answer_cost(reply, request) if answered else self._cost(0, 0)
        aside = self._aside.pop(reply.key, None)
        if aside is not None:
            self._add(Charge(-aside.tokens, None if aside.usd is None else -aside.usd))
            part = min(1, (reply.tries - answered) / self._tries)
            usd = None if cost.usd is None else cost.usd + part * (aside.usd or 0)
            cost = Charge(cost.tokens + round(part * aside.tokens), usd)
        self._add(cost)
        return cost

    def _answer_cost(self, reply: Reply, request: Request | None) -> Charge:
        """What an answer cost without the tries before it."""
        prompt, written = reply.prompt_tokens, reply.completion_tokens
        if request is not None and (prompt is None or written is None):
            prompt = self._prompt(request) if prompt is None else prompt
            written = self._written(reply, request) if written is None else written
            self._tell()
        return self._cost(prompt or 0, written or 0)

    def _prompt(self, request: Request) -> int:
        """Count the tokens of a prompt: by the tokenizer where there is one, else at their upper bound."""
        return self._tokens.prompt(request.messages) if self._tokens else most_prompt_tokens(request.messages)

    def _worst_prompt(self, request: Request) -> int:
        """The most tokens that a prompt can have; a tokenizer without the model's chat template does not know it."""
        known = self._tokens is not None and not isinstance(self._tokens, FileTokens)
        return self._prompt(request) if known else most_prompt_tokens(request.messages)

    def _written(self, reply: Reply, request: Request) -> int:
        """Count the tokens of an answer and its end; one without text may have used up all that it was allowed."""
        if reply.text is None:
            return request.max_tokens
        return 1 + (len(self._tokens.ends(reply.text)) if self._tokens else bound(reply.text))

    def _tell(self) -> None:
        """Say once that the engine's counts cannot be charged, and what is charged instead."""
        if not self._told:
            how = "by --tokenizer" if self._tokens else "as one per byte, an upper bound; --tokenizer is more exact"
            log.info(f"the server reports no token counts that are possible for these prompts: labelkit counts {how}")
        self._told = True

    def _cost(self, prompt: int, completion: int, times: int = 1) -> Charge:
        usd = times * self._price.usd(prompt, completion) if self._price else None
        return Charge(times * (prompt + completion), usd)

    def _add(self, charge: Charge) -> None:
        self.tokens += charge.tokens
        self.usd += charge.usd or 0.0


def check_price(price: Price | None, caps: Caps, model: str) -> None:
    """Raise `UsageError` where a cap in dollars meets a model without a price."""
    if caps.usd is not None and price is None:
        raise UsageError(f"--max-usd needs a price for {model!r}: add it to a copy of prices.toml and give --prices")
