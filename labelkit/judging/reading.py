"""Pool -> texts as a judge reads them: passages defended and cut; in how many orders, how often."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from labelkit.corpora.words import beginning
from labelkit.engines.tokenizers import Tokens
from labelkit.errors import UsageError
from labelkit.judging.defences import strip, without_query
from labelkit.judging.methods import Method
from labelkit.pooling.pool import Pool
from labelkit.records import PairIds

PASSAGE_WORDS = 300
"""Words of a passage that a judge reads where no tokenizer is at hand: as in arXiv 2504.05220."""


PASSAGE_TOKENS = 400
"""Tokens of a passage otherwise: as much English, and no more of a text that has few spaces."""


class Reading(NamedTuple):
    """How much of a passage is read, in which orders, how often."""

    passage_tokens: int | None = None
    passage_words: int | None = None
    permutations: int = 1
    """Orders of a pool that a listwise method judges."""
    votes: int = 1
    """Answers of a pointwise method that are drawn for a pair; 1 takes the likeliest."""
    seed: int = 0
    """Of the first order or vote; the next ones follow."""
    defences: tuple[str, ...] = ()
    """Names in `labelkit.judging.defences`."""


class Texts(NamedTuple):
    """The texts of pairs as a judge reads them: passages cut to their length, with the defences applied."""

    pairs: Sequence[PairIds]
    """In the order of the pool, query by query."""
    queries: Mapping[str, str]
    passages: Mapping[str, str]
    without_query: Mapping[PairIds, str]
    """Passages that a second look reads without their repetition of the query."""
    facts: Mapping[str, Any]
    """Length, and number of pairs whose passage was cut or stripped, for the manifest."""


def complete(reading: Reading, method: Method, tokens: Tokens | None) -> Reading:
    """The reading with its defaults. Raises `UsageError` where it asks for what this method or judge cannot do."""
    if reading.permutations > 1 and not method.listwise:
        raise UsageError("--permutations is for the listwise methods; a pair that is judged alone has no order")
    if reading.votes > 1 and method.listwise:
        raise UsageError("--votes is for the pointwise methods; use --permutations for a listwise one")
    if "second-look" in reading.defences and (method.listwise or reading.votes > 1):
        raise UsageError("--defence second-look is for the pointwise methods, without --votes")
    if reading.passage_tokens and reading.passage_words:
        raise UsageError("give --passage-tokens or --passage-words, not both")
    if reading.passage_tokens and tokens is None:
        raise UsageError("--passage-tokens needs the server's tokenizer: give --tokenizer, or --passage-words")
    if reading.passage_tokens or reading.passage_words:
        return reading
    return reading._replace(passage_tokens=PASSAGE_TOKENS) if tokens else reading._replace(passage_words=PASSAGE_WORDS)


def read_texts(pool: Pool, reading: Reading, tokens: Tokens | None) -> Texts:
    """The texts of a pool's pairs, each passage defended and cut as the reading says."""
    pairs = [(candidate.query_id, candidate.passage_id) for candidate in pool.candidates]
    queries = {query_id: pool.queries[query_id].text for query_id, _ in pairs}
    passages, cut, stripped = {}, set(), set()
    for passage_id in dict.fromkeys(passage_id for _, passage_id in pairs):
        full = pool.passages[passage_id].full_text
        text = head = reach(full, reading)
        if "strip" in reading.defences and (text := strip(head)) is not head:
            stripped.add(passage_id)
        passages[passage_id] = short = shortened(text, reading, tokens)
        if short is not text or head is not full:
            cut.add(passage_id)
    facts: dict[str, Any] = (
        {"passage_tokens": reading.passage_tokens}
        if reading.passage_tokens
        else {"passage_words": reading.passage_words}
    )
    facts["cut_passages"] = sum(passage_id in cut for _, passage_id in pairs)
    if stripped:
        facts["stripped_passages"] = sum(passage_id in stripped for _, passage_id in pairs)
    return Texts(
        pairs, queries, passages, without_query=second_looks(pairs, queries, passages, reading=reading), facts=facts
    )


def second_looks(
    pairs: Iterable[PairIds], queries: Mapping[str, str], passages: Mapping[str, str], *, reading: Reading
) -> dict[PairIds, str]:
    """The passages that repeat their query, without it, where the reading has the second look."""
    if "second-look" not in reading.defences:
        return {}
    shown = ((pair, without_query(queries[pair[0]], passages[pair[1]])) for pair in pairs)
    return {pair: text for pair, text in shown if text != passages[pair[1]]}


def reach(text: str, reading: Reading) -> str:
    """The part of a text that the tokens or words of a reading can reach: megabytes are not tokenised to be cut."""
    return beginning(text, reading.passage_tokens or reading.passage_words or PASSAGE_TOKENS)


def shortened(text: str, reading: Reading, tokens: Tokens | None) -> str:
    """A text cut to what the reading says."""
    if reading.passage_tokens and tokens:
        # No tokenizer makes more tokens than characters of plain ASCII: it need not be asked.
        if len(text) < reading.passage_tokens and text.isascii():
            return text
        ends = tokens.ends(text)
        return text[: ends[reading.passage_tokens - 1]] if len(ends) > reading.passage_tokens else text
    words = text.split()
    return " ".join(words[: reading.passage_words]) if len(words) > (reading.passage_words or 0) else text
