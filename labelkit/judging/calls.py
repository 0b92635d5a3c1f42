"""Send all requests of some work to an opened engine: first find the options that its server accepts, then ask."""

from collections.abc import Callable
from typing import NamedTuple

from labelkit.engines import Engine, EngineFacts, traits_of
from labelkit.judging.budget import Budget
from labelkit.judging.journal import Journal
from labelkit.judging.options import CallOptions
from labelkit.judging.pool_texts import PoolTexts
from labelkit.judging.prices import price_of
from labelkit.judging.probing import Probing, settle
from labelkit.judging.progress import ShowProgress
from labelkit.judging.scheduler import Scheduler, ask, cache_of
from labelkit.judging.tasks import Requests, Work


class Calls(NamedTuple):
    """An opened engine with the journal and the budget of its run."""

    engine: Engine
    options: CallOptions
    journal: Journal
    budget: Budget

    def ask(
        self,
        requests_of: Callable[[EngineFacts], Requests],
        texts: PoolTexts,
        *,
        begin: Callable[[], None],
        show: ShowProgress,
    ) -> tuple[Work, Scheduler]:
        """Send the requests about texts that have no reply yet, as far as the budget allows, and journal each reply.

        `requests_of` makes the requests for a model with the given facts, which the first requests may change. `begin`
        is called before the first answer is stored. Raises the errors of `scheduler.ask`.
        """
        engine, journal, options, budget = self.engine, self.journal, self.options, self.budget
        single, batch = price_of(options.model, options.prices, batch=False), traits_of(options.engine).batch
        first = Probing(engine, requests_of, texts, journal=journal, budget=budget, price=single, batch=batch)
        probed = settle(first, cache_of(options))
        work = Work(requests_of(engine.facts), texts)
        run = ask(work, engine, journal, options=options, budget=budget, show=show, begin=begin, probed=probed)
        return work, run
