"""Cache of passage tokens, computed once and memory-mapped.

On a fast device, tokenising takes a third of a step, and every epoch, objective and seed would repeat it. Therefore
every labelled passage is tokenised once into an Arrow file of the cache folder, whose key depends on the dataset, the
tokenizer, the prompt and the length. Batches are padded from these tokens and equal the batches of the model's own
preprocessing. A first comparison checks this; if they differ, no tokens are cached.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from labelkit.storage import folders
from labelkit.storage.cache_folder import cache_folder
from labelkit.storage.manifest import TOKENS
from trainer.data.store import Store

BLOCK = 4096
"""Number of texts tokenised at a time."""
Preprocess = Callable[[list[str]], dict[str, Any]]
"""Texts -> features for the encoder."""


@dataclass(frozen=True)
class TokenCache:
    """Function from passage ids to the encoder's features, equal to those of the model's preprocessing."""

    store: Store
    tokens: pa.ListArray | pa.ChunkedArray
    """[labelled passages]: token ids of each passage in `Store.labelled`."""
    padding: int
    """Token id of the padding."""
    left: bool
    """True if the padding is on the left."""
    constant: dict[str, Any]
    """Features of the preprocessing that are the same for every batch."""
    types: bool
    """True if the features include token types, all of which are 0."""

    def __call__(self, passage_ids: Sequence[str]) -> dict[str, Any]:
        """Build the features of a batch of passages."""
        rows = [self.store.passages.row_of(name) for name in passage_ids]
        places = np.searchsorted(self.store.labelled, rows)
        return pad([self._tokens(int(place)) for place in places], self)

    def _tokens(self, place: int) -> NDArray[np.int32]:
        chunk = self.tokens.chunk(place // BLOCK)
        values: NDArray[np.int32] = chunk[place % BLOCK].values.to_numpy()
        return values


def pad(rows: Sequence[NDArray[np.int32]], cache: TokenCache) -> dict[str, Any]:
    """Pad rows of token ids to the tensors of one batch."""
    longest = max(map(len, rows), default=0)
    ids = np.full((len(rows), longest), cache.padding, dtype=np.int64)
    attention = np.zeros((len(rows), longest), dtype=np.int64)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), None) if cache.left else slice(len(row))
        ids[number, place], attention[number, place] = row, 1
    features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(attention)}
    types = {"token_type_ids": torch.zeros_like(features["input_ids"])} if cache.types else {}
    return features | types | cache.constant


def token_cache(store: Store, preprocess: Preprocess, tokenizer: Any, key: str) -> TokenCache | None:
    """Open or compute the tokens of all labelled passages.

    Returns None if the model's preprocessing does more than tokenising and padding. `key` identifies the dataset, the
    prompt and the length, on which the tokens depend in addition to the tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.pad_token_id is None:
        return None
    first = [store.passages.at(row) for row in store.labelled[:BLOCK].tolist()]
    empty = _describe(preprocess(first[:1]), store, tokenizer)
    if empty is None or not _agrees(empty, preprocess, first[:8]):
        return None
    identity = f"{backend.to_str()}\n{tokenizer.model_max_length}\n{version('transformers')}\n{key}"
    kept = cache_folder() / "tokens" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.making"):
        if not (kept / folders.MANIFEST).is_file():
            with folders.writing(kept, TOKENS, "trainer fit") as draft:
                _write(str(draft.path / "tokens.arrow"), store, preprocess)
    table = pa.ipc.open_file(pa.memory_map(str(kept / "tokens.arrow"))).read_all()
    return TokenCache(
        store, table["tokens"], empty.padding, left=empty.left, constant=empty.constant, types=empty.types
    )


def _describe(features: dict[str, Any], store: Store, tokenizer: Any) -> TokenCache | None:
    """Describe the model's features as an empty cache; None for features that cannot be built from tokens."""
    tensors = {name for name, value in features.items() if isinstance(value, torch.Tensor)}
    if not {"input_ids", "attention_mask"} <= tensors <= {"input_ids", "attention_mask", "token_type_ids"}:
        return None
    constant = {name: value for name, value in features.items() if name not in tensors}
    left, types = tokenizer.padding_side == "left", "token_type_ids" in tensors
    return TokenCache(
        store,
        pa.chunked_array([], pa.list_(pa.int32())),
        tokenizer.pad_token_id,
        left=left,
        constant=constant,
        types=types,
    )


def _agrees(cache: TokenCache, preprocess: Preprocess, texts: list[str]) -> bool:
    """Check that texts, tokenised one by one and padded here, equal the model's preprocessing of the batch."""
    direct = preprocess(texts)
    ours = pad([row for text in texts for row in _rows(preprocess([text]))], cache)
    same = (torch.equal(value, ours[name]) for name, value in direct.items() if isinstance(value, torch.Tensor))
    return direct.keys() == ours.keys() and all(same)


def _write(path: str, store: Store, preprocess: Preprocess) -> None:
    rows = store.labelled
    schema = pa.schema([("tokens", pa.list_(pa.int32()))])
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        bar = tqdm(total=len(rows), unit="passage", desc="tokenising", file=sys.stderr, disable=len(rows) < 10 * BLOCK)
        for start in range(0, len(rows), BLOCK):
            texts = [store.passages.at(row) for row in rows[start : start + BLOCK].tolist()]
            tokens = pa.array(list(_rows(preprocess(texts))), type=pa.list_(pa.int32()))
            writer.write_batch(pa.record_batch([tokens], schema=schema))
            bar.update(len(texts))
        bar.close()


def _rows(features: dict[str, Any]) -> Iterator[NDArray[np.int32]]:
    """Yield the tokens of each text without padding."""
    for ids, attention in zip(features["input_ids"], features["attention_mask"], strict=True):
        row: NDArray[np.int32] = ids[attention.bool()].numpy().astype(np.int32)
        yield row
