"""Cache of the tokens of queries and passages, computed once and memory-mapped.

On a GPU, tokenising takes longer than the rest of a step, and every epoch, objective and seed would repeat it.
Therefore every query and every labelled passage is tokenised once into an Arrow file of the cache folder, whose key
depends on the dataset, the tokenizer, the prompt and the length. Batches are padded from these tokens and equal the
batches of the model's own preprocessing. A first comparison checks this; if they differ, no tokens are cached.
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from labelkit.pooling.tokens import SAMPLE, Preprocess, Row, RowMaker, TokenLayout, row_maker, token_layout
from labelkit.storage import folders
from labelkit.storage.cache_folder import cache_folder
from labelkit.storage.manifest import TOKENS
from trainer.data.store import Store
from trainer.objectives.batch import key_of

BLOCK = 4096
"""Number of texts tokenised at a time."""


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


class Reading(NamedTuple):
    """How an encoder reads texts."""

    preprocess: Preprocess
    tokenizer: Any
    prompt: str | None = None
    """Text before each text."""
    length: int | None = None
    """Limit in tokens; None for a model without a limit."""


@dataclass(frozen=True)
class TokenCache:
    """Function from ids of texts to the encoder's features, equal to the features of the model's own preprocessing."""

    texts: CachedTexts
    layout: TokenLayout
    blocks: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
    """Starts and token ids of each block of `BLOCK` texts."""

    def __call__(self, ids: Sequence[str]) -> dict[str, Any]:
        """Build the features of a batch of texts."""
        return self.layout.pad([self._tokens(place) for place in self.texts.places(ids)])

    def _tokens(self, place: int) -> Row:
        starts, tokens = self.blocks[place // BLOCK]
        row = place % BLOCK
        return tokens[starts[row] : starts[row + 1]]


def token_cache(texts: CachedTexts, reading: Reading, *, key: str) -> TokenCache | None:
    """Cache the tokens of some texts; None if the model's preprocessing does more than tokenise and pad.

    `key` identifies everything else that the tokens depend on: the dataset, the prompt and the length.
    """
    tokenizer = reading.tokenizer
    sample = [texts.at(place) for place in range(min(SAMPLE, texts.size))]
    layout = token_layout(reading.preprocess, tokenizer, sample)
    if layout is None:
        return None
    versions = " ".join(version(package) for package in ("transformers", "tokenizers"))
    identity = f"{tokenizer.backend_tokenizer.to_str()}\n{tokenizer.model_max_length}\n{versions}\n{key}"
    kept = cache_folder() / "tokens" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.making"):
        if not (kept / folders.MANIFEST).is_file():
            rows = row_maker(reading.preprocess, tokenizer, prompt=reading.prompt, length=reading.length)
            with folders.writing(kept, TOKENS, "trainer fit") as draft:
                _write(str(draft.path / "tokens.arrow"), texts, rows)
    table = pa.ipc.open_file(pa.memory_map(str(kept / "tokens.arrow"))).read_all()
    blocks = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in table["tokens"].chunks]
    return TokenCache(texts, layout, blocks)


def _write(path: str, texts: CachedTexts, rows: RowMaker) -> None:
    schema = pa.schema([("tokens", pa.list_(pa.int32()))])
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        many = texts.size >= 10 * BLOCK
        bar = tqdm(total=texts.size, unit="text", desc="tokenising", file=sys.stderr, disable=not many)
        for start in range(0, texts.size, BLOCK):
            block = [texts.at(place) for place in range(start, min(start + BLOCK, texts.size))]
            tokens = rows(block)
            starts = np.concatenate([[0], np.cumsum([len(row) for row in tokens])]).astype(np.int32)
            column = pa.ListArray.from_arrays(starts, np.concatenate(tokens))
            writer.write_batch(pa.record_batch([column], schema=schema))
            bar.update(len(block))
        bar.close()
