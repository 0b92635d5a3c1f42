"""Compare engine `local` as a reranker with sentence-transformers' `CrossEncoder.rank`: passages per second.

    python benchmarks/rerank_speed.py [--model FOLDER] [--device cuda] [--queries 6] [--passages 30] [--rounds 5]

Without a model, a cross-encoder in the shape of MiniLM-L6 with random weights is made. Both use the same weights and
the same dtype, and the peer runs with its defaults, one call per query. Equal passages have 128 words, ragged ones from
8 to 400 with a long tail. After a warm-up the two take turns. Prints medians and their ratios, and the largest
difference of two scores. On a machine that is busy with other work, set OMP_NUM_THREADS=1 and compare the CPU seconds.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results import add_options, record
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from labelkit.engines import Message, Request, Settings, open_engine

WORDS = [f"{one}{two}{three}" for one in "bdfgklmnprst" for two in "aeiou" for three in "bdfgklmnprst"]
EQUAL = 128
SHORTEST, LONGEST, TYPICAL = 8, 400, 60
"""Words of ragged passages: bounds, and the median of the log-normal distribution."""
Ranker = Callable[[], list[float]]
"""Function that returns the score of every passage, query by query."""


def main() -> None:
    """Compare both on equal and on ragged passages."""
    parser = argparse.ArgumentParser(description="Reranking against sentence-transformers' CrossEncoder.rank.")
    parser.add_argument("--model", type=Path, help="folder of a cross-encoder; default: random weights")
    parser.add_argument("--queries", type=int, default=6)
    parser.add_argument("--passages", type=int, default=30, help="passages per query")
    parser.add_argument("--rounds", type=int, default=5)
    add_options(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or random_model(Path(scratch) / "minilm-l6-random")
        for name, lengths in (("equal", lambda draw: EQUAL), ("ragged", ragged)):
            compare(name, folder, pools(given, lengths), given)


def random_model(folder: Path) -> Path:
    """Write a cross-encoder in the shape of MiniLM-L6 with random weights."""
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    untyped_config: Any = BertConfig
    config = untyped_config(
        vocab_size=len(vocabulary),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=1,
    )
    untyped: Any = BertForSequenceClassification
    untyped(config).save_pretrained(folder)
    return folder


def ragged(draw: random.Random) -> int:
    """Draw the number of words of a passage."""
    return min(LONGEST, max(SHORTEST, round(draw.lognormvariate(0, 1) * TYPICAL)))


def pools(given: argparse.Namespace, length: Callable[[random.Random], int]) -> dict[str, list[str]]:
    """Make queries with their passages, of random words."""
    draw = random.Random(0)
    return {
        " ".join(draw.choices(WORDS, k=8)): [
            " ".join(draw.choices(WORDS, k=length(draw))) for _ in range(given.passages)
        ]
        for _ in range(given.queries)
    }


def rankers(folder: Path, texts: dict[str, list[str]], device: str) -> dict[str, Ranker]:
    """Load the model for both."""
    engine = open_engine("local", Settings(str(folder), dtype="float32"))
    peer: Any = CrossEncoder(str(folder), device=device, model_kwargs={"dtype": torch.float32})
    requests = [
        Request(f"{query} {number}", query, (Message("query", query), Message("document", text)), max_tokens=0)
        for query, passages in texts.items()
        for number, text in enumerate(passages)
    ]

    def ours() -> list[float]:
        scores = {reply.key: reply.score for reply in engine.run(requests)}
        return [scores[request.key] or 0.0 for request in requests]

    def theirs() -> list[float]:
        found: list[float] = []
        for query, passages in texts.items():
            ranked = peer.rank(query, passages, activation_fn=torch.nn.Identity())
            found += [row["score"] for row in sorted(ranked, key=lambda row: row["corpus_id"])]
        return found

    return {"ours": ours, "CrossEncoder.rank": theirs}


def compare(name: str, folder: Path, texts: dict[str, list[str]], given: argparse.Namespace) -> None:
    """Rank with both in turn and record the medians."""
    ways = rankers(folder, texts, given.device)
    first = {who: way() for who, way in ways.items()}
    difference = max(abs(one - other) for one, other in zip(*first.values(), strict=True))
    seconds: dict[str, list[float]] = {who: [] for who in ways}
    spent: dict[str, list[float]] = {who: [] for who in ways}
    for _ in range(given.rounds):
        for who, way in ways.items():
            start, used = time.perf_counter(), time.process_time()
            way()
            seconds[who].append(time.perf_counter() - start)
            spent[who].append(time.process_time() - used)
    count = sum(map(len, texts.values()))
    ratios = [
        statistics.median(each["CrossEncoder.rank"]) / statistics.median(each["ours"]) for each in (seconds, spent)
    ]
    record(
        f"Reranking: {count} passages of {given.queries} queries, {name} lengths, {folder.name}",
        ("who", "seconds", "CPU seconds", "passages per second"),
        [(who, shown(seconds[who]), shown(spent[who]), count / statistics.median(seconds[who])) for who in ways],
        given,
        notes=[
            f"{ratios[0]:.2f} times the speed of `CrossEncoder.rank`, {ratios[1]:.2f} in CPU seconds; scores differ "
            f"by at most {difference:.1e}."
        ],
    )


def shown(values: list[float]) -> str:
    """Return the values of all rounds as text."""
    return " ".join(f"{one:.2f}" for one in values)


if __name__ == "__main__":
    main()
