"""The loss that the trainer calls: embed a batch, contrast it, apply the objective.

Texts are embedded in mini-batches of about equal length, so that padding costs little. With the gradient cache
(arXiv 2101.06983, sentence-transformers' implementation) the activations of one mini-batch at a time are in memory:
every text is embedded twice, the second time with the random state of the first.
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
"""Tokens of a mini-batch: what the caches of a CPU hold, and what keeps a GPU busy."""
LOGGED = ("masked_share", "suspected_share", "temperature")
"""What is logged of every batch beside its loss."""


class MultiPositiveLoss(CachedLossMixin, nn.Module):
    """An objective over the embeddings of a batch; `model` maps features to `sentence_embedding`s."""

    mini_batch_size = 1
    """Wanted by the base class; tokens decide instead."""

    def __init__(self, model: nn.Module, config: FitConfig) -> None:
        """Raises `UsageError` for settings that the objective or the model does not have."""
        super().__init__()
        # The trainer reads the parameters from here, and puts the wrapped model here when it wraps it.
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
        """A table of word vectors has no mini-batches, and no activations worth a cache either."""
        if self.whole and config.gradient_cache:
            raise UsageError(f"{config.model} averages word vectors: it needs no gradient_cache; remove it")
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
        """Sources whose `figures` are to be taken of the next batch."""
        self.figures: dict[str, float] = {}
        """What `trainer.objectives.gradients_by_source.by_source` found in the last batch that was watched."""
        self.contrasted: Tensor | int = 0
        """Queries so far that had a passage to be told from their positives."""
        self.logged: list[Tensor] = []
        """`LOGGED` of each batch since the trainer last logged; kept on the device."""

    def forward(self, features: list[dict[str, Any]], labels: Any) -> Tensor:
        """Mean loss of the batch; `features` are the queries and the passages, `labels` the fields of its `Batch`."""
        if not self.uses_gradient_cache:
            return self.calculate_loss([self._embed(column) for column in features], labels)
        loss: Any = self.forward_cached(features, labels)
        if self.log_temperature.requires_grad:
            # The cache hands on the gradients of embeddings only.
            loss.register_hook(functools.partial(self._add_temperature_gradient, self._temperature_gradient))
        cached: Tensor = loss
        return cached

    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        """The loss of mini-batches of embeddings; with `with_backward` also its gradient on them."""
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
        """Mean over the Matryoshka dimensions of this process's part in the loss; for the last of these dimensions the
        shares of masked pairs, and how many queries have a passage to be told from their positives.
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
        if self.whole:
            return [self.model(column)["sentence_embedding"]]
        return [part for part, _ in self.embed_minibatch_iter(column, with_grad=True, copy_random_state=False)]


def _checked_settings(config: FitConfig) -> dict[str, float]:
    """The settings of the objective, all of which it must know."""
    known = settings_of(OBJECTIVES[config.objective])
    for name in config.objective_settings:
        if name not in known:
            choices = f"it knows {', '.join(known)}" if known else "it has none"
            raise UsageError(f"objective {config.objective} has no setting {name!r}; {choices}")
    return config.objective_settings


def _average(parameter: Tensor) -> None:
    """Average a gradient that DistributedDataParallel does not see, as it would."""
    if dist.is_initialized() and parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()
