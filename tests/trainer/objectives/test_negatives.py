"""Hardness weights and negatives of the same tower, against loops over all pairs."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labelkit.errors import UsageError
from trainer.config.fit_config import FitConfig
from trainer.objectives.batch import Group, Negative, Positive, lay_out, passages_of
from trainer.objectives.contrast import ContrastRules, contrast
from trainer.objectives.loss import MultiPositiveLoss

TEMPERATURE = 0.5
NAMES = [f"p{number}" for number in range(10)]


def vector(name: str) -> Tensor:
    """An embedding that belongs to a name."""
    generator = torch.Generator().manual_seed(sum(ord(letter) * 31**place for place, letter in enumerate(name)))
    return torch.randn(4, generator=generator, dtype=torch.float64)


def stacked(names: Sequence[str]) -> Tensor:
    return torch.stack([vector(name) for name in names]) if names else torch.zeros(0, 4, dtype=torch.float64)


def cosine(one: str, other: str) -> float:
    return float(torch.cosine_similarity(vector(one), vector(other), dim=0))


def found(groups: Sequence[Group], rules: ContrastRules, tile: int | None = None) -> tuple[list[float], list[Tensor]]:
    """A of each query, and its gradient on queries and passages."""
    names = passages_of(groups)
    inputs = [stacked(each).requires_grad_() for each in ([one.query_id for one in groups], names)]
    scores = contrast(inputs[0], inputs[1], lay_out(groups, names), rules, TEMPERATURE, tile=tile)
    finite = torch.where(scores.neg_lse > -math.inf, scores.neg_lse, 0.0)
    torch.autograd.backward(finite.sum())
    return scores.neg_lse.tolist(), [torch.zeros_like(one) if one.grad is None else one.grad for one in inputs]


@st.composite
def some_groups(draw: st.DrawFn) -> list[Group]:
    groups = []
    for number in range(draw(st.integers(1, 4))):
        mixed = draw(st.permutations(NAMES))
        positives, negatives, further = draw(st.integers(0, 2)), draw(st.integers(0, 3)), draw(st.integers(0, 2))
        groups.append(
            Group(
                f"q{number}",
                "",
                tuple(Positive(name, 1.0, "llm") for name in mixed[:positives]),
                tuple(Negative(name) for name in mixed[3 : 3 + negatives]),
                frozenset(mixed[:positives]) | frozenset(mixed[6 : 6 + further]),
                frozenset(mixed[3 : 3 + negatives]),
            )
        )
    return groups


def lse(values: list[float]) -> float:
    return math.log(sum(map(math.exp, values))) if values else -math.inf


def negatives_of(one: Group, groups: Sequence[Group], rules: ContrastRules) -> list[str]:
    every = [name for name in passages_of(groups) if name not in one.excluded]
    return [name for name in every if rules.in_batch or name in one.judged_negatives]


@settings(deadline=None, max_examples=40)
@given(groups=some_groups(), hardness=st.floats(0, 9), tile=st.none() | st.integers(1, 4), in_batch=st.booleans())
def test_hardness_weights_equal_the_loop(
    groups: list[Group], hardness: float, tile: int | None, in_batch: bool
) -> None:
    rules = ContrastRules(hardness=hardness, in_batch=in_batch)
    values, _ = found(groups, rules, tile)
    for value, one in zip(values, groups, strict=True):
        negatives = negatives_of(one, groups, rules)
        each = [cosine(one.query_id, name) / TEMPERATURE + hardness * cosine(one.query_id, name) for name in negatives]
        assert value == pytest.approx(lse(each), rel=1e-9, abs=1e-9)


def test_the_gradient_of_hardness_weights_is_the_weighted_softmax() -> None:
    """The weights are constants: the gradient on a score is softmax(s + hardness cos), and its sum is 1."""
    groups = [
        Group(
            "q0",
            "",
            (Positive("p0", 1.0, "llm"),),
            (Negative("p1"), Negative("p2")),
            frozenset({"p0"}),
            frozenset({"p1", "p2"}),
        )
    ]
    names = passages_of(groups)
    for tile in (None, 1):
        _, gradients = found(groups, ContrastRules(hardness=5.0), tile)
        q = torch.nn.functional.normalize(vector("q0"), dim=0)
        s = torch.tensor([cosine("q0", name) / TEMPERATURE for name in ("p1", "p2")], dtype=torch.float64)
        share = (s * (1 + 5.0 * TEMPERATURE)).softmax(dim=0)
        for name, weight in zip(("p1", "p2"), share.tolist(), strict=True):
            p = vector(name)
            unit = p / p.norm()
            expected = weight * (q - (q @ unit) * unit) / p.norm() / TEMPERATURE
            torch.testing.assert_close(gradients[1][names.index(name)], expected, rtol=1e-8, atol=1e-10)
    plain, zero = found(groups, ContrastRules()), found(groups, ContrastRules(hardness=0.0))
    assert plain[0] == zero[0]


@settings(deadline=None, max_examples=40)
@given(groups=some_groups(), tile=st.none() | st.integers(1, 4), in_batch=st.booleans())
def test_negatives_of_the_same_tower_equal_the_loop(groups: list[Group], tile: int | None, in_batch: bool) -> None:
    rules = ContrastRules(same_tower=True, in_batch=in_batch)
    values, gradients = found(groups, rules, tile)
    for value, one in zip(values, groups, strict=True):
        negatives = negatives_of(one, groups, rules)
        terms = [cosine(one.query_id, name) / TEMPERATURE for name in negatives]
        for other in groups:
            shared = {positive.passage_id for positive in other.positives} & one.excluded
            if other is not one and other.positives and not shared:
                terms.append(cosine(one.query_id, other.query_id) / TEMPERATURE)
        for positive in one.positives:
            share = -math.log(len(one.positives))
            terms += [cosine(positive.passage_id, name) / TEMPERATURE + share for name in negatives]
        assert value == pytest.approx(lse(terms), rel=1e-9, abs=1e-9)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_gradient_of_the_same_tower_is_the_change_of_the_loss() -> None:
    groups = [
        Group(
            "q0",
            "",
            (Positive("p0", 1.0, "llm"), Positive("p1", 1.0, "llm")),
            (Negative("p2"),),
            frozenset({"p0", "p1"}),
            frozenset({"p2"}),
        ),
        Group("q1", "", (Positive("p3", 1.0, "llm"),), (), frozenset({"p3"}), frozenset()),
    ]
    names = passages_of(groups)
    batch = lay_out(groups, names)

    def loss(queries: Tensor, passages: Tensor) -> Tensor:
        return contrast(queries, passages, batch, ContrastRules(same_tower=True, hardness=0.0), TEMPERATURE).neg_lse

    inputs = (stacked(["q0", "q1"]).requires_grad_(), stacked(names).requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)


def test_rules_that_an_objective_cannot_apply_are_refused() -> None:
    encoder = torch.nn.Sequential(torch.nn.Linear(1, 1))
    for objective in ("lsepair-hardneg", "bixse", "listwise-kl", "lambda"):
        for rule in ({"hardness": 5.0}, {"same_tower_negatives": True}):
            with pytest.raises(UsageError, match=f"objective {objective} has no log-sum-exp over negatives: remove"):
                MultiPositiveLoss(encoder, FitConfig(model="m", objective=objective, **rule))
    with pytest.raises(UsageError, match="hardness weights negatives by their cosine"):
        FitConfig(model="m", objective="lsepair", hardness=5.0, similarity="dot")
    with pytest.raises(UsageError, match="do not apply to same_tower_negatives"):
        FitConfig(model="m", objective="lsepair", same_tower_negatives=True, false_negative_margin=0.1)
