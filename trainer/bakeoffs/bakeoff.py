"""A grid of training runs and the report on it: `trainer bakeoff`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.bakeoffs.config import BakeoffConfig
from trainer.bakeoffs.report import write_report
from trainer.bakeoffs.runner import RunResult, run_grid
from trainer.retrieval.search import read_collections


class Bakeoff(NamedTuple):
    """The runs of a bake-off, and what their numbers support."""

    results: list[RunResult]
    """The untrained model's first."""
    recommendation: list[str]
    """In words, a line each."""


def bakeoff(
    dataset: Path | str,
    output: Path | str,
    config: BakeoffConfig,
    *,
    evaluation: Sequence[Path],
    split: str = "test",
    command: str = "trainer.bakeoff",
) -> Bakeoff:
    """Train every objective on every regime of labels with several seeds, and say what the numbers support.

    Args:
        dataset: folder of `labelkit mix`, or data in a format of `labelkit.exchange.formats`.
        output: folder of the results and of the report; the same call resumes a grid that was interrupted.
        config: objectives, regimes, seeds, and the settings that all runs share.
        evaluation: BEIR folders on which every run is measured; they decide nothing.
        split: the qrels of these folders.
        command: the words that the report names as its origin.

    Returns:
        The result of every run, and the recommendation.

    Raises:
        UsageError: `output` holds results of other settings or data.
        LabelkitError: what `fit` and `evaluate` raise.
    """
    folder, target = Path(dataset), Path(output)
    collections = read_collections([Path(one) for one in evaluation], split)
    results = run_grid(folder, target, config, collections=collections, command=command)
    title = f"{folder.name}, measured on {', '.join(one.name for one in collections)}"
    return Bakeoff(results, write_report(target, results, title, command=command))
