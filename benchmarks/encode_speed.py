"""Compare encoding for evaluation and dense pooling with sentence-transformers' `encode`: texts per second.

    python benchmarks/encode_speed.py MINILM GROUPS.jsonl [--shape minilm bert-base qwen3-0.6b] [--texts 2000]
        [--device cuda] [--precision bf16] [--rounds 3] [--length 256]

The texts are the passages of a file of `training_data.py`, whose lengths vary. The model has the same weights and the
same dtype for both, and the peer runs with the defaults of `encode_document`. After a warm-up the two take turns.
Prints medians and their ratio, and the largest difference of two embeddings. Then searches the embeddings exactly.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_use import Utilisation
from numpy.typing import NDArray
from results import add_options, record
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search
from training_data import add_model_options, model_folder, read_groups

from labelkit.pooling.dense_search import Exact
from labelkit.pooling.encoding import encode

DEPTH = 100


def main() -> None:
    """Compare both for every shape."""
    parser = argparse.ArgumentParser(description="Encoding against sentence-transformers' encode.")
    add_model_options(parser)
    parser.add_argument("--texts", type=int, default=2000)
    add_options(parser)
    given = parser.parse_args()
    texts = list(read_groups(given.groups, None).passages.values())
    texts = texts[:: max(1, len(texts) // given.texts)][: given.texts]
    with tempfile.TemporaryDirectory() as scratch:
        for shape in given.shape:
            folder = model_folder(shape, given.model, Path(scratch), given.device)
            compare(shape, folder, texts, given)
    search(given)


def compare(shape: str, folder: Path, texts: list[str], given: argparse.Namespace) -> None:
    """Encode with both in turn."""
    dtype = {"dtype": torch.bfloat16} if given.precision == "bf16" else {"dtype": torch.float32}
    encoder = SentenceTransformer(str(folder), device=given.device, model_kwargs=dtype)
    encoder.max_seq_length = given.length

    def ours() -> NDArray[np.float32]:
        found = encode(encoder, texts, "document")
        assert found is not None
        return found

    ways: dict[str, Callable[[], Any]] = {"ours": ours, "sentence-transformers": lambda: encoder.encode_document(texts)}
    first = {who: np.asarray(way(), dtype=np.float32) for who, way in ways.items()}
    difference = float(np.abs(first["ours"] - first["sentence-transformers"]).max())
    seconds: dict[str, list[float]] = {who: [] for who in ways}
    busy: dict[str, float | None] = {}
    for _ in range(given.rounds):
        for who, way in ways.items():
            with Utilisation(given.device) as use:
                start = time.perf_counter()
                way()
                seconds[who].append(time.perf_counter() - start)
            busy[who] = use.mean()
    medians = {who: statistics.median(each) for who, each in seconds.items()}
    record(
        f"Encoding: {shape}, {len(texts):,} texts of at most {given.length} tokens, {given.precision}",
        ("who", "seconds", "texts per second", "GPU busy"),
        [
            (
                who,
                " ".join(f"{one:.2f}" for one in each),
                len(texts) / medians[who],
                "-" if (share := busy[who]) is None else f"{share:.0%}",
            )
            for who, each in seconds.items()
        ],
        given,
        notes=[
            f"{medians['sentence-transformers'] / medians['ours']:.2f} times the speed of sentence-transformers' "
            f"encode; embeddings differ by at most {difference:.1e}.",
        ],
    )


def search(given: argparse.Namespace, queries: int = 1000, passages: int = 200_000, dimensions: int = 384) -> None:
    """Search random embeddings exactly, with both."""
    passages = passages if given.device.startswith("cuda") else passages // 10
    generator = torch.Generator().manual_seed(0)
    near, far = (
        torch.nn.functional.normalize(torch.randn(rows, dimensions, generator=generator), dim=1).to(given.device)
        for rows in (queries, passages)
    )
    names = [f"p{number:07d}" for number in range(passages)]

    def ours() -> None:
        index = Exact(near, DEPTH)
        for start in range(0, passages, 50_000):
            index.add(names[start : start + 50_000], far[start : start + 50_000])
        index.best()

    ways: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "semantic_search": lambda: semantic_search(near, far, top_k=DEPTH),
    }
    seconds: dict[str, list[float]] = {who: [] for who in ways}
    for number in range(given.rounds + 1):
        for who, way in ways.items():
            start = time.perf_counter()
            way()
            if number:
                seconds[who].append(time.perf_counter() - start)
    medians = {who: statistics.median(each) for who, each in seconds.items()}
    record(
        f"Exact search: {queries:,} queries, {passages:,} passages, {dimensions} dimensions, the {DEPTH} best",
        ("who", "seconds"),
        list(medians.items()),
        given,
        notes=[f"{medians['semantic_search'] / medians['ours']:.2f} times the speed of `semantic_search`."],
    )


if __name__ == "__main__":
    main()
