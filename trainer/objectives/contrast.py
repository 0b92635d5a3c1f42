"""Compute the inputs of an objective, scores and log-sum-exp, from the embeddings of a batch.

The scores of the positives are computed separately from the negatives. The log-sum-exp over the negatives is computed
in tiles of passages, and recomputed in the backward pass: memory grows with queries plus passages, not with their
product. With several processes, the passages and their gradients are gathered, duplicates are removed, and every
process contrasts its own queries with all passages.

Legend of shapes: Q queries and P passages of this process, U unique passages of all processes, M the largest number of
positives of a query, G the largest number of passages in a group, D dimensions, T passages per tile.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from labelkit.pooling.dense_search import SIMILARITIES
from trainer.objectives.batch import Batch
from trainer.objectives.masked import joint_lse
from trainer.objectives.processes import gather_passages
from trainer.objectives.same_tower import Towers, same_tower_lse
from trainer.objectives.streaming import Against, hardest, streamed_lse, streamed_softplus
from trainer.objectives.tiles import Mask, known_pairs, tile_size


class ContrastRules(NamedTuple):
    """The similarity of a pair, and the rule that decides which pairs count as negatives."""

    similarity: str = "cosine"
    """A name of `SIMILARITIES`."""
    in_batch: bool = True
    """True: unjudged passages of the batch count as negatives. False: only judged negatives do."""
    margin: float | None = None
    """An unjudged passage is masked as a suspected positive if its similarity exceeds the similarity of the query's
    best positive by more than this margin.
    """
    ratio: float | None = None
    """An unjudged passage is masked as a suspected positive if its similarity exceeds this ratio times the similarity
    of the query's best positive. Used instead of `margin` if both are set.
    """
    hardness: float = 0.0
    """Negatives are weighted by exp(hardness * cosine), with the cosine as a constant: A = LSE(s + hardness * cosine).
    5 in arXiv 2509.20354, 9 in arXiv 2503.04812; only for cosine similarity.
    """
    same_tower: bool = False
    """Also contrast each query with other queries, and its positives with other passages (arXiv 2308.03281)."""


class Scores(NamedTuple):
    """Similarities divided by the temperature, in float32 or wider, and the shares of masked pairs."""

    pos_scores: Tensor
    """[Q, M]: scores of the positives; masked entries are arbitrary."""
    group_scores: Tensor
    """[Q, G]: scores of the passages of each query's group; masked entries are arbitrary."""
    neg_lse: Tensor
    """[Q]: log-sum-exp over the negatives, or the score of the hardest negative; -inf for a query without negatives.
    For "pointwise" the sum of softplus over the negatives.
    """
    masked_share: Tensor
    """[]: share of masked pairs among all pairs, not counting a query's own drawn positives."""
    suspected_share: Tensor
    """[]: share of pairs masked as suspected positives by `ContrastRules.margin` or `ContrastRules.ratio`."""


def contrast(
    queries: Tensor,
    passages: Tensor,
    batch: Batch,
    rules: ContrastRules,
    temperature: float | Tensor,
    *,
    against: Against = "all",
    bias: Tensor | None = None,
    tile: int | None = None,
) -> Scores:
    """Score the queries `[Q, D]` of a batch against the passages of all processes, `[P, D]` of which are its own.

    Scores are computed in float32 even if the encoder runs in half precision: at temperature 0.05 a bfloat16 score is
    off by up to 0.06. `against` is `Objective.against`; with "group" no negatives are scored. `bias` `[]` is
    added to the scores of the group and of the negatives. `tile` is T, by default the number of passages of
    `tile_size`.
    """
    with torch.autocast(queries.device.type, enabled=False):
        prepare = SIMILARITIES[rules.similarity]
        wide = torch.promote_types(queries.dtype, torch.float32)
        directions = prepare(queries.to(wide))
        queries = directions / temperature
        passages, place, key = gather_passages(prepare(passages.to(wide)), batch.passage_key)
        pos_scores, group_scores = (
            torch.einsum("qd,qmd->qm", queries, passages[place[index]])
            for index in (batch.pos_index, batch.group_index)
        )
        nothing = torch.zeros((), device=queries.device)
        if against == "group":
            none = pos_scores.new_full(pos_scores.shape[:1], -torch.inf)
            return Scores(pos_scores, group_scores, none, masked_share=nothing, suspected_share=nothing)
        ceiling = _ceiling(pos_scores.detach(), batch.pos_mask, rules, temperature=temperature)
        if ceiling is not None and bias is not None:
            ceiling = ceiling + bias.detach()
        mask = _mask(batch, key, against)._replace(ceiling=ceiling, in_batch=rules.in_batch)
        tile = tile or tile_size(queries, len(passages))
        fixed = temperature.detach() if isinstance(temperature, Tensor) else temperature
        sharpness = 1 + rules.hardness * fixed if rules.hardness else 1.0
        near, far = (queries, passages) if bias is None else _biased(queries, passages, bias)
        found = _AGAINST[against](near, far, mask, tile=tile, sharpness=sharpness)
        neg_lse = found.values
        if rules.same_tower:
            towers = Towers(directions, passages, place, key=key)
            known = _mask(batch, key, "all")._replace(in_batch=rules.in_batch)
            same = same_tower_lse(towers, batch, known, temperature=temperature, tile=tile)
            neg_lse = joint_lse(neg_lse, same.lse)
            pos_scores, group_scores = pos_scores + same.zero, group_scores + same.zero
        own = (batch.group_mask if against in OUTSIDE else batch.pos_mask).sum()
        others = (len(queries) * len(passages) - own).clamp(min=1)
        return Scores(
            pos_scores,
            group_scores if bias is None else group_scores + bias,
            neg_lse,
            masked_share=(found.hidden - own) / others,
            suspected_share=found.suspected / others,
        )


def _mask(batch: Batch, key: Tensor, against: Against) -> Mask:
    """Collect the masked pairs; if the objective scores the group separately, also the pairs of the group."""
    row, excluded = batch.excluded_row, batch.excluded_key
    if against in OUTSIDE:
        # The other passages of the group are already excluded.
        negative = batch.group_mask & ~batch.group_positive & (batch.group_grade == 0)
        member = torch.where(negative, batch.passage_key[batch.group_index], -1)  # -1 is the key of no passage
        rows = torch.arange(len(member), device=member.device).unsqueeze(-1).expand_as(member)
        row, excluded = torch.cat([row, rows.flatten()]), torch.cat([excluded, member.flatten()])
    return Mask(known_pairs(row, excluded, key), known_pairs(batch.judged_row, batch.judged_key, key))


def _biased(queries: Tensor, passages: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Add a dimension to queries and passages, so that every dot product grows by `bias`."""
    added = bias.to(queries.dtype).expand(len(queries), 1)
    return torch.cat([queries, added], dim=1), pad(passages, (0, 1), value=1.0)


_AGAINST = {"all": streamed_lse, "outside": streamed_lse, "hardest": hardest, "pointwise": streamed_softplus}
OUTSIDE = ("outside", "pointwise")
"""Kinds of negatives without the query's own group, which the objective scores separately."""


def _ceiling(pos_scores: Tensor, pos_mask: Tensor, rules: ContrastRules, temperature: float | Tensor) -> Tensor | None:
    """Compute the score `[Q]` above which an unjudged passage is masked as a suspected positive."""
    if rules.margin is None and rules.ratio is None:
        return None
    if not pos_mask.shape[1]:
        return pos_scores.new_full(pos_scores.shape[:1], torch.inf)
    best = pos_scores.masked_fill(~pos_mask, -torch.inf).amax(dim=-1)
    ceiling = best * rules.ratio if rules.ratio is not None else best + (rules.margin or 0.0) / temperature
    return torch.where(pos_mask.any(dim=-1), ceiling, torch.inf).detach()
