"""Train and measure the grid of a bake-off: objectives x regimes of labels x seeds, from one dataset.

Every finished run has a file of results, so that the same command resumes an interrupted grid; an interrupted run
resumes from its checkpoints. Weights are selected on the dev set only, never on the evaluation data.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import ArtifactError, UsageError
from labelkit.storage import folders
from labelkit.storage.atomic import disk_errors, write_text
from labelkit.storage.names import inside
from labelkit.storage.outputs import Place, claimed
from trainer.bakeoffs.config import BakeoffConfig
from trainer.data.foreign import our_dataset
from trainer.data.store import Store, open_store
from trainer.data.training_sets import make_training_sets
from trainer.retrieval.contenders import Contender, load_contender
from trainer.retrieval.evaluate import EvalResult, PerQuery, compare_contenders
from trainer.retrieval.options import EvaluateOptions
from trainer.retrieval.search import Collection
from trainer.training.encoder import build_model
from trainer.training.fit import HARMLESS, train

log = logging.getLogger(__name__)

UNTRAINED = "untrained"
SHOWN = 3
"""Number of collections up to which the progress shows a figure for each."""


class BakeoffRun(NamedTuple):
    """One training run of the grid."""

    regime: str
    objective: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's files."""
        return f"{self.regime}.{self.objective}.{self.seed}"


@dataclass(frozen=True)
class RunResult:
    """The result of a run; for the untrained model, only `regime` and `values` are set."""

    regime: str
    objective: str
    seed: int
    seconds: float
    steps: int
    dev: list[list[dict[str, float]]]
    """Measurements on the dev set, a list per stage."""
    values: dict[str, PerQuery]
    """Collection -> measure -> query id -> value."""


def run_grid(
    dataset: Path, output: Path, config: BakeoffConfig, *, collections: Sequence[Collection], command: str
) -> list[RunResult]:
    """Run the parts of the grid that are missing in `output`, and return all results, the untrained model first.

    Raises `UsageError` if `output` contains results of other settings or data, and the errors of `train` and
    `evaluate`.
    """
    with claimed(output) as place, disk_errors(f"{output} is not finished, its results are kept"):
        refuse_foreign(place, output)
        made = our_dataset(dataset)
        settings = [config.fit_config(regime, config.objectives[0], 0) for regime in config.regimes]
        store = open_store(made, settings[0].pool)
        for each in settings:  # so that a regime without positives is reported now, not after hours
            make_training_sets(store, each)
        identity = _identity(store, config, collections)
        (place.path / "results").mkdir(parents=True, exist_ok=True)
        results = [_kept(output, UNTRAINED, identity, compute=partial(_untrained, config, collections))]
        runs = list(grid(config))
        for number, run in enumerate(runs, start=1):
            known = _path(output, run.name).is_file()
            own = identity | {"stages": config.regimes[run.regime]}
            compute = partial(_train, made, output, config, run=run, collections=collections, command=command)
            results.append(_kept(output, run.name, own, compute=compute))
            if not known:
                log.info(f"{number}/{len(runs)} {run.name}: {results[-1].seconds:.0f} s, {_figures(results[-1])}")
    return results


def refuse_foreign(place: Place, output: Path) -> None:
    """Raise `ArtifactError` if a folder contains files but no bake-off; the report would overwrite files there."""
    results, content = place.path / "results", place.content()
    if content not in ([], [results]) and not (results / f"{UNTRAINED}.json").is_file():
        raise ArtifactError(f"{output} exists and is not the folder of a bake-off; choose another output folder")


def grid(config: BakeoffConfig) -> Iterator[BakeoffRun]:
    """Yield all runs, seed by seed, so that an interrupted grid is a complete comparison with fewer seeds."""
    for seed in range(config.seeds):
        for regime in config.regimes:
            for objective in config.objectives:
                yield BakeoffRun(regime, objective, seed)


def _train(
    dataset: Path,
    output: Path,
    config: BakeoffConfig,
    *,
    run: BakeoffRun,
    collections: Sequence[Collection],
    command: str,
) -> RunResult:
    settings = config.fit_config(run.regime, run.objective, run.seed)
    model = inside(output / "models", run.name)
    report = train(dataset, model, settings, collections=collections, command=command)
    result = RunResult(
        *run,
        seconds=report.seconds,
        steps=report.steps,
        dev=[stage.dev for stage in report.stages],
        values=_values(_measure(load_contender(str(model)), config, collections)),
    )
    if not config.keep_models:
        shutil.rmtree(model)
    return result


def _untrained(config: BakeoffConfig, collections: Sequence[Collection]) -> RunResult:
    """Measure the untrained model with the pooling and prompts of the runs."""
    settings = config.fit_config(next(iter(config.regimes)), config.objectives[0], 0)
    model = build_model(settings.model_copy(update={"lora_rank": None}))
    values = _values(_measure(Contender(UNTRAINED, model), config, collections))
    return RunResult(UNTRAINED, "", 0, seconds=0.0, steps=0, dev=[], values=values)


def _measure(contender: Contender, config: BakeoffConfig, collections: Sequence[Collection]) -> EvalResult:
    options = EvaluateOptions(
        relevant_grade=config.relevant_grade,
        max_query_length=config.fit.get("max_query_length"),
        max_passage_length=config.fit.get("max_passage_length"),
    )
    return compare_contenders([contender], collections, options)


def _values(result: EvalResult) -> dict[str, PerQuery]:
    """Collect the values of the first model by collection; a cross-encoder is measured beside its first stage."""
    own = (entry for entry in result.measured if entry.model == result.models[0])
    return {entry.data: entry.per_query for entry in own if entry.per_query}


def _kept(output: Path, name: str, identity: dict[str, Any], *, compute: Callable[[], RunResult]) -> RunResult:
    """Read the result of a run from its file, after computing and writing it if the file does not exist.

    Raises `UsageError` for a file with a different `identity`.
    """
    path = _path(output, name)
    if not path.is_file():
        document = {"identity": identity, "result": asdict(compute())}
        write_text(path, json.dumps(document))
    document = json.loads(path.read_text(encoding="utf-8"))
    for key, value in identity.items():
        if document["identity"].get(key) != value:
            raise UsageError(
                f"{path} was made with {key} = {document['identity'].get(key)!r} instead of {value!r}; "
                "choose another output, or remove the file to repeat the run"
            )
    return RunResult(**document["result"])


def _path(output: Path, name: str) -> Path:
    return inside(output / "results", f"{name}.json")


def _identity(store: Store, config: BakeoffConfig, collections: Sequence[Collection]) -> dict[str, Any]:
    """Collect the settings and inputs that all runs of an output folder share.

    Objectives, regimes and seeds are not among them, so that they may be added later. A pool is known by its content,
    which `store.keys` has.
    """
    shared = {name: value for name, value in config.fit.items() if name not in (*HARMLESS, "pool")}
    return {
        **json.loads(json.dumps(shared)),
        **store.keys,
        "relevant_grade": config.relevant_grade,
        "eval": {one.name: [one.split, *(folders.file_sha256(path) for path in _files(one))] for one in collections},
    }


def _files(collection: Collection) -> list[Path]:
    layout = collection.layout
    return [*layout.corpus, *layout.queries, *layout.files_of(collection.split)]


def _figures(result: RunResult) -> str:
    """Format nDCG@10 for each collection, or its mean over more than `SHOWN` collections."""
    means = {name: sum(v["nDCG@10"].values()) / len(v["nDCG@10"]) for name, v in result.values.items()}
    if len(means) > SHOWN:
        return f"nDCG@10 {sum(means.values()) / len(means):.3f}, mean of {len(means)} collections"
    return ", ".join(f"nDCG@10 {mean:.3f} on {name}" for name, mean in means.items())
