"""The loss modules of sparse encoders (SPLADE) and of late interaction (ColBERT).

Legend of shapes: Q queries, P passages, T tokens, V words of the vocabulary, D dimensions of a token's vector.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sentence_transformers.util import maxsim
from torch import Tensor, nn
from torch.nn.functional import pad

from trainer.config.fit_config import FitConfig
from trainer.objectives.batch import Batch
from trainer.objectives.contrast import Scores
from trainer.objectives.loss import DEVICE_TOKENS, MultiPositiveLoss
from trainer.objectives.pair_loss import mini_batches
from trainer.objectives.processes import gather_passages, process


class SparseLoss(MultiPositiveLoss):
    """Objective over dot products of sparse vectors `[Q, V]` and `[P, V]`, with the FLOPS regulariser."""

    def __init__(self, model: nn.Module, config: FitConfig) -> None:
        super().__init__(model, config)
        self.flops_weights = (config.query_flops_weight, config.passage_flops_weight)
        self.flops_share = 1.0
        """Share of the weights that is applied; it rises during the first third of a stage."""

    def _penalty(self, parts: Sequence[Tensor], batch: Batch) -> Tensor:
        """Compute the FLOPS of queries and of passages, each times its weight (SPLADE, arXiv 2109.10086)."""
        queries, passages = parts
        asked = batch.pos_mask.any(dim=-1)  # others include the stand-ins of processes without a query
        keys = process() * 2**40 + torch.arange(len(queries), device=queries.device)
        columns = ((queries[asked], keys[asked]), (passages, batch.passage_key))
        terms = [weight * flops(*column) for weight, column in zip(self.flops_weights, columns, strict=True)]
        return self.flops_share * torch.stack(terms).sum()


def flops(vectors: Tensor, key: Tensor) -> Tensor:
    """Compute the FLOPS of sparse vectors `[N, V]` of all processes: the sum over words of the squared mean weight.

    It estimates the multiplications of a search in an inverted index. `key` `[N]` is different for different texts.
    Source: arXiv 2004.05665.
    """
    every, _, _ = gather_passages(vectors.float(), key)
    mean = every.sum(dim=0) / max(1, len(every))
    return mean.square().sum()


class TokenLoss(MultiPositiveLoss):
    """Objective over MaxSim: for each token of a query the highest dot product with a token of the passage, summed.

    The vectors of a text are `[T, D + 1]`; the last number is 1 for a token that counts, and 0 for padding.
    """

    def _embed(self, column: dict[str, Any]) -> list[Tensor]:
        expanded = "query_expansion_positions" in column  # its tokens count, although the encoder does not attend them
        parts = [column] if expanded else mini_batches(column, self.mini_batch_num_tokens or DEVICE_TOKENS)
        found = [token_vectors(self.model(part, task=part["task"])) for part in parts]
        longest = max(each.shape[1] for each in found)
        return [pad(each, (0, 0, 0, longest - each.shape[1])) for each in found]

    def _scores(self, parts: Sequence[Tensor], batch: Batch, numbers: dict[str, Tensor]) -> Iterator[Scores]:
        scores = token_scores(*parts)
        # As dot products with unit vectors, these scores pass through the same masks and objectives as embeddings.
        units = torch.eye(scores.shape[1], dtype=scores.dtype, device=scores.device)
        return super()._scores([scores, units], batch, numbers)


def token_vectors(output: dict[str, Any]) -> Tensor:
    """Return the vectors `[N, T, D + 1]` of an encoder's output, with the mask of the tokens as the last number."""
    vectors: Tensor = output["token_embeddings"]
    return torch.cat([vectors, output["attention_mask"].unsqueeze(-1).to(vectors.dtype)], dim=-1)


def token_scores(queries: Tensor, passages: Tensor) -> Tensor:
    """Compute the MaxSim of all pairs in float32: `[Q, T, D + 1]`, `[P, T, D + 1]` -> `[Q, P]`."""
    with torch.autocast(queries.device.type, enabled=False):
        near, far = (part[..., :-1].float() for part in (queries, passages))
        return maxsim(near, far, a_mask=queries[..., -1] > 0, b_mask=passages[..., -1] > 0)
