"""Count the calls, tokens, US dollars and hours of an annotation run before anything is sent.

Every prompt of a first step is counted as it would be sent. The prompts of later steps depend on replies: their upper
bound is counted by selecting every passage and answering at full length.
"""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.places import local_collection
from labelkit.engines import Reply, Request, traits_of
from labelkit.engines.tokenizers import Tokens, most_prompt_tokens
from labelkit.judging.gpu_speed import tokens_per_second
from labelkit.judging.methods import Judging, method_named
from labelkit.judging.methods.steps import Ask
from labelkit.judging.options import PlanOptions
from labelkit.judging.prices import known_context, price_line, price_of
from labelkit.judging.prompts import prompt_for
from labelkit.judging.reading import complete, read_texts
from labelkit.judging.tasks import Room, Task, Work
from labelkit.pooling.pool import Pool, first_pairs, pool_of
from labelkit.records import Judge

BLOCK = 16
"""Tokens per block of a prefix cache, as in vLLM."""


class Plan(NamedTuple):
    """The size of a run. Fields named `most_...` are upper bounds over all steps of a method."""

    pairs: int
    calls: int
    """Calls of the first step, which is the lower bound."""
    most_calls: int
    prompt_tokens: int
    most_prompt_tokens: int
    most_completion_tokens: int
    counted: bool
    """False if no tokenizer is available, so that tokens are counted as bytes, an upper bound."""
    longest_tokens: int
    """Tokens of the longest prompt and its answer together."""
    context: int | None
    """Most tokens that the model takes for a prompt and its answer; None if that is not known."""
    shared_tokens: int
    """Prompt tokens of the first step that a prefix cache saves if prompts are sent in this order."""
    usd: float | None
    """US dollars for the prompts of the first step; None if no price is known."""
    most_usd: float | None
    price: str | None
    """The price with its origin and age, as a line for people; None if no price is known."""
    seconds: float | None
    """Seconds of the first step at the given rate or on one of the given GPUs; None if neither is given."""
    most_seconds: float | None
    facts: dict[str, Any]
    """Facts about cuts, orders and windows, as the manifest of the run will have them."""


def plan(source: Pool | Path | str, options: PlanOptions, *, command: str = "labelkit.plan") -> Plan:
    """Count the calls, tokens, US dollars and seconds of `annotate` with the same options. Nothing is sent.

    Args:
        source: a pool, its folder, or a BEIR folder, from which a pool is made beside it with default options.
        options: judge and reading as for `annotate`; `rate` in calls per second or `gpu` gives the time.
        command: the command that the manifest of a pool made here records as its origin.

    Returns:
        Counts of calls and tokens, US dollars if a price is known, and seconds if a rate or a GPU is given.

    Raises:
        UsageError: options contradict each other.
        EngineError: the judge's tokenizer cannot be loaded.
    """
    beside = Path("pool") if isinstance(source, Pool) else local_collection(str(source))
    pool = first_pairs(pool_of(source, beside, command, verify=options.verify), options.limit)
    method, traits = method_named(options.method), traits_of(options.engine)
    prompt = prompt_for(options.method, options.prompt, lambda: traits.pairs(options.settings))
    price = price_of(options.model, options.prices, batch=traits.batch)
    tokens = traits.tokens(options.settings, options.tokenizer)
    reading = complete(options.reading, method, tokens)
    context = traits.context(options.settings) or known_context(price, tokens)
    judging = Judging(Judge(judge_id="", kind="llm", name=options.model, method=prompt.method), prompt, method)
    work = Work(
        judging, reading, read_texts(pool, reading, tokens), room=Room(tokens, context if method.listwise else None)
    )
    speed = tokens_per_second(options.gpu, options.model) if options.gpu else None
    first = rest = calls = completion = shared = longest_tokens = 0
    before = ""
    for task in work.tasks:
        for number, request in enumerate(largest(task, work)):
            size = tokens.prompt(request.messages) if tokens else most_prompt_tokens(request.messages)
            calls, completion = calls + 1, completion + request.max_tokens
            longest_tokens = max(longest_tokens, size + request.max_tokens)
            if number:
                rest += size
                continue
            first += size
            text = "\n".join(message.content for message in request.messages)
            shared += cached(before, text, tokens)
            before = text
    return Plan(
        pairs=len(work.pairs),
        calls=len(work.tasks),
        most_calls=calls,
        prompt_tokens=first,
        most_prompt_tokens=first + rest,
        most_completion_tokens=completion,
        counted=tokens is not None,
        longest_tokens=longest_tokens,
        context=context or (price.context if price else None),
        shared_tokens=shared,
        usd=price.usd(first, 0) if price else None,
        most_usd=price.usd(first + rest, completion) if price else None,
        price=price_line(options.model, price, options.prices) if price else None,
        seconds=duration(len(work.tasks), options.rate) or duration(first, speed),
        most_seconds=duration(calls, options.rate) or duration(first + rest + completion, speed),
        facts=work.facts.as_json(),
    )


def duration(count: int, per_second: float | None) -> float | None:
    """Return the seconds that a number of calls or tokens takes; None if the speed is unknown."""
    return count / per_second if per_second else None


def largest(task: Task, work: Work) -> Iterator[Request]:
    """Yield the requests of a task if every reply is as long as possible."""
    steps = work.judging.method.judge(len(task.passage_ids), work.judging.prompt)
    ask = next(steps)
    while True:
        yield work.request(task, ask, "")
        try:
            ask = steps.send(Reply(key="", text=longest(ask)))
        except StopIteration:
            return


def longest(ask: Ask) -> str:
    """Return the longest reply to a step: a label, all identifiers, or as many words as tokens are allowed."""
    if ask.labels:
        return ask.labels[0]
    if ask.pattern:
        return ", ".join(f"[{number}]" for number in range(1, len(ask.shown) + 1))
    return " ".join(["x"] * ask.max_tokens)


def cached(before: str, text: str, tokens: Tokens | None) -> int:
    """Return the tokens at the start of a prompt that the prompt before it shares, in whole blocks; 0 without a
    tokenizer.
    """
    if tokens is None:
        return 0
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False)))
    return len(tokens.ends(text[:same])) // BLOCK * BLOCK


def lines(plan: Plan, model: str) -> list[str]:
    """Return a plan as lines for people."""
    note = (
        "" if plan.counted else " (upper bound: bytes, as no tokenizer is available; give --tokenizer for exact counts)"
    )
    found = [
        f"pairs              {plan.pairs:,}",
        f"calls              {between(plan.calls, plan.most_calls)}",
        f"prompt tokens      {between(plan.prompt_tokens, plan.most_prompt_tokens)}{note}",
        f"completion tokens  at most {plan.most_completion_tokens:,}",
        f"longest request    {plan.longest_tokens:,} tokens{context_note(plan)}",
        f"shared prompt      {plan.shared_tokens:,} tokens of the first step that a prefix cache saves",
    ]
    if plan.usd is None or plan.most_usd is None:
        found.append(f"US dollars         unknown: no price for {model!r}; add it to a copy of prices.toml (--prices)")
    else:
        found.append(
            f"US dollars         {plan.usd:,.2f} for the prompts of the first step, {plan.most_usd:,.2f} at most"
        )
    if plan.price is not None:
        found.append(plan.price)
    if plan.seconds is not None and plan.most_seconds is not None:
        found.append(f"hours              {plan.seconds / 3600:,.2f} to {plan.most_seconds / 3600:,.2f}")
    return found + [f"{name.replace('_', ' '):18} {value:,}" for name, value in plan.facts.items()]


def context_note(plan: Plan) -> str:
    """Return the context of the model as words, and whether the longest request exceeds it."""
    if plan.context is None:
        return ""
    if plan.longest_tokens <= plan.context:
        return f" of a context of {plan.context:,}"
    excess = f", more than the context of {plan.context:,}"
    return f"{excess}; shorten passages with --passage-tokens" if plan.counted else f"{excess} if every byte is a token"


def between(least: int, most: int) -> str:
    """Return a count as text, or both bounds if they differ."""
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
