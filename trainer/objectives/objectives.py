"""Objectives for several positives per query, as pure functions in one table: `OBJECTIVES`.

A contrastive objective is called with

    pos_scores  [Q, M]  float  similarity / temperature of each query with its positives
    pos_weight  [Q, M]  float  weight of each positive, above 0
    pos_mask    [Q, M]  bool   True where the query has a positive; a query has between 0 and M positives
    neg_lse     [Q]     float  log-sum-exp over the query's negatives; -inf for a query without negatives

and returns the loss of each query, `[Q]`. A row without positives has loss 0 and gradient 0, whatever its other values
are, and must not count in the mean. Masked values affect neither the loss nor the gradient.

Notation of the docstrings: P is the set of positives, m = |P|, A = `neg_lse`, LSE_P the log-sum-exp over the positives,
LSE_all = log(exp(A) + exp(LSE_P)) the log-sum-exp over positives and negatives, pi the softmax over positives and
negatives, softplus(x) = log(1 + exp(x)).

Objectives that read scores of a teacher, grades or probabilities are in `trainer.objectives.grouped`; the table has
them too.

Sources: "Training Dense Retrievers with Multiple Positive Passages" (arXiv 2602.12727) and "Utility-Focused LLM
Annotation for Retrieval and Retrieval-Augmented Generation" (arXiv 2504.05220); the docstrings name other sources.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainer.objectives import grouped
from trainer.objectives.masked import masked_lse
from trainer.objectives.masked import softplus as _softplus
from trainer.objectives.streaming import Against

Loss = Callable[..., Tensor]
"""Tensors, as many as the kind of the objective has, and settings by keyword -> loss of each query, `[Q]`."""


class Objective(NamedTuple):
    """A loss function and the passages that it needs."""

    loss: Loss
    positives: Literal["first", "random", "several"] = "several"
    """Positives drawn for a query: the best-ranked one, a random one, or up to `max_positives`."""
    against: Against = "all"
    """Form in which the loss is given the negatives."""
    reads: Literal["positives", "teacher", "grades", "probabilities"] = "positives"
    """Labels that the loss is given, see `trainer.objectives.grouped`."""


def _guarded(loss_of: Loss) -> Loss:
    """Make a contrastive loss, forward and backward, independent of masked entries and rows without positives."""

    @functools.wraps(loss_of)
    def guarded(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor, **settings: float) -> Tensor:
        if pos_mask.shape[1] == 0:
            return pos_scores.sum(dim=-1)
        some = pos_mask.any(dim=-1)
        scores = torch.where(pos_mask, pos_scores, 0.0)
        weight = torch.where(pos_mask, pos_weight.to(scores.dtype), 1.0)
        # The loss of an empty row is computed with positives of score 0, so that it is finite, and then set to 0.
        loss = loss_of(scores, weight, pos_mask | ~some.unsqueeze(-1), neg_lse, **settings)
        return torch.where(some, loss, 0.0)

    return guarded


@_guarded
def singlelh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute SingleLH, InfoNCE on the first positive p of the row: softplus(A - s_p).

    Gradient: pi - 1_p over p and the negatives. The other positives have no gradient, and weights have no effect.
    `trainer.data.training_sets` puts the best-ranked positive first. Source: arXiv 2602.12727, the single-positive
    likelihood.
    """
    return _softplus(neg_lse - pos_scores[:, 0])


@_guarded
def rand1lh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute Rand1LH, InfoNCE on one positive p, drawn uniformly and again in each epoch: softplus(A - s_p).

    Gradient: equal to SingleLH on p. Its expectation is the mean of the InfoNCE gradients of all positives, each
    computed without the other positives. `trainer.data.training_sets` draws p and puts it first in the row; weights
    have no effect. Source: arXiv 2602.12727 and 2504.05220.
    """
    return _softplus(neg_lse - pos_scores[:, 0])


@_guarded
def jointlh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute JointLH, the mean negative log-likelihood of all positives: sum_p w_p (LSE_all - s_p) / sum_p w_p.

    Gradient (weights 1): pi - 1_P / m. Each positive is pulled toward probability 1/m, and the loss is at least log m.
    Source: arXiv 2602.12727 and 2504.05220.
    """
    total = torch.where(pos_mask, pos_weight, 0.0).sum(dim=-1)
    return _joint_sum(pos_scores, pos_weight, pos_mask, neg_lse=neg_lse) / total


@_guarded
def jointlh_sum(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute JointLH as a sum instead of a mean: sum_p w_p (LSE_all - s_p).

    Gradient (weights 1): m pi - 1_P. The weight of a query grows with its number of positives, and the gradient with m;
    the gradient of `jointlh` does not. Source: arXiv 2602.12727.
    """
    return _joint_sum(pos_scores, pos_weight, pos_mask, neg_lse=neg_lse)


@_guarded
def summarglh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute SumMargLH, the marginal likelihood of any positive: LSE_all - LSE_P = softplus(A - LSE_P(s + log w)).

    Gradient: pi - softmax_P(s) on the positives, pi on the negatives. Positives with high scores are pulled most, and
    one positive with a high score makes the loss small. Source: arXiv 2504.05220.
    """
    return _softplus(neg_lse - masked_lse(pos_scores + pos_weight.log(), pos_mask))


@_guarded
def lsepair(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute LSEPair over all pairs of a positive and a negative: softplus(A + LSE_P(-s + log w)).

    The loss equals log(1 + sum_pn w_p exp(s_n - s_p)).

    Gradient: with sigma = sigmoid(A + LSE_P(-s)), -sigma softmax_P(-s) on the positives and sigma
    softmax_N(s) on the negatives. The lowest-scored positive is pulled most. Source: arXiv 2602.12727.
    """
    return _softplus(neg_lse + masked_lse(-pos_scores + pos_weight.log(), pos_mask))


@_guarded
def lsepair_minpos(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute LSEPair on the lowest-scored positive only: softplus(A - min_p s_p).

    Gradient: InfoNCE on the lowest-scored positive. The other positives have no gradient, and weights have no effect.
    Source: a variant in the code of arXiv 2602.12727.
    """
    return _softplus(neg_lse - pos_scores.masked_fill(~pos_mask, torch.inf).amin(dim=-1))


@_guarded
def lsepair_maxpos(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute LSEPair on the highest-scored positive only: softplus(A - max_p s_p).

    Gradient: InfoNCE on the highest-scored positive. The other positives have no gradient, and weights have no effect.
    Source: a variant in the code of arXiv 2602.12727.
    """
    return _softplus(neg_lse - pos_scores.masked_fill(~pos_mask, -torch.inf).amax(dim=-1))


@_guarded
def lsepair_trimmed(
    pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor, *, trim: float = 0.25
) -> Tensor:
    """Compute LSEPair without the share `trim` of a query's positives that have the lowest scores.

    The number of dropped positives is rounded down, so that at least one is kept.

    Gradient: LSEPair on the kept positives; the dropped ones have no gradient. LSEPair pulls the lowest-scored positive
    most, and a low score may mean that the label is wrong. Source: trimmed losses for label noise, e.g. arXiv
    1810.11874.
    """
    drop = (trim * pos_mask.sum(dim=-1, keepdim=True)).floor()
    # Rank 0 is the lowest-scored positive; masked entries come last and are never counted.
    rank = pos_scores.detach().masked_fill(~pos_mask, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    kept = pos_mask & (rank >= drop)
    return _softplus(neg_lse + masked_lse(-pos_scores + pos_weight.log(), kept))


@_guarded
def gce(
    pos_scores: Tensor,
    pos_weight: Tensor,
    pos_mask: Tensor,
    neg_lse: Tensor,
    *,
    power: float = 0.7,
    floor: float = 0.01,
) -> Tensor:
    """Compute truncated generalised cross-entropy: sum_p w_p (1 - max(f_p, floor)^power) / power / sum_p w_p.

    f_p = sigmoid(s_p - A) is the probability of p against the negatives, without the other positives. Gradient: InfoNCE
    of each positive times f_p^power; 0 for positives with f_p below `floor`. Labels that the model finds improbable
    therefore have little effect, and an untrained model may learn nothing. `power` near 0 approaches InfoNCE, 1 is the
    mean absolute error. Source: arXiv 1805.07836.
    """
    log_f = -_softplus(neg_lse.unsqueeze(-1) - pos_scores)
    fitted = (power * log_f.clamp(min=math.log(floor))).exp()
    loss = torch.where(pos_mask, pos_weight * (1 - fitted) / power, 0.0)
    return loss.sum(dim=-1) / torch.where(pos_mask, pos_weight, 0.0).sum(dim=-1)


def _joint_sum(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute the weighted sum over the positives of LSE_all - s_p per query, `[Q]`."""
    lse_all = torch.logaddexp(neg_lse, masked_lse(pos_scores, pos_mask))
    return torch.where(pos_mask, pos_weight * (lse_all.unsqueeze(-1) - pos_scores), 0.0).sum(dim=-1)


OBJECTIVES: dict[str, Objective] = {
    "singlelh": Objective(singlelh, positives="first"),
    "rand1lh": Objective(rand1lh, positives="random"),
    "jointlh": Objective(jointlh),
    "jointlh-sum": Objective(jointlh_sum),
    "summarglh": Objective(summarglh),
    "lsepair": Objective(lsepair),
    "lsepair-minpos": Objective(lsepair_minpos),
    "lsepair-maxpos": Objective(lsepair_maxpos),
    "lsepair-hardneg": Objective(lsepair, against="hardest"),
    "lsepair-trimmed": Objective(lsepair_trimmed),
    "gce": Objective(gce),
    "lsepair-graded": Objective(grouped.lsepair_graded, against="outside", reads="grades"),
    "jointlh-gain": Objective(grouped.jointlh_gain, against="outside", reads="grades"),
    "lambda": Objective(grouped.lambda_ndcg, against="group", reads="grades"),
    "bixse": Objective(grouped.bixse, against="pointwise", reads="probabilities"),
    "listwise-kl": Objective(grouped.listwise_kl, against="group", reads="teacher"),
    "margin-mse": Objective(grouped.margin_mse, against="group", reads="teacher"),
}


def settings_of(objective: Objective) -> dict[str, float]:
    """List the settings of an objective's loss with their default values."""
    parameters = inspect.signature(objective.loss).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
