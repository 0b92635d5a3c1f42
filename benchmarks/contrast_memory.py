"""Compares peak memory and time of the contrast engine with the matrix of all pairs.

    python benchmarks/contrast_memory.py [--queries 8192] [--passages 65536] [--dimensions 384] [--device cpu]

Each measurement runs in its own process, which makes the embeddings, computes the loss and gradient of LSEPair once,
and reports the peak memory in addition to the embeddings. Prints both measurements, and the differences of losses and
gradients.
"""

import argparse
import multiprocessing
import resource
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainer.objectives.batch import Batch
from trainer.objectives.contrast import ContrastRules, contrast
from trainer.objectives.objectives import OBJECTIVES

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
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in ("engine", "plain"):
        with context.Pool(1) as pool:
            sizes = (given.queries, given.passages, given.dimensions)
            found[name] = pool.apply(measure, (name, *sizes, given.device))
        print(f"{name}: {found[name].gib:.2f} GiB above the embeddings, {found[name].seconds:.1f} s", flush=True)
    engine, plain = found["engine"], found["plain"]
    difference = float((engine.gradient - plain.gradient).abs().amax() / plain.gradient.abs().amax())
    print(f"plain / engine: memory {plain.gib / engine.gib:.1f}, time {plain.seconds / engine.seconds:.2f}")
    print(f"losses {engine.loss:.6f} and {plain.loss:.6f}; gradients differ by {difference:.0e} of their largest entry")


def measure(name: str, queries: int, passages: int, dimensions: int, device: str) -> Measured:
    """Measure the loss and gradient of one batch."""
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(queries, passages, generator)
    inputs = [torch.randn(rows, dimensions, generator=generator).to(device) for rows in (queries, passages)]
    batch = Batch(**{key: value.to(device) for key, value in vars(batch).items()})
    for tensor in inputs:
        tensor.requires_grad_()
    queries_embedded, passages_embedded = inputs
    compute = {"engine": engine_loss, "plain": plain_loss}[name]
    watch = Watch(device)
    start = time.perf_counter()
    loss = compute(queries_embedded, passages_embedded, batch)
    torch.autograd.backward(loss)
    value = loss.item()
    seconds = time.perf_counter() - start
    gradient = passages_embedded.grad
    assert gradient is not None
    spread = gradient.flatten()[:: gradient.numel() // 10][:10].cpu()
    return Measured(watch.peak_gib(), seconds, value, spread)


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
        passage_key=torch.arange(passages),
        excluded_row=rows,
        excluded_key=known.flatten(),
        judged_row=nothing,
        judged_key=nothing,
    )


def engine_loss(queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
    """Compute the loss as `trainer fit` does."""
    scores = contrast(queries, passages, batch, ContrastRules(), 0.05)
    return OBJECTIVES["lsepair"].loss(scores.pos_scores, batch.pos_weight, batch.pos_mask, scores.neg_lse).mean()


def plain_loss(queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
    """Compute the loss from the matrix of all pairs."""
    scores = normalize(queries) / 0.05 @ normalize(passages).T
    pos_scores = scores.gather(1, batch.pos_index)
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    hidden[batch.excluded_row, batch.excluded_key] = True
    neg_lse = scores.masked_fill(hidden, -torch.inf).logsumexp(dim=-1)
    return OBJECTIVES["lsepair"].loss(pos_scores, batch.pos_weight, batch.pos_mask, neg_lse).mean()


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
