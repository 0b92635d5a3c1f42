"""The loss module of a training: embeds a batch, computes its scores, applies the objective.

Texts are embedded in mini-batches of similar length, which keeps padding low. With the gradient cache (arXiv
2101.06983, implemented by sentence-transformers) only the activations of one mini-batch are in memory at a time. Every
text is then embedded twice, both times with the same random state.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sentence_transformers.base.losses import CachedLossMixin
from sentence_transformers.base.losses.gradcache import has_static_embedding_input
from torch import Tensor, nn
from torch import distributed as dist

from labelkit.errors import UsageError
from trainer.config.architectures import CROSS_ENCODER
from trainer.config.fit_config import FitConfig
from trainer.objectives.batch import Batch
from trainer.objectives.contrast import ContrastRules, Scores, contrast
from trainer.objectives.gradients_by_source import by_source
from trainer.objectives.grouped import listwise_kl
from trainer.objectives.objectives import OBJECTIVES, settings_of
from trainer.objectives.processes import mean_over_processes

CPU_TOKENS, DEVICE_TOKENS = 2048, 16384
"""Tokens per mini-batch: few enough for the caches of a CPU, and enough to use a GPU fully."""
BIAS = -10.0
"""Initial bias of a pointwise objective, as in SigLIP (arXiv 2303.15343): nearly all pairs are irrelevant."""
SCALARS = ("log_temperature", "pointwise_bias")
"""Names of the scalar parameters of the loss."""
LOGGED = ("masked_share", "suspected_share", "temperature")
"""Names of the figures that are logged for every batch in addition to its loss."""


class MultiPositiveLoss(CachedLossMixin, nn.Module):
    """Objective over the embeddings of a batch; `model` maps features to `sentence_embedding`s."""

    mini_batch_size = 1
    """Required by the base class but unused: `mini_batch_num_tokens` sets the size of a mini-batch."""

    def __init__(self, model: nn.Module, config: FitConfig) -> None:
        """Prepare the loss of a model. Raises `UsageError` for settings that the objective or the model lacks."""
        super().__init__()
        # The trainer reads the parameters of this attribute, and replaces it by the wrapped model.
        self.model = model
        self.objective = OBJECTIVES[config.objective]
        _check_rules(config)
        self.loss_of_rows = functools.partial(self.objective.loss, **_checked_settings(config))
        self.rules = ContrastRules(
            config.similarity,
            config.in_batch_negatives,
            config.false_negative_margin,
            ratio=config.false_negative_ratio,
            hardness=config.hardness,
            same_tower=config.same_tower_negatives,
        )
        self.uses_gradient_cache = config.gradient_cache
        self.whole = has_static_embedding_input(model)
        """True for a table of word vectors, which is embedded without mini-batches and needs no gradient cache."""
        if self.whole and config.gradient_cache:
            raise UsageError(f"{config.model} averages word vectors: it needs no gradient_cache; remove it")
        self.checkpoints = config.gradient_checkpointing
        device = next(model.parameters()).device.type
        self.mini_batch_num_tokens = config.mini_batch_tokens or (CPU_TOKENS if device == "cpu" else DEVICE_TOKENS)
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(config.temperature)), requires_grad=config.learn_temperature
        )
        self.biased = self.objective.reads == "probabilities" and config.architecture != CROSS_ENCODER
        """True if a bias is learnt; the last layer of a cross-encoder has one of its own."""
        self.pointwise_bias = nn.Parameter(torch.tensor(BIAS), requires_grad=self.biased)
        """Added to every score of a pointwise objective."""
        for name in self.learnt:
            hooked: Any = getattr(self, name)
            hooked.register_post_accumulate_grad_hook(_average)
        self.distil_weight = config.distil_weight
        self.teacher_temperature = config.teacher_temperature
        self.dimensions = config.matryoshka_dims
        self.watched: tuple[str, ...] = ()
        """Sources whose `figures` are computed for the next batch."""
        self.figures: dict[str, float] = {}
        """Result of `trainer.objectives.gradients_by_source.by_source` for the last batch with watched sources."""
        self.contrasted: Tensor | int = 0
        """Number of queries so far that had a passage to contrast with their positives."""
        self.logged: list[Tensor] = []
        """Values of `LOGGED` for each batch since the trainer last logged, on the device."""
        self.tokens: Tensor | int = 0
        """Number of tokens that this process has read so far, padding excluded."""

    @property
    def learnt(self) -> tuple[str, ...]:
        """Names of the numbers that are learnt beside the model: each a parameter of this module."""
        return tuple(name for name in SCALARS if getattr(self, name).requires_grad)

    def forward(self, features: list[dict[str, Any]], labels: Any) -> Tensor:
        """Compute the mean loss of a batch from features of queries and passages, and `labels`, its `Batch` fields."""
        for column in features:
            self.tokens = self.tokens + _tokens_in(column)
        if not self.uses_gradient_cache:
            return self.calculate_loss([self._embed(column) for column in features], labels)
        loss: Any = self.forward_cached(features, labels)
        if self.learnt:
            # The cache passes on only the gradients of embeddings.
            loss.register_hook(functools.partial(self._add_gradients, self._gradients))
        cached: Tensor = loss
        return cached

    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        """Compute the loss from mini-batches of embeddings, and with `with_backward` also its gradient on them."""
        parts = [torch.cat(column) for column in reps]
        numbers = {name: getattr(self, name) for name in SCALARS}
        if with_backward:
            numbers = {name: value.detach().requires_grad_(value.requires_grad) for name, value in numbers.items()}
        batch = Batch(**labels)
        loss, shares, contrasted = self._loss(parts, batch, numbers=numbers, distil_weight=self.distil_weight)
        loss = loss + self._penalty(parts, batch)
        self.contrasted = self.contrasted + contrasted.detach()
        self.logged.append(torch.stack([*shares, self.log_temperature.exp()]).detach())
        if self.watched:
            fixed = {name: value.detach() for name, value in numbers.items()}
            self.figures = by_source(
                lambda some, rows: self._loss(some, rows, numbers=fixed, distil_weight=0.0)[0],
                parts,
                batch=batch,
                sources=self.watched,
            )
        if not with_backward:
            return loss
        torch.autograd.backward(loss)
        found = {name: numbers[name].grad for name in self.learnt}
        self._gradients = {name: torch.zeros_like(loss) if each is None else each for name, each in found.items()}
        return loss.detach()

    def _loss(
        self, parts: Sequence[Tensor], batch: Batch, *, numbers: dict[str, Tensor], distil_weight: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Compute this process's part of the loss, averaged over the Matryoshka dimensions.

        Also returns, for the last of these dimensions, the shares of masked pairs and the number of queries that have a
        passage to contrast with their positives.
        """
        losses = []
        for scores in self._scores(parts, batch, numbers):
            rows = self._rows(scores, batch)
            if distil_weight:
                rows = rows + distil_weight * listwise_kl(scores.group_scores, *self._taught(batch))
            losses.append(mean_over_processes(rows, batch.pos_mask.any(dim=-1)))
        others = scores.neg_lse > (0.0 if self.objective.against == "pointwise" else -torch.inf)
        told_apart = others | ((batch.group_mask.sum(dim=-1) > 1) & (self.objective.reads != "positives"))
        contrasted = (told_apart & batch.pos_mask.any(dim=-1)).sum()
        return torch.stack(losses).mean(), (scores.masked_share, scores.suspected_share), contrasted

    def _scores(self, parts: Sequence[Tensor], batch: Batch, numbers: dict[str, Tensor]) -> Iterator[Scores]:
        """Yield the scores of a batch for each of the Matryoshka dimensions, given the embeddings of both columns."""
        queries, passages = parts
        for dimensions in self.dimensions or (queries.shape[1],):
            yield contrast(
                queries[:, :dimensions],
                passages[:, :dimensions],
                batch,
                rules=self.rules,
                temperature=numbers["log_temperature"].exp(),
                against=self.objective.against,
                bias=numbers["pointwise_bias"] if self.biased else None,
            )

    def _penalty(self, parts: Sequence[Tensor], batch: Batch) -> Tensor | float:
        """Compute what is added to the loss beside the objective."""
        return 0.0

    def _rows(self, scores: Scores, batch: Batch) -> Tensor:
        """The objective's loss of each query, given what it reads."""
        match self.objective.reads:
            case "positives":
                return self.loss_of_rows(scores.pos_scores, batch.pos_weight, batch.pos_mask, scores.neg_lse)
            case "teacher":
                return self.loss_of_rows(scores.group_scores, *self._taught(batch))
            case "probabilities":
                pointwise = (scores.group_scores, batch.group_probability, batch.group_mask)
                return self.loss_of_rows(*pointwise, scores.neg_lse)
            case "grades":
                graded = (scores.group_scores, batch.group_grade, batch.group_weight, batch.group_positive)
                return self.loss_of_rows(*graded, batch.group_mask, scores.neg_lse)

    def _taught(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[Q, G]: scores of the teacher over its temperature, and where there is one."""
        return batch.group_target / self.teacher_temperature, batch.group_mask & batch.group_taught

    def _add_gradients(self, gradients: dict[str, Tensor], gradient: Tensor) -> None:
        with torch.enable_grad():
            for name, cached in gradients.items():
                torch.autograd.backward(getattr(self, name) * cached, gradient)

    def _embed(self, column: dict[str, Any]) -> list[Tensor]:
        # Mini-batches save padding, of which packed texts have none.
        if self.whole or ("cu_seq_lens_q" in column and not self.checkpoints):
            return [self.model(column)["sentence_embedding"]]
        return [part for part, _ in self.embed_minibatch_iter(column, with_grad=True, copy_random_state=False)]


def _tokens_in(column: dict[str, Any]) -> Tensor | int:
    """Count the tokens of a batch without its padding."""
    if "attention_mask" in column:
        tokens: Tensor = column["attention_mask"].sum()
        return tokens
    return int(column["input_ids"].numel())


def _checked_settings(config: FitConfig) -> dict[str, float]:
    """Return the settings of the objective. Raises `UsageError` for a setting that the objective lacks."""
    known = settings_of(OBJECTIVES[config.objective])
    for name in config.objective_settings:
        if name not in known:
            choices = f"its settings are {', '.join(known)}" if known else "it has no settings"
            raise UsageError(f"objective {config.objective} has no setting {name!r}; {choices}")
    return config.objective_settings


def _check_rules(config: FitConfig) -> None:
    """Raise `UsageError` where a rule for negatives cannot be applied by the objective."""
    against = OBJECTIVES[config.objective].against
    wanted = {"hardness": config.hardness > 0, "same_tower_negatives": config.same_tower_negatives}
    for name, on in wanted.items():
        if on and against not in ("all", "outside"):
            raise UsageError(f"objective {config.objective} has no log-sum-exp over negatives: remove {name}")


def _average(parameter: Tensor) -> None:
    """Average over processes the gradient of a parameter that DistributedDataParallel does not manage."""
    if dist.is_initialized() and parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()
