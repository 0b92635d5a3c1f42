"""Objectives that read scores of a teacher, grades or probabilities from the labels of a query's group.

They are called with the group of each query, which is at most G drawn passages. The arguments depend on the kind of
label:

    reads teacher        (group_scores, group_target, group_mask)
    reads grades         (group_scores, group_grade, group_weight, group_positive, group_mask, neg_lse)
    reads probabilities  (group_scores, group_probability, group_mask, neg_lse)

    group_scores       [Q, G]  float  similarity / temperature of each query with the passages of its group
    group_target       [Q, G]  float  scores of the teacher over its temperature
    group_grade        [Q, G]  float  grades: negatives have 0, passages between negatives and positives 1
    group_weight       [Q, G]  float  weight of each positive, above 0; 1 for all other passages
    group_positive     [Q, G]  bool   True for the positives
    group_probability  [Q, G]  float  probability of relevance, 0 to 1
    group_mask         [Q, G]  bool   True where the group has a passage (for a teacher: a passage that it scored)
    neg_lse            [Q]     float  A, the log-sum-exp over the negatives outside the group, -inf for none; for BiXSE
                                      the sum of their softplus

They return the loss of each query, `[Q]`. A row without positives (for a teacher: without passages) has loss 0 and
gradient 0. Masked values affect neither the loss nor the gradient. Notation of the docstrings: g are grades, P is the
set of positives, G the group, LSE_all = log(exp(A) + sum over G of exp(s)).
"""

import torch
from torch import Tensor

from trainer.objectives.masked import joint_lse, masked_lse, softplus


def lsepair_graded(
    group_scores: Tensor,
    group_grade: Tensor,
    group_weight: Tensor,
    group_positive: Tensor,
    group_mask: Tensor,
    neg_lse: Tensor,
) -> Tensor:
    """Compute LSEPair over all pairs of grades.

    The loss is log(1 + sum_{g_i > g_j} w_i exp(s_j - s_i) + sum_{i in P} w_i exp(A - s_i)).

    Gradient: every pair of the sum is pushed apart in proportion to its share in 1 + sum. Passages of grade 1 stand
    between negatives and positives instead of being ignored. With two grades, positives of one and the rest of the
    group 0, it is LSEPair. Source: the pairwise log-sum-exp of arXiv 2602.12727 with the pairs of RankNet (doi
    10.1145/1102351.1102363).
    """
    group = _Group(group_scores, group_mask, group_positive)
    if group.empty:
        return group.nothing
    grade, log_weight = group.fill(group_grade), group.fill(group_weight, 1.0).log()
    pairs = (grade.unsqueeze(-1) > grade.unsqueeze(-2)) & _both(group_mask)
    gaps = group.scores.unsqueeze(-2) - group.scores.unsqueeze(-1) + log_weight.unsqueeze(-1)
    inside = masked_lse(gaps.flatten(start_dim=1), pairs.flatten(start_dim=1))
    outside = neg_lse + masked_lse(log_weight - group.scores, group.positive)
    return group.where_positive(softplus(joint_lse(inside, outside)))


def jointlh_gain(
    group_scores: Tensor,
    group_grade: Tensor,
    group_weight: Tensor,
    group_positive: Tensor,
    group_mask: Tensor,
    neg_lse: Tensor,
) -> Tensor:
    """Compute gain-weighted JointLH, or soft InfoNCE.

    The loss is sum_i q_i (LSE_all - s_i), q in proportion to w (2^g - 1), over G.

    Gradient: pi - q. Each passage is pulled toward its share of the gain that nDCG gives it; negatives have gain 0.
    With two grades it is JointLH, mean form. Source: the gains of nDCG as the target of a softmax, as in ListNet (doi
    10.1145/1273496.1273513).
    """
    group = _Group(group_scores, group_mask, group_positive)
    if group.empty:
        return group.nothing
    gain = (torch.exp2(group.fill(group_grade)) - 1) * group.fill(group_weight, 1.0)
    share = gain / gain.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(gain.dtype).tiny)
    lse_all = joint_lse(neg_lse, masked_lse(group.scores, group_mask))
    loss = torch.where(group_mask, share * (lse_all.unsqueeze(-1) - group.scores), 0.0).sum(dim=-1)
    return group.where_positive(loss)


def lambda_ndcg(
    group_scores: Tensor,
    group_grade: Tensor,
    group_weight: Tensor,
    group_positive: Tensor,
    group_mask: Tensor,
    neg_lse: Tensor,
) -> Tensor:
    """Compute a listwise surrogate of nDCG.

    The loss is sum_{g_i > g_j} |change of nDCG when i and j swap ranks| softplus(s_j - s_i), over G.

    Ranks are by the current scores within the group, and the change is a constant for the gradient: of each pair
    -sigmoid(s_j - s_i) times the change on i, the opposite on j. Negatives outside the group and weights have no
    effect. Source: LambdaLoss (doi 10.1145/3269206.3271784), LambdaRank's weights.
    """
    group = _Group(group_scores, group_mask, group_positive)
    if group.empty:
        return group.nothing
    grade = group.fill(group_grade)
    gain = torch.exp2(grade) - 1
    hidden = group.scores.detach().masked_fill(~group_mask, -torch.inf)
    rank = hidden.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    discount = 1 / torch.log2(rank.to(gain.dtype) + 2)
    places = 1 / torch.log2(torch.arange(gain.shape[-1], device=gain.device, dtype=gain.dtype) + 2)
    ideal = (gain.sort(dim=-1, descending=True).values * places).sum(dim=-1).clamp(min=torch.finfo(gain.dtype).tiny)
    change = _differences(gain).abs() * _differences(discount).abs() / ideal[:, None, None]
    pairs = (_differences(grade) > 0) & _both(group_mask)
    loss = torch.where(pairs, change * softplus(-_differences(group.scores)), 0.0).sum(dim=(-2, -1))
    return group.where_positive(loss)


def bixse(group_scores: Tensor, group_probability: Tensor, group_mask: Tensor, neg_lse: Tensor) -> Tensor:
    """Compute BiXSE, binary cross-entropy with the probabilities of the labels.

    The loss is the sum over G of p softplus(-s - b) + (1 - p) softplus(s + b), plus softplus(s + b) of all other
    negatives.

    The scores contain the bias b, which is learnt and starts at `trainer.objectives.loss.BIAS`. Gradient: sigmoid(s +
    b) - p on the group, sigmoid(s + b) on the other negatives; each passage is by itself, and weights have no effect.
    Labels without a probability have 1 as positives and 0 as negatives. A row without passages has loss 0; a query
    without positives does not count in the mean. Source: BiXSE, arXiv 2508.06781; the bias as in SigLIP, arXiv
    2303.15343.
    """
    if group_mask.shape[1] == 0:
        return group_scores.sum(dim=-1)
    scores = torch.where(group_mask, group_scores, 0.0)
    p = torch.where(group_mask, group_probability.to(scores.dtype), 0.0)
    loss = p * softplus(-scores) + (1 - p) * softplus(scores)
    total = torch.where(group_mask, loss, 0.0).sum(dim=-1) + neg_lse
    return torch.where(group_mask.any(dim=-1), total, 0.0)


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

    Gradient on s_i of a pair: 2 ((s_i - s_j) - (t_i - t_j)), divided by the number of pairs. At temperatures
    around 0.05, margins of scores and of log-odds have a similar scale. Source: arXiv 2010.02666.
    """
    scores = torch.where(group_mask, group_scores, 0.0)
    target = torch.where(group_mask, group_target.to(scores.dtype), 0.0)
    margin, wanted = _differences(scores), _differences(target)
    pairs = _both(group_mask) & (wanted > 0)
    errors = torch.where(pairs, margin - wanted, 0.0).square()
    return errors.sum(dim=(-2, -1)) / pairs.sum(dim=(-2, -1)).clamp(min=1)


class _Group:
    """The group of each query, with masked values replaced by finite numbers."""

    def __init__(self, scores: Tensor, mask: Tensor, positive: Tensor) -> None:
        self.mask = mask
        self.positive = positive & mask
        self.scores = torch.where(mask, scores, 0.0)
        self.empty = mask.shape[1] == 0
        self.nothing = self.scores.sum(dim=-1)
        """[Q]: loss of rows without passages, which is 0."""

    def fill(self, values: Tensor, filler: float = 0.0) -> Tensor:
        """Replace masked values of the labels by `filler`."""
        return torch.where(self.mask, values.to(self.scores.dtype), filler)

    def where_positive(self, loss: Tensor) -> Tensor:
        """Set the loss of rows without positives to 0."""
        return torch.where(self.positive.any(dim=-1), loss, 0.0)


def _differences(values: Tensor) -> Tensor:
    """Compute value i minus value j for all pairs of a group. [Q, G] -> [Q, G, G]."""
    return values.unsqueeze(-1) - values.unsqueeze(-2)


def _both(mask: Tensor) -> Tensor:
    """Mark the pairs of a group of which no passage is masked. [Q, G] -> [Q, G, G]."""
    return mask.unsqueeze(-1) & mask.unsqueeze(-2)
