"""Run a grid of trainings and write the report on it: `trainer bakeoff`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.bakeoffs.config import BakeoffConfig
from trainer.bakeoffs.report import write_report
from trainer.bakeoffs.runner import RunResult, run_grid
from trainer.data.input_check import check_dataset
from trainer.retrieval.search import read_collections


class Bakeoff(NamedTuple):
    """The results of a bake-off and the recommendation drawn from them."""

    results: list[RunResult]
    """The results of all runs; the first result is the untrained model."""
    recommendation: list[str]
    """Lines of text."""


def bakeoff(
    dataset: Path | str,
    output: Path | str,
    config: BakeoffConfig,
    *,
    evaluation: Sequence[Path | str],
    split: str | None = None,
    command: str = "trainer.bakeoff",
) -> Bakeoff:
    """Train every objective on every regime of labels with several seeds, and compare the results.

    Args:
        dataset: folder of `labelkit mix`, or data in a format of `labelkit.exchange.formats`.
        output: folder of the results and of the report; the same call resumes an interrupted grid.
        config: objectives, regimes, seeds, and the settings that all runs share.
        evaluation: collections on which every run is measured; training and selection do not use them.
        split: split of the qrels of these collections; None for test, and train for the collections of NanoBEIR.
        command: the command line that the report names as its origin.

    Returns:
        The result of every run, and the recommendation.

    Raises:
        UsageError: `output` contains results of other settings or data.
        LabelkitError: the errors of `fit` and `evaluate`.
    """
    folder, target = Path(dataset), Path(output)
    check_dataset(folder)
    collections = read_collections(evaluation, split, scale=config.fit.get("scale"))
    results = run_grid(folder, target, config, collections=collections, command=command)
    title = f"{folder.name}, measured on {', '.join(one.name for one in collections)}"
    return Bakeoff(results, write_report(target, results, title, command=command))
