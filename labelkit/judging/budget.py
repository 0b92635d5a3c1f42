"""Limit the cost of a labels folder in US dollars and in tokens.

The worst-case cost of a request is reserved in the journal before the request is sent, and replaced by the cost that
the engine counted once the reply arrives. Reservations of a killed run count as spent, because its requests may have
been billed; so the cap holds across kills and resumes.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from labelkit.engines import Reply, Request, Traits
from labelkit.engines.client import TRIES
from labelkit.engines.tokenizers import FileTokens, Tokens, bound, most_prompt_tokens
from labelkit.errors import UsageError
from labelkit.judging.journal import Charge, Journal
from labelkit.judging.prices import Price, dollars, unpriced

log = logging.getLogger(__name__)


class Caps(NamedTuple):
    """Most US dollars and tokens that a folder may cost in all its runs; None means no limit."""

    usd: float | None = None
    tokens: int | None = None


class Budget:
    """The spent and reserved costs of a folder, checked against its caps. Without caps, costs are only counted."""

    def __init__(
        self, journal: Journal, caps: Caps, *, price: Price | None, tokens: Tokens | None, traits: Traits
    ) -> None:
        self._journal = journal
        self._caps = caps
        self._capped = caps != Caps()
        self._price = price
        self._tokens = tokens
        self._tries = traits.tries
        self._sent: dict[str, Request] = {}
        """Requests in progress, by key."""
        self._aside: dict[str, Charge] = {}
        self._told = False
        self._longest = 0
        """Most tokens of an answer in this run that exceeded the limit of its request."""
        self.refusal = ""
        """Why the last request was over a cap, as words; empty if it was not."""
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

    @contextmanager
    def single_calls(self, price: Price | None) -> Iterator[None]:
        """Count requests inside the block as single calls, which are retried, and cost their full price."""
        before = self._price, self._tries
        self._price, self._tries = price, TRIES
        yield
        self._price, self._tries = before

    def reserve(self, request: Request) -> bool:
        """Reserve the worst-case cost of a request with all its tries; return False if it exceeds a cap."""
        if self._capped and request.key not in self._aside:
            written = max(request.max_tokens, self._longest)
            worst = self._cost(self._worst_prompt(request), written, times=self._tries)
            self.refusal = self._refusal(worst)
            if self.refusal:
                return False
            self._journal.reserve(request.key, worst)
            self._aside[request.key] = worst
            self._add(worst)
        self._sent[request.key] = request
        return True

    def _refusal(self, worst: Charge) -> str:
        """Return why a request that may cost this is over a cap, as words; empty if it is not."""
        tokens, usd = self._caps.tokens, self._caps.usd
        if tokens is not None and self.tokens + worst.tokens > tokens:
            could, left, cap = f"{worst.tokens:,} tokens", f"{max(0, tokens - self.tokens):,}", f"--max-tokens {tokens}"
        elif usd is not None and self.usd + (worst.usd or 0) > usd:
            could, left = f"{dollars(worst.usd or 0)} US dollars", dollars(max(0, usd - self.usd))
            cap = f"--max-usd {usd:g}"
        else:
            return ""
        tries = f" with all its {self._tries} tries" if self._tries > 1 else ""
        return f"the next request could cost up to {could}{tries}, and {left} of {cap} are left"

    def charge(self, reply: Reply) -> Charge:
        """Replace the reservation for a reply by its cost, and return this cost.

        An answer costs the tokens that the engine counted, or labelkit's own count if the engine counted none. A try
        without an answer (a timeout, a broken connection) may have been billed and costs its part of the reservation.
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
        """Return the cost of an answer without the tries before it."""
        prompt, written = reply.prompt_tokens, reply.completion_tokens
        if request is not None and (prompt is None or written is None):
            prompt = self._prompt(request) if prompt is None else prompt
            written = self._written(reply, request) if written is None else written
            self._tell()
        if request is not None and written is not None:
            self._see_length(written, request.max_tokens)
        return self._cost(prompt or 0, written or 0)

    def _see_length(self, written: int, limit: int) -> None:
        """Take in the tokens of an answer. Some servers count the end token, which is one more than the limit."""
        if written <= max(limit + 1, self._longest):
            return
        if not self._longest:
            log.info(
                f"the server counts {written} tokens for an answer that was limited to {limit}: it does not limit the "
                "reasoning; the caps allow for answers of this length from now on, and plan does with --thinking-tokens"
            )
        self._longest = written

    def _prompt(self, request: Request) -> int:
        """Return the tokens of a prompt, counted by the tokenizer if there is one, else their upper bound."""
        return self._tokens.prompt(request.messages) if self._tokens else most_prompt_tokens(request.messages)

    def _worst_prompt(self, request: Request) -> int:
        """Return the most tokens that a prompt can have; counting them exactly needs the model's chat template."""
        known = self._tokens is not None and not isinstance(self._tokens, FileTokens)
        return self._prompt(request) if known else most_prompt_tokens(request.messages)

    def _written(self, reply: Reply, request: Request) -> int:
        """Return the tokens of an answer and its end token; an answer without text may have used up its limit."""
        if reply.text is None:
            return request.max_tokens
        return 1 + (len(self._tokens.ends(reply.text)) if self._tokens else bound(reply.text))

    def _tell(self) -> None:
        """Log once that the engine's token counts are unusable, and what is counted instead."""
        if not self._told:
            how = "by --tokenizer" if self._tokens else "as one per byte, an upper bound; --tokenizer is more exact"
            log.info(f"the server reports no valid token counts for these prompts: labelkit counts tokens {how}")
        self._told = True

    def _cost(self, prompt: int, completion: int, times: int = 1) -> Charge:
        usd = times * self._price.usd(prompt, completion) if self._price else None
        return Charge(times * (prompt + completion), usd)

    def _add(self, charge: Charge) -> None:
        self.tokens += charge.tokens
        self.usd += charge.usd or 0.0


def check_price(price: Price | None, caps: Caps, *, model: str, prices: Path | None) -> None:
    """Raise `UsageError` if there is a cap in dollars and the file `prices` has no price of the model."""
    if caps.usd is not None and price is None:
        raise UsageError(f"--max-usd needs a price for {model!r}: {unpriced(model, prices)}")
