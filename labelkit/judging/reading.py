"""The texts of a pool as a judge reads them: how much of a passage, in which orders, how often."""

from typing import NamedTuple

from labelkit.engines.tokenizers import Tokens
from labelkit.errors import UsageError
from labelkit.judging.defences import strip
from labelkit.judging.methods import Method
from labelkit.pooling.pool import Pool

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
    """The texts of a pool as a judge reads them."""

    queries: dict[str, str]
    passages: dict[str, str]
    measure: str
    """What passages were cut by: `passage_tokens` or `passage_words`."""
    longest: int
    cut: frozenset[str]
    """Ids of the passages that were longer."""
    stripped: frozenset[str]
    """Ids of the passages that held reserved tokens or invisible characters."""


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


def read_texts(pool: Pool, limit: int | None, reading: Reading, tokens: Tokens | None) -> Texts:
    """The texts of the first `limit` pairs, each passage cut to what the reading says."""
    wanted = pool.candidates[:limit]
    passages, cut, stripped = {}, set(), set()
    for passage_id in {candidate.passage_id: None for candidate in wanted}:
        text = full = pool.passages[passage_id].full_text
        if "strip" in reading.defences and (text := strip(full)) is not full:
            stripped.add(passage_id)
        passages[passage_id] = short = shortened(text, reading, tokens)
        if short is not text:
            cut.add(passage_id)
    queries = {candidate.query_id: pool.queries[candidate.query_id].text for candidate in wanted}
    measure, longest = (
        ("passage_tokens", reading.passage_tokens)
        if reading.passage_tokens
        else ("passage_words", reading.passage_words)
    )
    return Texts(queries, passages, measure, longest or 0, frozenset(cut), frozenset(stripped))


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
