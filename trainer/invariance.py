"""Check on the user's machine that implementation choices do not change the loss and its gradient: `trainer verify`.

A small transformer with random weights embeds ragged random groups in float64. The loss is then computed as in
training, with each of these choices: tiles, mini-batches, gradient cache, another order, additional masked passages,
several processes. The loss and the gradient of every objective must be the same as without that choice.
"""

import contextlib
import multiprocessing
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel

from labelkit.pooling import packing
from trainer.config.fit_config import FitConfig
from trainer.data.batch_order import share_of
from trainer.data.collate import Collator
from trainer.data.training_sets import inert
from trainer.objectives.batch import Batch, Group, Negative, Positive, lay_out, passages_of
from trainer.objectives.contrast import ContrastRules, contrast
from trainer.objectives.loss import SCALARS, MultiPositiveLoss
from trainer.objectives.objectives import OBJECTIVES

EXACT = 1e-10
"""Largest allowed difference in float64 from sums in a different order."""
PROCESSES = {torch.float64: 1e-12, torch.float32: 1e-6}
"""Precision -> largest allowed difference between one and several processes."""
HALF = 1e-5
"""Largest allowed relative error of a log-sum-exp of bfloat16 embeddings with scores in float32."""
WORDS = 50
SAME_TOWER: dict[str, Any] = {"same_tower_negatives": True, "false_negative_margin": None}
"""Settings with negatives of the same tower, which exclude a false-negative margin."""
"""Number of words in the random texts."""


class SelfCheck(NamedTuple):
    """The result of one check."""

    name: str
    what: str
    """The two computations that were compared."""
    difference: float
    """Largest difference of a loss or of an entry of its gradient, over all objectives, relative to the largest entry
    if that is above 1.
    """
    allowed: float
    """Largest allowed difference."""

    @property
    def held(self) -> bool:
        """True for a difference within the allowed one; False for NaN."""
        return self.difference <= self.allowed


class CheckResult(NamedTuple):
    """The loss and the gradient of one computation."""

    loss: Tensor
    """[]: the loss of a batch."""
    gradient: Tensor
    """[N]: the gradients of all parameters, flattened, on the CPU."""

    def differs(self, other: "CheckResult") -> float:
        """Compute the largest difference from another result, as in `SelfCheck.difference`; NaN for a NaN in either."""
        mine, others = (torch.cat([one.loss.reshape(1), one.gradient]) for one in (self, other))
        return float((mine - others).abs().amax() / others.abs().amax().clamp(min=1.0))


def self_check(device: str | None = None) -> Iterator[SelfCheck]:
    """Check on this machine that tiles, caches, masks and processes change no loss and no gradient.

    Args:
        device: cpu, cuda or mps. Default: the accelerator that PyTorch finds, or the CPU. Checks of several processes
            run on the CPU unless there is a GPU for each process.

    Yields:
        The result of each check when it is finished; `held` is False for a difference that is not allowed.
    """
    device = device or default_device()
    threads = torch.get_num_threads()
    # For tiny matrices, several threads are slower than one.
    torch.set_num_threads(1)
    try:
        groups = random_groups(queries=9, passages=40)
        for name, check in CHECKS.items():
            difference, allowed, what = check(groups, torch.device(device))
            yield SelfCheck(name, what, difference=difference, allowed=allowed)
    finally:
        torch.set_num_threads(threads)


def default_device() -> str:
    """Return the name of the accelerator that PyTorch finds, or "cpu"."""
    found = torch.accelerator.current_accelerator()
    return found.type if found else "cpu"


def random_groups(queries: int, passages: int) -> list[Group]:
    """Make ragged groups with shared passages; one query has no positives, another no negatives.

    Texts are sequences of word numbers.
    """
    source = random.Random(0)
    texts = [" ".join(str(source.randrange(WORDS)) for _ in range(source.randrange(1, 12))) for _ in range(passages)]
    groups = []
    for number in range(queries):
        mixed = source.sample(sorted(set(texts)), 14)
        positives = tuple(
            Positive(
                name,
                source.uniform(0.2, 2),
                "llm",
                target=source.uniform(0, 3),
                grade=source.choice([2, 3]),
                probability=source.uniform(0.5, 1),
            )
            for name in mixed[:4]
        )
        negatives = tuple(
            Negative(name, source.uniform(-3, 0), probability=source.uniform(0, 0.5)) for name in mixed[4:7]
        )
        if number % 2:
            negatives += (Negative(mixed[8], grade=1.0, probability=0.4),)
        group = Group(
            f"q{number}",
            " ".join(str(source.randrange(WORDS)) for _ in range(source.randrange(1, 6))),
            positives[: source.randrange(1, 5)] if number else (),
            negatives=negatives if number != 1 else (),
            excluded=frozenset(mixed[:4]) | frozenset(mixed[8:10]),
            judged_negatives=frozenset(mixed[4:7]) | frozenset(mixed[10:12]),
        )
        groups.append(group)
    return groups


class Encoder(nn.Module):
    """A two-layer BERT of width 32 with mean pooling, in float64 and always with the same weights.

    Its embeddings are rounded to `dtype`, because the checks measure the rounding of the loss and not of the encoder.
    """

    def __init__(self, dropout: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        torch.manual_seed(0)
        untyped: Any = BertModel
        self.bert = untyped(
            BertConfig(
                vocab_size=WORDS + 1,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=16,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                pad_token_id=WORDS,
                initializer_range=0.3,
            ),
            add_pooling_layer=False,
        )

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        """Compute `sentence_embedding` [B, 32] from token ids [B, L], or from the token ids of `Packing` [1, T]."""
        if "cu_seq_lens_q" in features:
            return {"sentence_embedding": self._packed(features).to(self.dtype)}
        shown = features["attention_mask"].unsqueeze(-1)
        hidden = self.bert(input_ids=features["input_ids"], attention_mask=features["attention_mask"])[0]
        pooled = (hidden * shown).sum(dim=1) / shown.sum(dim=1)
        return {"sentence_embedding": pooled.to(self.dtype)}

    def _packed(self, features: dict[str, Any]) -> Tensor:
        self.bert.set_attn_implementation(packing.NAME)
        names = ("input_ids", "position_ids", *packing.KEYS)
        hidden: Tensor = self.bert(**{name: features[name] for name in names})[0][0]
        lengths = features["cu_seq_lens_q"].diff()
        row = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
        sums = hidden.new_zeros(len(lengths), hidden.shape[1]).index_add(0, row, hidden)
        means: Tensor = sums / lengths.unsqueeze(-1)
        return means


def settings(objective: str, **changed: Any) -> FitConfig:
    """Make the settings of a check, with as many options as the objective has."""
    against = OBJECTIVES[objective].against
    rules: dict[str, Any] = {} if against == "group" else {"false_negative_margin": 0.3, "distil_weight": 0.5}
    if against in ("all", "outside"):
        rules |= {"hardness": 2.0}
    return FitConfig(model="verify", objective=objective, **({"learn_temperature": True} | rules | changed))


def compute(
    groups: Sequence[Group],
    config: FitConfig,
    device: torch.device,
    dtype: torch.dtype = torch.float64,
    *,
    dropout: float = 0.0,
    padded: bool = True,
    process: int = 0,
    processes: int = 1,
) -> CheckResult:
    """Compute the loss of a batch and its gradient on all parameters, with the code of `trainer fit`."""
    model: Any = nn.Sequential(Encoder(dropout, dtype)).to(device, torch.float64)
    loss_module = MultiPositiveLoss(model, config).to(device, torch.float64)
    if processes > 1:
        with warnings.catch_warnings():
            # torch 2.13 has renamed this argument, and older releases do not know the new name.
            warnings.simplefilter("ignore", FutureWarning)
            loss_module.model = DistributedDataParallel(model, broadcast_buffers=False)
    share = share_of(groups, process, processes) or [inert(groups[0])]
    collate = Collator(
        read_words,
        {name: name for name in passages_of(share)},
        None,
        passage_prompt=None,
        max_query_length=None,
        max_passage_length=None,
        packing=None if padded else packing.Packing(0),
    )
    batch = collate(share)
    features = [
        {key.removeprefix(column): value for key, value in batch.items() if key.startswith(column)}
        for column in ("query_", "document_")
    ]
    torch.manual_seed(1)
    loss = loss_module([batch_to_device(one, device) for one in features], batch_to_device(batch["label"], device))
    loss.backward()
    loss = loss.detach()
    if processes > 1:
        dist.all_reduce(loss)
        loss /= processes
    parameters = (*model.parameters(), *(getattr(loss_module, name) for name in SCALARS))
    return CheckResult(loss.cpu(), torch.cat([gradient_of(one).flatten() for one in parameters]))


def gradient_of(tensor: Tensor) -> Tensor:
    """Return the gradient of a tensor on the CPU; zeros for a tensor without one."""
    return (torch.zeros_like(tensor) if tensor.grad is None else tensor.grad).detach().cpu()


def read_words(texts: list[str], **_: Any) -> dict[str, Any]:
    """Convert texts of word numbers to padded features."""
    rows = [torch.tensor([int(word) for word in text.split()]) for text in texts]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=WORDS)
    return {"input_ids": ids, "attention_mask": (ids != WORDS).long()}


def check_tiles(groups: Sequence[Group], device: torch.device) -> tuple[float, float, str]:
    """Compare tiles of 1, 7 and all passages with the matrix of all pairs."""
    names = passages_of(groups)
    batch = Batch(**batch_to_device(vars(lay_out(groups, names)), device))
    generator = torch.Generator().manual_seed(0)
    queries, passages = (
        torch.randn(rows, 32, generator=generator, dtype=torch.float64).to(device) for rows in (len(groups), len(names))
    )

    def differentiate(neg_lse_of: Callable[[Tensor, Tensor], Tensor]) -> CheckResult:
        inputs = [tensor.clone().requires_grad_() for tensor in (queries, passages)]
        loss = neg_lse_of(*inputs).sum()
        torch.autograd.backward(loss)
        return CheckResult(loss.detach().cpu(), torch.cat([gradient_of(tensor).flatten() for tensor in inputs]))

    def streamed(tile: int, queries: Tensor, passages: Tensor) -> Tensor:
        return contrast(queries, passages, batch, rules=ContrastRules(), temperature=0.05, tile=tile).neg_lse

    def plain(queries: Tensor, passages: Tensor) -> Tensor:
        scores = nn.functional.normalize(queries) @ nn.functional.normalize(passages).T / 0.05
        excluded = [[name in group.excluded for name in names] for group in groups]
        return scores.masked_fill(torch.tensor(excluded, device=device), -torch.inf).logsumexp(dim=-1)

    expected = differentiate(plain)
    found = [differentiate(partial(streamed, tile)).differs(expected) for tile in (1, 7, len(names))]
    return max(found), EXACT, f"tiles of 1, 7 and {len(names)} passages = the whole matrix"


def check_mini_batches(groups: Sequence[Group], device: torch.device) -> tuple[float, float, str]:
    """Compare mini-batches of few tokens with one batch."""
    found = _largest(lambda name: (settings(name, mini_batch_tokens=9), settings(name)), groups, groups, device=device)
    return found, EXACT, "mini-batches of 9 tokens = one batch"


def check_packing(groups: Sequence[Group], device: torch.device) -> tuple[float, float, str]:
    """Compare texts without padding with padded texts, with and without the gradient cache."""
    packing.register()
    found = []
    for name in OBJECTIVES:
        expected = compute(groups, settings(name), device)
        for changed in ({}, {"gradient_cache": True, "mini_batch_tokens": 30}):
            found.append(compute(groups, settings(name, **changed), device, padded=False).differs(expected))
    return max(found), EXACT, "texts without padding = padded, with and without cache"


def check_cache(groups: Sequence[Group], device: torch.device) -> tuple[float, float, str]:
    """Compare the gradient cache with keeping all activations, with dropout."""

    def pair(name: str) -> tuple[FitConfig, FitConfig]:
        return settings(name, mini_batch_tokens=30, gradient_cache=True), settings(name, mini_batch_tokens=30)

    return _largest(pair, groups, groups, device=device, dropout=0.1), EXACT, "gradient cache = none, with dropout"


def check_order(groups: Sequence[Group], device: torch.device) -> tuple[float, float, str]:
    """Compare queries and passages in reversed order with the original order."""
    turned = [replace(group, negatives=group.negatives[::-1]) for group in reversed(groups)]
    return _largest(_same, turned, groups, device=device), EXACT, "queries and passages in another order"


def check_masks(groups: Sequence[Group], device: torch.device) -> tuple[float, float, str]:
    """Compare a batch that also has passages masked for every query, and a query without positives, with the batch."""
    strangers = [f"{number} {number}" for number in range(5)]
    masked = [replace(group, excluded=group.excluded | frozenset(strangers)) for group in groups]
    idle = Group(
        "idle",
        "1 2 3",
        (),
        negatives=tuple(Negative(name) for name in strangers),
        excluded=frozenset(),
        judged_negatives=frozenset(),
    )
    return _largest(_same, [*masked, idle], groups, device=device), EXACT, "5 passages masked for all = absent"


def check_degenerate(groups: Sequence[Group], device: torch.device) -> tuple[float, float, str]:
    """Check that batches without positives, without negatives, of one query, or at a temperature near 0 are finite."""
    full = groups[-1]
    batches = [
        ([replace(full, positives=())], 0.05),
        ([replace(full, negatives=())], 0.05),
        ([replace(full, negatives=(), positives=full.positives[:1])], 0.05),
        (list(groups), 1e-4),
    ]
    worst = 0.0
    for name in OBJECTIVES:
        for batch, temperature in batches:
            found = compute(batch, settings(name, temperature=temperature), device)
            finite = bool(torch.isfinite(found.loss) and torch.isfinite(found.gradient).all())
            worst = max(worst, 0.0 if finite else float("inf"))
    return worst, 0.0, "no positives, no negatives, one query, scores of 10,000: all finite"


def check_half(groups: Sequence[Group], device: torch.device) -> tuple[float, float, str]:
    """Compare scores of bfloat16 embeddings under autocast with scores of the same embeddings in float64."""
    names = passages_of(groups)
    batch = Batch(**batch_to_device(vars(lay_out(groups, names)), device))
    generator = torch.Generator().manual_seed(0)
    queries, passages = (
        torch.randn(rows, 32, generator=generator).to(device, torch.bfloat16) for rows in (len(groups), len(names))
    )
    with torch.autocast(device.type, dtype=torch.bfloat16):
        half = contrast(queries, passages, batch, rules=ContrastRules(), temperature=0.05).neg_lse.double()
    full = contrast(queries.double(), passages.double(), batch, rules=ContrastRules(), temperature=0.05).neg_lse
    return float(((half - full) / full).abs().amax()), HALF, "bfloat16 embeddings under autocast, scored in float32"


def check_processes(
    groups: Sequence[Group], device: torch.device, *, processes: int, dtype: torch.dtype
) -> tuple[float, float, str]:
    """Compare several processes, each with its part of the batch, with one process; with and without gradient cache."""
    backend = "nccl" if device.type == "cuda" and torch.cuda.device_count() >= processes else "gloo"
    # A batch of nine queries, and one of two queries, which leaves two of four processes without a query.
    batches = [list(groups), list(groups[2:4])]
    # The terms of the temperature's gradient cancel; in float32 their rounding alone exceeds the allowed difference.
    learn = dtype == torch.float64
    configs = [
        settings(name, gradient_cache=cache, learn_temperature=learn, **rules)
        for name, rules in (*((name, {}) for name in OBJECTIVES), ("lsepair", SAME_TOWER))
        for cache in (False, True)
    ]
    shared = _on_processes(batches, configs, dtype, processes=processes, backend=backend)
    place = torch.device("cuda:0" if backend == "nccl" else "cpu")
    alone = [compute(batch, config, place, dtype=dtype) for batch in batches for config in configs]
    worst = max(one.differs(other) for one, other in zip(shared, alone, strict=True))
    name = str(dtype).removeprefix("torch.")
    return worst, PROCESSES[dtype], f"{processes} {backend} processes = 1, in {name}, with and without cache"


CHECKS: dict[str, Callable[[Sequence[Group], torch.device], tuple[float, float, str]]] = {
    "tiles": check_tiles,
    "mini-batches": check_mini_batches,
    "packing": check_packing,
    "gradient cache": check_cache,
    "order": check_order,
    "masks": check_masks,
    "degenerate rows": check_degenerate,
    "half precision": check_half,
    "2 processes": partial(check_processes, processes=2, dtype=torch.float64),
    "4 processes": partial(check_processes, processes=4, dtype=torch.float64),
    "2 processes, float32": partial(check_processes, processes=2, dtype=torch.float32),
    "4 processes, float32": partial(check_processes, processes=4, dtype=torch.float32),
}
"""Name -> function (groups, device) -> largest difference, allowed difference, description of the comparison."""


def _same(objective: str) -> tuple[FitConfig, FitConfig]:
    return settings(objective), settings(objective)


def _largest(
    configs: Callable[[str], tuple[FitConfig, FitConfig]],
    changed: Sequence[Group],
    groups: Sequence[Group],
    device: torch.device,
    dropout: float = 0.0,
) -> float:
    """Compute the largest difference, over all objectives, between a changed and the plain computation."""
    found = []
    for name in OBJECTIVES:
        other, plain = configs(name)
        expected = compute(groups, plain, device, dropout=dropout)
        found.append(compute(changed, other, device, dropout=dropout).differs(expected))
    return max(found)


def _on_processes(
    batches: Sequence[list[Group]], configs: Sequence[FitConfig], dtype: torch.dtype, processes: int, backend: str
) -> list[CheckResult]:
    """Run `compute` for each batch and each setting, divided among several processes."""
    # Processes are forked from a server that has imported everything and has not started any thread.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory(prefix="trainer-verify-") as folder:
        workers = [
            context.Process(
                target=_take_part, args=(rank, processes, backend, folder, list(batches), list(configs), dtype)
            )
            for rank in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise RuntimeError(f"the processes ended with exit codes {[worker.exitcode for worker in workers]}")
        found: list[CheckResult] = torch.load(Path(folder) / "found.pt", weights_only=False)
        return found


def _take_part(
    rank: int,
    processes: int,
    backend: str,
    folder: str,
    batches: list[list[Group]],
    configs: list[FitConfig],
    dtype: torch.dtype,
) -> None:
    torch.set_num_threads(1)
    device = torch.device(f"cuda:{rank}" if backend == "nccl" else "cpu")
    with contextlib.ExitStack() as stack:
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
        stack.callback(dist.destroy_process_group)
        found = [
            compute(batch, config, device, dtype=dtype, process=rank, processes=processes)
            for batch in batches
            for config in configs
        ]
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
