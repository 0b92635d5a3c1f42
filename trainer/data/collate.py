"""Converts groups to the encoder's inputs: tokens of the queries and passages, and the `Batch` that relates them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from labelkit.corpora.words import beginning
from trainer.objectives.batch import Group, lay_out, passages_of


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
    cached: Callable[[Sequence[str]], dict[str, Any]] | None = None
    """Passage ids -> features of their texts, equal to the result of `preprocess`, from cached tokens."""

    def __call__(self, groups: Sequence[Group]) -> dict[str, Any]:
        passage_ids = passages_of(groups)
        texts = [group.query for group in groups]
        tokens = self._preprocess("query", texts, self.query_prompt, max_length=self.max_query_length)
        queries, by_query = by_length("query", tokens, len(groups))
        documents, by_passage = by_length("document", self.passage_tokens(passage_ids), len(passage_ids))
        layout = lay_out([groups[row] for row in by_query], [passage_ids[row] for row in by_passage])
        return {**queries, **documents, "label": vars(layout).copy()}

    def passage_tokens(self, passage_ids: Sequence[str]) -> dict[str, Any]:
        """Compute the encoder's features of some passages, given by id."""
        if self.cached is not None:
            return self.cached(passage_ids)
        return self.passage_text_tokens([self.passages[name] for name in passage_ids])

    def passage_text_tokens(self, texts: list[str]) -> dict[str, Any]:
        """Compute the encoder's features of some passage texts."""
        return self._preprocess("document", texts, self.passage_prompt, max_length=self.max_passage_length)

    def _preprocess(self, task: str, texts: list[str], prompt: str | None, max_length: int | None) -> dict[str, Any]:
        limit = {} if max_length is None else {"max_length": max_length}
        if reach := max_length or self.longest:
            texts = [beginning(text, reach) for text in texts]
        return self.preprocess(texts, prompt=prompt, task=task, **limit)


def by_length(task: str, tokens: dict[str, Any], count: int) -> tuple[dict[str, Any], Sequence[int]]:
    """Sort the features of `count` texts by length, longest first, and prefix their names with the task.

    Also returns the previous row of each text.
    """
    attention = tokens.get("attention_mask")
    order: Sequence[int] = range(count)
    # Word-vector models have no attention mask: their texts are not padded.
    if attention is not None and attention.shape[0] == count:
        longest_first = attention.sum(dim=1).argsort(descending=True, stable=True)
        tokens = {
            key: value[longest_first] if isinstance(value, Tensor) and len(value) == count else value
            for key, value in tokens.items()
        }
        order = longest_first.tolist()
    return {f"{task}_{key}": value for key, value in (tokens | {"task": task}).items()}, order
