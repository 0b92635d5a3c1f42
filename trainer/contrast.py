"""From embeddings to what objectives see: scores of the positives, log-sum-exp of the negatives.

Legend of shapes: Q queries, P unique passages of the batch, M positives a query at most, D dimensions.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainer.batch import Batch
from trainer.objectives import masked_lse


class Scores(NamedTuple):
    """Similarities divided by the temperature, in float32 or wider."""

    pos_scores: Tensor
    """[Q, M]; what stands under the mask has no meaning."""
    neg_lse: Tensor
    """[Q]; -inf for a query without negatives."""


def _cosine(embeddings: Tensor) -> Tensor:
    return normalize(embeddings, dim=-1)


def _dot(embeddings: Tensor) -> Tensor:
    return embeddings


SIMILARITIES: dict[str, Callable[[Tensor], Tensor]] = {"cosine": _cosine, "dot": _dot}
"""Name of a similarity -> what is done to embeddings before their dot product is taken."""


def contrast(queries: Tensor, passages: Tensor, batch: Batch, *, similarity: str, temperature: float) -> Scores:
    """Score the queries `[Q, D]` of a batch against its passages `[P, D]`.

    The negatives of a query are all passages of the batch, whoever brought them, except those that
    `batch.excluded` names. Computed in float32 also where the encoder runs in half precision: at temperature
    0.05 a bfloat16 score is off by up to 0.06.
    """
    with torch.autocast(queries.device.type, enabled=False):
        prepare = SIMILARITIES[similarity]
        wide = torch.promote_types(queries.dtype, torch.float32)
        queries = prepare(queries.to(wide)) / temperature
        passages = prepare(passages.to(wide))
        pos_scores = torch.einsum("qd,qmd->qm", queries, passages[batch.pos_index])
        return Scores(pos_scores, masked_lse(queries @ passages.T, ~batch.excluded))


def masked_share(batch: Batch) -> Tensor:
    """Share of the pairs of a query and a passage that may not act as negatives.

    Pairs of a query and its own drawn positives are left out, above and below the line.
    """
    own = batch.pos_mask.sum()
    return (batch.excluded.sum() - own) / (batch.excluded.numel() - own).clamp(min=1)
