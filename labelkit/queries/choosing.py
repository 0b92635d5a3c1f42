"""Choose what to write: open a corpus, draw its passages, and give each passage its registers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.layout import Layout, layout_of
from labelkit.errors import DataError
from labelkit.judging.writing import Order
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.collection import stage_corpus
from labelkit.pooling.sources import Workplace
from labelkit.pooling.stages import LoggedStages, Report
from labelkit.queries.drafts import Slot, orders_of, slots_of
from labelkit.queries.drawing import Sample, draw, seconds
from labelkit.queries.options import WriteOptions
from labelkit.queries.registers import Register, spread
from labelkit.storage import folders, tables

log = logging.getLogger(__name__)

NO_PARTNER = "no second passage for a query from several"


class Source(NamedTuple):
    """The corpus of a run, and the retrievers' place of work."""

    layout: Layout
    place: Workplace
    engine: Bm25
    inputs: dict[str, str]


class Chosen(NamedTuple):
    """The queries to write."""

    sample: Sample
    slots: list[Slot]
    registers: list[Register]
    """The registers that have slots."""
    orders: list[Order]
    """One per register, in the same order."""
    without_partner: int

    @property
    def left_out(self) -> dict[str, int]:
        """Reason -> number of passages that were left out."""
        missing = {NO_PARTNER: self.without_partner} if self.without_partner else {}
        return self.sample.left_out | missing


@contextmanager
def opened(folder: Path, scratch: Path, options: WriteOptions, *, report: Report | None = None) -> Iterator[Source]:
    """Read a corpus into a database in the folder `scratch`, and open its BM25 index."""
    layout, shown = layout_of(folder, needed=["corpus"]), report or LoggedStages()
    with tables.session(scratch) as db:
        collection = stage_corpus(db, layout.corpus, scratch, fields=options.fields, report=shown)
        place = Workplace(db, scratch, collection=collection, report=shown)
        inputs = {str(path): folders.file_sha256(path) for path in layout.corpus}
        engine = Bm25(collection.corpus, options.language, shown)
        yield Source(layout, place, engine, inputs=inputs)


def choose(source: Source, options: WriteOptions) -> Chosen:
    """Draw passages, and choose the registers of their queries. Raises `DataError` if no passage is fit."""
    collection, db = source.place.collection, source.place.db
    sample = draw(
        db, collection, source.layout.corpus, fields=options.fields, count=options.passages, seed=options.seed
    )
    if not sample.drawn:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sample.left_out.items())
        raise DataError(f"{source.layout.corpus[0]}: no passage is fit for a query: {reasons}")
    if len(sample.drawn) < options.passages:
        log.info(f"{len(sample.drawn)} of {options.passages} passages: the corpus has no more that are fit for a query")
    mine = list(islice(spread(options.shares, options.per_passage), len(sample.drawn)))
    paired = [one for one, given in zip(sample.drawn, mine, strict=True) if any(each.several for each in given)]
    partners = zip(paired, seconds(collection, source.engine, paired), strict=True)
    second = {one.passage.passage_id: other for one, other in partners if other is not None}
    slots = list(slots_of(((one.passage, given) for one, given in zip(sample.drawn, mine, strict=True)), second))
    names = {slot.register.name for slot in slots}
    asked = [one for one in options.shares if one.name in names]
    orders = orders_of(slots, asked, source.inputs)
    return Chosen(sample, slots, asked, orders=orders, without_partner=len(paired) - len(second))
