"""The loss module of a cross-encoder: scores each query with the passages of its own group, applies the objective.

A cross-encoder reads a query and a passage together, so that the passages of other queries would need a pass each. The
negatives of a query are therefore the negatives of its group, over which A is the log-sum-exp.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.objectives.batch import Batch
from trainer.objectives.contrast import Scores
from trainer.objectives.loss import DEVICE_TOKENS, MultiPositiveLoss
from trainer.objectives.masked import masked_lse
from trainer.objectives.streaming import Against


class PairLoss(MultiPositiveLoss):
    """Objective over the scores of the pairs of a batch; `model` maps features to `scores` `[N, 1]`."""

    def _embed(self, column: dict[str, Any]) -> list[Tensor]:
        """Compute the scores of all pairs, `[N]`, in mini-batches of similar length."""
        parts = mini_batches(column, self.mini_batch_num_tokens or DEVICE_TOKENS)
        return [self.model(part)["scores"].float().flatten() for part in parts]

    def _scores(self, parts: Sequence[Tensor], batch: Batch, numbers: dict[str, Tensor]) -> Iterator[Scores]:
        (scores,) = parts
        yield pair_scores(scores / numbers["log_temperature"].exp(), batch, self.objective.against)


def pair_scores(scores: Tensor, batch: Batch, against: Against) -> Scores:
    """Arrange the scores `[N]` of the pairs of a batch, and compute A over the negatives of each query's group.

    `against` is `Objective.against`. An objective that reads the whole group ("outside", "pointwise", "group") has no
    negatives outside of it: A is -inf, and 0 for the sum of "pointwise".
    """
    pos_scores, group_scores = scores[batch.pos_index], scores[batch.group_index]
    negative = batch.group_mask & ~batch.group_positive & (batch.group_grade == 0)
    if against == "all":
        neg_lse = masked_lse(group_scores, negative)
    elif against == "hardest" and negative.shape[1]:
        neg_lse = torch.where(negative, group_scores, -torch.inf).amax(dim=-1)
    else:
        neg_lse = scores.new_full((len(negative),), 0.0 if against == "pointwise" else -torch.inf)
    nothing = torch.zeros((), device=scores.device)
    return Scores(pos_scores, group_scores, neg_lse, masked_share=nothing, suspected_share=nothing)


def mini_batches(features: dict[str, Any], tokens: int) -> Iterator[dict[str, Any]]:
    """Split the features of texts, longest first, into parts of at most `tokens` tokens with padding, or one text."""
    attention = features["attention_mask"]
    count, start = len(attention), 0
    # Padding on the right is cut off; padding on the left stays, because positions are counted from it.
    ends = (attention * torch.arange(1, attention.shape[1] + 1, device=attention.device)).amax(dim=1).tolist()
    while start < count:
        width = max(1, max(ends[start:]))
        end = min(count, start + max(1, tokens // width))
        rows = slice(start, end)
        yield {
            name: value[rows, :width] if isinstance(value, Tensor) and value.dim() == 2 else value
            for name, value in features.items()
        }
        start = end
