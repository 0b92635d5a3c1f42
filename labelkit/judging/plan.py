"""What a run would ask, before anything is sent: calls, tokens, money, time.

Every prompt of a first step is counted as it would be sent. What the later steps of a method ask depends on the
replies: the most that they can ask is counted by selecting every passage and answering at full length.
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import Any, NamedTuple

from labelkit.engines import Reply, Request, Settings, traits_of
from labelkit.engines.tokenizers import Tokens, most_prompt_tokens
from labelkit.judging.methods import Method, method_named
from labelkit.judging.methods.steps import Ask
from labelkit.judging.prices import Price
from labelkit.judging.prompts import Prompt, prompt_for
from labelkit.judging.reading import Reading, complete, read_texts
from labelkit.judging.tasks import Task, Tasks
from labelkit.pooling.pool import Pool

BLOCK = 16
"""Tokens that a prefix cache keeps or drops together, as vLLM does."""


class Plan(NamedTuple):
    """The size of a run. Where a method's later steps depend on replies, `most_` is the upper bound."""

    pairs: int
    calls: int
    """Of the first step: at least so many."""
    most_calls: int
    prompt_tokens: int
    most_prompt_tokens: int
    most_completion_tokens: int
    counted: bool
    """False where no tokenizer is at hand and bytes stand for tokens: an upper bound."""
    shared_tokens: int
    """Prompt tokens of the first step that a prefix cache saves when prompts go in this order."""
    usd: float | None
    """For the first step's prompts alone; None where no price is known."""
    most_usd: float | None
    seconds: float | None
    """At the given rate; None where none is given."""
    most_seconds: float | None
    facts: dict[str, Any]
    """Cuts, orders and windows, as the manifest of the run will have them."""


def plan(
    pool: Pool,
    *,
    engine_name: str,
    settings: Settings,
    method_name: str,
    prompt_name: str | None,
    limit: int | None,
    reading: Reading,
    tokenizer: str | None,
    price: Price | None,
    rate: float | None,
) -> Plan:
    """Count what `annotate` would ask with the same options. `rate`: calls a second."""
    method, prompt = method_named(method_name), prompt_for(method_name, prompt_name)
    traits = traits_of(engine_name)
    tokens = traits.tokens(settings, tokenizer)
    reading = complete(reading, method, tokens)
    tasks = Tasks(read_texts(pool, limit, reading, tokens), prompt, method, reading, "")
    work = tasks.make(pool, limit, tokens, traits.context(settings) if method.listwise else None)
    first = rest = calls = completion = shared = 0
    before = ""
    for task in work.tasks:
        for number, request in enumerate(largest(task, tasks, method, prompt)):
            size = tokens.prompt(request.messages) if tokens else most_prompt_tokens(request.messages)
            calls, completion = calls + 1, completion + request.max_tokens
            if number:
                rest += size
                continue
            first += size
            text = "\n".join(message.content for message in request.messages)
            shared += cached(before, text, tokens)
            before = text
    return Plan(
        pairs=len({(task.query_id, pid) for task in work.tasks for pid in task.passage_ids}),
        calls=len(work.tasks),
        most_calls=calls,
        prompt_tokens=first,
        most_prompt_tokens=first + rest,
        most_completion_tokens=completion,
        counted=tokens is not None,
        shared_tokens=shared,
        usd=price.usd(first, 0) if price else None,
        most_usd=price.usd(first + rest, completion) if price else None,
        seconds=len(work.tasks) / rate if rate else None,
        most_seconds=calls / rate if rate else None,
        facts=work.facts.as_json(),
    )


def largest(task: Task, tasks: Tasks, method: Method, prompt: Prompt) -> Iterator[Request]:
    """The requests of a task where every reply is as long as it can be."""
    steps = method.judge(len(task.passage_ids), prompt)
    ask = next(steps)
    while True:
        yield tasks.request(task, ask, "")
        try:
            ask = steps.send(Reply(key="", text=longest(ask)))
        except StopIteration:
            return


def longest(ask: Ask) -> str:
    """A reply that takes everything: a label, all identifiers, or as many words as there may be tokens."""
    if ask.labels:
        return ask.labels[0]
    if ask.pattern:
        return ", ".join(f"[{number}]" for number in range(1, len(ask.shown) + 1))
    return " ".join(["x"] * ask.max_tokens)


def cached(before: str, text: str, tokens: Tokens | None) -> int:
    """Tokens of a prompt that the one before it shares from the start, in whole blocks; 0 where nobody can count."""
    if tokens is None:
        return 0
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False)))
    return len(tokens.ends(text[:same])) // BLOCK * BLOCK


def lines(plan: Plan, model: str) -> list[str]:
    """A plan in words."""
    note = (
        "" if plan.counted else " (bytes: no tokenizer is at hand, so this is more than it will be; give --tokenizer)"
    )
    found = [
        f"pairs              {plan.pairs:,}",
        f"calls              {between(plan.calls, plan.most_calls)}",
        f"prompt tokens      {between(plan.prompt_tokens, plan.most_prompt_tokens)}{note}",
        f"completion tokens  at most {plan.most_completion_tokens:,}",
        f"shared prompt      {plan.shared_tokens:,} tokens of the first step are in a prefix cache already",
    ]
    if plan.usd is None or plan.most_usd is None:
        found.append(f"US dollars         unknown: no price of {model!r}; add it to a copy of prices.toml (--prices)")
    else:
        found.append(
            f"US dollars         {plan.usd:,.2f} for the prompts of the first step, {plan.most_usd:,.2f} at most"
        )
    if plan.seconds is not None and plan.most_seconds is not None:
        found.append(f"hours              {plan.seconds / 3600:,.2f} to {plan.most_seconds / 3600:,.2f}")
    return found + [f"{name.replace('_', ' '):18} {value:,}" for name, value in plan.facts.items()]


def between(least: int, most: int) -> str:
    """A count, or its bounds where they differ."""
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
