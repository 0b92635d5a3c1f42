"""Order the queries of an epoch in batches, and share each batch among the processes of a run."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from trainer.data.draws import mixed

EpochRow = tuple[int, int]
"""Epoch (from 0) and row of the training set. Row -1 - r means row r with its passages and without positives, which
contributes nothing to the loss.
"""


class BatchOrder(Sampler[list[EpochRow]]):
    """The batches of an epoch: every query once, in an order determined by the seed and the epoch.

    Each process gets its own slice of every batch, so that batches are the same for any number of processes.
    """

    drop_last = False

    def __init__(
        self,
        keys: NDArray[np.int64],
        batch_size: int,
        seed: int,
        first_epoch: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """Prepare the order of `TrainingSet.keys` `[queries]`; `first_epoch` is the number of the first epoch."""
        self.keys = keys
        self.batch_size = batch_size
        self.seed = seed
        self.process = process
        self.processes = processes
        self.first_epoch = first_epoch
        self.epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0 within the stage; the trainer calls this before each epoch."""
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return math.ceil(len(self.keys) / self.batch_size)

    def __iter__(self) -> Iterator[list[EpochRow]]:
        # Ties of the random number are broken by key, so that the order of the file has no effect.
        order = np.lexsort((self.keys, mixed(self.keys, (self.seed, self.epoch, "order"))))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size].tolist()
            # A process without a query in a small batch must take part too, because the others wait for it.
            share = share_of(rows, self.process, self.processes) or [-1 - rows[0]]
            yield [(self.epoch, row) for row in share]


def share_of(items: Sequence[Any], process: int, processes: int) -> Sequence[Any]:
    """Return the slice of a batch for one process; slices have equal size up to one item, and may be empty."""
    return items[process * len(items) // processes : (process + 1) * len(items) // processes]
