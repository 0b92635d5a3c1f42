"""One training run: a dataset and a `FitConfig` become a model folder.

The run is sentence-transformers' trainer with three things of our own: the data loader (groups drawn for the
epoch), the loss (`trainer.loss`), and the progress line. The result is an ordinary sentence-transformers folder
with a manifest. Started by `torchrun` or `accelerate launch`, the processes share each batch and compute what one
process would.
"""

import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.util import batch_to_device
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from labelkit import artifact
from labelkit.dataset import read_dataset
from labelkit.errors import LabelkitError, UsageError
from trainer import loss
from trainer.config import TEMPERATURE_RATE, FitConfig
from trainer.data import BatchOrder, Collator, TrainingSet
from trainer.evaluate import load_model

KIND = "model"
LOGGED_POINTS = 100
"""Losses kept in the manifest, about."""
LOGGED = ("step", "loss", *loss.LOGGED)
"""What such a point holds: means since the point before."""
PACKAGES = ("torch", "transformers", "sentence-transformers", "numpy")
"""Packages whose versions the manifest names."""


@dataclass(frozen=True)
class FitReport:
    """What a run did, in numbers."""

    steps: int
    seconds: float
    losses: tuple[dict[str, float], ...]
    """Points of `LOGGED`."""
    counts: dict[str, int]

    def loss_at_ends(self) -> tuple[float, float]:
        """Mean loss over the first and over the last fifth of the points: single batches differ too much."""
        losses = [point["loss"] for point in self.losses]
        fifth = math.ceil(len(losses) / 5)
        return sum(losses[:fifth]) / fifth, sum(losses[-fifth:]) / fifth


def fit(dataset: Path, output: Path, config: FitConfig, command: str) -> FitReport:
    """Train `config.model` on the dataset folder and write the model to `output`.

    Raises `ArtifactError` for a dataset that is not whole or an output that stands in the way, `DataError`
    for one without positives, `UsageError` for settings that the model cannot follow. `command` is what the
    manifest says was run.
    """
    with _written_once(output, command) as draft:
        training_set = TrainingSet(read_dataset(dataset), config)
        set_seed(config.seed)  # before loading: a model may bring layers that start at random
        model = load_model(config.model)
        check_model(model, config)
        model.similarity_fn_name = config.similarity
        report = train(model, training_set, config)
        if draft is None:
            return report
        model.save_pretrained(str(draft.path), create_model_card=False)
        artifact.write_text(draft.path / "README.md", model_card(output.name, config, report))
        draft.inputs[str(dataset)] = artifact.file_sha256(dataset / artifact.MANIFEST)
        draft.facts |= {
            "config": config.model_dump(),
            "packages": {package: version(package) for package in PACKAGES},
            "counts": report.counts,
            "steps": report.steps,
            "losses": list(report.losses),
        }
    return report


@contextmanager
def _written_once(output: Path, command: str) -> Iterator[artifact.Draft | None]:
    """The draft of the output on the first process, None on the others."""
    if not processes().is_main_process:
        yield None
        return
    with artifact.writing(output, KIND, command) as draft:
        yield draft


def processes() -> PartialState:
    """The processes that `torchrun` or `accelerate launch` started, or the only one."""
    return PartialState(cpu=_share_the_cpu())


def _share_the_cpu() -> bool:
    """Several processes without CUDA: accelerate must be told, or each would train for itself."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()


def freeze_unused(model: SentenceTransformer) -> None:
    """Freeze what no embedding depends on, such as BERT's pooler under mean pooling: processes would wait for its
    gradients for ever.
    """
    features = batch_to_device(model.preprocess(["text"]), model.device)
    torch.autograd.backward(model(features)["sentence_embedding"].sum())
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None


def check_model(model: SentenceTransformer, config: FitConfig) -> None:
    """Raise `UsageError` where the model cannot do what the settings ask."""
    limit = model.max_seq_length
    for name in ("max_query_length", "max_passage_length"):
        wanted = getattr(config, name)
        if wanted is not None and not isinstance(model[0], Transformer):
            raise UsageError(f"{config.model} is no transformer and has no length to limit; remove {name}")
        if wanted is not None and limit is not None and wanted > limit:
            raise UsageError(f"{name} {wanted} is more than the {limit} tokens that {config.model} reads; lower it")
    normalises = any(isinstance(module, Normalize) for module in model)
    if normalises and config.similarity == "dot" and config.temperature == 1.0:
        raise UsageError(
            f"{config.model} normalises its embeddings: dot products lie between -1 and 1, and temperature 1 "
            "flattens them; set similarity to cosine or temperature to 0.05"
        )


def model_card(name: str, config: FitConfig, report: FitReport) -> str:
    """README.md of the model folder: what it is, how to use it, how it was made."""
    base = "" if Path(config.model).exists() else f"base_model: {config.model}\n"
    trained_on = report.counts["queries"] - report.counts["queries_without_positives"]
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, dense-retrieval, multi-positive, {config.objective}]
{base}---

# {name}

A dense retriever, fine-tuned from `{config.model}` with the objective `{config.objective}` on {trained_on:,}
queries in {report.steps:,} steps. Settings, counts, package versions, losses and the dataset's checksum stand
in `manifest.json`.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
scores = model.similarity(model.encode_query(["a query"]), model.encode_document(["a passage"]))
```
"""


class GroupTrainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer on groups instead of columns of text."""

    def __init__(self, model: SentenceTransformer, training_set: TrainingSet, config: FitConfig, scratch: str):
        self.training_set = training_set
        state = processes()
        self.order = BatchOrder(
            training_set.queries, config.batch_size, config.seed, state.process_index, state.num_processes
        )
        self.multi_positive = loss.MultiPositiveLoss(model, config)
        collator: Any = Collator(
            model.preprocess,
            training_set.passages,
            query_prompt=_prompt(model, "query"),
            passage_prompt=_prompt(model, "document", "passage", "corpus"),
            max_query_length=config.max_query_length,
            max_passage_length=config.max_passage_length,
        )
        groups: Any = training_set
        super().__init__(
            model=model,
            args=_arguments(config, len(self.order), scratch),
            train_dataset=groups,
            data_collator=collator,
            loss=self.multi_positive,
            callbacks=[ProgressLine()],
        )
        self.remove_callback(PrinterCallback)

    def preprocess_dataset(self, dataset: Any = None, dataset_name: str | None = None) -> Any:
        """Groups have no columns to look at."""
        return dataset

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Its statistics want columns of text; what was trained on stands in the manifest."""

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Weight decay would pull a learnt temperature towards 1."""
        names: list[str] = super().get_decay_parameter_names(model)
        return [name for name in names if name != "log_temperature"]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's part of the batches; their indices carry the epoch, the seed decides their order."""
        loader: DataLoader[Any] = DataLoader(
            self.training_set,
            batch_sampler=self.order,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        # The order has cut each batch into the parts of the processes already.
        prepared: DataLoader[Any] = prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True
        )
        return prepared

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss module's own figures to a logged loss; stop a run that has diverged."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise LabelkitError(
                    f"the loss is {logs['loss']} at step {self.state.global_step}; "
                    "lower learning_rate or raise temperature"
                )
            means = self.accelerator.reduce(torch.stack(self.multi_positive.logged).mean(dim=0), "mean")
            logs = logs | dict(zip(loss.LOGGED, means.tolist(), strict=True))
            self.multi_positive.logged.clear()
        super().log(logs, start_time)


class ProgressLine(TrainerCallback):
    """Step, time left and loss on standard error; the stock bar writes its losses to standard output."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        silent = not state.is_world_process_zero
        self.bar = tqdm(total=state.max_steps, unit="step", file=sys.stderr, dynamic_ncols=True, disable=silent)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}", masked=f"{logs['masked_share']:.1%}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def train(model: SentenceTransformer, training_set: TrainingSet, config: FitConfig) -> FitReport:
    """Train the model in place."""
    if processes().num_processes > 1:
        freeze_unused(model)
    with tempfile.TemporaryDirectory(prefix="trainer-fit-") as scratch, warnings.catch_warnings():
        # torch 2.13 has another name for it, which transformers does not use yet.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        trainer = GroupTrainer(model, training_set, config, scratch)
        outcome = trainer.train()
    history = trainer.state.log_history
    points = [{key: entry[key] for key in LOGGED} for entry in history if "loss" in entry]
    return FitReport(outcome.global_step, outcome.metrics["train_runtime"], tuple(points), training_set.counts)


def _prompt(model: SentenceTransformer, *names: str) -> str | None:
    """The prompt that `encode_query` or `encode_document` puts before a text."""
    known = [name for name in (*names, model.default_prompt_name) if name in model.prompts]
    return model.prompts[known[0]] if known else None


def _arguments(config: FitConfig, steps_an_epoch: int, scratch: str) -> SentenceTransformerTrainingArguments:
    steps = config.max_steps or (config.epochs or 1) * steps_an_epoch
    return SentenceTransformerTrainingArguments(
        output_dir=scratch,
        max_steps=steps,
        use_cpu=_share_the_cpu(),
        ddp_broadcast_buffers=False,  # processes embed in different numbers of mini-batches
        ddp_find_unused_parameters=False,
        dataloader_drop_last=processes().num_processes > 1,  # the trainer insists; BatchOrder leaves nothing to drop
        learning_rate_mapping=(
            {"log_temperature": config.learning_rate * TEMPERATURE_RATE} if config.learn_temperature else {}
        ),
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=math.ceil(config.warmup_ratio * steps),
        weight_decay=config.weight_decay,
        seed=config.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,  # its bar prints losses to standard output; see ProgressLine
        logging_strategy="steps",
        logging_steps=max(1, steps // LOGGED_POINTS),
        logging_nan_inf_filter=False,
    )
