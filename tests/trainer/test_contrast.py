"""Layout, masks and scores of a batch: against a loop over all pairs, and trap by trap."""

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.batch import Batch, Group, Positive, lay_out
from trainer.contrast import contrast, masked_share
from trainer.objectives import OBJECTIVES, mean_over_rows

WIDTH = 4


def group(
    query_id: str, positives: Sequence[str] = (), negatives: Sequence[str] = (), excluded: Sequence[str] = ()
) -> Group:
    """A group whose drawn positives are excluded as negatives, as `trainer.data` makes them."""
    return Group(
        query_id,
        f"text of {query_id}",
        tuple(Positive(name, 1.0, "llm") for name in positives),
        tuple(negatives),
        frozenset(excluded) | frozenset(positives),
    )


def vector(name: str) -> Tensor:
    """An embedding that belongs to a name."""
    generator = torch.Generator().manual_seed(sum(ord(letter) * 31**place for place, letter in enumerate(name)))
    return torch.randn(WIDTH, generator=generator, dtype=torch.float64)


def loss_of(objective: str, groups: Sequence[Group], similarity: str = "cosine", temperature: float = 0.5) -> Tensor:
    passage_ids, batch = lay_out(groups)
    queries = torch.stack([vector(one.query_id) for one in groups])
    passages = torch.stack([vector(name) for name in passage_ids])
    scores = contrast(queries, passages, batch, similarity=similarity, temperature=temperature)
    loss = OBJECTIVES[objective](scores.pos_scores, batch.pos_weight, batch.pos_mask, scores.neg_lse)
    return mean_over_rows(loss, batch.pos_mask)


def slow_loss(objective: str, groups: Sequence[Group], similarity: str, temperature: float) -> float:
    """The same by loops over queries and passages in plain arithmetic."""
    everything = {p.passage_id for one in groups for p in one.positives} | {n for one in groups for n in one.negatives}
    losses = []
    for one in groups:
        if not one.positives:
            continue

        def e(name: str, query: str = one.query_id) -> float:
            q, p = vector(query).tolist(), vector(name).tolist()
            dot = sum(x * y for x, y in zip(q, p, strict=True))
            if similarity == "cosine":
                dot /= math.hypot(*q) * math.hypot(*p)
            return math.exp(dot / temperature)

        good = [e(positive.passage_id) for positive in one.positives]
        weight = [positive.weight for positive in one.positives]
        bad = sum(e(name) for name in everything if name not in one.excluded)
        total = sum(good) + bad
        losses.append(
            {
                "singlelh": math.log((good[0] + bad) / good[0]),
                "rand1lh": math.log((good[0] + bad) / good[0]),
                "jointlh-sum": sum(w * math.log(total / g) for w, g in zip(weight, good, strict=True)),
                "jointlh": sum(w * math.log(total / g) for w, g in zip(weight, good, strict=True)) / sum(weight),
                "summarglh": math.log1p(bad / sum(w * g for w, g in zip(weight, good, strict=True))),
                "lsepair": math.log1p(sum(w * bad / g for w, g in zip(weight, good, strict=True))),
            }[objective]
        )
    return sum(losses) / len(losses) if losses else 0.0


NAMES = [f"p{number}" for number in range(9)]


@st.composite
def group_lists(draw: st.DrawFn) -> list[Group]:
    groups = []
    for number in range(draw(st.integers(1, 4))):
        mixed = draw(st.permutations(NAMES))
        positives, negatives, further = (
            draw(st.integers(0, 3)),
            draw(st.integers(0, 3)),
            draw(st.integers(0, 3)),
        )
        drawn = tuple(
            Positive(name, draw(st.floats(0.1, 3)), draw(st.sampled_from(["human", "llm", "imported"])))
            for name in mixed[:positives]
        )
        excluded = frozenset(mixed[:positives]) | frozenset(mixed[6 : 6 + further])
        groups.append(Group(f"q{number}", "", drawn, tuple(mixed[3 : 3 + negatives]), excluded))
    return groups


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(deadline=None, max_examples=30)
@given(groups=group_lists(), similarity=st.sampled_from(["cosine", "dot"]), temperature=st.floats(0.2, 2))
def test_drawn_batches_equal_the_loop_over_all_pairs(
    objective: str, groups: list[Group], similarity: str, temperature: float
) -> None:
    if not any(one.positives or one.negatives for one in groups):
        return
    found = float(loss_of(objective, groups, similarity, temperature))
    assert found == pytest.approx(slow_loss(objective, groups, similarity, temperature), rel=1e-5, abs=1e-6)


def test_the_layout_by_hand() -> None:
    first = Group("q0", "", (Positive("a", 1.0, "human"), Positive("b", 0.5, "llm")), ("c",), frozenset("abx"))
    second = Group("q1", "", (Positive("c", 2.0, "imported"),), ("d", "a"), frozenset("cd"))
    names, batch = lay_out([first, second])
    assert names == ["a", "b", "c", "d"]
    assert batch.pos_index.tolist() == [[0, 1], [2, 0]]
    assert batch.pos_mask.tolist() == [[True, True], [True, False]]
    assert batch.pos_weight.tolist() == [[1.0, 0.5], [2.0, 1.0]]
    assert batch.pos_source.tolist() == [[0, 1], [2, -1]]
    assert batch.excluded.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_trap_the_same_passage_twice_in_a_batch_is_one_passage() -> None:
    """Two groups bring p9: without the unique list it would count twice, as log 2 added to its score."""
    groups = [group("q0", ["p0"], ["p9"]), group("q1", ["p1"], ["p9"])]
    names, _ = lay_out(groups)
    assert sorted(names) == ["p0", "p1", "p9"]
    assert float(loss_of("lsepair", groups)) == pytest.approx(slow_loss("lsepair", groups, "cosine", 0.5))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_trap_a_known_positive_brought_by_another_query_is_no_negative(objective: str) -> None:
    """q0 knows p1 as positive though it was not drawn: q1 bringing p1 must not push q0 away from it."""
    groups = [group("q0", ["p0"], ["p3"], excluded=["p1"]), group("q1", ["p1"], ["p4"], excluded=["p0"])]
    passages = torch.stack([vector(name) for name in lay_out(groups)[0]]).requires_grad_()
    names, batch = lay_out(groups)
    queries = torch.stack([vector(one.query_id) for one in groups])
    scores = contrast(queries, passages, batch, similarity="dot", temperature=1.0)
    loss = OBJECTIVES[objective](scores.pos_scores, batch.pos_weight, batch.pos_mask, scores.neg_lse)
    torch.autograd.backward(loss[0])
    assert passages.grad is not None
    assert (passages.grad[names.index("p1")] == 0).all()
    assert (passages.grad[names.index("p4")] != 0).any(), "q1's negative is a negative for q0 too"


def test_ignored_passages_are_no_negatives_even_when_another_query_brings_them() -> None:
    with_ignored = [group("q0", ["p0"], ["p3"], excluded=["p5"]), group("q1", ["p1"], ["p5"])]
    _, batch = lay_out(with_ignored)
    assert batch.excluded[0].tolist() == [True, False, False, True]
    assert batch.excluded[1].tolist() == [False, False, True, False]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_identity_8_the_order_of_passages_and_queries_plays_no_part(objective: str) -> None:
    groups = [
        group("q0", ["p0", "p1"], ["p2", "p3"], excluded=["p6"]),
        group("q1", ["p4"], ["p5", "p0"]),
        group("q2", [], ["p6"]),
    ]
    found = loss_of(objective, groups)
    torch.testing.assert_close(loss_of(objective, groups[::-1]), found)
    turned = [dataclasses.replace(one, negatives=one.negatives[::-1]) for one in groups]
    torch.testing.assert_close(loss_of(objective, turned), found)


def test_a_query_whose_passages_are_all_excluded_has_no_negatives() -> None:
    groups = [group("q0", ["p0"], excluded=["p1"]), group("q1", ["p1"], excluded=["p0"])]
    names, batch = lay_out(groups)
    queries = torch.stack([vector(one.query_id) for one in groups]).requires_grad_()
    passages = torch.stack([vector(name) for name in names]).requires_grad_()
    scores = contrast(queries, passages, batch, similarity="cosine", temperature=0.05)
    assert scores.neg_lse.tolist() == [-math.inf, -math.inf]
    loss = OBJECTIVES["lsepair"](scores.pos_scores, batch.pos_weight, batch.pos_mask, scores.neg_lse)
    torch.autograd.backward(loss.sum())
    assert loss.tolist() == [0.0, 0.0]
    for tensor in (queries.grad, passages.grad):
        assert tensor is not None
        assert (tensor == 0).all()


def test_trap_the_temperature_divides_positives_and_negatives_alike() -> None:
    _, batch = lay_out([group("q0", ["p0"], ["p1"])])
    queries, passages = vector("q0")[None], torch.stack([vector("p0"), vector("p1")])
    cosine = torch.cosine_similarity(queries, passages)
    scores = contrast(queries, passages, batch, similarity="cosine", temperature=0.05)
    torch.testing.assert_close(scores.pos_scores, (cosine[:1] / 0.05)[None])
    torch.testing.assert_close(scores.neg_lse, cosine[1:] / 0.05)


def test_half_precision_embeddings_are_scored_in_float32_even_under_autocast() -> None:
    groups = [group(f"q{number}", [f"p{number}"]) for number in range(8)]
    names, batch = lay_out(groups)
    queries = torch.stack([vector(one.query_id) for one in groups]).bfloat16()
    passages = torch.stack([vector(name) for name in names]).bfloat16()
    expected = contrast(queries.double(), passages.double(), batch, similarity="cosine", temperature=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrast(queries, passages, batch, similarity="cosine", temperature=0.05)
    assert found.pos_scores.dtype == torch.float32
    torch.testing.assert_close(found.pos_scores.double(), expected.pos_scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.neg_lse.double(), expected.neg_lse, rtol=1e-5, atol=1e-5)


def test_the_masked_share_leaves_out_a_querys_own_positives() -> None:
    groups = [group("q0", ["p0"], ["p2"], excluded=["p1"]), group("q1", ["p1"], excluded=["p3"])]
    # 2 queries x 3 passages, 2 pairs are own positives; of the other 4, (q0, p1) is masked.
    assert masked_share(lay_out(groups)[1]) == 1 / 4
    # 3 queries x 4 passages, 2 own; of the other 10, (q1, p3) is masked too.
    assert float(masked_share(lay_out([*groups, group("q2", [], ["p3"])])[1])) == pytest.approx(2 / 10)
    assert masked_share(lay_out([group("q0", ["p0"])])[1]) == 0.0


def test_a_batch_travels_as_a_dict_of_tensors() -> None:
    _, batch = lay_out([group("q0", ["p0"], ["p1"])])
    again = Batch(**vars(batch))
    for field in dataclasses.fields(Batch):
        assert torch.equal(getattr(again, field.name), getattr(batch, field.name))
