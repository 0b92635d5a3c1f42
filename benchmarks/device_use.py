"""Measure the utilisation of a GPU by samples of nvidia-smi, and by kernel times of PyTorch's profiler."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import torch

SKIPPED = 0.5
"""Seconds at the start of a loop that are left out of the kernel times, because workers and kernels are loaded."""


class Utilisation:
    """Sampler of the utilisation of the first GPU by nvidia-smi, every 100 ms; takes no samples without a GPU."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.process: subprocess.Popen[str] | None = None
        self.samples: list[float] = []

    def __enter__(self) -> Self:
        words = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "--loop-ms=100",
            "--id=0",
        ]
        if self.device.startswith("cuda"):
            try:
                self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            except OSError:
                self.process = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is None:
            return
        self.process.terminate()
        written, _ = self.process.communicate()
        self.samples = [float(line) for line in written.splitlines() if line.strip().isdigit()]

    def mean(self) -> float | None:
        """Compute the share of the time in which the GPU was busy; None without samples."""
        # The first and last samples are partly before and after the loop.
        inner = self.samples[2:-1]
        return sum(inner) / len(inner) / 100 if inner else None


class KernelShare:
    """The share of a loop in which a kernel or a copy ran."""

    share = 0.0


@contextmanager
def kernel_share(trainer: Any) -> Iterator[KernelShare]:
    """Measure the next call of `train` of a trainer class with PyTorch's profiler, which records only the GPU."""
    plain: Callable[..., Any] = trainer.train
    found = KernelShare()

    def train(self: Any, *given: Any, **more: Any) -> Any:
        untyped: Any = torch.profiler
        with untyped.profile(activities=[untyped.ProfilerActivity.CUDA]) as profiler:
            outcome = plain(self, *given, **more)
            torch.cuda.synchronize()
        events = profiler.profiler.kineto_results.events()
        spans = sorted((event.start_ns(), event.start_ns() + event.duration_ns()) for event in events if on_gpu(event))
        found.share = busy_share(spans)
        return outcome

    with patch.object(trainer, "train", train):
        yield found


def on_gpu(event: Any) -> bool:
    """Check that an event of the profiler ran on the GPU."""
    return "CUDA" in str(event.device_type()) and event.duration_ns() > 0


def busy_share(spans: list[tuple[int, int]]) -> float:
    """Compute the share of the time between the first and the last of some sorted spans that any span covers."""
    if not spans:
        return 0.0
    first = spans[0][0] + int(SKIPPED * 1e9)
    covered, end, last = 0, first, max(stop for _, stop in spans)
    for start, stop in spans:
        covered += max(0, stop - max(start, end))
        end = max(end, stop)
    return covered / max(1, last - first)
