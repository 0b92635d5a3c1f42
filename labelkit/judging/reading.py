"""Prepare texts for a judge: apply defences, cut passages, and set orders and votes."""

from collections.abc import Mapping
from typing import NamedTuple

from labelkit.corpora.words import beginning
from labelkit.engines.tokenizers import Tokens
from labelkit.errors import UsageError
from labelkit.judging.defences import strip, without_query
from labelkit.judging.methods import Method

PASSAGE_WORDS = 300
"""Words of a passage that a judge reads if no tokenizer is available, as in arXiv 2504.05220."""


PASSAGE_TOKENS = 400
"""Tokens of a passage that a judge reads if a tokenizer is available: about 300 English words, and a safe limit for
texts with few spaces.
"""


class Reading(NamedTuple):
    """How passages are read: their length, orders, votes, seed, defences, and the tokens for thinking about them."""

    passage_tokens: int | None = None
    passage_words: int | None = None
    permutations: int = 1
    """Number of orders in which a listwise method judges each pool."""
    votes: int = 1
    """Number of answers that a pointwise method samples per pair; with 1, the most probable answer is used."""
    seed: int = 0
    """Seed of the first order or vote; the seed of each further one is larger by 1."""
    thinking_tokens: int = 0
    """Token limit of the reasoning before an answer."""
    defences: tuple[str, ...] = ()
    """Names from `labelkit.judging.defences`."""
    temperature: float = 0
    """Temperature of texts that a model writes; 0 for judges without votes, whose most probable answer is used."""


class Texts(NamedTuple):
    """A query and its passages as a judge reads them: cut, and with defences applied."""

    query_id: str
    query: str
    passages: Mapping[str, str]
    """Passage id -> text, in the order of the pool."""
    without_query: Mapping[str, str]
    """Passage id -> text for the second look, without its repetition of the query; only passages that repeat it."""


def complete(reading: Reading, method: Method, tokens: Tokens | None) -> Reading:
    """Return the reading with defaults filled in. Raises `UsageError` if it does not fit the method or judge."""
    if reading.permutations > 1 and not method.listwise:
        raise UsageError("--permutations is for listwise methods; a pointwise method judges each pair alone")
    if reading.votes > 1 and method.listwise:
        raise UsageError("--votes is for pointwise methods; use --permutations for a listwise method")
    if "second-look" in reading.defences and (method.listwise or reading.votes > 1):
        raise UsageError("--defence second-look is for pointwise methods without --votes")
    if method.score_only and (reading.votes > 1 or "nonce" in reading.defences):
        raise UsageError("--votes and --defence nonce are for judges that answer in words, not for rerankers")
    if reading.passage_tokens and reading.passage_words:
        raise UsageError("give --passage-tokens or --passage-words, not both")
    if reading.passage_tokens and tokens is None:
        raise UsageError("--passage-tokens needs the server's tokenizer: give --tokenizer, or --passage-words")
    if reading.passage_tokens or reading.passage_words:
        return reading
    return reading._replace(passage_tokens=PASSAGE_TOKENS) if tokens else reading._replace(passage_words=PASSAGE_WORDS)


def second_looks(query: str, passages: Mapping[str, str], reading: Reading) -> dict[str, str]:
    """Return the passages that repeat the query, without the repetition, if the reading has the second look."""
    if "second-look" not in reading.defences:
        return {}
    shown = ((passage_id, text, without_query(query, text)) for passage_id, text in passages.items())
    return {passage_id: again for passage_id, text, again in shown if again != text}


class Read(NamedTuple):
    """A passage as a judge reads it."""

    text: str
    cut: bool
    stripped: bool


def read_passage(full: str, reading: Reading, tokens: Tokens | None) -> Read:
    """Return a passage with the defence `strip` applied, cut as the reading specifies."""
    text = head = reach(full, reading)
    if "strip" in reading.defences:
        text = strip(head)
    short = shortened(text, reading, tokens)
    return Read(short, cut=short is not text or head is not full, stripped=text is not head)


def reach(text: str, reading: Reading) -> str:
    """Return the beginning of a text that a reading can cover, so that megabytes of text are not tokenised."""
    return beginning(text, reading.passage_tokens or reading.passage_words or PASSAGE_TOKENS)


def shortened(text: str, reading: Reading, tokens: Tokens | None) -> str:
    """Return a text cut to the reading's number of tokens or words."""
    if reading.passage_tokens and tokens:
        # ASCII text has at most one token per character, so there is no need to tokenise it.
        if len(text) < reading.passage_tokens and text.isascii():
            return text
        ends = tokens.ends(text)
        return text[: ends[reading.passage_tokens - 1]] if len(ends) > reading.passage_tokens else text
    words = text.split()
    return " ".join(words[: reading.passage_words]) if len(words) > (reading.passage_words or 0) else text
