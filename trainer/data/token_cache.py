"""Cache of the tokens of queries and passages, computed once and memory-mapped.

On a GPU, tokenising takes longer than the rest of a step, and every epoch, objective and seed would repeat it.
Therefore every query and every labelled passage is tokenised once into an Arrow file of the cache folder, whose key
depends on the dataset, the tokenizer, the prompt and the length. Batches are padded from these tokens and equal the
batches of the model's own preprocessing. A first comparison checks this; if they differ, no tokens are cached.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, NamedTuple

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
from trainer.objectives.batch import key_of

BLOCK = 4096
"""Number of texts tokenised at a time."""
Preprocess = Callable[[list[str]], dict[str, Any]]
"""Texts -> features for the encoder."""


class CachedTexts(NamedTuple):
    """Texts that are tokenised once, in the order in which their tokens are stored."""

    size: int
    at: Callable[[int], str]
    """Place -> text."""
    places: Callable[[Sequence[str]], Sequence[int]]
    """Ids -> places of their texts."""


def passage_texts(store: Store) -> CachedTexts:
    """List the labelled passages of a dataset, which are found by passage id."""
    rows = store.labelled

    def places(ids: Sequence[str]) -> Sequence[int]:
        found: list[int] = np.searchsorted(rows, [store.passages.row_of(name) for name in ids]).tolist()
        return found

    return CachedTexts(len(rows), lambda place: store.passages.at(int(rows[place])), places)


def query_texts(store: Store) -> CachedTexts:
    """List the queries of a dataset, which are found by query id."""
    queries = store.labels["train"]["query"]
    order = np.argsort(store.query_keys, kind="stable")
    ordered = store.query_keys[order]

    def places(ids: Sequence[str]) -> Sequence[int]:
        found: list[int] = order[np.searchsorted(ordered, [key_of(name) for name in ids])].tolist()
        return found

    return CachedTexts(len(order), lambda place: str(queries[place].as_py()), places)


@dataclass(frozen=True)
class TokenCache:
    """Function from ids of texts to the encoder's features, equal to the features of the model's own preprocessing."""

    texts: CachedTexts
    blocks: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
    """Starts and token ids of each block of `BLOCK` texts."""
    padding: int
    """Token id of the padding."""
    left: bool
    """True if the padding is on the left."""
    constant: dict[str, Any]
    """Features of the preprocessing that are the same for every batch."""
    types: bool
    """True if the features include token types, all of which are 0."""

    def __call__(self, ids: Sequence[str]) -> dict[str, Any]:
        """Build the features of a batch of texts."""
        return pad([self._tokens(place) for place in self.texts.places(ids)], self)

    def _tokens(self, place: int) -> NDArray[np.int32]:
        starts, tokens = self.blocks[place // BLOCK]
        row = place % BLOCK
        return tokens[starts[row] : starts[row + 1]]


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


def token_cache(texts: CachedTexts, preprocess: Preprocess, tokenizer: Any, *, key: str) -> TokenCache | None:
    """Cache the tokens of some texts; None if the model's preprocessing does more than tokenise and pad.

    `key` identifies everything else that the tokens depend on: the dataset, the prompt and the length.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.pad_token_id is None or not texts.size:
        return None
    first = [texts.at(place) for place in range(min(8, texts.size))]
    empty = _describe(preprocess(first[:1]), texts, tokenizer)
    if empty is None or not _agrees(empty, preprocess, first):
        return None
    identity = f"{backend.to_str()}\n{tokenizer.model_max_length}\n{version('transformers')}\n{key}"
    kept = cache_folder() / "tokens" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.making"):
        if not (kept / folders.MANIFEST).is_file():
            with folders.writing(kept, TOKENS, "trainer fit") as draft:
                _write(str(draft.path / "tokens.arrow"), texts, preprocess)
    table = pa.ipc.open_file(pa.memory_map(str(kept / "tokens.arrow"))).read_all()
    blocks = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in table["tokens"].chunks]
    return replace(empty, blocks=blocks)


def _describe(features: dict[str, Any], texts: CachedTexts, tokenizer: Any) -> TokenCache | None:
    """Return how the model's features are built from tokens, before any tokens are cached."""
    tensors = {name for name, value in features.items() if isinstance(value, torch.Tensor)}
    if not {"input_ids", "attention_mask"} <= tensors <= {"input_ids", "attention_mask", "token_type_ids"}:
        return None
    constant = {name: value for name, value in features.items() if name not in tensors}
    left, types = tokenizer.padding_side == "left", "token_type_ids" in tensors
    return TokenCache(texts, (), tokenizer.pad_token_id, left=left, constant=constant, types=types)


def _agrees(cache: TokenCache, preprocess: Preprocess, texts: list[str]) -> bool:
    """Check that texts, tokenised one by one and padded here, equal the model's preprocessing of the batch."""
    direct = preprocess(texts)
    ours = pad([row for text in texts for row in _rows(preprocess([text]))], cache)
    same = (torch.equal(value, ours[name]) for name, value in direct.items() if isinstance(value, torch.Tensor))
    return direct.keys() == ours.keys() and all(same)


def _write(path: str, texts: CachedTexts, preprocess: Preprocess) -> None:
    count = texts.size
    schema = pa.schema([("tokens", pa.list_(pa.int32()))])
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        bar = tqdm(total=count, unit="text", desc="tokenising", file=sys.stderr, disable=count < 10 * BLOCK)
        for start in range(0, count, BLOCK):
            block = [texts.at(place) for place in range(start, min(start + BLOCK, count))]
            tokens = pa.array(list(_rows(preprocess(block))), type=pa.list_(pa.int32()))
            writer.write_batch(pa.record_batch([tokens], schema=schema))
            bar.update(len(block))
        bar.close()


def _rows(features: dict[str, Any]) -> Iterator[NDArray[np.int32]]:
    """Yield the tokens of each text without padding."""
    for ids, attention in zip(features["input_ids"], features["attention_mask"], strict=True):
        row: NDArray[np.int32] = ids[attention.bool()].numpy().astype(np.int32)
        yield row
