"""Whose labels a stage learns from: `human`, `llm`, `human + llm`, `20% human + llm`, `all`.

A share is one of queries: the labels of a person on 20% of the queries. Which queries these are depends on the seed and
the query's id alone, and a smaller share lies within a larger one, so that "20% human" after "llm" is the same fifth
that "20% human + llm" merges.
"""

import re

from labelkit.errors import UnknownNameError, UsageError

Selection = dict[str, float]
"""Source of labels -> share of the queries on which its labels count, above 0 and at most 1."""
SOURCES = ("human", "llm", "imported")
TERM = re.compile(r"(?:(\d+(?:\.\d+)?)\s*%\s*)?([a-z]+)")


def parse_labels(text: str) -> Selection:
    """The selection that a text such as `20% human + llm` describes. Raises `UsageError`."""
    selection: Selection = {}
    for term in text.split("+"):
        found = TERM.fullmatch(term.strip())
        if found is None:
            raise UsageError(
                f"labels {text!r}: {term.strip()!r} is no source; write it like 'human + llm' or '20% human'"
            )
        share, source = float(found[1] or 100) / 100, found[2]
        if not 0 < share <= 1:
            raise UsageError(f"labels {text!r}: a share lies above 0% and at most at 100%")
        if source != "all" and source not in SOURCES:
            raise UnknownNameError("source of labels", source, (*SOURCES, "all"))
        for name in SOURCES if source == "all" else (source,):
            if name in selection:
                raise UsageError(f"labels {text!r} name {name} twice")
            selection[name] = share
    return selection


def sources_of(selection: Selection, place: float) -> frozenset[str]:
    """The sources whose labels count for a query that stands at `place`, from 0 to 1: shares take the lowest."""
    return frozenset(source for source, share in selection.items() if place < share)
