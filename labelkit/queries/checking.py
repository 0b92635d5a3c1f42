"""Check written queries: cleaned, no duplicates, bounded word overlap, and found by a retriever."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from labelkit.corpora.copies import repeated
from labelkit.corpora.near_duplicates import KnownTexts, normalised
from labelkit.corpora.words import overlap
from labelkit.judging.failure_log import kind_of
from labelkit.judging.writing import WrittenText
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.sources import Source
from labelkit.queries.cleaning import cleaned
from labelkit.queries.drafts import Draft, Slot
from labelkit.queries.options import WriteOptions

DUPLICATE, KNOWN, OVERLAP, NOT_FOUND = (
    "duplicate of another written query",
    "duplicate of a query of the collection",
    "word overlap above the limit",
    "no retriever finds its passage",
)
"""Reasons for dropping a query."""
MOST_OVERLAP = 0.8
"""Largest word overlap of a register whose prompt has no limit of its own."""


def read_drafts(slots: Iterable[Slot], replies: Mapping[str, WrittenText]) -> list[Draft]:
    """Return the drafts with their cleaned texts; texts that are missing or no query are dropped."""
    found = []
    for slot in slots:
        reply = replies[slot.slot_id]
        if reply.text is None:
            failure = reply.failure or ""
            found.append(Draft(slot, "").but(f"not written: {kind_of(failure)}", failure))
            continue
        text, reason = cleaned(reply.text)
        if reason is None and repeats(slot, text):
            reason = "repeats its instructions"
        found.append(Draft(slot, text) if reason is None else Draft(slot, reply.text).but(reason))
    return found


def repeats(slot: Slot, text: str) -> bool:
    """Return whether a text is a part of the prompt's own words, as weak models answer."""
    templates = slot.register.prompt.steps["write"]
    words = pa.array([text, f"{templates.system} {templates.user}"])
    one, all_words = normalised(words).to_pylist()
    return one in all_words


def without_duplicates(drafts: Sequence[Draft], known: Sequence[str]) -> list[Draft]:
    """Drop drafts that repeat a query of the collection, or an earlier draft, exactly or nearly."""
    kept = {str(place): draft.text for place, draft in enumerate(drafts) if draft.reason is None}
    copies: dict[str, tuple[str, str]] = {}
    if known and kept:
        names, texts = pa.array(list(kept)), pa.array(list(kept.values()))
        for copy in KnownTexts(known, known).copies(names, texts):
            copies[copy.name] = (KNOWN, copy.known)
    new = {name: text for name, text in kept.items() if name not in copies}
    names_of, texts_of = list(new), list(new.values())
    for number, first in repeated_in(texts_of).items():
        copies[names_of[number]] = (DUPLICATE, texts_of[first])
    return [draft.but(*copies[str(place)]) if str(place) in copies else draft for place, draft in enumerate(drafts)]


def repeated_in(texts: Sequence[str]) -> dict[int, int]:
    """Return the numbers of texts that repeat an earlier one, exactly or nearly, each with the number of that text."""
    if not texts:
        return {}
    with tempfile.TemporaryDirectory(prefix="labelkit-") as folder:
        found = repeated(len(texts), texts.__getitem__, Path(folder), alike=lambda *numbers: True)
        return {copy.number: copy.kept for copy in found}


def with_overlap(draft: Draft, most: float | None) -> Draft:
    """Measure the share of a draft's words that occur in its passages; drop it above the limit of its register."""
    found = overlap(draft.text, "\n".join(passage.full_text for passage in draft.slot.passages))
    measured = draft._replace(overlap=round(found, 4))
    return measured.but(OVERLAP) if found > limit_of(draft.slot, most) else measured


def limit_of(slot: Slot, most: float | None) -> float:
    """Return the largest word overlap of a slot: the one of its prompt, or a lower general limit."""
    own = slot.register.prompt.max_overlap
    return min(MOST_OVERLAP if own is None else own, 1.0 if most is None else most)


def with_ranks(drafts: Iterable[Draft], sources: Sequence[Source]) -> list[Draft]:
    """Record the rank of each draft's passages in each ranking; drop drafts whose passages no ranking has.

    Each source has one ranking per draft that is not dropped, in the order of the drafts.
    """
    streams = [(source.name, iter(source.rankings)) for source in sources]
    found = []
    for draft in drafts:
        if draft.reason is not None:
            found.append(draft)
            continue
        ids = [passage.passage_id for passage in draft.slot.passages]
        ranks = {name: rank_of_last(list(next(rankings)), ids) for name, rankings in streams}
        ranked = draft._replace(ranks=ranks)
        found.append(ranked if any(ranks.values()) else ranked.but(NOT_FOUND))
    return found


def rank_of_last(ranking: Sequence[str], ids: Iterable[str]) -> int | None:
    """Return the rank, from 1, of the last of these passages; None if one is not in the ranking."""
    ranks = {passage_id: rank for rank, passage_id in enumerate(ranking, 1)}
    found = [ranks.get(passage_id) for passage_id in ids]
    return None if None in found else max(filter(None, found))


def kept_only(drafts: Iterable[Draft], check: Callable[[Draft], Draft]) -> list[Draft]:
    """Apply a check to the drafts that are not dropped yet."""
    return [draft if draft.reason is not None else check(draft) for draft in drafts]


def searching(options: WriteOptions) -> PoolOptions:
    """Return the retrievers that must find a query's passages, and their depth."""
    models = tuple(f"{model}:{options.within}" for model in options.dense)
    return PoolOptions(bm25=options.within, dense=models, trust_remote_code=options.trust_remote_code)
