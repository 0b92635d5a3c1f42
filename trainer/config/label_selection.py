"""Parse the sources of labels that a stage uses: `human`, `llm`, `human + llm`, `20% human + llm`, `all`.

"20% human" means the human labels of 20% of the queries. The selection of queries depends only on the seed and the
query ids, and a smaller share is a subset of a larger one. A stage "20% human" after a stage "llm" therefore uses the
same queries as "20% human + llm".
"""

import re

from labelkit.errors import UnknownNameError, UsageError

Selection = dict[str, float]
"""Source of labels -> share of the queries whose labels of that source are used, above 0 and at most 1."""
SOURCES = ("human", "llm", "imported", "mined")
"""Sources of labels. Only negatives are mined; if they are not selected, they count as unjudged."""
TERM = re.compile(r"(?:(\d+(?:\.\d+)?)\s*%\s*)?([a-z]+)")


def parse_labels(text: str) -> Selection:
    """Parse a text such as `20% human + llm`. Raises `UsageError` for an invalid text."""
    selection: Selection = {}
    for term in text.split("+"):
        found = TERM.fullmatch(term.strip())
        if found is None:
            raise UsageError(
                f"labels {text!r}: {term.strip()!r} is not a source; write, for example, 'human + llm' or '20% human'"
            )
        share, source = float(found[1] or 100) / 100, found[2]
        if not 0 < share <= 1:
            raise UsageError(f"labels {text!r}: a share must be above 0% and at most 100%")
        if source != "all" and source not in SOURCES:
            raise UnknownNameError("source of labels", source, (*SOURCES, "all"))
        for name in SOURCES if source == "all" else (source,):
            if name in selection:
                raise UsageError(f"labels {text!r} contain {name} twice; remove one of them")
            selection[name] = share
    return selection


def sources_of(selection: Selection, place: float) -> frozenset[str]:
    """Return the sources whose labels are used for a query at `place`, from 0 to 1: their share is above `place`."""
    return frozenset(source for source, share in selection.items() if place < share)
