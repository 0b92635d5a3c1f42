"""All the randomness of the data: pure functions of the seed, the epoch and an id.

Nothing is drawn from a generator with a state, so neither the order of a file, nor the batch, nor the process, nor a
run that was killed and goes on can change what is drawn.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

DrawScope = tuple[Any, ...]
"""Seed, epoch and query id: all that a draw depends on beside the names."""


def draw(names: Iterable[str], count: int, scope: DrawScope) -> list[str]:
    """`count` of the names without replacement, uniformly: those whose hash with the scope is smallest."""
    digest = _digests(scope)
    return heapq.nsmallest(count, names, key=lambda name: (digest(name), name))


def draw_weighted(weights: Mapping[str, float], count: int, scope: DrawScope) -> list[str]:
    """`count` of the names without replacement, each next one with a chance in proportion to its weight.

    Source: Efraimidis and Spirakis 2006, doi 10.1016/j.ipl.2005.11.003.
    """
    digest = _digests(scope)

    def waiting_time(name: str) -> tuple[float, str]:
        uniform = (int.from_bytes(digest(name)[:8]) + 1) / 2**64
        return -math.log(uniform) / weights[name], name

    return heapq.nsmallest(count, weights, key=waiting_time)


def mixed(keys: NDArray[np.int64], scope: DrawScope) -> NDArray[np.uint64]:
    """[n]: a number for each key that looks uniform over 64 bits, another one for each scope.

    The finaliser of SplitMix64 (doi 10.1145/2660193.2660195).
    """
    salt = int.from_bytes(blake2b(repr(scope).encode(), digest_size=8).digest())
    values = keys.astype(np.uint64) ^ np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def _digests(scope: DrawScope) -> Callable[[str], bytes]:
    keyed = blake2b(repr(scope).encode(), digest_size=16)

    def digest(name: str) -> bytes:
        hasher = keyed.copy()
        hasher.update(name.encode())
        return hasher.digest()

    return digest
