"""Let a model write texts from passages, such as queries, with the journal, budget and cache of `annotate`.

A reply is journalled before it is used. The texts are read from the journal alone, so that a run that was killed
resumes without paying for a text twice.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from labelkit.engines import EngineFacts, open_engine, traits_of
from labelkit.errors import BudgetError, NotYetError
from labelkit.judging.annotate import make_judge, output_of
from labelkit.judging.budget import Budget, check_price
from labelkit.judging.calls import Calls
from labelkit.judging.journal import FILE, Journal, Spent
from labelkit.judging.methods import Judging, method_behind
from labelkit.judging.options import CallOptions, ModelOptions
from labelkit.judging.plan import Plan, planned
from labelkit.judging.pool_texts import PoolTables, PoolTexts
from labelkit.judging.prices import price_line, price_of
from labelkit.judging.progress import ShowProgress
from labelkit.judging.prompts import Prompt
from labelkit.judging.reading import Reading, complete
from labelkit.judging.reply_parser import Failure, read_answer
from labelkit.judging.tasks import Requests, Room, Work
from labelkit.records import Judge
from labelkit.storage.outputs import Place

log = logging.getLogger(__name__)

TEMPERATURE = 0.7
"""Texts are sampled, so that several from one passage differ; below 1, because they must not invent facts."""


class Order(NamedTuple):
    """Texts to write with one prompt: each query id of the tables names one text, from all of its passages."""

    prompt: Prompt
    tables: PoolTables


class WrittenText(NamedTuple):
    """A text that a model wrote, or the reason for a missing one."""

    text_id: str
    text: str | None
    failure: str | None


class Writing(NamedTuple):
    """All texts of a run, the models with their prompts that wrote them, and the cost of the folder in all its runs."""

    replies: list[WrittenText]
    writers: list[Judge]
    """One per order, in the same order."""
    asked: int
    """Requests sent in this run."""
    tokens: int
    usd: float | None
    """US dollars; None if the model has no known price."""


def write_texts(orders: Sequence[Order], folder: Path, options: CallOptions, *, progress: ShowProgress) -> Writing:
    """Write the texts of all orders with one model, or resume the run in that folder, which holds the journal.

    Raises `BudgetError` if the caps leave texts unwritten, `NotYetError` while batches are in progress, and
    `EngineError` if the model cannot be loaded, does not answer or is no longer the same.
    """
    traits = traits_of(options.engine)
    price = price_of(options.model, options.prices, batch=traits.batch)
    check_price(price, options.caps, model=options.model, prices=options.prices)
    if price is not None:
        log.info(price_line(options.model, price, options.prices))
    found = Writing([], [], 0, tokens=0, usd=None)
    with output_of(folder) as place, ExitStack() as opened:
        engine = open_engine(options.engine, options.settings._replace(folder=folder))
        opened.callback(engine.close)
        with Journal(folder) as journal:
            tokens = traits.tokens(options.settings, options.tokenizer)
            budget = Budget(journal, options.caps, price=price, tokens=tokens, traits=traits)
            calls = Calls(engine, options, journal, budget=budget)
            later: list[NotYetError] = []
            for order in orders:
                try:
                    part = write_order(order, calls, place, progress=progress)
                except NotYetError as error:  # the batches of all orders are submitted together
                    later.append(error)
                else:
                    found.replies.extend(part.replies)
                    found.writers.extend(part.writers)
                    found = found._replace(asked=found.asked + part.asked)
            if later:
                raise NotYetError("\n".join(map(str, later)))
            found = found._replace(tokens=budget.tokens, usd=None if price is None else budget.usd)
    count = sum(len(order.tables.queries) for order in orders)
    if missing := count - len(found.replies):
        raise BudgetError(
            f"{missing} of {count} texts are not written: the caps allow no more requests; raise --max-usd or "
            "--max-tokens and run the same command again"
        )
    return found


def write_order(order: Order, calls: Calls, place: Place, *, progress: ShowProgress) -> Writing:
    """Write the texts of one order, as far as the budget allows."""
    options = calls.options
    tokens = traits_of(options.engine).tokens(options.settings, options.tokenizer)
    method = method_behind(order.prompt.method)
    reading = complete(reading_of(options, options.seed), method, tokens)

    def requests_of(facts: EngineFacts) -> Requests:
        writer = make_judge(facts, options, order.prompt, reading=reading)
        return Requests(Judging(writer, order.prompt, method), reading, Room(tokens, None))

    scratch = place.path if place.in_place else place.path.parent
    with PoolTexts(order.tables, reading, tokens, scratch=scratch) as texts:
        work, run = calls.ask(requests_of, texts, begin=lambda: None, show=progress)
        replies = list(replies_in(calls.journal, work))
    return Writing(replies, [work.judging.judge], run.asked, tokens=0, usd=None)


def replies_in(journal: Journal, work: Work) -> Iterator[WrittenText]:
    """Yield the texts of a run from its journal; texts without a reply are left out."""
    for query in work.queries():
        for task in query.tasks:
            if (reply := journal.reply(task.key)) is not None:
                yield written_text(task.query_id, read_answer(reply))


def written_text(text_id: str, answer: str | Failure) -> WrittenText:
    """Return a text, or the reason for a missing one, from what was read in a reply."""
    if isinstance(answer, Failure):
        return WrittenText(text_id, None, answer.reason)
    return WrittenText(text_id, answer, None)


def reading_of(options: ModelOptions, seed: int = 0) -> Reading:
    """Return the reading of a model that writes: reserved tokens are stripped, and answers are sampled."""
    return Reading(
        passage_tokens=options.passage_tokens,
        passage_words=options.passage_words,
        seed=seed,
        thinking_tokens=options.thinking,
        defences=("strip",),
        temperature=TEMPERATURE,
    )


def plan_texts(orders: Iterable[Order], options: ModelOptions) -> list[Plan]:
    """Count the requests of each order as they would be sent; nothing is sent."""
    return [planned(order.prompt, order.tables, options, reading=reading_of(options)) for order in orders]


def spent_in(folder: Path) -> Spent:
    """Return the cost of a folder so far, with the reservations of requests that may have been sent."""
    if not (folder / FILE).is_file():
        return Spent()
    with Journal(folder) as journal:
        spent = journal.spent()
        for charge in journal.aside().values():
            spent = spent.plus(charge)
    return spent
