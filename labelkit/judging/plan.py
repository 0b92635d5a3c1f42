"""Count the calls, tokens, US dollars and hours of an annotation run before anything is sent.

Every prompt of a first step is counted as it would be sent. The prompts of later steps depend on replies: their upper
bound is counted by selecting every passage and answering at full length.
"""

import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.places import local_collection
from labelkit.engines import Reply, Request, traits_of
from labelkit.engines.tokenizers import most_prompt_tokens
from labelkit.judging.gpu_speed import tokens_per_second
from labelkit.judging.methods import Judging, method_behind
from labelkit.judging.methods.steps import Ask
from labelkit.judging.options import ModelOptions, PlanOptions
from labelkit.judging.pool_texts import PoolTables, PoolTexts, tables_of
from labelkit.judging.prices import dollars, known_context, price_line, price_of, unpriced
from labelkit.judging.prompts import Prompt, prompt_for
from labelkit.judging.reading import Reading, Texts, complete
from labelkit.judging.savings import Saving, saving_of
from labelkit.judging.tasks import Requests, Room, Task, Work, one_step
from labelkit.pooling.pool import Pool, pool_folder
from labelkit.records import Judge

BLOCK = 16
"""Tokens per block of a prefix cache, as in vLLM."""
PREFIXES = 4096
"""Number of beginnings of prompts whose tokens are counted only once."""


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
    saving: Saving | None = None
    """Pairs and US dollars that a distilled judge would take over; None if none is given."""


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
    tables = tables_of(source if isinstance(source, Pool) else pool_to_plan(source, command), verify=options.verify)
    traits = traits_of(options.engine)
    prompt = prompt_for(options.method, options.prompt, lambda: traits.pairs(options.settings))
    made = planned(prompt, tables.first(options.limit), options, reading=options.reading)
    speed = tokens_per_second(options.gpu, options.model) if options.gpu else None
    most_tokens = made.most_prompt_tokens + made.most_completion_tokens
    costs = made.usd, made.most_usd
    saving = saving_of(options.distilled, options.confidence, costs=costs) if options.distilled else None
    return made._replace(
        saving=saving,
        seconds=duration(made.calls, options.rate) or duration(made.prompt_tokens, speed),
        most_seconds=duration(made.most_calls, options.rate) or duration(most_tokens, speed),
    )


def planned(prompt: Prompt, tables: PoolTables, options: ModelOptions, *, reading: Reading) -> Plan:
    """Count the requests that a prompt makes of all pairs of a pool, without their duration."""
    method, traits = method_behind(prompt.method), traits_of(options.engine)
    price = price_of(options.model, options.prices, batch=traits.batch)
    tokens = traits.tokens(options.settings, options.tokenizer)
    reading = complete(reading, method, tokens)
    context = traits.context(options.settings) or known_context(price, tokens)
    judging = Judging(Judge(judge_id="", kind="llm", name=options.model, method=prompt.method), prompt, method)
    requests = Requests(judging, reading, Room(tokens, context if method.listwise else None))
    scratch = Path(tempfile.gettempdir())
    with PoolTexts(tables, reading, tokens, scratch=scratch) as texts:
        work = Work(requests, texts)
        count = counted(work)
        facts = work.facts.as_json()
    most_prompt = count.prompt_tokens + count.later_tokens
    return Plan(
        pairs=work.pairs,
        calls=count.calls,
        most_calls=count.most_calls,
        prompt_tokens=count.prompt_tokens,
        most_prompt_tokens=most_prompt,
        most_completion_tokens=count.completion_tokens,
        counted=tokens is not None,
        longest_tokens=count.longest_tokens,
        context=context or (price.context if price else None),
        shared_tokens=count.shared_tokens,
        usd=price.usd(count.prompt_tokens, 0) if price else None,
        most_usd=price.usd(most_prompt, count.completion_tokens) if price else None,
        price=price_line(options.model, price, options.prices) if price else None,
        seconds=None,
        most_seconds=None,
        facts=facts,
    )


def pool_to_plan(source: Path | str, command: str) -> Path:
    """Return the folder of the pool to plan; from a collection, make a pool beside it."""
    return pool_folder(source, local_collection(str(source)), command)


class Count(NamedTuple):
    """Calls and tokens of a run."""

    calls: int = 0
    """Calls of the first step."""
    most_calls: int = 0
    prompt_tokens: int = 0
    """Prompt tokens of the first step."""
    later_tokens: int = 0
    """Most prompt tokens of all later steps."""
    completion_tokens: int = 0
    """Most tokens of all answers."""
    shared_tokens: int = 0
    """Prompt tokens of the first step that a prefix cache saves."""
    longest_tokens: int = 0
    """Most tokens of a prompt and its answer together."""


def counted(work: Work) -> Count:
    """Count the calls and tokens of all queries."""
    tokens = work.tokens
    shared_tokens = lru_cache(PREFIXES)(lambda start: len(tokens.ends(start)) // BLOCK * BLOCK if tokens else 0)
    calls = most_calls = first = later = completion = shared = longest_tokens = 0
    before = ""
    for query in work.queries():
        for task in query.tasks:
            calls += 1
            for number, request in enumerate(largest(query.texts, task, work)):
                size = tokens.prompt(request.messages) if tokens else most_prompt_tokens(request.messages)
                most_calls, completion = most_calls + 1, completion + request.max_tokens
                longest_tokens = max(longest_tokens, size + request.max_tokens)
                if number:
                    later += size
                    continue
                first += size
                text = "\n".join(message.content for message in request.messages)
                shared += shared_tokens(common_start(before, text))
                before = text
    return Count(
        calls,
        most_calls,
        first,
        later_tokens=later,
        completion_tokens=completion,
        shared_tokens=shared,
        longest_tokens=longest_tokens,
    )


def common_start(one: str, other: str) -> str:
    """Return the longest common start of two texts."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return one[:least]


def duration(count: int, per_second: float | None) -> float | None:
    """Return the seconds that a number of calls or tokens takes; None if the speed is unknown."""
    return count / per_second if per_second else None


def largest(texts: Texts, task: Task, work: Work) -> Iterator[Request]:
    """Yield the requests of a task if every reply is as long as possible."""
    steps = work.judging.method.judge(len(task.passage_ids), work.judging.prompt)
    ask = next(steps)
    while True:
        yield work.requests.request(texts, task, ask, key="")
        if one_step(work.judging):
            return
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


def lines(plan: Plan, model: str, prices: Path | None = None) -> list[str]:
    """Return a plan as lines for people. `prices`: the file of prices that it was made with."""
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
        found.append(f"US dollars         unknown: {unpriced(model, prices)}")
    else:
        most = dollars(plan.most_usd)
        found.append(f"US dollars         {dollars(plan.usd)} for the prompts of the first step, {most} at most")
    if plan.saving is not None:
        found.append(plan.saving.line())
    if plan.price is not None:
        found.append(f"prices             {plan.price}")
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
