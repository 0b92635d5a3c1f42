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

A distilling objective is called with the group of each query instead, which is at most G drawn passages:

    group_scores  [Q, G]  float  similarity / temperature of each query with the passages of its group
    group_target  [Q, G]  float  log-odds of the relevance of each passage according to its label
    group_mask    [Q, G]  bool   True where the group has a passage

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

Loss = Callable[..., Tensor]
"""Four tensors (contrastive) or three tensors (distilling), and settings by keyword -> loss of each query, `[Q]`."""


class Objective(NamedTuple):
    """A loss function and the passages that it needs."""

    loss: Loss
    positives: Literal["first", "random", "several"] = "several"
    """Positives drawn for a query: the best-ranked one, a random one, or up to `max_positives`."""
    against: Literal["all", "hardest", "group"] = "all"
    """Negatives in `neg_lse`: all of them, or only the highest-scored one. "group" marks a distilling loss."""


def masked_lse(values: Tensor, mask: Tensor) -> Tensor:
    """Compute the log-sum-exp over the unmasked last dimension; a fully masked row has -inf and a zero gradient."""
    some = mask.any(dim=-1)
    # torch.where differentiates both branches, so the unused branch must be finite too: an empty row is summed over
    # zeros.
    shown = torch.where(mask, values, -torch.inf)
    shown = torch.where(some.unsqueeze(-1), shown, 0.0)
    return torch.where(some, shown.logsumexp(dim=-1), -torch.inf)


def _softplus(values: Tensor) -> Tensor:
    # torch's own softplus is linear above 20 and has an error of 2e-9 there.
    return torch.logaddexp(values, torch.zeros_like(values))


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


def listwise_kl(group_scores: Tensor, group_target: Tensor, group_mask: Tensor) -> Tensor:
    """Compute listwise distillation, KL(softmax(target) || softmax(s)), over the group of each query.

    Gradient: softmax(s) - softmax(target). Passages of other groups have no effect. Source: e.g. ColBERTv2, arXiv
    2112.01488.
    """
    if group_mask.shape[1] == 0:
        return group_scores.sum(dim=-1)
    # With the lowest finite number instead of -inf, an empty row is uniform on both sides and has loss 0.
    lowest = torch.finfo(group_scores.dtype).min
    student = torch.where(group_mask, group_scores, lowest).log_softmax(dim=-1)
    teacher = torch.where(group_mask, group_target.to(group_scores.dtype), lowest).log_softmax(dim=-1)
    return torch.where(group_mask, teacher.exp() * (teacher - student), 0.0).sum(dim=-1)


def margin_mse(group_scores: Tensor, group_target: Tensor, group_mask: Tensor) -> Tensor:
    """Compute Margin-MSE, the mean of ((s_i - s_j) - (t_i - t_j))^2 over the pairs of a group with target t_i > t_j.

    Gradient on s_i of a pair: 2 ((s_i - s_j) - (t_i - t_j)), divided by the number of pairs. Targets are log-odds; at
    temperatures around 0.05 the margins of scores and targets have a similar scale. Source: arXiv 2010.02666.
    """
    scores = torch.where(group_mask, group_scores, 0.0)
    target = torch.where(group_mask, group_target.to(scores.dtype), 0.0)
    margin, wanted = (x.unsqueeze(-1) - x.unsqueeze(-2) for x in (scores, target))
    pairs = group_mask.unsqueeze(-1) & group_mask.unsqueeze(-2) & (wanted > 0)
    errors = torch.where(pairs, margin - wanted, 0.0).square()
    return errors.sum(dim=(-2, -1)) / pairs.sum(dim=(-2, -1)).clamp(min=1)


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
    "listwise-kl": Objective(listwise_kl, against="group"),
    "margin-mse": Objective(margin_mse, against="group"),
}


def settings_of(objective: Objective) -> dict[str, float]:
    """List the settings of an objective's loss with their default values."""
    parameters = inspect.signature(objective.loss).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
