"""Objectives that read grades or probabilities: against slow loops over one batch, and against their neighbours."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.config.fit_config import FitConfig
from trainer.objectives.batch import Batch, Group, Negative, Positive, lay_out, passages_of
from trainer.objectives.loss import BIAS, MultiPositiveLoss
from trainer.objectives.objectives import OBJECTIVES

GROUPED = ("lsepair-graded", "jointlh-gain", "lambda", "bixse")
TEMPERATURE = 0.5
WIDTH = 4
NAMES = [f"p{number}" for number in range(12)]


def vector(name: str) -> Tensor:
    """An embedding that belongs to a name."""
    generator = torch.Generator().manual_seed(sum(ord(letter) * 31**place for place, letter in enumerate(name)))
    return torch.randn(WIDTH, generator=generator, dtype=torch.float64)


def stacked(names: Sequence[str]) -> Tensor:
    return torch.stack([vector(name) for name in names]) if names else torch.zeros(0, WIDTH, dtype=torch.float64)


def run(objective: str, groups: Sequence[Group], **settings: float) -> tuple[float, dict[str, Tensor]]:
    """Mean loss of a batch through the loss module, and its gradient on the embedding of each name."""
    config = FitConfig(model="unused", objective=objective, temperature=TEMPERATURE, **settings)  # type: ignore[arg-type]
    module = MultiPositiveLoss(torch.nn.Sequential(torch.nn.Linear(1, 1)), config).double()
    names = passages_of(groups)
    inputs = [stacked(each).requires_grad_() for each in ([one.query_id for one in groups], names)]
    loss = module.calculate_loss([[inputs[0]], [inputs[1]]], vars(lay_out(groups, names)))
    torch.autograd.backward(loss)
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in inputs]
    keys = [*(one.query_id for one in groups), *names]
    return loss.item(), dict(zip(keys, torch.cat(gradients), strict=True))


def score(query: str, name: str) -> float:
    return float(torch.cosine_similarity(vector(query), vector(name), dim=0)) / TEMPERATURE


def slow(objective: str, groups: Sequence[Group]) -> float:
    """The same by loops."""
    everything = passages_of(groups)
    losses = []
    for one in groups:
        if not one.positives:
            continue
        s = {name: score(one.query_id, name) for name in everything}
        inside = {member.passage_id: member for member in one.members}
        outside = [name for name in everything if name not in inside and name not in one.excluded]
        losses.append(SLOW[objective](one, s, outside))
    return sum(losses) / len(losses) if losses else 0.0


def slow_graded(one: Group, s: dict[str, float], outside: list[str]) -> float:
    weight = {positive.passage_id: positive.weight for positive in one.positives}
    total = 1.0
    for i in one.members:
        w = weight.get(i.passage_id, 1.0)
        total += sum(w * math.exp(s[j.passage_id] - s[i.passage_id]) for j in one.members if i.grade > j.grade)
    for p in one.positives:
        total += sum(p.weight * math.exp(s[name] - s[p.passage_id]) for name in outside)
    return math.log(total)


def slow_gain(one: Group, s: dict[str, float], outside: list[str]) -> float:
    weight = {positive.passage_id: positive.weight for positive in one.positives}
    gain = {m.passage_id: weight.get(m.passage_id, 1.0) * (2**m.grade - 1) for m in one.members}
    everything = math.log(sum(math.exp(s[name]) for name in [*gain, *outside]))
    return sum(g * (everything - s[name]) for name, g in gain.items()) / sum(gain.values())


def slow_lambda(one: Group, s: dict[str, float], outside: list[str]) -> float:
    order = sorted(one.members, key=lambda m: -s[m.passage_id])
    rank = {m.passage_id: place for place, m in enumerate(order, start=1)}
    grades = sorted((m.grade for m in one.members), reverse=True)
    ideal = sum((2**g - 1) / math.log2(place + 1) for place, g in enumerate(grades, start=1))

    def dcg() -> float:
        return sum((2**m.grade - 1) / math.log2(rank[m.passage_id] + 1) for m in one.members)

    total, before = 0.0, dcg()
    for i in one.members:
        for j in one.members:
            if i.grade > j.grade:
                a, b = i.passage_id, j.passage_id
                rank[a], rank[b] = rank[b], rank[a]
                change = abs(dcg() - before) / ideal
                rank[a], rank[b] = rank[b], rank[a]
                total += change * math.log1p(math.exp(s[b] - s[a]))
    return total


def slow_bixse(one: Group, s: dict[str, float], outside: list[str]) -> float:
    total = sum(math.log1p(math.exp(s[name] + BIAS)) for name in outside)
    for m in one.members:
        p, x = m.probability, s[m.passage_id] + BIAS
        total -= p * math.log(1 / (1 + math.exp(-x))) + (1 - p) * math.log(1 - 1 / (1 + math.exp(-x)))
    return total


SLOW = {"lsepair-graded": slow_graded, "jointlh-gain": slow_gain, "lambda": slow_lambda, "bixse": slow_bixse}


@st.composite
def graded_groups(draw: st.DrawFn) -> list[Group]:
    groups = []
    for number in range(draw(st.integers(1, 4))):
        mixed = draw(st.permutations(NAMES))
        positives, between, negatives, further = (draw(st.integers(0, 3)) for _ in range(4))
        drawn = tuple(
            Positive(
                name,
                draw(st.floats(0.1, 3)),
                "llm",
                None,
                draw(st.sampled_from([1.0, 2.0, 3.0])),
                draw(st.floats(0, 1)),
            )
            for name in mixed[:positives]
        )
        middle = tuple(Negative(name, None, 1.0, draw(st.floats(0, 1))) for name in mixed[3 : 3 + between])
        own = tuple(Negative(name, probability=draw(st.floats(0, 1))) for name in mixed[6 : 6 + negatives])
        excluded = frozenset(mixed[:positives]) | frozenset(mixed[3 : 3 + between]) | frozenset(mixed[9 : 9 + further])
        known = frozenset(one.passage_id for one in own)
        groups.append(Group(f"q{number}", "", drawn, own + middle, excluded, known))
    return groups


@pytest.mark.parametrize("objective", GROUPED)
@settings(deadline=None, max_examples=25)
@given(groups=graded_groups())
def test_drawn_batches_equal_the_slow_loops(objective: str, groups: list[Group]) -> None:
    loss, gradient = run(objective, groups)
    assert loss == pytest.approx(slow(objective, groups), rel=1e-5, abs=1e-7)
    assert all(torch.isfinite(each).all() for each in gradient.values())


@pytest.mark.parametrize("objective", GROUPED)
def test_the_gradient_is_the_change_of_the_loss(objective: str) -> None:
    """By finite differences on the scores of a group, so that no engine is in between."""
    torch.manual_seed(0)
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    outside = torch.randn(3, dtype=torch.float64, requires_grad=True)
    grade = torch.tensor([[3.0, 2, 1, 0, 0], [1, 0, 0, 0, 0], [2, 2, 1, 1, 0]], dtype=torch.float64)
    positive = grade >= 2
    positive[1, 0] = True
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    weight = torch.rand(3, 5, dtype=torch.float64) + 0.5

    def loss(scores: Tensor, outside: Tensor) -> Tensor:
        if objective == "bixse":
            return OBJECTIVES[objective].loss(scores, grade / 3, mask, outside)
        return OBJECTIVES[objective].loss(scores, grade, weight, positive, mask, outside)

    assert torch.autograd.gradcheck(loss, (scores, outside))


def two_grades(groups: Sequence[Group]) -> list[Group]:
    """The groups with grade 2 for the positives and 0 for the rest, none of which is between."""
    return [
        Group(
            one.query_id,
            "",
            tuple(Positive(p.passage_id, p.weight, "llm", None, 2.0) for p in one.positives),
            tuple(Negative(n.passage_id) for n in one.negatives if n.grade == 0),
            one.excluded,
            one.judged_negatives,
        )
        for one in groups
    ]


@pytest.mark.parametrize(("graded", "plain"), [("lsepair-graded", "lsepair"), ("jointlh-gain", "jointlh")])
@settings(deadline=None, max_examples=25)
@given(groups=graded_groups())
def test_with_two_grades_a_graded_objective_is_its_neighbour(graded: str, plain: str, groups: list[Group]) -> None:
    groups = two_grades(groups)
    found, expected = run(graded, groups), run(plain, groups)
    assert found[0] == pytest.approx(expected[0], rel=1e-9, abs=1e-11)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("objective", GROUPED)
def test_a_query_without_any_passage_has_a_finite_gradient(objective: str) -> None:
    excluded = frozenset({"p0", "p1"})
    positives = tuple(Positive(name, 1.0, "llm", None, 2.0, 0.9) for name in sorted(excluded))
    groups = [Group("q0", "", positives, (), excluded, frozenset()), Group("q1", "", (), (), excluded, frozenset())]
    loss, gradient = run(objective, groups)
    assert math.isfinite(loss)
    assert all(torch.isfinite(each).all() for each in gradient.values())


def one_query(*, between: bool = False) -> list[Group]:
    middle = (Negative("p2", None, 1.0, 0.4),) if between else ()
    positives = (Positive("p0", 1.0, "llm", 2.0, 3.0, 0.9), Positive("p1", 1.0, "llm", 1.0, 2.0, 0.7))
    negatives = (Negative("p3", -1.0, 0.0, 0.1), *middle)
    return [Group("q0", "", positives, negatives, frozenset({"p0", "p1", "p2"}), frozenset({"p3"}))]


def test_a_passage_of_grade_1_is_pushed_below_positives_and_above_negatives() -> None:
    q = vector("q0") / vector("q0").norm()
    for objective in ("lsepair-graded", "jointlh-gain", "lambda"):
        _, gradient = run(objective, one_query(between=True))
        directions = {name: float(gradient[name] @ q) for name in ("p0", "p2", "p3")}
        assert directions["p0"] < 0 < directions["p3"], objective
    loss = run("lsepair-graded", one_query(between=True))[0]
    assert loss > run("lsepair-graded", one_query())[0], "its pairs are more of the sum"


def test_jointlh_gain_has_its_minimum_where_probability_is_shared_by_gain() -> None:
    scores = torch.log(torch.tensor([[7.0, 3.0, 1.0, 1e-9]], dtype=torch.float64)).requires_grad_()
    grade = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    ones = torch.ones_like(grade)
    loss = OBJECTIVES["jointlh-gain"].loss(scores, grade, ones, grade > 1, ones > 0, torch.tensor([-math.inf]))
    torch.autograd.backward(loss.sum())
    assert scores.grad is not None
    assert float(scores.grad.abs().max()) < 1e-8


def test_lambda_ignores_pairs_whose_swap_leaves_ndcg_and_falls_to_nothing_when_sorted() -> None:
    ones = torch.ones(1, 4, dtype=torch.float64)
    grade = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    lambda_loss = OBJECTIVES["lambda"].loss
    sorted_well = lambda_loss(torch.tensor([[90.0, 60, 30, 0]]).double(), grade, ones, grade > 1, ones > 0, ones[:, 0])
    assert float(sorted_well) < 1e-10
    wrong = lambda_loss(torch.tensor([[0.0, 30, 60, 90]]).double(), grade, ones, grade > 1, ones > 0, ones[:, 0])
    assert float(wrong) > 10
    tied = lambda_loss(ones, ones, ones, ones > 0, ones > 0, ones[:, 0])
    assert float(tied) == 0.0, "one grade has no pairs"


def test_bixse_is_binary_cross_entropy() -> None:
    scores = torch.randn(2, 3, dtype=torch.float64)
    p = torch.rand(2, 3, dtype=torch.float64)
    mask = torch.ones(2, 3, dtype=torch.bool)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, p, reduction="none").sum(dim=1)
    torch.testing.assert_close(OBJECTIVES["bixse"].loss(scores, p, mask, torch.zeros(2).double()), expected)


def test_the_bias_of_bixse_is_learnt() -> None:
    config = FitConfig(model="unused", objective="bixse", temperature=TEMPERATURE)
    module = MultiPositiveLoss(torch.nn.Sequential(torch.nn.Linear(1, 1)), config).double()
    assert module.learnt == ("pointwise_bias",)
    groups = one_query()
    names = passages_of(groups)

    def loss(bias: Tensor) -> Tensor:
        numbers = {"log_temperature": module.log_temperature.detach(), "pointwise_bias": bias}
        batch = Batch(**vars(lay_out(groups, names)))
        return module._loss((stacked(["q0"]), stacked(names)), batch, numbers=numbers, distil_weight=0.0)[0]

    assert torch.autograd.gradcheck(loss, torch.tensor(-1.0, dtype=torch.float64, requires_grad=True))


def test_distillation_is_added_beside_any_objective() -> None:
    groups = one_query()
    s = torch.tensor([[score("q0", name) for name in ("p0", "p1", "p3")]], dtype=torch.float64)
    for objective in ("lsepair", "lsepair-graded", "jointlh", "bixse"):
        for temperature in (1.0, 2.5):
            taught = run(objective, groups, distil_weight=0.7, teacher_temperature=temperature)[0]
            target = (torch.tensor([[2.0, 1.0, -1.0]], dtype=torch.float64) / temperature).softmax(dim=1)
            divergence = float((target * (target.log() - s.log_softmax(dim=1))).sum())
            assert taught == pytest.approx(run(objective, groups)[0] + 0.7 * divergence, rel=1e-6), objective


def test_distillation_leaves_out_labels_without_a_score_of_the_teacher() -> None:
    known = one_query()[0]
    human = Positive("p5", 1.0, "human")
    groups = [
        Group("q0", "", (human, *known.positives), known.negatives, known.excluded | {"p5"}, known.judged_negatives)
    ]
    added = run("lsepair", groups, distil_weight=1.0)[0] - run("lsepair", groups)[0]
    plain = run("lsepair", [known], distil_weight=1.0)[0] - run("lsepair", [known])[0]
    assert added == pytest.approx(plain, rel=1e-6)
    nobody = [Group("q0", "", (human,), (Negative("p3"),), frozenset({"p5"}), frozenset({"p3"}))]
    assert run("lsepair", nobody, distil_weight=1.0)[0] == run("lsepair", nobody)[0]


def test_rows_without_positives_have_no_loss() -> None:
    empty = Group("q1", "", (), (Negative("p3"), Negative("p7", None, 1.0)), frozenset({"p7"}), frozenset({"p3"}))
    for objective in GROUPED:
        alone, gradient = run(objective, [empty])
        assert alone == 0.0
        assert all((each == 0).all() for each in gradient.values())
        beside = run(objective, [*one_query(), Group("q1", "", (), (), frozenset(), frozenset())])
        assert beside[0] == pytest.approx(run(objective, one_query())[0], rel=1e-12)
