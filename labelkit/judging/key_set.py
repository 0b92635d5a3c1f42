"""Sets of request keys for runs of millions of requests, with 16 bytes of memory per key."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np

SIZE = 16
"""Bytes of a short key. Two of 15 million keys share one with a probability below 1e-24."""
HEXADECIMAL = 64
"""Characters of a sha256 in hexadecimal."""
KEYS = f"S{SIZE}"
"""Numpy type of short keys."""


def short(key: str) -> bytes:
    """Return a short key: the beginning of a sha256 in hexadecimal, as all keys of requests are, else a hash."""
    try:
        if len(key) == HEXADECIMAL and len(found := bytes.fromhex(key)) == HEXADECIMAL // 2:
            return found[:SIZE]
    except ValueError:
        """Not a sha256."""
    return blake2b(key.encode(), digest_size=SIZE).digest()


class KeySet:
    """A set of keys that are known at the start, to which a few keys may be added, and from which a few may be removed.

    The keys known at the start take 16 bytes each, the others about 100.
    """

    def __init__(self, keys: bytes | bytearray = b"") -> None:
        """`keys`: short keys, one after the other."""
        self._sorted = np.sort(np.frombuffer(keys, dtype=KEYS))
        self._added: set[bytes] = set()
        self._removed: set[bytes] = set()

    @classmethod
    def of_last(cls, keys: bytearray, errors: bytearray) -> "KeySet":
        """Return the keys whose last reply is not an error.

        Args:
            keys: the short keys of replies in the order of their arrival, one after the other.
            errors: one byte per reply, which is not 0 for a reply with an error.
        """
        if not any(errors):
            return cls(keys)
        found, failed = np.frombuffer(keys, dtype=KEYS), np.frombuffer(errors, dtype=bool)
        order = np.argsort(found, kind="stable")
        last = np.append(found[order][1:] != found[order][:-1], True)
        kept = order[last]
        return cls(found[kept[~failed[kept]]].tobytes())

    def __len__(self) -> int:
        """Return the number of distinct keys that were known at the start."""
        return len(np.unique(self._sorted))

    def __contains__(self, key: str) -> bool:
        found = short(key)
        known = found in self._added or bool(self.has(np.array([found], dtype=KEYS))[0])
        return known and found not in self._removed

    def has(self, keys: Any) -> Any:
        """Return which short keys were known at the start: bool, shape of `keys`."""
        if not len(self._sorted):
            return np.zeros(len(keys), dtype=bool)
        places = np.searchsorted(self._sorted, keys)
        places[places == len(self._sorted)] = 0
        return self._sorted[places] == keys

    def add(self, key: str) -> None:
        """Add a key."""
        self._added.add(short(key))
        self._removed.discard(short(key))

    def remove(self, keys: Iterable[str]) -> None:
        """Remove keys; keys that are not in the set are ignored."""
        self._removed.update(map(short, keys))
