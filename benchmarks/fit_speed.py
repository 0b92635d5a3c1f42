"""Compare `trainer fit` with a sentence-transformers script, on the same model, groups, lengths and steps.

    python benchmarks/training_data.py SCIFACT CRANFIELD CISI CACM LLMJUDGE -o groups.jsonl
    python benchmarks/fit_speed.py MINILM groups.jsonl [--shape minilm bert-base qwen3-0.6b] [--case real equal]
        [--device cuda] [--precision bf16] [--batch 64] [--steps 60] [--rounds 3] [--length 256] [--gradient-cache]

There are two cases. In `real`, queries share passages and lengths vary; in `equal`, all passages are different and
have the same length, so that neither duplicates nor padding can be saved. A run includes everything from loading the
model and the dataset to saving the trained model, with an empty cache; each side prepares tokens with its defaults. The
peer is the script of sentence-transformers' documentation for MultipleNegativesRankingLoss, with its default options
except for those in the table. After a first round that only warms up, the two take turns. Prints medians and their
ratio. On a GPU it also prints how busy the GPU was during the training loop, by nvidia-smi and, with --profile, by the
profiler's kernel times.
"""

import argparse
import gc
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from datasets import Dataset
from device_use import Utilisation, kernel_share
from results import add_options, record
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from training_data import (
    NEGATIVES,
    Groups,
    add_model_options,
    equal_groups,
    model_folder,
    read_groups,
    write_groups,
)

from trainer.config.fit_config import FitConfig
from trainer.training.fit import fit
from trainer.training.work import gpu_peak

LORA = {"qwen3-0.6b": 16}
"""Shape -> rank of the adapters that are trained instead of all weights."""
WARMUP_STEPS = 3


class Run(NamedTuple):
    """The measurement of one run."""

    seconds: float
    """Seconds from loading the model to saving it."""
    cpu: float
    """Processor seconds of all threads in that time, which depend less on other programs."""
    loop: float
    """Seconds in the training loop."""
    loss: float
    """Mean loss over the steps."""
    busy: float | None
    """Share of the loop in which the GPU was busy, by nvidia-smi; None on a CPU."""
    operations: float
    """Floating-point operations of the tokens; 0 if unknown."""


class Work(NamedTuple):
    """Model and data that both sides train with."""

    model: Path
    shape: str
    groups: Groups
    dataset: Path
    scratch: Path


def main() -> None:
    """Time both on every model and case."""
    given = parse()
    peers = ("ours", "peer")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for shape, case in itertools.product(given.shape, given.case):
            work = prepare(shape, case, given, scratch)
            runs: dict[str, list[Run]] = {who: [] for who in peers}
            for number in range(given.rounds + 1):
                for who in peers:
                    steps = given.steps if number else WARMUP_STEPS
                    run = one_run(who, work, given, steps)
                    if number:
                        runs[who].append(run)
            report(shape, case, work, runs=runs, given=given)
            if given.profile and given.device.startswith("cuda"):
                profiled(work, given)


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description="trainer fit against a sentence-transformers script.")
    add_model_options(parser)
    parser.add_argument("--case", nargs="+", default=["real", "equal"], choices=["real", "equal"])
    parser.add_argument("--batch", type=int, default=16, help="queries per step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--gradient-cache", action="store_true")
    parser.add_argument("--profile", action="store_true")
    add_options(parser)
    return parser.parse_args()


def prepare(shape: str, case: str, given: argparse.Namespace, scratch: Path) -> Work:
    """Make the model and the dataset, once each."""
    model = model_folder(shape, given.model, scratch, given.device)
    count = given.batch * given.steps
    groups = read_groups(given.groups, count) if case == "real" else equal_groups(count, given.length)
    dataset = scratch / "datasets" / case
    if not dataset.is_dir():
        dataset.parent.mkdir(exist_ok=True)
        write_groups(groups, dataset)
    return Work(model, shape, groups, dataset, scratch)


def one_run(who: str, work: Work, given: argparse.Namespace, steps: int) -> Run:
    """Train once with an empty cache, and measure."""
    output, cache = work.scratch / "trained", work.scratch / "cache"
    for old in (output, cache):
        shutil.rmtree(old, ignore_errors=True)
    gc.collect()
    if given.device.startswith("cuda"):
        torch.cuda.empty_cache()
    train = our_fit if who == "ours" else peer_fit
    with patch.dict(os.environ, {"LABELKIT_CACHE": str(cache)}), timed_loop(given.device) as loop:
        start, before = time.perf_counter(), time.process_time()
        loss, operations = train(work, given, steps, output)
        seconds, cpu = time.perf_counter() - start, time.process_time() - before
    print(f"{work.shape}, {who}: {seconds:.2f} s, {loop.seconds:.2f} s in the loop, loss {loss:.4f}", flush=True)
    return Run(seconds, cpu, loop.seconds, loss, loop.busy, operations)


def our_fit(work: Work, given: argparse.Namespace, steps: int, output: Path) -> tuple[float, float]:
    """Call `trainer fit` as the command does; mean loss and operations."""
    config = FitConfig(
        model=str(work.model),
        objective="singlelh",
        max_steps=steps,
        batch_size=given.batch,
        group_size=NEGATIVES + 1,
        max_positives=1,
        max_query_length=64,
        max_passage_length=given.length,
        precision=given.precision,
        gradient_cache=given.gradient_cache,
        lora_rank=LORA.get(work.shape),
    )
    done = fit(work.dataset, output, config, command="benchmarks/fit_speed.py").stages[0]
    return statistics.mean(point["loss"] for point in done.losses), done.operations


def peer_fit(work: Work, given: argparse.Namespace, steps: int, output: Path) -> tuple[float, float]:
    """Run the script of sentence-transformers' training overview."""
    model = SentenceTransformer(str(work.model), device=given.device)
    model.max_seq_length = given.length
    if rank := LORA.get(work.shape):
        from peft import LoraConfig, TaskType

        model.add_adapter(LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=rank, target_modules="all-linear"))
    texts = work.groups.passages
    columns = {"anchor": work.groups.queries} | {
        f"passage_{place}": [texts[members[place]] for members in work.groups.members] for place in range(NEGATIVES + 1)
    }
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work.scratch / "peer"),
        max_steps=steps,
        per_device_train_batch_size=given.batch,
        learning_rate=2e-5,
        warmup_steps=steps // 10,
        bf16=given.precision == "bf16",
        use_cpu=given.device == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    kind: Any = CachedMultipleNegativesRankingLoss if given.gradient_cache else MultipleNegativesRankingLoss
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=kind(model)
    )
    outcome = trainer.train()
    model.save_pretrained(str(output))
    return outcome.training_loss, 0.0


class Loop:
    """Seconds of a training loop, and how busy the GPU was in it."""

    seconds = 0.0
    busy: float | None = None


@contextmanager
def timed_loop(device: str) -> Iterator[Loop]:
    """Time `train` of sentence-transformers' trainer, which both sides run."""
    plain: Callable[..., Any] = SentenceTransformerTrainer.train
    found = Loop()

    def train(self: Any, *given: Any, **more: Any) -> Any:
        with Utilisation(device) as use:
            start = time.perf_counter()
            outcome = plain(self, *given, **more)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            found.seconds = time.perf_counter() - start
        found.busy = use.mean()
        return outcome

    with patch.object(SentenceTransformerTrainer, "train", train):
        yield found


def report(shape: str, case: str, work: Work, runs: dict[str, list[Run]], given: argparse.Namespace) -> None:
    """Print and append one table."""
    texts = given.batch * given.steps * (NEGATIVES + 2)
    whole, loop = (
        {who: statistics.median(getattr(run, what) for run in each) for who, each in runs.items()}
        for what in ("seconds", "loop")
    )
    cpu = {who: statistics.median(run.cpu for run in each) for who, each in runs.items()}
    rows = []
    for who, each in runs.items():
        busy = [run.busy for run in each if run.busy is not None]
        rate = statistics.median(run.operations for run in each) / loop[who]
        peak = gpu_peak()
        used = f"{rate / 1e12:.3g} TFLOP/s" + (f" ({rate / peak:.1%})" if peak else "") if rate else "-"
        all_seconds = " ".join(f"{run.seconds:.2f}" for run in each)
        rows.append(
            (
                who,
                all_seconds,
                texts / loop[who],
                f"{statistics.median(busy):.0%}" if busy else "-",
                used,
                statistics.median(run.loss for run in each),
            )
        )
    cached = ", gradient cache" if given.gradient_cache else ""
    lora = f", LoRA {LORA[shape]}" if shape in LORA else ""
    record(
        f"`trainer fit` and sentence-transformers: {shape}{lora}, {case} lengths{cached}",
        ("who", "seconds of the command", "texts per second in the loop", "GPU busy", "model FLOP", "loss"),
        rows,
        given,
        notes=[
            f"{given.steps} steps of {given.batch} queries x {NEGATIVES + 1} passages of at most {given.length} tokens "
            f"in {given.precision}; {len(work.groups.passages):,} different passages.",
            f"Speed of the whole command {whole['peer'] / whole['ours']:.2f} times the peer's, of the training loop "
            f"{loop['peer'] / loop['ours']:.2f} times. The peer takes {cpu['peer'] / cpu['ours']:.2f} times the CPU "
            "seconds.",
        ],
    )


def profiled(work: Work, given: argparse.Namespace) -> None:
    """Train once more under the profiler and append the share of the loop in which a kernel ran."""
    shares: dict[str, float] = {}
    for who in ("ours", "peer"):
        with kernel_share(SentenceTransformerTrainer) as found:
            one_run(who, work, given, min(given.steps, 20))
        shares[who] = found.share
    record(
        f"GPU busy by the profiler's kernel times: {work.shape}",
        ("who", "share of the time between the first and the last kernel"),
        [(who, f"{share:.1%}") for who, share in shares.items()],
        given,
    )


if __name__ == "__main__":
    main()
