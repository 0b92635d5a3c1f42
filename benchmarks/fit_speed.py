"""A training step here against sentence-transformers' losses: the same groups, the same model, interleaved.

    python benchmarks/fit_speed.py MODEL DATA [--split test] [--queries 16] [--rounds 5] [--device cpu]

DATA is a BEIR folder with qrels. A group is a query, one relevant passage and seven that BM25 ranks high. Two cases:

- equal: every passage is another one and all are cut to the same length, so that nothing can be saved;
- real: the groups as they are, with passages that queries share and lengths that vary.

A step is tokenising, both forward passes, the backward pass and AdamW. Prints seconds of each round, and the ratio of
medians against MultipleNegativesRankingLoss (plain) and CachedMultipleNegativesRankingLoss (gradient cache).
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import batch_to_device

from labelkit.corpora.beir import read_data
from labelkit.pooling.pool import bm25_run
from trainer.config.fit_config import FitConfig
from trainer.data.collate import Collator
from trainer.objectives.batch import Group, Negative, Positive
from trainer.objectives.loss import MultiPositiveLoss

MINI_BATCH = 32
"""Texts of a mini-batch of the peer's gradient cache, its default."""
NEGATIVES = 7
EQUAL_WORDS = 60


class Case(NamedTuple):
    """Groups and the texts of their passages by id."""

    groups: list[Group]
    passages: dict[str, str]


Step = Callable[[], float]
"""Take one step and give the loss."""


def main() -> None:
    """Time both libraries on both cases, without and with the gradient cache."""
    parser = argparse.ArgumentParser(description="A training step against sentence-transformers'.")
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-passage-length", type=int, default=256)
    given = parser.parse_args()
    real = real_case(given.data, given.split, given.queries)
    for name, case in (("equal", equal_case(given.queries)), ("real", real)):
        texts = sum(len(group.members) for group in case.groups)
        print(f"{name}: {len(case.groups)} queries, {texts} passages, {len(case.passages)} of them different")
        for cache in (False, True):
            steps = {
                "ours": our_step(given.model, case, cache, given.device, given.max_passage_length),
                "peer": peer_step(given.model, case, cache, given.device, given.max_passage_length),
            }
            report(f"{name}, {'gradient cache' if cache else 'plain'}", steps, given.rounds)


def report(name: str, steps: dict[str, Step], rounds: int) -> None:
    """Interleave the steps and print the ratio of their medians."""
    losses = {who: step() for who, step in steps.items()}  # also warms up
    seconds: dict[str, list[float]] = {who: [] for who in steps}
    for _ in range(rounds):
        for who, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[who].append(time.perf_counter() - start)
    medians = {who: statistics.median(each) for who, each in seconds.items()}
    each = "; ".join(f"{who} {' '.join(f'{one:.2f}' for one in seconds[who])}" for who in steps)
    print(f"{name}: {medians['peer'] / medians['ours']:.2f} times the peer's speed ({each} s)", flush=True)
    print(f"  first losses: ours {losses['ours']:.4f}, peer {losses['peer']:.4f}", flush=True)


def equal_case(queries: int) -> Case:
    """Different passages of one length."""
    passages = {f"p{n}": " ".join(f"{word}" for word in range(n, n + EQUAL_WORDS)) for n in range(8 * queries)}
    names = list(passages)
    return Case([make_group(f"query {n}", names[8 * n : 8 * n + 8]) for n in range(queries)], passages)


def real_case(folder: Path, split: str, queries: int) -> Case:
    """The first queries with a relevant passage, and what BM25 ranks high and nobody calls relevant."""
    data = read_data(folder, split)
    ranked = bm25_run(data.corpus, data.queries, 40)
    groups = []
    for query_id, grades in data.qrels.items():
        relevant = [passage_id for passage_id, grade in grades.items() if grade > 0]
        others = [passage_id for passage_id in ranked.get(query_id, ()) if grades.get(passage_id, 0) <= 0]
        if relevant and len(others) >= NEGATIVES:
            groups.append(make_group(data.queries[query_id].text, [relevant[0], *others[:NEGATIVES]]))
    used = groups[:queries]
    names = {member.passage_id for group in used for member in group.members}
    return Case(used, {name: data.corpus[name].full_text for name in sorted(names)})


def make_group(query: str, passage_ids: Sequence[str]) -> Group:
    """The first passage is the positive."""
    positive, *negatives = passage_ids
    return Group(
        query, query, (Positive(positive, 1.0, "human"),), tuple(map(Negative, negatives)), frozenset([positive])
    )


def our_step(name: str, case: Case, cache: bool, device: str, max_length: int) -> Step:
    """Collate, embed, contrast, step: the parts of `trainer fit`."""
    model = start_model(name, device, max_length)
    loss_module = MultiPositiveLoss(model, FitConfig(model=name, objective="singlelh", gradient_cache=cache)).to(device)
    collate = Collator(model.preprocess, case.passages, None, None, None, None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> float:
        batch = collate(case.groups)
        features = [
            batch_to_device({k.removeprefix(column): v for k, v in batch.items() if k.startswith(column)}, model.device)
            for column in ("query_", "document_")
        ]
        return finish(loss_module(features, batch_to_device(batch["label"], model.device)), optimizer)

    return step


def peer_step(name: str, case: Case, cache: bool, device: str, max_length: int) -> Step:
    """The peer's collator and loss."""
    model = start_model(name, device, max_length)
    loss_module: Any = (
        CachedMultipleNegativesRankingLoss(model, mini_batch_size=MINI_BATCH)
        if cache
        else MultipleNegativesRankingLoss(model)
    )
    collate = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    rows = [
        {"anchor": group.query} | {f"p{n}": case.passages[m.passage_id] for n, m in enumerate(group.members)}
        for group in case.groups
    ]
    columns = list(rows[0])

    def step() -> float:
        batch = collate(rows)
        features = [
            batch_to_device(
                {k.removeprefix(f"{column}_"): v for k, v in batch.items() if k.startswith(f"{column}_")}, model.device
            )
            for column in columns
        ]
        return finish(loss_module(features, None), optimizer)

    return step


def start_model(name: str, device: str, max_length: int) -> SentenceTransformer:
    """The model in training mode, without dropout, so that both give one loss."""
    model = SentenceTransformer(name, device=device).train()
    model.max_seq_length = max_length
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def finish(loss: Any, optimizer: torch.optim.Optimizer) -> float:
    """Backward pass and update."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


if __name__ == "__main__":
    main()
