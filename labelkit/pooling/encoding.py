"""Encode many texts with a `SentenceTransformer` at the speed of its device.

Texts are sorted by length and batched by tokens, so that batches contain little padding, or none if the encoder
supports texts without padding. A thread tokenises a few batches in advance, and copies to and from a GPU do not block.
"""

import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from labelkit.pooling.packing import Packing, unpadded
from labelkit.pooling.tokens import SAMPLE, Row, RowMaker, TokenLayout, row_maker, token_layout

BLOCK = 1024
"""Number of texts that are tokenised together."""
TOKENS = {"cpu": 1024}
"""Type of device -> tokens per batch that fit its caches; any other type has `GPU_TOKENS`."""
GPU_TOKENS = 32768
AHEAD = 4
"""Number of batches that are prepared in advance."""
FEW = 64
"""Most texts that are encoded with padding without testing whether the encoder supports texts without padding."""
NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Task -> names of its prompt, as in `encode_query` and `encode_document`."""

B = TypeVar("B")
R = TypeVar("R", bound=Sized)


class Texts(NamedTuple):
    """Texts in the order in which they are encoded, and the functions that convert them to features."""

    texts: list[str]
    rows: RowMaker
    layout: TokenLayout
    packing: Packing | None
    tokens: int
    """Most tokens per batch, unless a single text has more."""


class Batch(NamedTuple):
    """Features of texts of similar length."""

    places: list[int]
    """Place of each text in `Texts.texts`."""
    features: dict[str, Any]


def encode(encoder: Any, texts: Sequence[str], task: str, *, shown: bool = False) -> NDArray[np.float32] | None:
    """Compute the embeddings of texts: [texts, dimensions], float32, in their order.

    Args:
        encoder: a `SentenceTransformer`.
        texts: queries or passages.
        task: `query` or `document`, which chooses the prompt as `encode_query` and `encode_document` do.
        shown: True to show a progress bar on standard error.

    Returns:
        The embeddings; None if the encoder's preprocessing does more than tokenise, so that its own `encode` is needed.
    """
    if not _is_plain(encoder) or not texts:
        return None
    prompt = _prompt(encoder, task)

    def preprocess(some: list[str]) -> dict[str, Any]:
        features: dict[str, Any] = encoder.preprocess(some, prompt=prompt, task=task)
        return features

    layout = token_layout(preprocess, encoder.tokenizer, texts[:SAMPLE])
    if layout is None:
        return None
    rows = row_maker(preprocess, encoder.tokenizer, prompt=prompt, length=encoder.max_seq_length)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]), reverse=True)
    gpu = encoder.device.type == "cuda"
    encoder.eval()
    with unpadded(encoder) if gpu and len(texts) > FEW else nullcontext() as packing:
        ordered = [texts[row] for row in order]
        tokens = TOKENS.get(encoder.device.type, GPU_TOKENS)
        work = Texts(ordered, rows, layout, packing=packing, tokens=tokens)
        found = _encode(encoder, work, task=task, shown=shown)
    vectors: NDArray[np.float32] = np.empty_like(found.vectors)
    vectors[np.array(order)[found.places]] = found.vectors
    return vectors


def _is_plain(encoder: Any) -> bool:
    """Return whether an encoder is a `SentenceTransformer` whose first module reads tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    return isinstance(encoder, SentenceTransformer) and isinstance(encoder[0], Transformer)


def _prompt(encoder: Any, task: str) -> str | None:
    names = (*NAMES[task], encoder.default_prompt_name)
    return next((encoder.prompts[name] for name in names if name in encoder.prompts), None)


class Encoded(NamedTuple):
    """Embeddings in the order in which they were computed."""

    vectors: NDArray[np.float32]
    """Embeddings: [texts, dimensions]."""
    places: list[int]
    """Place of each embedding's text in `Texts.texts`: [texts]."""


def _encode(encoder: Any, work: Texts, *, task: str, shown: bool) -> Encoded:
    device = encoder.device
    pinned = device.type == "cuda"
    results: Tensor | None = None
    places: list[int] = []
    bar = tqdm(total=len(work.texts), unit="text", file=sys.stderr, disable=not shown)
    with torch.inference_mode():
        for batch in ahead(map(_pinned, _batches(work)) if pinned else _batches(work)):
            moved = {
                name: value.to(device, non_blocking=pinned) if isinstance(value, Tensor) else value
                for name, value in batch.features.items()
            }
            vectors: Tensor = encoder(moved, task=task)["sentence_embedding"]
            if encoder.truncate_dim is not None:
                vectors = vectors[..., : encoder.truncate_dim]
            if results is None:
                results = torch.empty((len(work.texts), vectors.shape[-1]), pin_memory=pinned)
            results[len(places) : len(places) + len(vectors)].copy_(vectors.float(), non_blocking=pinned)
            places += batch.places
            bar.update(len(batch.places))
        if pinned:
            torch.cuda.synchronize(device)
    bar.close()
    assert results is not None
    return Encoded(results.numpy(), places)


def ahead(batches: Iterable[B]) -> Iterator[B]:
    """Yield batches that a thread prepares in advance."""
    ready: queue.Queue[B | BaseException | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(what: B | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(what, timeout=0.1)
            except queue.Full:
                continue

    def prepare() -> None:
        try:
            for batch in batches:
                if stopped.is_set():
                    return
                put(batch)
            put(None)
        except BaseException as error:  # raised again by the reader of the batches
            put(error)

    thread = threading.Thread(target=prepare, name="tokenising", daemon=True)
    thread.start()
    try:
        while (batch := ready.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        stopped.set()
        thread.join()


def _batches(work: Texts) -> Iterator[Batch]:
    """Yield batches of at most `tokens` tokens, including padding."""
    blocks = (work.rows(work.texts[first : first + BLOCK]) for first in range(0, len(work.texts), BLOCK))
    for places, rows in by_tokens(blocks, work.tokens, packed=work.packing is not None):
        yield _batch(work, places, rows)


def by_tokens(
    blocks: Iterable[Sequence[R]], tokens: int, *, packed: bool = False, most: int | None = None
) -> Iterator[tuple[list[int], list[R]]]:
    """Yield batches of at most `tokens` tokens and `most` rows as (places, rows), the longest rows of a block first.

    `blocks` has rows of tokens in the order of the texts, `places` are their places in it. Unless rows are `packed`, a
    batch counts with its padding. A single row may have more tokens.
    """
    places: list[int] = []
    waiting: list[R] = []
    first, longest, total = 0, 0, 0
    for rows in blocks:
        for number in sorted(range(len(rows)), key=lambda number: len(rows[number]), reverse=True):
            length = len(rows[number])
            longest, total = max(longest, length), total + length
            read = total if packed else longest * (len(waiting) + 1)
            if waiting and (read > tokens or len(waiting) == most):
                yield places, waiting
                places, waiting, longest, total = [], [], length, length
            places.append(first + number)
            waiting.append(rows[number])
        first += len(rows)
    if waiting:
        yield places, waiting


def _batch(work: Texts, places: list[int], rows: list[Row]) -> Batch:
    features = work.layout.pad(rows)
    return Batch(places, work.packing(features) if work.packing else features)


def _pinned(batch: Batch) -> Batch:
    features = {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in batch.features.items()}
    return batch._replace(features=features)
