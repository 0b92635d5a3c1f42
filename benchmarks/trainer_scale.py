"""Measure time and memory of opening a large dataset and of training on it, with 500,000 queries as in MS MARCO.

    python benchmarks/trainer_scale.py MODEL -o DIR [--queries 500000] [--passages 1000000] [--labels 30] [--steps 50]

Generates a dataset of random words in DIR (30 labels per query, 60 words per passage), opens it twice (the first time
copies it to the cache), and trains the model for some steps, without and with worker processes. Prints seconds and
memory after each part, and the share of the time in which the training waited for batches.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from labelkit.records import EXAMPLE_SCHEMA, JUDGE_SCHEMA, JUDGEMENT_SCHEMA, PASSAGE_SCHEMA, QUERY_SCHEMA
from labelkit.storage import folders
from labelkit.storage.dataset import KIND
from trainer.config.fit_config import FitConfig
from trainer.data.store import open_store
from trainer.data.training_sets import TrainingSet
from trainer.training.fit import fit

BLOCK = 50_000
WORDS = 5_000


def main() -> None:
    """Generate the dataset, open it, and train on it."""
    parser = argparse.ArgumentParser(description="Measure opening a large dataset and training on it.")
    parser.add_argument("model")
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=500_000)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=30)
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    dataset = given.output / "dataset"
    if not (dataset / folders.MANIFEST).is_file():
        make_dataset(dataset, given.queries, given.passages, given.labels)
    settings = FitConfig(
        model=given.model,
        objective="lsepair",
        max_steps=given.steps,
        batch_size=16,
        max_query_length=16,
        max_passage_length=48,
    )
    for name in ("opened for the first time", "opened again"):
        start = time.perf_counter()
        training_set = TrainingSet(open_store(dataset), settings)
        say(f"{name}, {len(training_set):,} queries", start)
    start = time.perf_counter()
    order = np.random.default_rng(0).integers(len(training_set), size=2000)
    for row in order.tolist():
        training_set[0, row]
    say(f"drew 2,000 groups, {2000 / (time.perf_counter() - start):,.0f} per second", start)
    for workers in (0, 2):
        start = time.perf_counter()
        own = settings.model_copy(update={"workers": workers})
        report = fit(dataset, given.output / f"model-{workers}", own, command="benchmarks/trainer_scale.py")
        say(f"{report.steps} steps, {workers} workers, waited {report.stages[0].idle_share:.2%} of the time", start)


def say(words: str, start: float) -> None:
    """Print a text with the seconds since `start`, the private memory and the peak memory."""
    memory = psutil.Process().memory_full_info()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    own = memory.uss / 2**30
    print(
        f"{words}: {time.perf_counter() - start:.2f} s; private memory {own:.2f} GiB, peak with files {peak:.2f} GiB",
        flush=True,
    )


def make_dataset(folder: Path, queries: int, passages: int, labels: int) -> None:
    """Generate a dataset folder, table by table in blocks."""
    source = np.random.default_rng(0)
    vocabulary = np.array([f"w{number}" for number in range(WORDS)], dtype=object)
    with folders.writing(folder, KIND, "benchmarks/trainer_scale.py") as draft:
        write(draft.path / "corpus.parquet", corpus_blocks(source, vocabulary, passages), PASSAGE_SCHEMA)
        write(draft.path / "train.parquet", train_blocks(source, vocabulary, queries, passages, labels), EXAMPLE_SCHEMA)
        draft.rows |= {"train": queries, "corpus": passages}
        for name, schema in (("queries", QUERY_SCHEMA), ("judgements", JUDGEMENT_SCHEMA), ("judges", JUDGE_SCHEMA)):
            draft.write_table(name, schema.empty_table())


def write(path: Path, blocks: Iterator[dict[str, object]], schema: pa.Schema) -> None:
    """Blocks of columns as one Parquet file."""
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for block in blocks:
            writer.write_table(pa.table(block, schema=schema))


def corpus_blocks(source: np.random.Generator, vocabulary: np.ndarray, count: int) -> Iterator[dict[str, object]]:
    """Yield blocks of passages of 60 random words."""
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        texts = [" ".join(row) for row in vocabulary[source.integers(WORDS, size=(size, 60))]]
        yield {"passage_id": [f"p{n:08d}" for n in range(start, start + size)], "title": [""] * size, "text": texts}


def train_blocks(
    source: np.random.Generator, vocabulary: np.ndarray, count: int, passages: int, labels: int
) -> Iterator[dict[str, object]]:
    """Yield blocks of queries of 6 words, with one human positive, three LLM positives and LLM negatives."""
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        ids = np.char.mod("p%08d", source.integers(passages, size=(size, labels)))
        columns: dict[str, object] = {
            "query_id": [f"q{n:08d}" for n in range(start, start + size)],
            "query": [" ".join(row) for row in vocabulary[source.integers(WORDS, size=(size, 6))]],
        }
        sources = {"positive": ["human", "llm", "llm", "llm"], "negative": ["llm"] * (labels - 4), "ignored": []}
        place = 0
        for role, kinds in sources.items():
            width = len(kinds)
            columns |= {
                f"{role}_ids": list(ids[:, place : place + width]),
                f"{role}_grades": [[2 if role == "positive" else 0] * width] * size,
                f"{role}_sources": [kinds] * size,
                f"{role}_judges": [kinds] * size,
                f"{role}_weights": [[1.0] * width] * size,
                f"{role}_probabilities": [[0.9] * width] * size,
            }
            place += width
        yield columns


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
