"""The objectives for several positives a query, as pure functions, in one table: `OBJECTIVES`.

A contrastive objective is called with

    pos_scores  [Q, M]  float  similarity / temperature of each query with its positives
    pos_weight  [Q, M]  float  weight of each positive, above 0
    pos_mask    [Q, M]  bool   True where there is a positive: queries have between 0 and M of them
    neg_lse     [Q]     float  log-sum-exp over the query's negatives; -inf where there are none

and returns the loss of each query, `[Q]`. A row without positives has loss 0 and gradient 0 whatever else it
holds, and must not count in the mean. Values under the mask reach neither loss
nor gradient.

In the docstrings P are the positives, m = |P|, A = `neg_lse`, LSE_P and LSE_all = log(exp(A) + exp(LSE_P))
the log-sum-exp over positives and over all, pi the softmax over positives and negatives, softplus(x) = log(1
+ exp(x)).

An objective that distils is called with the drawn passages of each query, its group of at most G, instead:

    group_scores  [Q, G]  float  similarity / temperature of each query with the passages of its group
    group_target  [Q, G]  float  log-odds of their relevance according to the labels
    group_mask    [Q, G]  bool   True where there is a passage

Sources: "Training Dense Retrievers with Multiple Positive Passages" (arXiv 2602.12727) and "Utility-Focused
LLM Annotation for Retrieval and Retrieval-Augmented Generation" (arXiv 2504.05220); others where they stand.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Loss = Callable[..., Tensor]
"""Four (contrastive) or three (distilling) tensors and settings by keyword -> loss of each query, `[Q]`."""


class Objective(NamedTuple):
    """A loss, and what it wants to be given."""

    loss: Loss
    positives: Literal["first", "random", "several"] = "several"
    """Which positives are drawn for a query: the best-ranked, one at random, or up to `max_positives`."""
    against: Literal["all", "hardest", "group"] = "all"
    """What `neg_lse` runs over: all negatives, or only the one that scores highest. With "group" the loss distils."""


def masked_lse(values: Tensor, mask: Tensor) -> Tensor:
    """Log-sum-exp over the last dimension where `mask`; -inf and a zero gradient where all is masked."""
    some = mask.any(dim=-1)
    # Both branches of a where are differentiated, so the unused one must be finite too: an empty row is
    # summed over zeros.
    shown = torch.where(mask, values, -torch.inf)
    shown = torch.where(some.unsqueeze(-1), shown, 0.0)
    return torch.where(some, shown.logsumexp(dim=-1), -torch.inf)


def _softplus(values: Tensor) -> Tensor:
    # torch's own softplus turns linear above 20 and is then off by 2e-9.
    return torch.logaddexp(values, torch.zeros_like(values))


def _guarded(loss_of: Loss) -> Loss:
    """Shield a contrastive loss, forward and backward, from masked entries and from rows without positives."""

    @functools.wraps(loss_of)
    def guarded(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor, **settings: float) -> Tensor:
        if pos_mask.shape[1] == 0:
            return pos_scores.sum(dim=-1)
        some = pos_mask.any(dim=-1)
        scores = torch.where(pos_mask, pos_scores, 0.0)
        weight = torch.where(pos_mask, pos_weight.to(scores.dtype), 1.0)
        # An empty row is computed as if it had positives of score 0, which is finite, and then set to 0.
        loss = loss_of(scores, weight, pos_mask | ~some.unsqueeze(-1), neg_lse, **settings)
        return torch.where(some, loss, 0.0)

    return guarded


@_guarded
def singlelh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """SingleLH, InfoNCE on the first positive p of the row: softplus(A - s_p).

    Gradient: pi - 1_p over p and the negatives. The other positives are neither pulled nor pushed, and
    weights play no part. `trainer.data.training_sets` puts the best-ranked positive first. Choose it as the baseline,
    or when one positive a query is trusted. Source: arXiv 2602.12727, the single-positive likelihood.
    """
    return _softplus(neg_lse - pos_scores[:, 0])


@_guarded
def rand1lh(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Rand1LH, InfoNCE on a positive p drawn anew each epoch, uniformly over all: softplus(A - s_p).

    Gradient: as SingleLH; in expectation over the draw the mean of the positives' InfoNCE gradients, siblings
    left out. The draw is `trainer.data.training_sets`'s; here p is the first of the row, and weights play no part.
    Choose it to use every positive at the cost of one, where no positive should dominate. Source: arXiv 2602.12727
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
    return _joint_sum(pos_scores, pos_weight, pos_mask, neg_lse=neg_lse) / total


@_guarded
def jointlh_sum(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """JointLH in sum form: sum_p w_p (LSE_all - s_p).

    Gradient (weights 1): m pi - 1_P. A query counts in proportion to its positives. Choose it to reproduce
    results that were obtained with the sum; otherwise the mean form keeps the learning rate independent of m.
    Source: arXiv 2602.12727.
    """
    return _joint_sum(pos_scores, pos_weight, pos_mask, neg_lse=neg_lse)


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


@_guarded
def lsepair_minpos(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """LSEPair on the weakest positive alone: softplus(A - min_p s_p).

    Gradient: InfoNCE's on that positive; the others have none, and weights play no part. Choose it where every
    positive is certain and the worst rank is what counts. Source: arXiv 2602.12727, a variant of its code.
    """
    return _softplus(neg_lse - pos_scores.masked_fill(~pos_mask, torch.inf).amin(dim=-1))


@_guarded
def lsepair_maxpos(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """LSEPair on the strongest positive alone: softplus(A - max_p s_p).

    Gradient: InfoNCE's on that positive; the others have none, and weights play no part. Choose it where one
    good answer is enough and most positives may be wrong. Source: arXiv 2602.12727, a variant of its code.
    """
    return _softplus(neg_lse - pos_scores.masked_fill(~pos_mask, -torch.inf).amax(dim=-1))


@_guarded
def lsepair_trimmed(
    pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor, *, trim: float = 0.25
) -> Tensor:
    """LSEPair without the lowest-scored `trim` of a query's positives (rounded down: at least one stays).

    Gradient: LSEPair's on the positives that stay, none on the others. LSEPair pulls hardest on the positive
    that the model finds least likely, and among LLM labels that is also the likeliest mistake. Choose it for
    noisy labels of which several are drawn. Source: trimmed losses for label noise, e.g. arXiv 1810.11874.
    """
    drop = (trim * pos_mask.sum(dim=-1, keepdim=True)).floor()
    # Ranks from the weakest positive upward; masked places come last and are never counted.
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
    """Truncated generalised cross-entropy: sum_p w_p (1 - max(f_p, floor)^power) / power / sum_p w_p.

    f_p = sigmoid(s_p - A) is the probability of p against the negatives, siblings left out. Gradient: InfoNCE's
    of each positive times f_p^power, and none where f_p is below `floor`: the less the model believes a label, the
    less it learns from it. `power` near 0 is InfoNCE, 1 is the mean absolute error. Choose it for noisy labels and a
    model that already ranks; a model that knows nothing yet learns nothing from it. Source: arXiv 1805.07836.
    """
    log_f = -_softplus(neg_lse.unsqueeze(-1) - pos_scores)
    fitted = (power * log_f.clamp(min=math.log(floor))).exp()
    loss = torch.where(pos_mask, pos_weight * (1 - fitted) / power, 0.0)
    return loss.sum(dim=-1) / torch.where(pos_mask, pos_weight, 0.0).sum(dim=-1)


def listwise_kl(group_scores: Tensor, group_target: Tensor, group_mask: Tensor) -> Tensor:
    """Listwise distillation: KL(softmax(target) || softmax(s)) over the query's own group.

    Gradient: softmax(s) - softmax(target). Choose it where the judge's probabilities say more than its grades
    and the negatives are judged too; in-batch passages play no part. Source: e.g. ColBERTv2, arXiv 2112.01488.
    """
    if group_mask.shape[1] == 0:
        return group_scores.sum(dim=-1)
    # The lowest finite number instead of -inf: an empty row becomes uniform on both sides, and its loss 0.
    lowest = torch.finfo(group_scores.dtype).min
    student = torch.where(group_mask, group_scores, lowest).log_softmax(dim=-1)
    teacher = torch.where(group_mask, group_target.to(group_scores.dtype), lowest).log_softmax(dim=-1)
    return torch.where(group_mask, teacher.exp() * (teacher - student), 0.0).sum(dim=-1)


def margin_mse(group_scores: Tensor, group_target: Tensor, group_mask: Tensor) -> Tensor:
    """Margin-MSE: mean of ((s_i - s_j) - (t_i - t_j))^2 over the group's pairs with target t_i > t_j.

    Gradient on s_i of a pair: twice its error. Scores and targets are both log-odds, so that their margins are of
    one scale at temperatures around 0.05. Choose it to copy how much better a passage is, not only that it is. Source:
    arXiv 2010.02666.
    """
    scores = torch.where(group_mask, group_scores, 0.0)
    target = torch.where(group_mask, group_target.to(scores.dtype), 0.0)
    margin, wanted = (x.unsqueeze(-1) - x.unsqueeze(-2) for x in (scores, target))
    pairs = group_mask.unsqueeze(-1) & group_mask.unsqueeze(-2) & (wanted > 0)
    errors = torch.where(pairs, margin - wanted, 0.0).square()
    return errors.sum(dim=(-2, -1)) / pairs.sum(dim=(-2, -1)).clamp(min=1)


def _joint_sum(pos_scores: Tensor, pos_weight: Tensor, pos_mask: Tensor, neg_lse: Tensor) -> Tensor:
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
    """The keyword settings of an objective's loss and their defaults."""
    parameters = inspect.signature(objective.loss).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
