"""The loss module of a training: embeds a batch, computes its scores, applies the objective.

Texts are embedded in mini-batches of similar length, which keeps padding low. With the gradient cache (arXiv
2101.06983, implemented by sentence-transformers) only the activations of one mini-batch are in memory at a time. Every
text is then embedded twice, both times with the same random state.
"""

import functools
import math
from typing import Any

import torch
from sentence_transformers.base.losses import CachedLossMixin
from sentence_transformers.base.losses.gradcache import has_static_embedding_input
from torch import Tensor, nn
from torch import distributed as dist

from labelkit.errors import UsageError
from trainer.config.fit_config import FitConfig
from trainer.objectives.batch import Batch
from trainer.objectives.contrast import ContrastRules, contrast, mean_over_processes
from trainer.objectives.gradients_by_source import by_source
from trainer.objectives.objectives import OBJECTIVES, settings_of

CPU_TOKENS, DEVICE_TOKENS = 2048, 16384
"""Tokens per mini-batch: few enough for the caches of a CPU, and enough to use a GPU fully."""
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
        self.loss_of_rows = functools.partial(self.objective.loss, **_checked_settings(config))
        self.rules = ContrastRules(
            config.similarity,
            config.in_batch_negatives,
            config.false_negative_margin,
            ratio=config.false_negative_ratio,
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
        if config.learn_temperature:
            hooked: Any = self.log_temperature
            hooked.register_post_accumulate_grad_hook(_average)
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

    def forward(self, features: list[dict[str, Any]], labels: Any) -> Tensor:
        """Compute the mean loss of a batch from features of queries and passages, and `labels`, its `Batch` fields."""
        for column in features:
            self.tokens = self.tokens + _tokens_in(column)
        if not self.uses_gradient_cache:
            return self.calculate_loss([self._embed(column) for column in features], labels)
        loss: Any = self.forward_cached(features, labels)
        if self.log_temperature.requires_grad:
            # The cache passes on only the gradients of embeddings.
            loss.register_hook(functools.partial(self._add_temperature_gradient, self._temperature_gradient))
        cached: Tensor = loss
        return cached

    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        """Compute the loss from mini-batches of embeddings, and with `with_backward` also its gradient on them."""
        queries, passages = (torch.cat(parts) for parts in reps)
        log_temperature = self.log_temperature.detach().requires_grad_() if with_backward else self.log_temperature
        batch = Batch(**labels)
        loss, shares, contrasted = self._loss(queries, passages, batch, temperature=log_temperature.exp())
        self.contrasted = self.contrasted + contrasted.detach()
        self.logged.append(torch.stack([*shares, self.log_temperature.exp()]).detach())
        if self.watched:
            fixed = self.log_temperature.detach().exp()
            self.figures = by_source(
                lambda q, p, b: self._loss(q, p, b, temperature=fixed)[0],
                queries,
                passages,
                batch=batch,
                sources=self.watched,
            )
        if not with_backward:
            return loss
        torch.autograd.backward(loss)
        self._temperature_gradient = torch.zeros_like(loss) if log_temperature.grad is None else log_temperature.grad
        return loss.detach()

    def _loss(
        self, queries: Tensor, passages: Tensor, batch: Batch, temperature: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Compute this process's part of the loss, averaged over the Matryoshka dimensions.

        Also returns, for the last of these dimensions, the shares of masked pairs and the number of queries that have a
        passage to contrast with their positives.
        """
        losses = []
        for dimensions in self.dimensions or (queries.shape[1],):
            near, far = queries[:, :dimensions], passages[:, :dimensions]
            scores = contrast(
                near, far, batch, rules=self.rules, temperature=temperature, against=self.objective.against
            )
            if self.objective.against == "group":
                rows = self.loss_of_rows(scores.group_scores, batch.group_target, batch.group_mask)
                told_apart = batch.group_mask.sum(dim=-1) > 1
            else:
                rows = self.loss_of_rows(scores.pos_scores, batch.pos_weight, batch.pos_mask, scores.neg_lse)
                told_apart = scores.neg_lse != -torch.inf
            losses.append(mean_over_processes(rows, batch.pos_mask.any(dim=-1)))
        contrasted = (told_apart & batch.pos_mask.any(dim=-1)).sum()
        return torch.stack(losses).mean(), (scores.masked_share, scores.suspected_share), contrasted

    def _add_temperature_gradient(self, cached: Tensor, gradient: Tensor) -> None:
        with torch.enable_grad():
            torch.autograd.backward(self.log_temperature * cached, gradient)

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


def _average(parameter: Tensor) -> None:
    """Average over processes the gradient of a parameter that DistributedDataParallel does not manage."""
    if dist.is_initialized() and parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()
