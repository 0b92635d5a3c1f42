"""Turn texts into token ids in bulk, exactly as the preprocessing of a `SentenceTransformer` does.

The preprocessing pads a batch, builds Python lists of token types and masks, and copies them into tensors. For many
texts this takes longer than the tokenisation itself, so texts are tokenised by the fast tokenizer directly. A first
comparison with the preprocessing decides whether both give the same tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labelkit.corpora.words import beginning

Row = NDArray[np.int32]
"""Token ids of one text."""
Preprocess = Callable[[list[str]], dict[str, Any]]
"""Function from texts to features for the encoder."""
SAMPLE = 8
"""Number of given texts for which fast tokenisation and preprocessing are compared."""
PROBES = ("A Text, with CAPITALS.", "", " ünïcödé \u2028 æ \u00a0 中文 ", "(2+2)*[MASK]")
"""Further texts for which fast tokenisation and preprocessing are compared."""
RowMaker = Callable[[list[str]], list[Row]]
"""Function from texts to their token ids."""
LONGEST = 1 << 20
"""Number of tokens from which a model's length limit counts as no limit."""


@dataclass(frozen=True)
class TokenLayout:
    """Rules for building an encoder's features from token ids."""

    padding: int
    """Token id of the padding."""
    left: bool
    """True if the padding is on the left."""
    constant: dict[str, Any]
    """Features that are the same for every batch."""
    types: bool
    """True if the features include token types, all of which are 0."""

    def pad(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Pad rows of token ids to the features of one batch."""
        longest = max(map(len, rows), default=0)
        ids = np.full((len(rows), longest), self.padding, dtype=np.int64)
        attention = np.zeros((len(rows), longest), dtype=np.int64)
        for number, row in enumerate(rows):
            place = slice(longest - len(row), None) if self.left else slice(len(row))
            ids[number, place], attention[number, place] = row, 1
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(attention)}
        types = {"token_type_ids": torch.zeros_like(features["input_ids"])} if self.types else {}
        return features | types | self.constant


def token_layout(preprocess: Preprocess, tokenizer: Any, texts: Sequence[str]) -> TokenLayout | None:
    """Return the rules for building a model's features from tokens; None if its preprocessing does more than pad."""
    if getattr(tokenizer, "backend_tokenizer", None) is None or tokenizer.pad_token_id is None or not texts:
        return None
    sample = list(texts[:SAMPLE])
    features = preprocess(sample)
    tensors = {name for name, value in features.items() if isinstance(value, torch.Tensor)}
    if not {"input_ids", "attention_mask"} <= tensors <= {"input_ids", "attention_mask", "token_type_ids"}:
        return None
    layout = TokenLayout(
        padding=tokenizer.pad_token_id,
        left=tokenizer.padding_side == "left",
        constant={name: value for name, value in features.items() if name not in tensors},
        types="token_type_ids" in tensors,
    )
    ours = layout.pad([row for text in sample for row in unpadded_rows(preprocess([text]))])
    same = features.keys() == ours.keys() and all(torch.equal(features[name], ours[name]) for name in tensors)
    return layout if same else None


def row_maker(preprocess: Preprocess, tokenizer: Any, *, prompt: str | None, length: int | None) -> RowMaker:
    """Return a function from texts to rows of token ids: the fast tokenizer, if its tokens equal the preprocessing's.

    Args:
        preprocess: the encoder's preprocessing with this prompt and length.
        tokenizer: the encoder's tokenizer.
        prompt: text that is put before each text.
        length: length limit in tokens; None for a model without a limit.
    """

    def slow(texts: list[str]) -> list[Row]:
        return list(unpadded_rows(preprocess(texts)))

    fast = _fast(tokenizer, prompt or "", length)
    longest = [" ".join(PROBES) * (length // 4 + 1)] if length and length < LONGEST else []
    texts = [*PROBES, *longest]
    try:
        found = zip(fast(texts), slow(texts), strict=True)
        return fast if all(np.array_equal(one, other) for one, other in found) else slow
    except (TypeError, ValueError):
        return slow


def unpadded_rows(features: dict[str, Any]) -> Iterator[Row]:
    """Yield the token ids of each text of a batch without its padding."""
    for ids, attention in zip(features["input_ids"], features["attention_mask"], strict=True):
        row: Row = ids[attention.bool()].numpy().astype(np.int32)
        yield row


def _fast(tokenizer: Any, prompt: str, length: int | None) -> RowMaker:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    if length is not None and length < LONGEST:
        backend.enable_truncation(length, direction=tokenizer.truncation_side)

    def rows(texts: list[str]) -> list[Row]:
        read = texts if length is None else [beginning(text, length) for text in texts]
        encoded = backend.encode_batch_fast([prompt + text for text in read])
        return [np.array(each.ids, dtype=np.int32) for each in encoded]

    return rows
