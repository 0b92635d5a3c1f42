"""Annotation methods: one file each, from a pair and a prompt to a judgement."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from labelkit.errors import UnknownNameError
from labelkit.methods import binary, graded
from labelkit.prompts import Prompt


class Method(NamedTuple):
    """A pointwise method: the shipped prompt it uses by default, and the score it reads from label
    log-probabilities.
    """

    prompt: str
    score: Callable[[Mapping[str, float], Prompt], float]


METHODS = {
    "graded": Method("graded", graded.expected_grade),
    "binary": Method("binary", binary.log_odds),
}


def method_named(name: str) -> Method:
    """Look a method up. Raises `UnknownNameError`."""
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]
