"""Compare peak memory and time of the contrast engine with the matrix of all pairs.

    python benchmarks/contrast_memory.py [--queries 8192] [--passages 65536] [--dimensions 384] [--rounds 3]
        [--device cpu]

The engine is measured as it chooses to compute, and once more with tiles, as it computes where the scores of all pairs
do not fit into memory. Each measurement runs in its own process, which makes the embeddings, computes the loss and
gradient of LSEPair once to warm up, and reports the peak memory in addition to the embeddings and the median time of
the rounds after that.
"""

import argparse
import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from results import add_options, record
from torch import Tensor
from torch.nn.functional import normalize

from trainer.objectives.batch import Batch
from trainer.objectives.contrast import ContrastRules, contrast
from trainer.objectives.objectives import OBJECTIVES
from trainer.objectives.tiles import GPU_TILE_PAIRS, TILE_PAIRS

POSITIVES, EXCLUDED = 4, 20
GIB = 2**30


class Measured(NamedTuple):
    """The measurement of one process."""

    gib: float
    """Peak memory in addition to the embeddings."""
    seconds: float
    loss: float
    gradient: Tensor
    """[10]: equally spaced entries of the gradient of the passages."""


def main() -> None:
    """Measure the engine, then the matrix of all pairs."""
    parser = argparse.ArgumentParser(description="Compare the contrast engine with the matrix of all pairs.")
    parser.add_argument("--queries", type=int, default=8192)
    parser.add_argument("--passages", type=int, default=65536)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    add_options(parser)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in LOSSES:
        with context.Pool(1) as pool:
            sizes = (given.queries, given.passages, given.dimensions)
            found[name] = pool.apply(measure, (name, *sizes, given.device, given.rounds))
    plain = found["matrix of all pairs"]
    rows = []
    for name, one in found.items():
        difference = float((one.gradient - plain.gradient).abs().amax() / plain.gradient.abs().amax())
        speed = plain.seconds / one.seconds
        rows.append((name, one.gib, one.seconds, speed, f"{one.loss:.6f}", f"{difference:.0e}"))
    record(
        f"Contrast engine: {given.queries:,} queries x {given.passages:,} passages x {given.dimensions} dimensions",
        ("who", "GiB above the embeddings", "seconds", "speed against the matrix", "loss", "gradients differ by"),
        rows,
        given,
        notes=["Gradients differ by this share of their largest entry. Loss and gradient of LSEPair, in float32."],
    )


def measure(name: str, queries: int, passages: int, dimensions: int, device: str, rounds: int) -> Measured:
    """Measure the loss and gradient of one batch."""
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(queries, passages, generator)
    inputs = [torch.randn(rows, dimensions, generator=generator).to(device) for rows in (queries, passages)]
    batch = Batch(**{key: value.to(device) for key, value in vars(batch).items()})
    for tensor in inputs:
        tensor.requires_grad_()
    watch = Watch(device)
    loss, _ = timed(name, inputs, batch)
    gib = watch.peak_gib()
    seconds = [timed(name, inputs, batch)[1] for _ in range(rounds)]
    gradient = inputs[1].grad
    assert gradient is not None
    spread = gradient.flatten()[:: gradient.numel() // 10][:10].cpu()
    return Measured(gib, statistics.median(seconds), loss, spread)


def timed(name: str, inputs: list[Tensor], batch: Batch) -> tuple[float, float]:
    """Compute a loss and its gradient; the loss and the seconds."""
    for tensor in inputs:
        tensor.grad = None
    start = time.perf_counter()
    loss = LOSSES[name](inputs[0], inputs[1], batch)
    torch.autograd.backward(loss)
    value = loss.item()
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return value, time.perf_counter() - start


def random_batch(queries: int, passages: int, generator: torch.Generator) -> Batch:
    """Make a batch with four positives and twenty other excluded passages per query."""
    known = torch.randint(passages, (queries, POSITIVES + EXCLUDED), generator=generator)
    rows = torch.arange(queries).repeat_interleave(known.shape[1])
    nothing = torch.zeros(0, dtype=torch.int64)
    shape = (queries, POSITIVES)
    return Batch(
        pos_index=known[:, :POSITIVES],
        pos_mask=torch.ones(shape, dtype=torch.bool),
        pos_weight=torch.ones(shape),
        pos_source=torch.zeros(shape, dtype=torch.int64),
        group_index=known[:, :POSITIVES],
        group_mask=torch.ones(shape, dtype=torch.bool),
        group_target=torch.zeros(shape),
        group_taught=torch.zeros(shape, dtype=torch.bool),
        group_positive=torch.ones(shape, dtype=torch.bool),
        group_grade=torch.ones(shape),
        group_probability=torch.ones(shape),
        group_weight=torch.ones(shape),
        passage_key=torch.arange(passages),
        excluded_row=rows,
        excluded_key=known.flatten(),
        judged_row=nothing,
        judged_key=nothing,
    )


def engine_loss(queries: Tensor, passages: Tensor, batch: Batch, tile: int | None = None) -> Tensor:
    """Compute the loss as `trainer fit` does."""
    scores = contrast(queries, passages, batch, ContrastRules(), 0.05, tile=tile)
    return OBJECTIVES["lsepair"].loss(scores.pos_scores, batch.pos_weight, batch.pos_mask, scores.neg_lse).mean()


def tiled_loss(queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
    """Compute the loss as `trainer fit` does where the scores of all pairs do not fit into memory."""
    pairs = GPU_TILE_PAIRS if queries.is_cuda else TILE_PAIRS
    return engine_loss(queries, passages, batch, max(1, pairs // len(queries)))


def plain_loss(queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
    """Compute the loss from the matrix of all pairs."""
    scores = normalize(queries) / 0.05 @ normalize(passages).T
    pos_scores = scores.gather(1, batch.pos_index)
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    hidden[batch.excluded_row, batch.excluded_key] = True
    neg_lse = scores.masked_fill(hidden, -torch.inf).logsumexp(dim=-1)
    return OBJECTIVES["lsepair"].loss(pos_scores, batch.pos_weight, batch.pos_mask, neg_lse).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor, Batch], Tensor]] = {
    "engine": engine_loss,
    "engine in tiles": tiled_loss,
    "matrix of all pairs": plain_loss,
}
"""Name -> loss of queries [Q, D] and passages [P, D]."""


class Watch:
    """Measurement of peak memory from its creation on: of the device, or sampled for this process on a CPU."""

    def __init__(self, device: str) -> None:
        self.device: Any = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        # The peak that the system records would include making the embeddings, so the memory is sampled instead.
        self.before = self.highest = resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()

    def sample(self) -> None:
        while not self.done.wait(0.005):
            self.highest = max(self.highest, resident())

    def peak_gib(self) -> float:
        """End the measurement, and return the peak in GiB above the memory at its start."""
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_allocated() - self.before) / GIB
        self.done.set()
        self.thread.join()
        return (self.highest - self.before) / GIB


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
