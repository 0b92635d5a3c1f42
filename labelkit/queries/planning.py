"""Count the requests, tokens and US dollars of writing and judging queries before anything is sent."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.places import local_collection
from labelkit.judging.methods.write import TEXT_TOKENS
from labelkit.judging.options import PlanOptions
from labelkit.judging.plan import Plan, plan
from labelkit.judging.prices import dollars
from labelkit.judging.writing import plan_texts
from labelkit.pooling.pool import Pool
from labelkit.queries.choosing import choose, opened
from labelkit.queries.drafts import Slot
from labelkit.queries.options import WriteOptions
from labelkit.records import Candidate, Query


class QueriesPlan(NamedTuple):
    """The size of a run of `write_queries`. The judge's numbers are upper bounds: no query is written yet."""

    passages: int
    writing: dict[str, Plan]
    """Register -> its requests."""
    judging: Plan | None
    """The judge's requests if every query reaches it at full length; None without a judge."""

    @property
    def most_usd(self) -> float | None:
        """Most US dollars of writing and judging; None if a price is unknown."""
        costs = [plan.most_usd for plan in (*self.writing.values(), *filter(None, [self.judging]))]
        return None if None in costs else sum(filter(None, costs))

    def lines(self) -> list[str]:
        """Return the plan for people."""
        parts = {f"write {name}": plan for name, plan in self.writing.items()}
        if self.judging is not None:
            parts["judge, at most"] = self.judging
        total = "unknown: a model has no price; add it to a copy of prices.toml (--prices)"
        return [
            f"{'passages':22} {self.passages:,}",
            *(
                f"{name:22} {made.calls:,} requests, {made.prompt_tokens:,} prompt tokens, at most "
                f"{made.most_completion_tokens:,} answer tokens{'' if made.counted else ' (counted as bytes)'}"
                for name, made in parts.items()
            ),
            f"{'US dollars, at most':22} {total if self.most_usd is None else dollars(self.most_usd)}",
        ]


def plan_queries(data: Path | str, options: WriteOptions) -> QueriesPlan:
    """Count the requests and tokens of `write_queries` with the same options, and their cost. Nothing is sent.

    Args:
        data: collection with a corpus.
        options: as for `write_queries`.

    Returns:
        Requests, tokens and US dollars of writing by register, and upper bounds for judging.

    Raises:
        DataError: the corpus is malformed, or no passage is fit for a query.
    """
    with tempfile.TemporaryDirectory(prefix="labelkit-") as folder:
        scratch = Path(folder) / "scratch"
        with opened(local_collection(str(data)), scratch, options) as source:
            chosen = choose(source, options)
    made = plan_texts(chosen.orders, options)
    judging = None
    if options.judge:
        given = options.annotating()
        fields = {name: getattr(given, name) for name in given.model_fields_set & set(PlanOptions.model_fields)}
        judging = plan(longest_pool(chosen.slots), PlanOptions(**fields))
    names = [one.name for one in chosen.registers]
    return QueriesPlan(len(chosen.sample.drawn), dict(zip(names, made, strict=True)), judging)


def longest_pool(slots: Sequence[Slot]) -> Pool:
    """Return the pool of the judge if every query is as long as the writer may make it."""
    text = " ".join(["x"] * TEXT_TOKENS)
    return Pool(
        queries={slot.slot_id: Query(query_id=slot.slot_id, text=text) for slot in slots},
        passages={passage.passage_id: passage for slot in slots for passage in slot.passages},
        candidates=[
            Candidate(query_id=slot.slot_id, passage_id=passage.passage_id, sources=())
            for slot in slots
            for passage in slot.passages
        ],
        inputs={},
    )
