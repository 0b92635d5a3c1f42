"""Train a model folder from a dataset and a `FitConfig`.

Each stage runs sentence-transformers' trainer (`trainer.training.group_trainer`) on the model of the previous stage. A
run that was killed resumes from its checkpoints when the same command is given again, with the same result as an
uninterrupted run. The output is an ordinary sentence-transformers folder (a `SentenceTransformer`,
`CrossEncoder`, `SparseEncoder` or `MultiVectorEncoder`) with a manifest and a model card. Processes
started by `torchrun` or `accelerate launch` share each batch, with the same result as one process.
"""

import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import set_seed

from labelkit.errors import ArtifactError, DiskError, LabelkitError, MissingPackageError, UsageError
from labelkit.pooling.packing import Packing, unpadded
from labelkit.storage import folders
from labelkit.storage.atomic import disk_errors, write_text
from labelkit.storage.credentials import blot
from labelkit.storage.manifest import MODEL, ModelFacts
from labelkit.storage.outputs import claimed, name_of, place_of
from trainer.config.architectures import LATE_INTERACTION
from trainer.config.fit_config import LOGGERS, FitConfig
from trainer.data.collate import Collator, PairCollator
from trainer.data.foreign import our_dataset
from trainer.data.input_check import check_dataset
from trainer.data.store import Store, open_store
from trainer.data.token_cache import Reading, passage_texts, query_texts, token_cache
from trainer.data.training_sets import TrainingSet, make_training_sets
from trainer.retrieval.contenders import Contender, load_contender
from trainer.retrieval.evaluate import EvalResult, compare_contenders
from trainer.retrieval.leaks import refuse_leaks, write_training_queries
from trainer.retrieval.options import EvaluateOptions
from trainer.retrieval.search import Collection, Encoder, read_collections
from trainer.training.checkpoints import Checkpoints, read_weights, refuse_other_run, step_of
from trainer.training.dev import Dev, make_dev
from trainer.training.encoder import Model, build_model, freeze_unused, merge_adapters, prompt_of
from trainer.training.group_trainer import GroupTrainer, Place, processes, steps_of
from trainer.training.model_card import model_card
from trainer.training.soundness import fingerprint, refuse_nonfinite, refuse_unusable
from trainer.training.work import operations_per_token

log = logging.getLogger(__name__)

KIND = MODEL
PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "numpy", "pyarrow")
"""Packages whose versions are recorded in the manifest."""
HARMLESS = ("allow_leaks", "workers", "cache_tokens", "checkpoint_minutes", "log_to")
"""Settings that do not change the result: they may differ when a run is resumed."""
TENSORBOARD = "TENSORBOARD_LOGGING_DIR"
"""Environment variable from which transformers reads the folder of TensorBoard's files."""
SAMPLE = 8
"""Number of queries and of passages that a trained model must embed to finite numbers before it is written."""

Measure = Callable[[Model], EvalResult]
"""Function from a finished model to the evaluation for its card."""


@dataclass(frozen=True)
class StageReport:
    """Steps, time, losses and counts of a stage."""

    steps: int
    seconds: float
    """Training time; for an interrupted run, only the time since it was last resumed."""
    idle_share: float
    """Share of `seconds` in which the training waited for a batch."""
    losses: list[dict[str, float]]
    """About a hundred points: the step, means since the previous point, and the figures of each source of labels."""
    counts: dict[str, int]
    """Numbers of queries, of queries left out, and of passages with duplicated texts."""
    dev: list[dict[str, float]]
    """Step and value of every measurement on the dev set."""
    tokens: int = 0
    """Tokens read by this process in these seconds, padding excluded."""
    operations: float = 0.0
    """Floating-point operations that these tokens need, by `trainer.training.work.operations_per_token`."""

    def loss_at_ends(self) -> tuple[float, float]:
        """Compute the mean loss of the first and of the last fifth of the points; single batches vary too much."""
        losses = [point["loss"] for point in self.losses]
        fifth = math.ceil(len(losses) / 5)
        return sum(losses[:fifth]) / fifth, sum(losses[-fifth:]) / fifth


@dataclass(frozen=True)
class FitReport:
    """The reports of all stages of a run."""

    stages: tuple[StageReport, ...]

    @property
    def steps(self) -> int:
        """Number of steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Training time of all stages together."""
        return sum(stage.seconds for stage in self.stages)


def fit(
    dataset: Path | str,
    output: Path | str,
    config: FitConfig,
    *,
    evaluation: Sequence[Path | str] = (),
    command: str = "trainer.fit",
    progress: Callable[[str], None] = lambda words: None,
) -> FitReport:
    """Train a retriever on a dataset, or resume a run that was killed.

    Args:
        dataset: folder of `labelkit mix`, or data in a format of `labelkit.exchange.formats`.
        output: folder of the trained model, an ordinary sentence-transformers folder with a manifest and a card.
        config: all settings of the run.
        evaluation: collections (split test) on which the trained model and its start model are measured for the card.
        command: the command line that the manifest records as the origin of the folder.
        progress: called with a line of text for each model and collection that is measured.

    Returns:
        Steps, seconds and losses of each stage.

    Raises:
        UsageError: settings that the model does not support.
        DataError: a dataset without positives, or with queries of the evaluation or of the dev set.
        ArtifactError: an incomplete or damaged dataset, or an output path that is already in use.
    """
    check_dataset(dataset)
    collections = read_collections(evaluation, None, scale=config.scale)
    target = Path(output)
    measure = card_measure(config, name_of(target), collections, progress=progress) if collections else None
    return train(Path(dataset), target, config, measure=measure, collections=collections, command=command)


def card_measure(
    config: FitConfig, name: str, collections: Sequence[Collection], *, progress: Callable[[str], None]
) -> Measure:
    """Make the function that measures the trained model on some collections, and its start model; for a cross-encoder,
    the first stage that it reranks instead of the start model.
    """

    def measure(model: Model) -> EvalResult:
        options = EvaluateOptions(
            max_query_length=config.max_query_length, max_passage_length=config.max_passage_length
        )
        if isinstance(model, CrossEncoder):
            return compare_contenders([Contender(name, model)], collections, options, progress=progress)
        if config.architecture == "dense":
            before = load_contender(config.model, trust_remote_code=config.trust_remote_code)
        else:
            set_seed(config.seed)  # as before the training, which began with the same new layers
            before = Contender(config.model, build_model(config))
        return compare_contenders([Contender(name, model), before], collections, options, progress=progress)

    return measure


def train(
    dataset: Path,
    output: Path,
    config: FitConfig,
    *,
    measure: Measure | None = None,
    collections: Sequence[Collection] = (),
    command: str,
) -> FitReport:
    """Train `config.model` on the dataset folder and write the model to `output`.

    Raises `DataError` for a dataset with queries of `collections`. The result of `measure` is written to the manifest
    and the card.
    """
    # Only the main process writes; the others wait for it at their first common step.
    held = claimed(output, KIND) if processes().is_main_process else nullcontext()
    with held, disk_errors(f"{output} was not trained"):
        return _train(dataset, output, config, measure=measure, collections=collections, command=command)


def _train(
    dataset: Path,
    output: Path,
    config: FitConfig,
    *,
    measure: Measure | None,
    collections: Sequence[Collection],
    command: str,
) -> FitReport:
    """Train and write the model, while the output path is locked."""
    state = processes()
    _check_loggers(config)
    folder = our_dataset(dataset)
    store = open_store(folder, config.pool)
    refuse_other_run(output, KIND, config.model_dump(mode="json", exclude=set(HARMLESS)), keys=store.keys)
    dev = make_dev(config)
    if not config.allow_leaks:
        refuse_leaks(folder, store, [*collections, *([dev.collection] if dev else [])])
    training_sets = make_training_sets(store, config)
    set_seed(config.seed)  # before loading, because a model may have randomly initialised layers
    model = build_model(config)
    if state.num_processes > 1 and config.architecture == LATE_INTERACTION:
        raise UsageError("late interaction trains in one process; start trainer fit without torchrun")
    if state.num_processes > 1:
        freeze_unused(model)
    checkpoints = Checkpoints(place_of(output).beside(".checkpoints"), _identity(store.keys, config))
    checkpoints.check()
    try:
        with disk_errors(f"{output} was not trained, its checkpoints are kept"):
            stages = tuple(_run_stages(model, training_sets, checkpoints, dev=dev))
        if state.is_main_process:
            merge_adapters(model)
            texts = store.labels["train"]["query"][:SAMPLE].to_pylist()
            refuse_unusable(model, texts, [store.passages.at(row) for row in store.labelled[:SAMPLE].tolist()])
    except DiskError:
        if state.is_main_process:
            checkpoints.drop_unfinished()
        raise
    except LabelkitError:  # resuming would fail in the same way
        if state.is_main_process:
            checkpoints.remove()
        raise
    if state.is_main_process:
        with folders.writing(output, KIND, command) as draft:
            _write_model(
                draft,
                name_of(output),
                model,
                dataset=dataset,
                config=config,
                stages=stages,
                store=store,
                evaluation=measure,
            )
            write_training_queries(draft.path, training_sets)
            if (checkpoints.folder / "logs").is_dir():
                shutil.copytree(checkpoints.folder / "logs", draft.path / "logs")
        checkpoints.remove()
    return FitReport(stages)


def _run_stages(
    model: Model, training_sets: Sequence[TrainingSet], checkpoints: Checkpoints, dev: Dev | None
) -> Iterator[StageReport]:
    """Train the model in place, stage by stage, and yield the report of each.

    Epochs are numbered across stages, so that every stage draws different passages.
    """
    epoch = 0
    for number, training_set in enumerate(training_sets, start=1):
        yield _run_stage(
            number,
            model,
            training_set,
            checkpoints=checkpoints,
            dev=dev,
            first_epoch=epoch,
            several=len(training_sets) > 1,
        )
        steps_an_epoch = math.ceil(len(training_set) / training_set.config.batch_size)
        epoch += math.ceil(steps_of(training_set.config, len(training_set)) / steps_an_epoch)


def _run_stage(
    number: int,
    model: Model,
    training_set: TrainingSet,
    checkpoints: Checkpoints,
    dev: Dev | None,
    first_epoch: int,
    *,
    several: bool,
) -> StageReport:
    """Train one stage of the model in place, or load the weights of a stage that was finished before."""
    done = checkpoints.report(number)
    if done is not None:
        read_weights(checkpoints.weights(number), model)
        return StageReport(**done)
    config, place = training_set.config, Place(checkpoints, number)
    main = processes().is_main_process
    with (
        warnings.catch_warnings(),
        logging_to(checkpoints.folder / "logs" / f"stage-{number}", config),
        without_padding(model, config) as packing,
    ):
        # torch 2.13 has renamed this argument, and transformers still uses the old name.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        trainer = GroupTrainer(
            model,
            training_set,
            config,
            collator=make_collator(model, training_set, packing),
            place=place,
            dev=dev,
            first_epoch=first_epoch,
        )
        newest = broadcast_object_list([checkpoints.newest(number) if main else None])[0]
        if newest is not None and main:
            log.info(f"stage {number} resumes from step {step_of(newest)}")
        start, before = time.perf_counter(), fingerprint(model)
        try:
            outcome = trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        except UnpicklingError:
            raise ArtifactError(
                f"{newest} contains other objects than tensors and was not written by trainer; remove it"
            ) from None
        finally:
            trainer.progress.close()
        tokens = int(trainer.multi_positive.tokens)  # waits for the device
        seconds = time.perf_counter() - start
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    refuse_nonfinite(model, f"after step {outcome.global_step} of stage {number}")
    trainer.learning.check(before, history)
    report = StageReport(
        steps=outcome.global_step,
        seconds=seconds,
        idle_share=trainer.waited / seconds,
        losses=[{key: value for key, value in entry.items() if key != "epoch"} for entry in history],
        counts=training_set.counts,
        dev=trainer.load_best(),
        tokens=tokens,
        operations=tokens * operations_per_token(model),
    )
    if several and main:
        checkpoints.finish_stage(number, model, asdict(report))
    return report


def make_collator(model: Model, training_set: TrainingSet, packing: Packing | None = None) -> Collator | PairCollator:
    """Make the collator of a training set, with cached tokens if they are used often enough to save time."""
    config, store = training_set.config, training_set.store
    if not isinstance(model, Encoder):
        return PairCollator(
            model.preprocess,
            training_set.passages,
            config.max_passage_length,
            prompt=prompt_of(model),
            longest=model.max_seq_length,
        )
    plain = Collator(
        model.preprocess,
        training_set.passages,
        query_prompt=prompt_of(model, "query"),
        passage_prompt=prompt_of(model, "document", "passage", "corpus"),
        max_query_length=config.max_query_length,
        max_passage_length=config.max_passage_length,
        longest=model.max_seq_length,
        packing=packing,
    )
    drawn = steps_of(config, len(training_set)) * config.batch_size * config.group_size
    if not config.cache_tokens or not store.keys or drawn < len(store.labelled):
        return plain
    named = f"{sorted(store.keys.values())} {model.max_seq_length}"
    limits = (config.max_query_length or model.max_seq_length, config.max_passage_length or model.max_seq_length)
    queries = Reading(plain.query_text_tokens, model.tokenizer, plain.query_prompt, length=limits[0])
    passages = Reading(plain.passage_text_tokens, model.tokenizer, plain.passage_prompt, length=limits[1])
    return replace(
        plain,
        cached_queries=token_cache(query_texts(store), queries, key=f"queries {named} {queries[2:]}"),
        cached=token_cache(passage_texts(store), passages, key=f"passages {named} {passages[2:]}"),
    )


def without_padding(model: Model, config: FitConfig) -> AbstractContextManager[Packing | None]:
    """Have a model on a GPU read batches without padding during a stage. A compiled one gets padded batches, whose
    shapes repeat, and so do other architectures than dense encoders.
    """
    if model.device.type != "cuda" or config.compile or not isinstance(model, SentenceTransformer):
        return nullcontext()
    return unpadded(model, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision))


@contextmanager
def logging_to(folder: Path, config: FitConfig) -> Iterator[None]:
    """Set the folder of TensorBoard's files in the environment, from which transformers reads it."""
    before = os.environ.get(TENSORBOARD)
    if "tensorboard" in config.log_to:
        os.environ[TENSORBOARD] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(TENSORBOARD, None)
        if before is not None:
            os.environ[TENSORBOARD] = before


def _check_loggers(config: FitConfig) -> None:
    """Raise `MissingPackageError` for a tracker in `log_to` whose package is not installed."""
    for name in config.log_to:
        if find_spec(LOGGERS[name]) is None:
            raise MissingPackageError(LOGGERS[name], name)


def inputs_of(store: Store, dataset: Path, config: FitConfig) -> dict[str, str]:
    """Map the paths of the dataset and the pool, as given by the user, to the sha256 of their manifests."""
    paths = {"dataset": dataset, "pool": config.pool}
    return {str(paths[name]): key for name, key in store.keys.items()}


def _identity(keys: Mapping[str, str], config: FitConfig) -> dict[str, Any]:
    """Collect the settings, inputs and package versions that determine the result of a run."""
    return {
        **config.model_dump(mode="json", exclude=set(HARMLESS)),
        **keys,
        "processes": processes().num_processes,
        **{package: version(package) for package in PACKAGES},
    }


def _write_model(
    draft: folders.Draft,
    name: str,
    model: Model,
    dataset: Path,
    config: FitConfig,
    stages: Sequence[StageReport],
    store: Store,
    evaluation: Measure | None,
) -> None:
    """Write the weights, the card and the facts of the finished model."""
    model.save_pretrained(str(draft.path), create_model_card=False)
    result = evaluation(model) if evaluation is not None else None
    draft.inputs |= inputs_of(store, dataset, config)
    draft.facts = ModelFacts(
        config=config.model_dump(mode="json"),
        packages={package: version(package) for package in PACKAGES},
        stages=tuple(asdict(stage) for stage in stages),
        evaluation=result.to_json() if result is not None else None,
    )
    assert store.manifest is not None
    card = model_card(
        name, config, draft.command, dataset=str(dataset), manifest=store.manifest, stages=stages, evaluation=result
    )
    write_text(draft.path / "README.md", blot(card))
