"""Convert groups to the encoder's inputs: tokens of the queries and passages, and the `Batch` that relates them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from labelkit.corpora.words import beginning
from labelkit.pooling.packing import Packing
from trainer.objectives.batch import Group, lay_out, lay_out_pairs, passages_of


@dataclass(frozen=True)
class Collator:
    """Converter of groups to tokens of the queries (`query_*`) and unique passages (`document_*`), and `label`.

    Queries and passages are sorted by length, longest first, so that mini-batches contain little padding. `label` holds
    the fields of the `Batch`. sentence-transformers' trainer passes features with these prefixes and `label` to the
    loss.
    """

    preprocess: Callable[..., dict[str, Any]]
    """`SentenceTransformer.preprocess`."""
    passages: Mapping[str, str]
    """Passage id -> text."""
    query_prompt: str | None
    passage_prompt: str | None
    max_query_length: int | None
    max_passage_length: int | None
    longest: int | None = None
    """Maximum number of tokens that the model reads; None for a model without a limit."""
    cached_queries: Callable[[Sequence[str]], dict[str, Any]] | None = None
    """Query ids -> the features of their texts, from tokens cached earlier."""
    cached: Callable[[Sequence[str]], dict[str, Any]] | None = None
    """Passage ids -> features of their texts, equal to the result of `preprocess`, from cached tokens."""
    packing: Packing | None = None
    """Removes the padding of a batch; None for an encoder that reads padded batches."""

    def __call__(self, groups: Sequence[Group]) -> dict[str, Any]:
        passage_ids = passages_of(groups)
        queries, by_query = by_length(self.query_tokens(groups), len(groups))
        documents, by_passage = by_length(self.passage_tokens(passage_ids), len(passage_ids))
        layout = lay_out([groups[row] for row in by_query], [passage_ids[row] for row in by_passage])
        columns = {"query": queries, "document": documents}
        features = {
            f"{task}_{key}": value
            for task, column in columns.items()
            for key, value in (self._packed(column) | {"task": task}).items()
        }
        return {**features, "label": vars(layout).copy()}

    def query_tokens(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Compute the encoder's features of the queries of some groups."""
        if self.cached_queries is not None:
            return self.cached_queries([group.query_id for group in groups])
        return self.query_text_tokens([group.query for group in groups])

    def query_text_tokens(self, texts: list[str]) -> dict[str, Any]:
        """Compute the encoder's features of some query texts."""
        return self._preprocess("query", texts, self.query_prompt, max_length=self.max_query_length)

    def passage_tokens(self, passage_ids: Sequence[str]) -> dict[str, Any]:
        """Compute the encoder's features of some passages, given by id."""
        if self.cached is not None:
            return self.cached(passage_ids)
        return self.passage_text_tokens([self.passages[name] for name in passage_ids])

    def passage_text_tokens(self, texts: list[str]) -> dict[str, Any]:
        """Compute the encoder's features of some passage texts."""
        return self._preprocess("document", texts, self.passage_prompt, max_length=self.max_passage_length)

    def _packed(self, tokens: dict[str, Any]) -> dict[str, Any]:
        return tokens if self.packing is None else self.packing(tokens)

    def _preprocess(self, task: str, texts: list[str], prompt: str | None, max_length: int | None) -> dict[str, Any]:
        limit = {} if max_length is None else {"max_length": max_length}
        if reach := max_length or self.longest:
            texts = [beginning(text, reach) for text in texts]
        return self.preprocess(texts, prompt=prompt, task=task, **limit)


@dataclass(frozen=True)
class PairCollator:
    """Converter of groups to tokens of the pairs of a query and a passage of its group (`pair_*`), and `label`.

    Pairs are sorted by length, longest first. `label` holds the fields of the `Batch`.
    """

    preprocess: Callable[..., dict[str, Any]]
    """`CrossEncoder.preprocess`."""
    passages: Mapping[str, str]
    """Passage id -> text."""
    max_length: int | None
    """Maximum tokens of query and passage together; None for the limit of the model."""
    prompt: str | None = None
    """Prompt of the model, such as an instruction, that `CrossEncoder.predict` also gives."""
    longest: int | None = None
    """Maximum number of tokens that the model reads; None for a model without a limit."""

    def __call__(self, groups: Sequence[Group]) -> dict[str, Any]:
        pairs = [(group.query, self.passages[member.passage_id]) for group in groups for member in group.members]
        tokens, by_pair = by_length(self.tokens(pairs), len(pairs))
        features = {f"pair_{key}": value for key, value in tokens.items()}
        return {**features, "label": vars(lay_out_pairs(groups, by_pair)).copy()}

    def tokens(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Compute the model's features of some pairs."""
        limit = {} if self.max_length is None else {"max_length": self.max_length}
        if reach := self.max_length or self.longest:
            pairs = [(beginning(query, reach), beginning(passage, reach)) for query, passage in pairs]
        return self.preprocess(list(pairs), prompt=self.prompt, **limit)


def by_length(tokens: dict[str, Any], count: int) -> tuple[dict[str, Any], Sequence[int]]:
    """Sort the features of `count` texts by length, longest first; also returns the previous row of each text."""
    attention = tokens.get("attention_mask")
    # Word-vector models have no attention mask: their texts are not padded.
    if attention is None or attention.shape[0] != count:
        return tokens, range(count)
    longest_first = attention.sum(dim=1).argsort(descending=True, stable=True)
    return {
        key: value[longest_first] if isinstance(value, Tensor) and len(value) == count else value
        for key, value in tokens.items()
    }, longest_first.tolist()
