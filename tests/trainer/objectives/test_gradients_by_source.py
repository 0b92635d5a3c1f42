"""Figures by source against a loop over positives."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from trainer.objectives.batch import Batch, Group, Positive, lay_out
from trainer.objectives.contrast import ContrastRules, contrast
from trainer.objectives.gradients_by_source import by_source
from trainer.objectives.objectives import lsepair
from trainer.objectives.processes import mean_over_processes

NAMES = ["a", "b", "c", "d"]


def batch() -> Batch:
    """One query with a human and an LLM positive, another with an LLM positive only."""
    both = (Positive("a", 1.0, "human"), Positive("b", 1.0, "llm"))
    one = (Positive("c", 1.0, "llm"),)
    groups = [Group("q0", "q0", both, (), frozenset("ab")), Group("q1", "q1", one, (), frozenset("c"))]
    return lay_out(groups, NAMES)


def figures(queries: Tensor, passages: Tensor) -> dict[str, float]:
    """Of LSEPair over dot products at temperature 0.5."""

    def loss_of(outputs: Sequence[Tensor], layout: Batch) -> Tensor:
        queries, passages = outputs
        scores = contrast(queries, passages, layout, ContrastRules("dot"), 0.5)
        rows = lsepair(scores.pos_scores, layout.pos_weight, layout.pos_mask, scores.neg_lse)
        return mean_over_processes(rows, layout.pos_mask.any(dim=-1))

    return by_source(loss_of, [queries, passages], batch(), ("human", "llm", "imported"))


def test_losses_and_shares_by_source() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, passages = (torch.randn(n, 5, generator=generator) for n in (2, 4))
    found = figures(queries, passages)
    s = queries @ passages.T / 0.5

    def softplus(row: int, positive: int, negatives: list[int]) -> float:
        return math.log1p(sum(math.exp(s[row, n] - s[row, positive]) for n in negatives))

    # A positive of the other source is masked, not a negative.
    assert found["loss_human"] == pytest.approx(softplus(0, 0, [2, 3]), rel=1e-5)
    assert found["loss_llm"] == pytest.approx((softplus(0, 1, [2, 3]) + softplus(1, 2, [0, 1, 3])) / 2, rel=1e-5)
    assert found["share_human"] == pytest.approx(1 / 3)
    assert not any("imported" in name for name in found)


def test_gradients_by_source_are_those_of_their_losses() -> None:
    queries, passages = torch.eye(2, 5), torch.zeros(4, 5)
    found = figures(queries, passages)
    # All scores are 0: q0's human loss log 3 pulls a with 2/3 and pushes c and d with 1/3 each, over temperature 0.5.
    pulls = torch.tensor([2 / 3, 1 / 3, 1 / 3]) / 0.5
    assert found["gradient_human"] == pytest.approx(float(pulls.norm()), rel=1e-5)
    # The LLM's: half of the same for q0 on b, and half of q1's on c (3/4), a, b and d (1/4). On the passages q0 acts
    # along one axis and q1 along the other, so that only c and d of q0 meet.
    llm = torch.tensor([2 / 3, 1 / 3, 1 / 3, 3 / 4, 1 / 4, 1 / 4, 1 / 4]) / 0.5 / 2
    assert found["gradient_llm"] == pytest.approx(float(llm.norm()), rel=1e-5)
    meeting = (1 / 3 / 0.5) * (1 / 3 / 0.5 / 2) * 2
    assert found["cosine_human_llm"] == pytest.approx(meeting / float(pulls.norm() * llm.norm()), rel=1e-5)


def test_opposed_sources_have_a_negative_cosine() -> None:
    """With one passage each, what the human label pulls the LLM's pushes only where it is a negative; here it is
    masked, so a query that stands between two positives is pulled both ways.
    """
    queries = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    passages = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert figures(queries, passages)["cosine_human_llm"] < 0
