"""Ask a language model for other wordings of a judge's prompt.

Requests and replies are in a journal of their own: a proposal that was paid for is never asked for again, and the
spending limits apply as in annotation.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from labelkit.engines import Message, Reply, Request, open_engine, traits_of
from labelkit.errors import BudgetError, DataError, EngineError, UsageError
from labelkit.judging.budget import Budget, check_price
from labelkit.judging.journal import Arrival, Journal
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.prices import price_of
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, read_answer
from labelkit.judging.request_keys import digest
from labelkit.quality.tuning.prompt_files import reworded, short

TOKENS = 2048
"""Token limit of a proposal."""
TEMPERATURE = 1.0
"""Proposals are sampled, so that they differ."""
SHOWN = 8
"""Number of disagreements that a request for a proposal shows."""
SYSTEM = """\
You improve the instructions that a judge of search results follows. Given a query and a passage, the judge must give
the answer that a careful person gave. Write new instructions under which it makes fewer mistakes like those below.
Write general rules: never mention the queries or passages of the mistakes. Keep the meaning of the labels, and ask for
exactly one label as the answer.
Reply with the new instructions between <system> and </system>. If the user message must change too, write it between
<user> and </user>, with {query} and {passage} where they belong."""
PART = re.compile(r"<(system|user)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)


class Mistake(NamedTuple):
    """A pair on which the judge and the person disagree."""

    query: str
    passage: str
    wanted: str
    """Label that the person's grade corresponds to."""
    given: str
    """Label of the judge, or the reason for a missing one."""


class Proposed(NamedTuple):
    """Proposed prompts, the reasons why other proposals are no prompts, and the cost of all in the journal."""

    prompts: list[Prompt]
    rejected: list[str]
    tokens: int
    usd: float


def propose(
    parent: Prompt, mistakes: Sequence[Mistake], folder: Path, *, options: AnnotateOptions, count: int
) -> Proposed:
    """Ask for `count` wordings, each for another random sample of the mistakes.

    `options` name the proposing model and its limits. Raises `BudgetError` if the limits allow no more requests, and
    `EngineError` if the model does not answer.
    """
    traits = traits_of(options.engine)
    if traits.batch:
        raise UsageError(f"engine {options.engine} cannot propose prompts; name another one with --proposer-engine")
    price = price_of(options.model, options.prices, batch=False)
    check_price(price, options.caps, model=options.model, prices=options.prices)
    requests = [request_for(parent, mistakes, options, number=number) for number in range(count)]
    with Journal(folder) as journal:
        known = journal.answered()
        tokens = traits.tokens(options.settings, options.tokenizer)
        budget = Budget(journal, options.caps, price=price, tokens=tokens, traits=traits)
        if missing := [request for request in requests if request.key not in known]:
            ask(missing, journal, options, budget=budget)
        replies = [journal.reply(request.key) for request in requests]
    found = Proposed([], [], budget.tokens, usd=budget.usd)
    for number, reply in enumerate(replies, 1):
        try:
            prompt = prompt_in(reply, parent, f"{parent.name}-wording-{number}")
        except DataError as error:
            found.rejected.append(f"proposal {number}: {error}")
            continue
        same = {one.steps["judge"] for one in (parent, *found.prompts)}
        if prompt.steps["judge"] in same:
            found.rejected.append(f"proposal {number}: repeats another prompt")
        else:
            found.prompts.append(prompt)
    return found


def ask(missing: Sequence[Request], journal: Journal, options: AnnotateOptions, *, budget: Budget) -> None:
    """Send requests and journal the replies, each before it is used."""
    affordable = [request for request in missing if budget.reserve(request)]
    engine = open_engine(options.engine, options.settings._replace(folder=journal.path.parent))
    try:
        for replies in engine.together(affordable):
            journal.append([Arrival(reply, budget.charge(reply)) for reply in replies])
            if failed := [reply.error for reply in replies if reply.error is not None]:
                raise EngineError(f"no proposal from {options.model}: {failed[0]}; run the same command again")
    finally:
        engine.close()
    if len(affordable) < len(missing):
        raise BudgetError(
            "the caps allow no more proposals; raise --max-usd or --max-tokens and run the same command again"
        )


def request_for(parent: Prompt, mistakes: Sequence[Mistake], options: AnnotateOptions, *, number: int) -> Request:
    """Return the request for one proposal."""
    drawn = random.Random(f"{options.seed} {number}").sample(mistakes, min(SHOWN, len(mistakes)))
    step = parent.steps["judge"]
    shown = "\n\n".join(
        f"Query: {one.query}\nPassage: {short(one.passage)}\nPerson: {one.wanted}\nJudge: {one.given}" for one in drawn
    )
    labels = ", ".join(label.text for label in sorted(parent.labels, key=lambda label: label.grade))
    text = (
        f"Labels, from least to most relevant: {labels}\n\n"
        f"<system>\n{step.system.strip()}\n</system>\n<user>\n{step.user.strip()}\n</user>\n\nMistakes:\n\n{shown}"
    )
    messages = (Message("system", SYSTEM), Message("user", text))
    request = Request("", "proposals", messages, max_tokens=TOKENS, temperature=TEMPERATURE, seed=options.seed + number)
    identity = [options.engine, options.model, options.revision, sorted(options.base_url)]
    return request._replace(key=digest([*identity, *request[2:]]))


def prompt_in(reply: Reply | None, parent: Prompt, name: str) -> Prompt:
    """Return the prompt that a reply proposes. Raises `DataError` if it proposes none."""
    if reply is None:
        raise DataError("the reply is missing")
    text = read_answer(reply)
    if isinstance(text, Failure):
        raise DataError(text.reason)
    parts = {tag.lower(): content.strip() for tag, content in PART.findall(text) if content.strip()}
    if not parts:
        raise DataError(f"no instructions between <system> and </system> in {text[:60]!r}")
    step = parent.steps["judge"]
    return reworded(parent, parts.get("system", step.system), parts.get("user", step.user), name=name)
