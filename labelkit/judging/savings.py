"""Estimate the money that a distilled judge saves if it takes pairs from the judge of a plan."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.judging.prices import dollars
from labelkit.statistics.intervals import Estimate
from labelkit.storage import folders
from labelkit.storage.manifest import JUDGE


class Saving(NamedTuple):
    """The pairs that a distilled judge takes, and the US dollars that they would cost."""

    share: float
    """Share of the held-out pairs of which the judge is sure enough."""
    usd: float | None
    """US dollars saved on the prompts of the first step; None if no price is known."""
    most_usd: float | None
    passed: bool
    """Whether the judge passed the gate of `labelkit distil`."""
    kappa: Mapping[str, Any]
    """Agreement of the distilled judge and of its teacher with people: value, low, high."""

    def line(self) -> str:
        """Return the saving as a line for people."""
        judged, taught = (Estimate(**self.kappa[name]) for name in ("distilled", "teacher"))
        money = (
            "US dollars saved unknown"
            if self.usd is None or self.most_usd is None
            else f"saves {dollars(self.usd)} to {dollars(self.most_usd)} US dollars"
        )
        failed = "" if self.passed else "; it FAILED its gate"
        return (
            f"distilled judge    takes {self.share:.0%} of the pairs, {money}; kappa with people {judged}, its teacher "
            f"{taught}{failed}"
        )


def saving_of(folder: Path, confidence: float | None, *, costs: tuple[float | None, float | None]) -> Saving:
    """Estimate the saving from the facts of a folder of `labelkit distil`, given the least and greatest cost of a run.

    The share of the pairs is measured on the human-graded pairs of held-out queries. Raises `ArtifactError` for another
    folder.
    """
    gate = folders.read_manifest(folder, JUDGE, verify=False).facts.gate
    share = 1.0 if confidence is None else share_above(gate["confidence"], confidence)
    saved, most = (None if cost is None else share * cost for cost in costs)
    kappa = {name: gate[name]["kappa"] for name in ("distilled", "teacher")}
    return Saving(share, saved, most, passed=gate["passed"], kappa=kappa)


def share_above(quantiles: Sequence[float], value: float) -> float:
    """Compute the share of a sample at or above a value from its quantiles from 0 to 1, by linear interpolation."""
    import numpy as np

    if value <= quantiles[0]:
        return 1.0
    if value > quantiles[-1]:
        return 0.0
    places = np.linspace(0, 1, len(quantiles))
    # Of equal quantiles the first counts, because they are all at the value.
    distinct, first = np.unique(np.asarray(quantiles), return_index=True)
    return float(1 - np.interp(value, distinct, places[first]))
