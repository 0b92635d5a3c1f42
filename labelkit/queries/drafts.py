"""Plan the texts that a model is to write, one per passage and register, and record what becomes of each."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple

from labelkit.judging.pool_texts import tables_in_memory
from labelkit.judging.writing import Order
from labelkit.pooling.pool import Pool
from labelkit.queries.registers import Register
from labelkit.records import Candidate, Passage, Query

Ranks = Mapping[str, int | None]
"""Retriever -> rank of the passage, of the last one of several; None if one is not among the first N."""


class Slot(NamedTuple):
    """A query to write: its register, and the passages that answer it."""

    slot_id: str
    register: Register
    passages: tuple[Passage, ...]


class Draft(NamedTuple):
    """A written query, and why it is dropped; `reason` is None as long as it is kept."""

    slot: Slot
    text: str
    """The cleaned text; the raw text, or nothing, if it was dropped before."""
    reason: str | None = None
    detail: str | None = None
    """What the reason does not tell: the model's failure, or the text that is repeated."""
    overlap: float | None = None
    ranks: Ranks = MappingProxyType({})
    grades: tuple[int | None, ...] = ()
    """Grade of each passage; None for a failure of the judge."""

    @property
    def query_id(self) -> str:
        """Id that follows from the text and its passages."""
        parts = [self.text, *(passage.passage_id for passage in self.slot.passages)]
        return f"w-{sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"

    def but(self, reason: str, detail: str | None = None) -> "Draft":
        """Return the draft as dropped."""
        return self._replace(reason=reason, detail=detail)


def slots_of(chosen: Iterable[tuple[Passage, Sequence[Register]]], second: Mapping[str, Passage]) -> Iterator[Slot]:
    """Yield the queries to write for each passage; `second` has the second passages by the id of the first one."""
    for passage, registers in chosen:
        times: Counter[str] = Counter()
        for register in registers:
            other = second.get(passage.passage_id) if register.several else None
            if register.several and other is None:
                continue
            slot_id = f"{register.name} {times[register.name]} {passage.passage_id}"
            times[register.name] += 1
            yield Slot(slot_id, register, (passage,) if other is None else (passage, other))


def orders_of(slots: Sequence[Slot], registers: Sequence[Register], inputs: Mapping[str, str]) -> list[Order]:
    """Return one order per register that has slots."""
    found = []
    for register in registers:
        mine = [slot for slot in slots if slot.register.name == register.name]
        if mine:
            queries = {slot.slot_id: Query(query_id=slot.slot_id, text="") for slot in mine}
            passages = {passage.passage_id: passage for slot in mine for passage in slot.passages}
            candidates = [
                Candidate(query_id=slot.slot_id, passage_id=passage.passage_id, sources=())
                for slot in mine
                for passage in slot.passages
            ]
            pool = Pool(queries, passages, candidates, inputs=dict(inputs))
            found.append(Order(register.prompt, tables_in_memory(pool)))
    return found
