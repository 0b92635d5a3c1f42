"""Layout, masks, tiles and scores of a batch: against a loop over all pairs, and trap by trap."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.objectives.batch import Batch, Group, Negative, Positive, key_of, lay_out, passages_of
from trainer.objectives.contrast import ContrastRules, Scores, contrast
from trainer.objectives.objectives import OBJECTIVES
from trainer.objectives.processes import mean_over_processes

WIDTH = 4
PLAIN = ContrastRules()
CONTRASTIVE = tuple(name for name, objective in OBJECTIVES.items() if objective.reads == "positives")


def group(
    query_id: str,
    positives: Sequence[str] = (),
    negatives: Sequence[str] = (),
    excluded: Sequence[str] = (),
    judged: Sequence[str] = (),
) -> Group:
    """A group whose drawn positives are excluded as negatives, as `trainer.data.training_sets` makes them."""
    return Group(
        query_id,
        f"text of {query_id}",
        tuple(Positive(name, 1.0, "llm") for name in positives),
        tuple(Negative(name) for name in negatives),
        frozenset(excluded) | frozenset(positives),
        frozenset(judged) | frozenset(negatives),
    )


def vector(name: str) -> Tensor:
    """An embedding that belongs to a name."""
    generator = torch.Generator().manual_seed(sum(ord(letter) * 31**place for place, letter in enumerate(name)))
    return torch.randn(WIDTH, generator=generator, dtype=torch.float64)


class Run:
    """A batch contrasted under an objective, with the gradients of its mean loss by name."""

    def __init__(
        self,
        objective: str,
        groups: Sequence[Group],
        rules: ContrastRules = PLAIN,
        temperature: float = 0.5,
        *,
        names: Sequence[str] | None = None,
        tile: int | None = None,
    ) -> None:
        names = passages_of(groups) if names is None else names
        batch = lay_out(groups, names)
        queries = stacked([one.query_id for one in groups]).requires_grad_()
        passages = stacked(names).requires_grad_()
        against = OBJECTIVES[objective].against
        self.scores: Scores = contrast(queries, passages, batch, rules, temperature, against=against, tile=tile)
        rows = OBJECTIVES[objective].loss(self.scores.pos_scores, batch.pos_weight, batch.pos_mask, self.scores.neg_lse)
        loss = mean_over_processes(rows, batch.pos_mask.any(dim=-1))
        torch.autograd.backward(loss)
        self.loss = loss.item()
        assert queries.grad is not None
        assert passages.grad is not None
        self.gradient = dict(
            zip([*(one.query_id for one in groups), *names], [*queries.grad, *passages.grad], strict=True)
        )


def stacked(names: Sequence[str]) -> Tensor:
    return torch.stack([vector(name) for name in names]) if names else torch.zeros(0, WIDTH, dtype=torch.float64)


def slow_loss(objective: str, groups: Sequence[Group], rules: ContrastRules, temperature: float) -> float:
    """The same by loops over queries and passages in plain arithmetic."""
    everything = set(passages_of(groups))
    losses = []
    for one in groups:
        if not one.positives:
            continue

        def similarity(name: str, query: str = one.query_id) -> float:
            q, p = vector(query).tolist(), vector(name).tolist()
            dot: float = sum(x * y for x, y in zip(q, p, strict=True))
            return dot if rules.similarity == "dot" else dot / (math.hypot(*q) * math.hypot(*p))

        best = max(similarity(positive.passage_id) for positive in one.positives)
        ceiling = math.inf
        if rules.margin is not None:
            ceiling = best + rules.margin
        if rules.ratio is not None:
            ceiling = best * rules.ratio
        negatives = [
            name
            for name in everything - one.excluded
            if name in one.judged_negatives or (rules.in_batch and similarity(name) <= ceiling)
        ]
        good = [math.exp(similarity(positive.passage_id) / temperature) for positive in one.positives]
        weight = [positive.weight for positive in one.positives]
        each = [math.exp(similarity(name) / temperature) for name in negatives]
        bad = max(each, default=0.0) if objective == "lsepair-hardneg" else sum(each)
        losses.append(slow_row(objective, good, weight, bad))
    return sum(losses) / len(losses) if losses else 0.0


def slow_row(objective: str, good: list[float], weight: list[float], bad: float) -> float:
    """Loss of one query from exp(score) of its positives, their weights, and the sum of exp(score) of negatives."""
    total, pairs = sum(good) + bad, list(zip(weight, good, strict=True))
    kept = sorted(pairs, key=lambda pair: pair[1])[int(0.25 * len(pairs)) :]
    belief = [(w, max(g / (g + bad), 0.01) ** 0.7) for w, g in pairs]
    losses: dict[str, float] = {
        "singlelh": math.log((good[0] + bad) / good[0]),
        "rand1lh": math.log((good[0] + bad) / good[0]),
        "jointlh-sum": sum(w * math.log(total / g) for w, g in pairs),
        "jointlh": sum(w * math.log(total / g) for w, g in pairs) / sum(weight),
        "summarglh": math.log1p(bad / sum(w * g for w, g in pairs)),
        "lsepair": math.log1p(sum(w * bad / g for w, g in pairs)),
        "lsepair-hardneg": math.log1p(sum(w * bad / g for w, g in pairs)),
        "lsepair-minpos": math.log1p(bad / min(good)),
        "lsepair-maxpos": math.log1p(bad / max(good)),
        "lsepair-trimmed": math.log1p(sum(w * bad / g for w, g in kept)),
        "gce": sum(w * (1 - f) / 0.7 for w, f in belief) / sum(weight),
    }
    return losses[objective]


NAMES = [f"p{number}" for number in range(12)]


@st.composite
def group_lists(draw: st.DrawFn) -> list[Group]:
    groups = []
    for number in range(draw(st.integers(1, 4))):
        mixed = draw(st.permutations(NAMES))
        positives, negatives, further, judged = (draw(st.integers(0, 3)) for _ in range(4))
        drawn = tuple(
            Positive(name, draw(st.floats(0.1, 3)), draw(st.sampled_from(["human", "llm", "imported"])))
            for name in mixed[:positives]
        )
        own = tuple(Negative(name) for name in mixed[3 : 3 + negatives])
        excluded = frozenset(mixed[:positives]) | frozenset(mixed[6 : 6 + further])
        known = frozenset(one.passage_id for one in own) | frozenset(mixed[9 : 9 + judged])
        groups.append(Group(f"q{number}", "", drawn, own, excluded, known))
    return groups


any_rules = st.sampled_from(
    [
        ContrastRules(),
        ContrastRules("dot"),
        ContrastRules(in_batch=False),
        ContrastRules(margin=-0.3),
        ContrastRules("dot", margin=0.2),
        ContrastRules(ratio=0.9),
    ]
)


@pytest.mark.parametrize("objective", CONTRASTIVE)
@settings(deadline=None, max_examples=40)
@given(groups=group_lists(), rules=any_rules, temperature=st.floats(0.2, 2), tile=st.none() | st.integers(1, 5))
def test_drawn_batches_equal_the_loop_over_all_pairs(
    objective: str, groups: list[Group], rules: ContrastRules, temperature: float, tile: int | None
) -> None:
    found = Run(objective, groups, rules, temperature, tile=tile)
    assert found.loss == pytest.approx(slow_loss(objective, groups, rules, temperature), rel=1e-5, abs=1e-6)
    assert all(torch.isfinite(gradient).all() for gradient in found.gradient.values())


def test_the_layout_by_hand() -> None:
    first = Group(
        "q0",
        "",
        (Positive("a", 1.0, "human", 3.0), Positive("b", 0.5, "llm", 1.0)),
        (Negative("c", -2.0),),
        frozenset("abx"),
        frozenset("cy"),
    )
    second = Group(
        "q1", "", (Positive("c", 2.0, "imported"),), (Negative("d"), Negative("a")), frozenset("cd"), frozenset("da")
    )
    names = passages_of([first, second])
    assert names == ["a", "b", "c", "d"]
    batch = lay_out([first, second], ["d", "a", "b", "c"])
    assert batch.pos_index.tolist() == [[1, 2], [3, 0]]
    assert batch.pos_mask.tolist() == [[True, True], [True, False]]
    assert batch.pos_weight.tolist() == [[1.0, 0.5], [2.0, 1.0]]
    assert batch.pos_source.tolist() == [[0, 1], [2, -1]]
    assert batch.group_index.tolist() == [[1, 2, 3], [3, 0, 1]]
    assert batch.group_target.tolist() == [[3.0, 1.0, -2.0], [0.0, 0.0, 0.0]]
    assert batch.group_taught.tolist() == [[True, True, True], [False, False, False]]
    assert batch.group_positive.tolist() == [[True, True, False], [True, False, False]]
    assert batch.group_grade.tolist() == [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert batch.group_probability.tolist() == [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert batch.group_weight.tolist() == [[1.0, 0.5, 1.0], [2.0, 1.0, 1.0]]
    assert batch.group_mask.all()
    assert batch.passage_key.tolist() == [key_of(name) for name in "dabc"]
    known = list(zip(batch.excluded_row.tolist(), batch.excluded_key.tolist(), strict=True))
    assert known == [(0, key_of("a")), (0, key_of("b")), (0, key_of("x")), (1, key_of("c")), (1, key_of("d"))]
    judged = list(zip(batch.judged_row.tolist(), batch.judged_key.tolist(), strict=True))
    assert judged == [(0, key_of("c")), (0, key_of("y")), (1, key_of("a"))], "an excluded passage is no judged negative"


def test_trap_the_same_passage_twice_in_a_batch_is_one_passage() -> None:
    """Two groups bring p9: without the unique list it would count twice, as log 2 added to its score."""
    groups = [group("q0", ["p0"], ["p9"]), group("q1", ["p1"], ["p9"])]
    assert sorted(passages_of(groups)) == ["p0", "p1", "p9"]
    assert Run("lsepair", groups).loss == pytest.approx(slow_loss("lsepair", groups, ContrastRules(), 0.5))


def test_trap_a_zip_over_ragged_groups_cuts_positives() -> None:
    groups = [group("q0", ["p0"]), group("q1", ["p1", "p2", "p3"], ["p4"]), group("q2", ["p0", "p4"])]
    batch = lay_out(groups, names := passages_of(groups))
    for row, one in enumerate(groups):
        drawn = [names[index] for index in batch.pos_index[row][batch.pos_mask[row]].tolist()]
        assert drawn == [positive.passage_id for positive in one.positives]
        members = [names[index] for index in batch.group_index[row][batch.group_mask[row]].tolist()]
        assert members == [member.passage_id for member in one.members]


@pytest.mark.parametrize("objective", CONTRASTIVE)
def test_trap_a_known_positive_brought_by_another_query_is_no_negative(objective: str) -> None:
    """q0 knows p1 as positive though it was not drawn: q1 bringing p1 must not push q0 away from it."""
    groups = [group("q0", ["p0"], ["p3"], excluded=["p1"]), group("q1", [], ["p1", "p4"])]
    gradient = Run(objective, groups, ContrastRules("dot"), 1.0).gradient
    assert (gradient["p1"] == 0).all()
    assert (torch.stack([gradient["p4"], gradient["p3"]]) != 0).any(), "q1's negatives are negatives for q0 too"


def test_ignored_passages_are_no_negatives_even_when_another_query_brings_them() -> None:
    groups = [group("q0", ["p0"], ["p3"], excluded=["p5"]), group("q1", [], ["p5"])]
    without = [group("q0", ["p0"], ["p3"])]
    assert Run("lsepair", groups).loss == pytest.approx(Run("lsepair", without).loss, rel=1e-12)


def test_passages_that_look_like_missed_positives_are_no_negatives_unless_a_judge_said_so() -> None:
    names = sorted(NAMES, key=lambda name: float(torch.cosine_similarity(vector("q0"), vector(name), dim=0)))
    lowest, middle, highest = names[0], names[5], names[-1]
    groups = [group("q0", [middle], [lowest]), group("q1", [], [highest])]
    masked = Run("lsepair", groups, ContrastRules(margin=0.0))
    assert (masked.gradient[highest] == 0).all()
    assert (masked.gradient[lowest] != 0).any()
    assert masked.scores.suspected_share == 1 / 5, "of 2 x 3 pairs one is q0's own positive"
    judged = [group("q0", [middle], [lowest], judged=[highest]), group("q1", [], [highest])]
    assert (Run("lsepair", judged, ContrastRules(margin=0.0)).gradient[highest] != 0).any()
    assert (Run("lsepair", groups, ContrastRules(margin=2.0)).gradient[highest] != 0).any()


def test_without_in_batch_negatives_only_judged_passages_are_negatives() -> None:
    groups = [group("q0", ["p0"], ["p3"]), group("q1", ["p1"], ["p4"])]
    alone = [Run("lsepair", [one]).loss for one in groups]
    assert Run("lsepair", groups, ContrastRules(in_batch=False)).loss == pytest.approx(sum(alone) / 2, rel=1e-12)


@pytest.mark.parametrize("objective", CONTRASTIVE)
def test_identity_8_order_repeats_and_strangers_play_no_part(objective: str) -> None:
    groups = [
        group("q0", ["p0", "p1"], ["p2", "p3"], excluded=["p6"]),
        group("q1", ["p4"], ["p5", "p0"]),
        group("q2", [], ["p6"]),
    ]
    found = Run(objective, groups)
    turned = [dataclasses.replace(one, negatives=one.negatives[::-1]) for one in groups]
    for other in (
        Run(objective, groups[::-1]),
        Run(objective, turned),
        Run(objective, groups, names=sorted(NAMES[:7])),
    ):
        assert other.loss == pytest.approx(found.loss, rel=1e-12)
        for name, gradient in found.gradient.items():
            torch.testing.assert_close(other.gradient[name], gradient, rtol=1e-10, atol=1e-12)


def random_batch(queries: int, passages: int) -> tuple[Tensor, Tensor, Batch]:
    """Ragged groups over random embeddings [Q, 16], [P, 16] in float64."""
    generator = torch.Generator().manual_seed(1)
    names = [f"p{number}" for number in range(passages)]

    def some(most: int) -> list[str]:
        count = int(torch.randint(0, most + 1, (), generator=generator))
        return [names[row] for row in torch.randperm(passages, generator=generator)[:count].tolist()]

    groups = [group(f"q{number}", some(4), some(3), some(20), some(20)) for number in range(queries)]
    embeddings = [torch.randn(rows, 16, generator=generator, dtype=torch.float64) for rows in (queries, passages)]
    return embeddings[0], embeddings[1], lay_out(groups, names)


@pytest.mark.parametrize(
    "rules",
    [ContrastRules(), ContrastRules(margin=-0.2), ContrastRules("dot", ratio=0.9), ContrastRules(in_batch=False)],
)
@pytest.mark.parametrize("tile", [1, 7, 100, None])
def test_identity_8_tiles_change_neither_loss_nor_gradient(rules: ContrastRules, tile: int | None) -> None:
    """Against the plain matrix of all pairs, to 1e-10 in float64."""
    queries, passages, batch = random_batch(23, 190)
    found = [tensor.clone().requires_grad_() for tensor in (queries, passages)]
    scores = contrast(found[0], found[1], batch, rules, 0.05, tile=tile)
    expected = [tensor.clone().requires_grad_() for tensor in (queries, passages)]
    plain = plain_scores(expected[0], expected[1], batch, rules, 0.05)
    assert torch.equal(scores.neg_lse == -torch.inf, plain == -torch.inf)
    torch.testing.assert_close(scores.neg_lse, plain, rtol=1e-12, atol=1e-12)
    for neg_lse in (scores.neg_lse, plain):
        torch.autograd.backward(torch.where(neg_lse > -torch.inf, neg_lse, 0.0).square().sum())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)


def plain_scores(queries: Tensor, passages: Tensor, batch: Batch, rules: ContrastRules, temperature: float) -> Tensor:
    """[Q]: log-sum-exp of the negatives over the whole matrix at once, masked pair by pair."""
    if rules.similarity == "cosine":
        queries, passages = (tensor / tensor.norm(dim=-1, keepdim=True) for tensor in (queries, passages))
    similarity = queries @ passages.T
    column = {key: at for at, key in enumerate(batch.passage_key.tolist())}
    judged = set(zip(batch.judged_row.tolist(), batch.judged_key.tolist(), strict=True))
    hidden = torch.full(similarity.shape, not rules.in_batch)
    for row in range(len(queries)):
        own = similarity[row, batch.pos_index[row, batch.pos_mask[row]]]
        if len(own) and rules.margin is not None:
            hidden[row] |= similarity[row] > own.max() + rules.margin
        if len(own) and rules.ratio is not None:
            hidden[row] |= similarity[row] > own.max() * rules.ratio
    for row, key in judged:
        hidden[row, column[key]] = False
    for row, key in zip(batch.excluded_row.tolist(), batch.excluded_key.tolist(), strict=True):
        hidden[row, column[key]] = True
    return (similarity / temperature).masked_fill(hidden, -torch.inf).logsumexp(dim=-1)


@pytest.mark.parametrize("objective", CONTRASTIVE)
def test_trap_a_row_whose_passages_are_all_masked_has_no_negatives_and_no_lowest_number(objective: str) -> None:
    groups = [group("q0", ["p0"], excluded=["p1"]), group("q1", ["p1"], excluded=["p0"])]
    found = Run(objective, groups, temperature=0.05)
    assert found.scores.neg_lse.tolist() == [-math.inf, -math.inf]
    assert found.loss == 0.0
    assert all((gradient == 0).all() for gradient in found.gradient.values())


@pytest.mark.parametrize("objective", CONTRASTIVE)
def test_degenerate_batches_are_finite(objective: str) -> None:
    for groups in (
        [group("q0", ["p0"])],
        [group("q0", [], ["p0"])],
        [group("q0")],
        [group("q0", ["p0", "p1"], ["p2"]), group("q1", [], ["p0"]), group("q2")],
        [],
    ):
        for temperature in (0.05, 1e-4):
            found = Run(objective, groups, temperature=temperature)
            assert math.isfinite(found.loss)
            assert all(torch.isfinite(gradient).all() for gradient in found.gradient.values())


def test_trap_the_temperature_divides_positives_and_negatives_alike() -> None:
    batch = lay_out([group("q0", ["p0"], ["p1"])], ["p0", "p1"])
    queries, passages = vector("q0")[None], stacked(["p0", "p1"])
    cosine = torch.cosine_similarity(queries, passages)
    scores = contrast(queries, passages, batch, ContrastRules(), 0.05)
    torch.testing.assert_close(scores.pos_scores, (cosine[:1] / 0.05)[None])
    torch.testing.assert_close(scores.group_scores, (cosine / 0.05)[None])
    torch.testing.assert_close(scores.neg_lse, cosine[1:] / 0.05)


def test_a_temperature_that_is_learnt_gets_its_gradient_from_positives_and_negatives() -> None:
    batch = lay_out([group("q0", ["p0"], ["p1"])], ["p0", "p1"])
    queries, passages = vector("q0")[None], stacked(["p0", "p1"])

    def loss(temperature: Tensor) -> Tensor:
        scores = contrast(queries, passages, batch, ContrastRules(margin=3.0), temperature)
        return OBJECTIVES["lsepair"].loss(scores.pos_scores, batch.pos_weight, batch.pos_mask, scores.neg_lse).sum()

    assert torch.autograd.gradcheck(loss, torch.tensor(0.3, dtype=torch.float64, requires_grad=True))


def test_half_precision_embeddings_are_scored_in_float32_even_under_autocast() -> None:
    queries, passages, batch = random_batch(8, 40)
    queries, passages = queries.bfloat16(), passages.bfloat16()
    expected = contrast(queries.double(), passages.double(), batch, ContrastRules(), 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrast(queries, passages, batch, ContrastRules(), 0.05)
    assert found.pos_scores.dtype == torch.float32
    shown = batch.pos_mask
    torch.testing.assert_close(found.pos_scores[shown].double(), expected.pos_scores[shown], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.neg_lse.double(), expected.neg_lse, rtol=1e-5, atol=1e-5)


def test_the_masked_share_leaves_out_a_querys_own_positives() -> None:
    groups = [group("q0", ["p0"], ["p2"], excluded=["p1"]), group("q1", ["p1"], excluded=["p3"])]
    # 2 queries x 3 passages, 2 pairs are own positives; of the other 4, (q0, p1) is masked.
    assert Run("lsepair", groups).scores.masked_share == 1 / 4
    # 3 queries x 4 passages, 2 own; of the other 10, (q1, p3) is masked too.
    more = Run("lsepair", [*groups, group("q2", [], ["p3"])]).scores
    assert float(more.masked_share) == pytest.approx(2 / 10)
    assert more.suspected_share == 0.0
    assert Run("lsepair", [group("q0", ["p0"])]).scores.masked_share == 0.0


def test_a_batch_travels_as_a_dict_of_tensors() -> None:
    batch = lay_out([group("q0", ["p0"], ["p1"])], ["p0", "p1"])
    fields: dict[str, Any] = vars(batch)
    again = Batch(**fields)
    for field in dataclasses.fields(Batch):
        assert torch.equal(getattr(again, field.name), getattr(batch, field.name))
