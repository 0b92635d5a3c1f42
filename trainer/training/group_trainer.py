"""Run sentence-transformers' trainer for one stage, on groups instead of columns of text."""

import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import broadcast_object_list
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from labelkit.errors import LabelkitError
from labelkit.records import MINED
from labelkit.storage import folders
from labelkit.storage.atomic import write_text
from labelkit.storage.manifest import CHECKPOINT, Facts
from trainer.config.fit_config import TEMPERATURE_RATE, FitConfig
from trainer.data.batch_order import BatchOrder
from trainer.data.collate import Collator, PairCollator
from trainer.data.training_sets import TrainingSet
from trainer.objectives import loss
from trainer.objectives.losses import make_loss
from trainer.objectives.vector_loss import SparseLoss
from trainer.training import checkpoints as kept
from trainer.training.dev import Dev
from trainer.training.encoder import Model
from trainer.training.soundness import LOWER, Learning

GPU_WORKERS = 2
"""Processes that prepare batches for a GPU: drawing and padding a batch takes longer than a small encoder's step."""
GPU_LOG_GAP = 5
"""Steps between logged losses on a GPU at least: each waits for the GPU, which then waits for the next step."""
LOGGED_POINTS = 100
"""Approximate number of logged losses per stage."""


@dataclass(frozen=True)
class Place:
    """The checkpoint folder of a stage."""

    checkpoints: kept.Checkpoints
    number: int

    @property
    def folder(self) -> Path:
        """Folder with the checkpoints of the stage."""
        return self.checkpoints.stage(self.number)


class GroupTrainer(SentenceTransformerTrainer):
    """Trainer of one stage with its groups, schedule and checkpoints."""

    def __init__(
        self,
        model: Model,
        training_set: TrainingSet,
        config: FitConfig,
        collator: Collator | PairCollator,
        place: Place,
        dev: Dev | None,
        first_epoch: int = 0,
    ) -> None:
        self.training_set = training_set
        state = processes()
        gpu = state.device.type == "cuda"
        self.workers = (GPU_WORKERS if gpu else 0) if config.workers is None else config.workers
        self.order = BatchOrder(
            training_set.keys,
            config.batch_size,
            config.seed,
            first_epoch=first_epoch,
            process=state.process_index,
            processes=state.num_processes,
        )
        self.multi_positive = make_loss(model, config)
        self.epoch_iterator: Any = None
        self.waited = 0.0
        """Seconds in which the training waited for a batch."""
        self.learning = Learning(self.multi_positive)
        self.dev = DevCheck(dev, config, place, steps_an_epoch=len(self.order)) if dev is not None else None
        self.progress = ProgressLine(f"stage {place.number}" if place.number > 1 else None)
        groups: Any = training_set
        untyped: Any = collator
        either: Any = model
        super().__init__(
            model=either,
            args=_arguments(config, len(training_set), place),
            train_dataset=groups,
            data_collator=untyped,
            loss=self.multi_positive,
            callbacks=[
                self.progress,
                Watch(self.multi_positive, tuple(name for name in training_set.selected if name != MINED)),
                self.learning,
                *([FlopsRamp(self.multi_positive)] if isinstance(self.multi_positive, SparseLoss) else []),
                *([self.dev] if self.dev is not None else []),
                Saver(config.checkpoint_minutes, place),
            ],
        )
        self.remove_callback(PrinterCallback)

    def preprocess_dataset(self, dataset: Any = None, dataset_name: str | None = None) -> Any:
        """Return the dataset unchanged, because groups have no columns to prepare."""
        return dataset

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Skip the stock model card, whose statistics need columns of text; `model_card` writes ours."""

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """List the parameters with weight decay, without the temperature and the bias, which decay would change."""
        names: list[str] = super().get_decay_parameter_names(model)
        return [name for name in names if name not in loss.SCALARS]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Make the loader of this process's part of the batches, in the order of `BatchOrder`."""
        loader: DataLoader[Any] = DataLoader(
            self.training_set,
            batch_sampler=self.order,
            collate_fn=self.data_collator,
            num_workers=self.workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.workers > 0,
            generator=torch.Generator() if self.workers else None,  # see get_batch_samples
        )
        # BatchOrder has already split each batch among the processes.
        prepared: DataLoader[Any] = prepare_data_loader(
            loader,
            self.args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            non_blocking=self.args.dataloader_pin_memory,  # or each copy would wait for the step before
        )
        return prepared

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Get the next batches, and add the waiting time to `waited`."""
        if self.workers and epoch_iterator is not self.epoch_iterator:
            # A loader without workers draws a number from the default generator in each epoch. So that dropout is the
            # same for any number of workers, it is drawn here for those that stay from epoch to epoch.
            self.epoch_iterator = epoch_iterator
            torch.empty((), dtype=torch.int64).random_()
        start = time.perf_counter()
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.waited += time.perf_counter() - start
        return batches

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of the loss module to a logged loss. Raises `LabelkitError` for a loss that is not finite."""
        loss_now = logs.get("loss", logs.get("train_loss", 0.0))
        if not math.isfinite(loss_now):
            raise LabelkitError(f"the loss is {loss_now} at step {self.state.global_step}; {LOWER}")
        if "loss" in logs:
            means = self.accelerator.reduce(torch.stack(self.multi_positive.logged).mean(dim=0), "mean")
            logs = logs | dict(zip(loss.LOGGED, means.tolist(), strict=True)) | self.multi_positive.figures
            self.multi_positive.logged.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the weights, the temperature and the bias, which are all that a stage changes."""
        facts = {name: repr(getattr(self.multi_positive, name).item()) for name in loss.SCALARS}
        facts |= {"moved": "yes" if self.learning.moved else ""}
        kept.write_weights(Path(str(output_dir)) / kept.WEIGHTS, self.model, facts)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        facts = kept.read_weights(Path(resume_from_checkpoint) / kept.WEIGHTS, self.model)
        for name in loss.SCALARS:
            getattr(self.multi_positive, name).data.fill_(float(facts[name]))
        self.learning.moved = bool(facts["moved"])

    def load_best(self) -> list[dict[str, float]]:
        """Load the weights that were best on the dev set, if there is one, and return all its measurements."""
        if self.dev is None:
            return []
        kept.read_weights(self.dev.best, self.model)
        return self.dev.values


class Watch(TrainerCallback):
    """Callback that enables the figures of each source of labels for the last batch before a logged point."""

    def __init__(self, module: loss.MultiPositiveLoss, sources: tuple[str, ...]) -> None:
        self.module = module
        several = len(sources) > 1 and module.objective.reads == "positives"
        self.sources = sources if several else ()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = (state.global_step + 1) % args.logging_steps == 0
        self.module.watched = self.sources if due else ()


class FlopsRamp(TrainerCallback):
    """Callback that raises the weights of the FLOPS regulariser quadratically in the first third of a stage, as SPLADE.

    With the full weights from the first step, all words of a new model may become 0, and nothing is learnt.
    """

    def __init__(self, module: SparseLoss) -> None:
        self.module = module

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.module.flops_share = min(1.0, 3 * (state.global_step + 1) / state.max_steps) ** 2


class DevCheck(TrainerCallback):
    """Callback that measures every epoch on the dev set, keeps the best weights, and stops a stage that no longer
    improves.
    """

    def __init__(self, dev: Dev, config: FitConfig, place: Place, steps_an_epoch: int) -> None:
        self.dev = dev
        self.patience = config.patience
        self.place = place
        self.every = steps_an_epoch
        self.values: list[dict[str, float]] = []

    @property
    def path(self) -> Path:
        """File with all measurements so far."""
        return self.place.folder / "dev.json"

    @property
    def best(self) -> Path:
        """File with the best weights."""
        return self.place.folder / "best.safetensors"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step and self.path.is_file():
            known = json.loads(self.path.read_text(encoding="utf-8"))
            self.values = [value for value in known if value["step"] <= state.global_step]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Measured at the last step of an epoch: on_epoch_end would come after the checkpoint of that step.
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        best = max((value["value"] for value in self.values), default=-math.inf)
        value = broadcast_object_list([self.dev(kwargs["model"]) if state.is_world_process_zero else 0.0])[0]
        self.values.append({"step": state.global_step, "value": value})
        if state.is_world_process_zero:
            self.place.checkpoints.prepare()
            if value > best:
                kept.write_weights(self.best, kwargs["model"], {})
            write_text(self.path, json.dumps(self.values))
        order = [value["value"] for value in self.values]
        since = len(order) - 1 - order.index(max(order))
        if self.patience is not None and since >= self.patience:
            control.should_training_stop = True


class Saver(TrainerCallback):
    """Callback that saves a checkpoint every N minutes.

    A checkpoint is taken only at a step whose loss has just been logged, because checkpoints do not contain the partial
    sums between two logged points.
    """

    def __init__(self, minutes: float, place: Place) -> None:
        self.seconds = 60 * minutes
        self.place = place

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.logging_steps:
            return
        due = time.monotonic() - self.last >= self.seconds and state.global_step < state.max_steps
        control.should_save = broadcast_object_list([due])[0]
        if control.should_save:
            self.last = time.monotonic()
            if state.is_world_process_zero:
                self.place.checkpoints.prepare()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            folder = self.place.folder / f"checkpoint-{state.global_step}"
            folders.write_manifest(folder, CHECKPOINT, "trainer fit", inputs={}, rows={}, facts=Facts())


class ProgressLine(TrainerCallback):
    """Callback that shows step, remaining time and loss on standard error; the stock bar uses standard output."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.bar = tqdm(disable=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        silent = not state.is_world_process_zero
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.name,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=True,
            disable=silent,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}", masked=f"{logs['masked_share']:.1%}")

    def close(self) -> None:
        """Finish the progress line, so that the next message starts on a new line."""
        self.bar.close()


def processes() -> PartialState:
    """Return the state of the processes that `torchrun` or `accelerate launch` started, or of the only process."""
    return PartialState(cpu=_share_the_cpu())


def _share_the_cpu() -> bool:
    """Check for several processes without CUDA. Unless accelerate is told, each of them would train separately."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()


def steps_of(config: FitConfig, queries: int) -> int:
    """Compute the number of steps of a stage."""
    return config.max_steps or (config.epochs or 1) * math.ceil(queries / config.batch_size)


def _arguments(config: FitConfig, queries: int, place: Place) -> SentenceTransformerTrainingArguments:
    """Convert the settings of a stage to sentence-transformers' arguments."""
    steps = steps_of(config, queries)
    gpu = processes().device.type == "cuda"
    return SentenceTransformerTrainingArguments(
        output_dir=str(place.folder.absolute()),  # a `~` in it would be expanded
        max_steps=steps,
        use_cpu=processes().device.type == "cpu",
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        gradient_checkpointing=config.gradient_checkpointing,
        torch_compile=config.compile,
        ddp_broadcast_buffers=False,  # processes embed different numbers of mini-batches
        ddp_find_unused_parameters=False,
        dataloader_drop_last=processes().num_processes > 1,  # required; BatchOrder leaves no incomplete batch
        learning_rate_mapping=dict.fromkeys(loss.SCALARS, config.learning_rate * TEMPERATURE_RATE),
        per_device_train_batch_size=config.batch_size,
        optim="adamw_torch_fused",
        learning_rate=config.learning_rate,
        warmup_steps=min(math.ceil(config.warmup_ratio * steps), steps - 1),  # the first step has learning rate 0
        weight_decay=config.weight_decay,
        seed=config.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="no",  # see Saver
        save_total_limit=2,
        report_to=list(config.log_to) or "none",
        disable_tqdm=True,  # its bar prints losses to standard output; see ProgressLine
        logging_strategy="steps",
        logging_steps=max(min(GPU_LOG_GAP, steps) if gpu else 1, steps // LOGGED_POINTS),
        logging_nan_inf_filter=False,
    )
