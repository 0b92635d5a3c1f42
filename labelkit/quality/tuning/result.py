"""The result of tuning: the prompts that were tried, and the chosen one compared with its parent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labelkit.judging.options import AnnotateOptions
from labelkit.judging.prompts import Prompt
from labelkit.quality.agreement import plain
from labelkit.quality.agreement_metrics import FIGURES, figure_differences, figure_intervals
from labelkit.quality.tuning.evidence import Halves, Judged, scored
from labelkit.quality.tuning.power import Counts, counts_of, quantile
from labelkit.records import PairIds
from labelkit.statistics.intervals import Estimate, standard_error
from labelkit.statistics.paired import ALPHA, POWER
from labelkit.version import __version__

FIGURE = "kappa_2"
"""Figure that chooses a prompt and is tested: Cohen's kappa of the decision that a passage is relevant."""
REPORTED = ("kappa_2", "kappa", "kappa_quadratic", "auc", "precision", "recall")
"""Figures that are reported."""


class Trial(NamedTuple):
    """A prompt that was tried on half of the queries."""

    prompt: Prompt
    judged: Judged
    failures: int
    """Number of pairs without a grade."""
    examples: tuple[PairIds, ...] = ()
    """Labelled pairs that the prompt shows."""


class Difference(NamedTuple):
    """A figure of both prompts on the reporting half."""

    parent: Estimate
    tuned: Estimate
    difference: Estimate
    """Tuned minus parent, on the same pairs."""


class Tuned(NamedTuple):
    """The result of tuning a prompt."""

    prompt: Path | None
    """File of the tuned prompt; None if no prompt was better than its parent on the choosing half."""
    parent: str
    chosen: str
    """Name of the best prompt on the choosing half."""
    choosing: dict[str, Estimate]
    """Name of a prompt -> its kappa (grade >= 2) on the choosing half, without the queries of examples."""
    failures: dict[str, int]
    """Name of a prompt -> its pairs without a grade on the choosing half."""
    counts: dict[str, Counts]
    """Size of the halves `choosing` and `reporting`."""
    reporting: dict[str, Difference]
    """Name of a figure -> its values on the reporting half; empty without a tuned prompt."""
    detectable: float | None
    """Difference in kappa that the reporting half detects with a probability of 80%; None if it is unknown."""
    rejected: list[str] = []  # noqa: RUF012 (never changed)
    """Reasons why proposals are no prompts."""
    tokens: int = 0
    usd: float | None = None
    """US dollars; None if a price is unknown."""

    @property
    def significant(self) -> bool:
        """Whether the confidence interval of the difference in kappa excludes 0."""
        found = self.reporting[FIGURE].difference if self.reporting else Estimate(None)
        return found.low is not None and found.high is not None and not found.low <= 0 <= found.high

    @property
    def verdict(self) -> str:
        """The result as one sentence."""
        if not self.reporting:
            return f"no prompt was better than {self.parent} on the choosing half: keep it"
        found = self.reporting[FIGURE].difference.shown("+.3f")
        if not self.significant:
            least = "" if self.detectable is None else f"; these labels detect a difference of {self.detectable:.2f}"
            return f"no significant difference between {self.chosen} and {self.parent}: kappa {found}{least}"
        better = (self.reporting[FIGURE].difference.value or 0) > 0
        return f"{self.chosen} agrees with people {'better' if better else 'worse'} than {self.parent}: kappa {found}"

    def to_json(self) -> dict[str, Any]:
        """Convert to plain dicts and lists, for `json.dumps`."""
        told = {"significant": self.significant, "verdict": self.verdict}
        found: dict[str, Any] = plain(self._asdict() | told)
        return found | {"prompt": str(self.prompt) if self.prompt else None}


def compared(
    trials: Sequence[Trial], scores: Mapping[str, Estimate], reported: Sequence[Trial], *, halves: Halves
) -> Tuned:
    """Compare the tuned prompt with its parent on the reporting half; `reported` has both, or nothing."""
    figures: dict[str, Difference] = {}
    detectable = None
    if reported:
        before, after = (scored(halves.reporting, trial.judged) for trial in reported)
        each = figure_intervals(REPORTED, before), figure_intervals(REPORTED, after)
        differences = figure_differences(REPORTED, after, before)
        figures = {name: Difference(each[0][name], each[1][name], differences[name]) for name in REPORTED}
        of = FIGURES[FIGURE].of
        error = standard_error(
            lambda draws: float(of(after.count(draws)) - of(before.count(draws))), queries=after.queries
        )
        detectable = None if not error else (quantile(1 - ALPHA / 2) + quantile(POWER)) * error
    return Tuned(
        prompt=None,
        parent=trials[0].prompt.name,
        chosen=(reported[-1] if reported else trials[0]).prompt.name,
        choosing=dict(scores),
        failures={trial.prompt.name: trial.failures for trial in trials},
        counts={"choosing": counts_of(halves.choosing), "reporting": counts_of(halves.reporting)},
        reporting=figures,
        detectable=detectable,
    )


def history_of(found: Tuned, parent: Prompt, best: Trial, *, options: AnnotateOptions, human: str) -> dict[str, Any]:
    """Return the history of a tuned prompt as a TOML table: parent, judge, split, labels, scores and verdict."""
    before, after, difference = found.reporting[FIGURE]
    return {
        "labelkit": __version__,
        "parent": parent.name,
        "parent_sha256": parent.sha256,
        "judge": options.model,
        "tried": len(found.choosing),
        "split_seed": options.seed,
        "verdict": found.verdict,
        "labels": {
            "human_sha256": human,
            **{half: {"queries": counts.queries, "labels": counts.labels} for half, counts in found.counts.items()},
        },
        "examples": [list(pair) for pair in best.examples],
        "kappa_of_choosing_half": {
            "parent": numbers(found.choosing[found.parent]),
            "tuned": numbers(found.choosing[found.chosen]),
        },
        "kappa_of_reporting_half": {
            "parent": numbers(before),
            "tuned": numbers(after),
            "difference": numbers(difference),
        },
    }


def numbers(found: Estimate) -> list[float]:
    """Return a figure and its interval as a list of up to three numbers: TOML has no null."""
    return [float(np.round(number, 4)) for number in found if number is not None]
