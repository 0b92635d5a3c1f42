"""Speed of a judge on a GPU, from measurements that are shipped with labelkit."""

import math
import re
import tomllib
from functools import cache
from itertools import pairwise

from labelkit.errors import UnknownNameError, UsageError
from labelkit.storage.shipped import SHIPPED

BILLIONS = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z0-9])")
"""Parameters in a model name, such as Qwen3-32B."""
ACTIVE = re.compile(r"(?<![\w.])A(\d+(?:\.\d+)?)[bB](?![a-zA-Z0-9])")
"""Parameters per token of a mixture of experts, such as Qwen3-30B-A3B."""
Measured = list[tuple[float, float]]
"""Billions of parameters and prompt tokens per second, smallest model first."""


def tokens_per_second(gpu: str, model: str) -> float:
    """Return the prompt tokens per second of a judge on one GPU.

    Between measured sizes the logarithms are interpolated. A larger model than any measured takes time in proportion to
    its size; a smaller one is taken to be as fast as the smallest measured.

    Raises:
        UnknownNameError: no measurements of this GPU are shipped.
        UsageError: the name of the model does not tell its size.
    """
    known = measured()
    if gpu not in known:
        raise UnknownNameError("GPU", gpu, known)
    size, points = billions(model), known[gpu]
    if size <= points[0][0]:
        return points[0][1]
    for (small, fast), (large, slow) in pairwise(points):
        if size <= large:
            share = math.log(size / small) / math.log(large / small)
            return fast * math.exp(share * math.log(slow / fast))
    largest, slowest = points[-1]
    return slowest * largest / size


def billions(model: str) -> float:
    """Return the billions of parameters that compute a token, as the name of a model states them."""
    if found := ACTIVE.search(model) or BILLIONS.search(model):
        return float(found[1])
    raise UsageError(f"--gpu cannot read the size of {model!r} from its name (such as 7B); give --rate instead")


@cache
def measured() -> dict[str, Measured]:
    """Return the shipped measurements by GPU."""
    table = tomllib.loads((SHIPPED / "gpus.toml").read_text(encoding="utf-8"))
    return {gpu: sorted((size, speed) for size, speed in rows["measured"]) for gpu, rows in table.items()}
