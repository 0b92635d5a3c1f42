"""The objectives for several positives a query, as pure functions.

Every objective is called with

    pos_scores  [Q, M]  float  similarity / temperature of each query with its positives
    pos_weight  [Q, M]  float  weight of each positive, above 0
    pos_mask    [Q, M]  bool   True where there is a positive: queries have between 0 and M of them
    neg_lse     [Q]     float  log-sum-exp over the query's negatives; -inf where there are none

and returns the loss of each query, `[Q]`. A row without positives has loss 0 and gradient 0 whatever else it
holds; take the mean with `mean_over_rows`, which does not count it. Values under the mask reach neither loss
nor gradient.

In the docstrings P are the positives, m = |P|, A = `neg_lse`, LSE_P and LSE_all = log(exp(A) + exp(LSE_P))
the log-sum-exp over positives and over all, pi the softmax over positives and negatives, softplus(x) = log(1
+ exp(x)).

Sources: "Training Dense Retrievers with Multiple Positive Passages" (arXiv 2602.12727) and "Utility-Focused
LLM Annotation for Retrieval and Retrieval-Augmented Generation" (arXiv 2504.05220).
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def masked_lse(values: Tensor, mask: Tensor) -> Tensor:
    """Log-sum-exp over the last dimension where `mask`; -inf and a zero gradient where all is masked."""
    some = mask.any(dim=-1)
    # Both branches of a where are differentiated, so the unused one must be finite too: an empty row is
    # summed over zeros.
    shown = torch.where(mask, values, -torch.inf)
    shown = torch.where(some.unsqueeze(-1), shown, 0.0)
    return torch.where(some, shown.logsumexp(dim=-1), -torch.inf)


def mean_over_rows(loss: Tensor, pos_mask: Tensor) -> Tensor:
    """Mean loss of the queries that have a positive; 0 where no query has one. `[Q]`, `[Q, M]` -> scalar."""
    return loss.sum() / pos_mask.any(dim=-1).sum().clamp(min=1)


def _softplus(values: Tensor) -> Tensor:
    # torch's own softplus turns linear above 20 and is then off by 2e-9.
    return torch.logaddexp(values, torch.zeros_like(values))


def _guarded(objective: Objective) -> Objective:
    """Shield an objective, forward and backward, from masked entries and from rows without positives."""

    @functools.wraps(objective)
    def guarded(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
        if pos_mask.shape[1] == 0:
            return pos_scores.sum(dim=-1)
        some = pos_mask.any(dim=-1)
        scores = torch.where(pos_mask, pos_scores, 0.0)
        weight = torch.where(pos_mask, pos_weight.to(scores.dtype), 1.0)
        # An empty row is computed as if it had positives of score 0, which is finite, and then set to 0.
        loss = objective(scores, weight, pos_mask | ~some.unsqueeze(-1), neg_lse)
        return torch.where(some, loss, 0.0)

    return guarded


@_guarded
def singlelh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """SingleLH, InfoNCE on the first positive p of the row: softplus(A - s_p).

    Gradient: pi - 1_p over p and the negatives. The other positives are neither pulled nor pushed, and
    weights play no part. `trainer.data` puts the best-ranked positive first. Choose it as the baseline, or
    when one positive a query is trusted. Source: arXiv 2602.12727, the single-positive likelihood.
    """
    return _softplus(neg_lse - pos_scores[:, 0])


@_guarded
def rand1lh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Rand1LH, InfoNCE on a positive p drawn anew each epoch, uniformly over all: softplus(A - s_p).

    Gradient: as SingleLH; in expectation over the draw the mean of the positives' InfoNCE gradients, siblings
    left out. The draw is `trainer.data`'s; here p is the first of the row, and weights play no part. Choose
    it to use every positive at the cost of one, where no positive should dominate. Source: arXiv 2602.12727
    and 2504.05220.
    """
    return _softplus(neg_lse - pos_scores[:, 0])


@_guarded
def jointlh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """JointLH, the likelihood of all positives together, mean form: sum_p w_p (LSE_all - s_p) / sum_p w_p.

    Gradient (weights 1): pi - 1_P / m. It balances the positives, pulling each toward probability 1/m, and
    never falls below log m. Choose it where all positives should rank alike, for recall. Source: arXiv
    2602.12727 and 2504.05220.
    """
    total = torch.where(pos_mask, pos_weight, 0.0).sum(dim=-1)
    return _joint_sum(pos_scores, pos_weight, pos_mask, neg_lse) / total


@_guarded
def jointlh_sum(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """JointLH in sum form: sum_p w_p (LSE_all - s_p).

    Gradient (weights 1): m pi - 1_P. A query counts in proportion to its positives. Choose it to reproduce
    results that were obtained with the sum; otherwise the mean form keeps the learning rate independent of m.
    Source: arXiv 2602.12727.
    """
    return _joint_sum(pos_scores, pos_weight, pos_mask, neg_lse)


@_guarded
def summarglh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """SumMargLH, the marginal likelihood of any positive: LSE_all - LSE_P = softplus(A - LSE_P(s + log w)).

    Gradient: pi - softmax_P(s) on the positives, pi on the negatives. It favours positives that are already
    strong, and one good positive satisfies it. Choose it where the labels are noisy and some positives are
    wrong. Source: arXiv 2504.05220.
    """
    return _softplus(neg_lse - masked_lse(pos_scores + pos_weight.log(), pos_mask))


@_guarded
def lsepair(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """LSEPair, every pair of positive and negative: softplus(A + LSE_P(-s + log w)).

    That is log(1 + sum_pn w_p exp(s_n - s_p)).

    Gradient: with sigma = sigmoid(A + LSE_P(-s)), -sigma softmax_P(-s) on the positives and sigma
    softmax_N(s) on the negatives. It lifts the weakest positive most. Choose it where every positive is
    trusted; in arXiv 2602.12727, its source, it is the most robust of the five, though not always first.
    """
    return _softplus(neg_lse + masked_lse(-pos_scores + pos_weight.log(), pos_mask))


def _joint_sum(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    lse_all = torch.logaddexp(neg_lse, masked_lse(pos_scores, pos_mask))
    return torch.where(pos_mask, pos_weight * (lse_all.unsqueeze(-1) - pos_scores), 0.0).sum(dim=-1)


OBJECTIVES: dict[str, Objective] = {
    "singlelh": singlelh,
    "rand1lh": rand1lh,
    "jointlh": jointlh,
    "jointlh-sum": jointlh_sum,
    "summarglh": summarglh,
    "lsepair": lsepair,
}
