"""One run of the study: the parts of `trainer fit` in one loop, without files, so that a run takes seconds.

Groups, batches, loss and schedule are the product's; `tests/benchmarks/test_study.py` checks that the weights are
the same as after `trainer fit`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.nn.functional import normalize

from labelkit.pooling.dense_search import Exact
from labelkit.pooling.packing import Packing
from labelkit.records import Example
from study.collections import FEW, Collection, Part, Tokens
from study.grid import RATES, Run
from study.judges import Drawn, Setting, draw_labels, human_example, single_example
from trainer.config.fit_config import TEMPERATURE_RATE, FitConfig
from trainer.data.batch_order import BatchOrder
from trainer.data.collate import Collator
from trainer.data.draws import draw
from trainer.data.training_sets import LabelledQuery, Teacher, View, draw_group, label_query
from trainer.objectives.batch import Group, key_of
from trainer.objectives.loss import SCALARS, MultiPositiveLoss
from trainer.retrieval.evaluate import measure

BATCH = 16
DEPTH = 100
ENCODED_TOKENS = {"cpu": 4096, "cuda": 131072}
"""Tokens, padding included, that the encoder reads at a time without a gradient."""
MEMORY: dict[str, dict[str, Any]] = {"cpu": {"gradient_cache": True}, "cuda": {"mini_batch_tokens": 65536}}
"""Device -> settings that fit a batch of whole passages into its memory."""
WARMUP = 0.1
RESET_LAYERS = 2


@dataclass
class Session:
    """What the runs of one process share."""

    model: SentenceTransformer
    collections: Mapping[str, Collection]
    steps: int
    weights: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the start model."""
    labels: dict[Any, Drawn] = field(default_factory=dict)
    start: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Embeddings of the queries and passages by the start model."""
    packing: Packing | None = None
    """Removes the padding of a batch; None for padded batches."""

    def __post_init__(self) -> None:
        self.weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device


class StudySet:
    """The queries of one stage, as `trainer.data.training_sets.TrainingSet` hands them out."""

    def __init__(
        self, examples: Mapping[str, Sequence[Example]], view: View, collection: Collection, config: FitConfig
    ) -> None:
        """`view` lacks the pools, which come from the collection."""
        self.view, self.collection, self.config = view, collection, config
        self.examples = [list(each) for _, each in sorted(examples.items()) if self._positives(each)]
        self.keys = np.array([key_of(each[0].query_id) for each in self.examples], dtype=np.int64)
        self._known: dict[int, LabelledQuery] = {}

    def _positives(self, examples: Sequence[Example]) -> bool:
        return any(label.source in self.view.selected for one in examples for label in one.positives)

    def group(self, epoch: int, row: int) -> Group:
        """Draw the passages of a query in an epoch."""
        if row not in self._known:
            examples = self.examples[row]
            pool = self.collection.pools[examples[0].query_id].passages
            view = self.view._replace(pool=dict.fromkeys(pool, 1))
            self._known[row] = label_query(examples, view, self.collection.same, self.config)
        return draw_group(self._known[row], epoch, self.config)


def perform(session: Session, run: Run) -> dict[str, Any]:
    """Train and measure; values per query, drift, and what the labels were like."""
    started = time.perf_counter()
    collection = session.collections[run.cell.collection]
    untrained = run.cell.regime == "untrained"
    part = collection.parts[run.fold]
    measured = tuple(collection.query_tokens) if untrained else (*part.dev, *part.measured)
    reset_weights(session, run)
    before = _start_embeddings(session, run, collection)
    losses: list[float] = []
    facts: dict[str, float] = {}
    if not untrained:
        stages, facts = make_stages(session, run, collection, part)
        for number, (examples, view, config) in enumerate(stages):
            labelled = StudySet(examples, view, collection, config)
            losses += train(session.model, labelled, config, first_epoch=1000 * number, packing=session.packing)
    trained = time.perf_counter() - started
    queries, passages = before if untrained else embed(session.model, collection)
    rows = [list(collection.query_tokens).index(name) for name in measured]
    search = Exact(queries[rows], DEPTH)
    search.add(collection.passage_ids, passages)
    ranked = {name: dict(best) for name, best in zip(measured, search.best(), strict=True)}
    values = measure({name: collection.qrels[name] for name in measured}, ranked, cutoffs=(DEPTH,))
    moved = (_distance(before[0][rows], queries[rows]), _distance(before[1], passages))
    ends = max(1, len(losses) // 5)
    return {
        "key": run.key,
        "rate": run.rate,
        "values": {name: _rounded(each) for name, each in values.items() if name != "RR@10"},
        "drift": dict(zip(("queries", "passages"), moved, strict=True)),
        "labels": _rounded(facts),
        "loss": [round(float(np.mean(some)), 4) for some in (losses[:ends], losses[-ends:]) if some],
        "seconds": [round(trained, 2), round(time.perf_counter() - started, 2)],
    }


def _distance(before: Tensor, after: Tensor) -> float:
    """One minus the mean cosine similarity."""
    return round(1 - float((before * after).sum(dim=1).mean()), 6)


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in values.items()}


def reset_weights(session: Session, run: Run) -> None:
    """Restore the start model's weights; the weights of the reset model's last layers are drawn with the seed."""
    session.model.load_state_dict(session.weights)
    if run.cell.start == "reset":
        encoder: Any = session.model[0].auto_model
        generator = torch.Generator(device="cpu").manual_seed(run.seed)
        for layer in encoder.encoder.layer[-RESET_LAYERS:]:
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    drawn = torch.normal(
                        0.0, encoder.config.initializer_range, module.weight.shape, generator=generator
                    )
                    module.weight.data.copy_(drawn)
                    module.bias.data.zero_()
                elif isinstance(module, nn.LayerNorm):
                    module.reset_parameters()


def _start_embeddings(session: Session, run: Run, collection: Collection) -> tuple[Tensor, Tensor]:
    key = (run.cell.start, run.seed if run.cell.start == "reset" else 0, collection.name)
    if key not in session.start:
        session.start[key] = embed(session.model, collection)
    return session.start[key]


Stage = tuple[dict[str, list[Example]], View, FitConfig]


def make_stages(session: Session, run: Run, collection: Collection, part: Part) -> tuple[list[Stage], dict[str, float]]:
    """The examples, sources and settings of each stage of a run, and what the judge's labels are like."""
    cell = run.cell
    pools = {name: collection.pools[name] for name in part.train}
    drawn = draw_for(session, run, part)
    llm = drawn.examples if drawn else {}
    few = set(draw(part.train, FEW.get(collection.name, 0), (run.seed, "few")))
    people = {name: human_example(pool) for name, pool in pools.items()}
    single = {name: single_example(pool, run.seed) for name, pool in pools.items()}
    steps = session.steps
    every: dict[str, list[tuple[dict[str, list[Example]], str, int]]] = {
        "llm": [({name: [one] for name, one in llm.items()}, "llm", steps)],
        "merged": [({name: [one, single[name]] for name, one in llm.items()}, "human + llm", steps)],
        "curriculum": [({name: [one, single[name]] for name, one in llm.items()}, source, steps // 2)
                       for source in ("llm", "human")],
        "single": [({name: [one] for name, one in single.items()}, "human", steps)],
        "few": [({name: [people[name]] for name in few}, "human", steps)],
        "few short": [({name: [people[name]] for name in few}, "human", steps // 4)],
        "few + llm": [({name: [people[name] if name in few else llm[name]] for name in llm}, "human + llm", steps)],
        "all human": [({name: [one] for name, one in people.items()}, "human", steps)],
    }  # fmt: skip
    known = {source for _, sources, _ in every[cell.regime] for source in sources.split(" + ")}
    stages = []
    for examples, sources, count in every[cell.regime]:
        config = settings(run, count)
        teacher: Teacher | None = "probability" if config.distil_weight else None
        view = View(known, set(sources.split(" + ")), teacher, {})
        stages.append((examples, view, config))
    return stages, drawn.facts if drawn else {}


def draw_for(session: Session, run: Run, part: Part) -> Drawn | None:
    """The judge's labels of a run; runs that differ in objective or rate alone share them."""
    cell = run.cell
    if not cell.positives:
        return None
    key = (cell.collection, run.fold, run.seed, cell.kind, cell.precision, cell.positives)
    if key not in session.labels:
        pools = [session.collections[cell.collection].pools[name] for name in part.train]
        session.labels[key] = draw_labels(pools, Setting(cell.kind, cell.precision, cell.positives), run.seed)
    return session.labels[key]


def settings(run: Run, steps: int) -> FitConfig:
    """The settings of a stage in the words of `trainer fit`."""
    objective, _, distil = run.cell.objective.partition("+")
    return FitConfig(
        model="study",
        objective=objective,
        distil_weight=1.0 if distil else 0.0,
        max_steps=steps,
        batch_size=BATCH,
        learning_rate=run.rate or RATES[0],
        warmup_ratio=WARMUP,
        seed=run.seed,
    )


def train(
    model: SentenceTransformer,
    training_set: StudySet,
    config: FitConfig,
    *,
    first_epoch: int = 0,
    packing: Packing | None = None,
) -> list[float]:
    """Train a model in place, as `trainer fit` does; the loss of every step."""
    device = model.device
    config = FitConfig.model_validate(config.model_dump(exclude_unset=True) | MEMORY[device.type])
    module = MultiPositiveLoss(model, config).to(device)
    steps = config.max_steps or 1
    optimizer, schedule = _optimizer(module, config, steps)
    torch.manual_seed(config.seed)
    module.train()
    losses: list[Tensor] = []
    collate = replace(make_collator(model, training_set.collection), packing=packing)
    for groups in _batches(training_set, config, steps, first_epoch):
        batch = batch_to_device(collate(groups), device)
        columns = [
            {key.removeprefix(column): value for key, value in batch.items() if key.startswith(column)}
            for column in ("query_", "document_")
        ]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = module(columns, batch_to_device(batch["label"], device))
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        module.logged.clear()
    return torch.stack(losses).tolist()


def _batches(training_set: StudySet, config: FitConfig, steps: int, first_epoch: int) -> Iterator[list[Group]]:
    order = BatchOrder(training_set.keys, config.batch_size, config.seed, first_epoch=first_epoch)
    taken, epoch = 0, 0
    while True:
        order.set_epoch(epoch)
        for rows in order:
            if taken == steps:
                return
            yield [training_set.group(number, row) for number, row in rows]
            taken += 1
        epoch += 1


def _optimizer(module: MultiPositiveLoss, config: FitConfig, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW and the schedule of transformers' trainer: no decay of biases and normalisations."""
    named = [(name, each) for name, each in module.named_parameters() if each.requires_grad]
    plain = {name for name, each in named if each.ndim <= 1}
    groups = [
        {"params": [each for name, each in named if name not in plain], "weight_decay": config.weight_decay},
        {"params": [each for name, each in named if name in plain and name not in SCALARS], "weight_decay": 0.0},
    ]
    learnt = [each for name, each in named if name in SCALARS]
    if learnt:
        groups.append({"params": learnt, "weight_decay": 0.0, "lr": config.learning_rate * TEMPERATURE_RATE})
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=next(module.parameters()).is_cuda)
    warmup = min(int(np.ceil(config.warmup_ratio * steps)), steps - 1)

    def factor(step: int) -> float:
        return step / max(1, warmup) if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def make_collator(model: SentenceTransformer, collection: Collection) -> Collator:
    """The product's collator over tokens made beforehand."""
    padding = model.tokenizer.pad_token_id

    def queries(texts: Sequence[str], **_: Any) -> dict[str, Any]:
        return padded([collection.query_tokens[name] for name in texts], padding)

    def passages(names: Sequence[str]) -> dict[str, Any]:
        return padded([collection.passage_tokens[collection.row_of[name]] for name in names], padding)

    return Collator(
        queries,
        {},
        query_prompt=None,
        passage_prompt=None,
        max_query_length=None,
        max_passage_length=None,
        cached=passages,
    )


def padded(rows: Sequence[Tokens], padding: int) -> dict[str, Any]:
    """Token ids as the tensors of one batch."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), padding, dtype=np.int64)
    attention = np.zeros((len(rows), longest), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)], attention[number, : len(row)] = row, 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(attention)}


@torch.no_grad()
def embed(model: SentenceTransformer, collection: Collection) -> tuple[Tensor, Tensor]:
    """Normalised embeddings of all queries and passages, in float32."""
    model.eval()
    return _embed(model, list(collection.query_tokens.values())), _embed(model, collection.passage_tokens)


def _embed(model: SentenceTransformer, rows: Sequence[Tokens]) -> Tensor:
    device = model.device
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]), reverse=True)
    found = torch.empty(len(rows), model.get_embedding_dimension() or 0, device=device)
    start = 0
    while start < len(order):
        size = max(1, ENCODED_TOKENS[device.type] // len(rows[order[start]]))
        chosen = order[start : start + size]
        features = batch_to_device(padded([rows[row] for row in chosen], model.tokenizer.pad_token_id), device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            vectors = model(features)["sentence_embedding"]
        found[torch.tensor(chosen, device=device)] = normalize(vectors.float(), dim=-1)
        start += size
    return found
