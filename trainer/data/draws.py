"""Random draws of queries and passages, as pure functions of the seed, the epoch and an id.

No draw uses a random generator with a state. Draws are therefore independent of the order of files, of the batch, of
the process, and of interruptions of a run.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

DrawScope = tuple[Any, ...]
"""Seed, epoch and query id. A draw depends only on the scope and the names to draw from."""


def draw(names: Iterable[str], count: int, scope: DrawScope) -> list[str]:
    """Draw `count` names uniformly without replacement: the names with the smallest hashes within the scope."""
    digest = lots(scope)
    return heapq.nsmallest(count, names, key=lambda name: (digest(name), name))


def draw_weighted(weights: Mapping[str, float], count: int, scope: DrawScope) -> list[str]:
    """Draw `count` names without replacement; the probability of each next name is proportional to its weight.

    Source: Efraimidis and Spirakis 2006, doi 10.1016/j.ipl.2005.11.003.
    """
    digest = lots(scope)

    def waiting_time(name: str) -> tuple[float, str]:
        uniform = (int.from_bytes(digest(name)[:8]) + 1) / 2**64
        return -math.log(uniform) / weights[name], name

    return heapq.nsmallest(count, weights, key=waiting_time)


def mixed(keys: NDArray[np.int64], scope: DrawScope) -> NDArray[np.uint64]:
    """Hash keys `[n]` to pseudo-random numbers `[n]`, uniform over 64 bits and different for each scope.

    Source: the finaliser of SplitMix64, doi 10.1145/2660193.2660195.
    """
    salt = int.from_bytes(blake2b(repr(scope).encode(), digest_size=8).digest())
    values = keys.astype(np.uint64) ^ np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def lots(scope: DrawScope) -> Callable[[str], bytes]:
    """Return a function from a name to bytes that look random, others in each scope; sorting by them draws names."""
    keyed = blake2b(repr(scope).encode(), digest_size=16)

    def digest(name: str) -> bytes:
        hasher = keyed.copy()
        hasher.update(name.encode())
        return hasher.digest()

    return digest
