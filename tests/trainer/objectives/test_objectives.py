"""The objectives against slow loops and against the identities that pin them, in float64."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.objectives.masked import masked_lse
from trainer.objectives.objectives import OBJECTIVES, settings_of
from trainer.objectives.processes import mean_over_processes

FIVE = ("singlelh", "rand1lh", "jointlh", "summarglh", "lsepair")
DISTILLING = ("listwise-kl", "margin-mse")
ALL = tuple(name for name, objective in OBJECTIVES.items() if objective.reads == "positives")
UNTRUNCATED = tuple(name for name in ALL if name != "gce")
"""Those that learn from every positive, however unlikely it is."""


class Row(NamedTuple):
    """One query: scores of its positives, their weights, scores of its negatives."""

    positives: list[float]
    weights: list[float]
    negatives: list[float]


def row(positives: Sequence[float], negatives: Sequence[float], weights: Sequence[float] = ()) -> Row:
    return Row(list(positives), list(weights) or [1.0] * len(positives), list(negatives))


class Outcome(NamedTuple):
    loss: Tensor
    """[Q]"""
    pos_grad: Tensor
    """[Q, M]"""
    neg_grad: Tensor
    """[Q, N]"""


def run(name: str, rows: Sequence[Row], *, filler: float = 0.0, **settings: float) -> Outcome:
    """The objective and the gradient of its sum; `filler` stands in the masked places."""
    pos_scores, pos_weight, pos_mask = padded([one.positives for one in rows], [one.weights for one in rows], filler)
    neg_scores, _, neg_mask = padded([one.negatives for one in rows], [one.negatives for one in rows], filler)
    pos_scores.requires_grad_()
    neg_scores.requires_grad_()
    loss = OBJECTIVES[name].loss(pos_scores, pos_weight, pos_mask, masked_lse(neg_scores, neg_mask), **settings)
    torch.autograd.backward(loss.sum())
    assert pos_scores.grad is not None
    assert neg_scores.grad is not None
    return Outcome(loss.detach(), pos_scores.grad, neg_scores.grad)


def padded(
    values: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], filler: float
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (len(values), max(1, *(len(one) for one in values)))
    scores, weight = (
        torch.full(shape, filler, dtype=torch.float64),
        torch.full(shape, filler, dtype=torch.float64),
    )
    mask = torch.zeros(shape, dtype=torch.bool)
    for number, (one, heavy) in enumerate(zip(values, weights, strict=True)):
        scores[number, : len(one)] = torch.tensor(one, dtype=torch.float64)
        weight[number, : len(heavy)] = torch.tensor(heavy, dtype=torch.float64)
        mask[number, : len(one)] = True
    return scores, weight, mask


def slow_singlelh(s_p: list[Tensor], w: list[float], s_n: list[Tensor]) -> Tensor:
    return -torch.log(torch.exp(s_p[0]) / (torch.exp(s_p[0]) + sum(torch.exp(s) for s in s_n)))


def slow_jointlh_sum(s_p: list[Tensor], w: list[float], s_n: list[Tensor]) -> Tensor:
    total = sum(torch.exp(s) for s in s_p + s_n)
    loss = torch.zeros((), dtype=torch.float64)
    for s, weight in zip(s_p, w, strict=True):
        loss = loss - weight * torch.log(torch.exp(s) / total)
    return loss


def slow_jointlh(s_p: list[Tensor], w: list[float], s_n: list[Tensor]) -> Tensor:
    return slow_jointlh_sum(s_p, w, s_n) / sum(w)


def slow_summarglh(s_p: list[Tensor], w: list[float], s_n: list[Tensor]) -> Tensor:
    good = torch.zeros((), dtype=torch.float64)
    for s, weight in zip(s_p, w, strict=True):
        good = good + weight * torch.exp(s)
    return -torch.log(good / (good + sum(torch.exp(s) for s in s_n)))


def slow_lsepair(s_p: list[Tensor], w: list[float], s_n: list[Tensor]) -> Tensor:
    pairs = torch.zeros((), dtype=torch.float64)
    for positive, weight in zip(s_p, w, strict=True):
        for negative in s_n:
            pairs = pairs + weight * torch.exp(negative - positive)
    return torch.log(1 + pairs)


def slow_minpos(s_p: list[Tensor], w: list[float], s_n: list[Tensor]) -> Tensor:
    return slow_singlelh([torch.stack(s_p).amin()], w, s_n)


def slow_maxpos(s_p: list[Tensor], w: list[float], s_n: list[Tensor]) -> Tensor:
    return slow_singlelh([torch.stack(s_p).amax()], w, s_n)


def slow_trimmed(s_p: list[Tensor], w: list[float], s_n: list[Tensor]) -> Tensor:
    by_score = sorted(zip(s_p, w, strict=True), key=lambda pair: pair[0].item())
    kept = by_score[int(0.25 * len(by_score)) :]
    return slow_lsepair([s for s, _ in kept], [weight for _, weight in kept], s_n)


def slow_gce(s_p: list[Tensor], w: list[float], s_n: list[Tensor]) -> Tensor:
    loss = torch.zeros((), dtype=torch.float64)
    for s, weight in zip(s_p, w, strict=True):
        f = torch.exp(s) / (torch.exp(s) + sum(torch.exp(n) for n in s_n))
        believed = f if f > 0.01 else torch.tensor(0.01, dtype=torch.float64)
        loss = loss + weight * (1 - believed**0.7) / 0.7
    return loss / sum(w)


SLOW: dict[str, Callable[[list[Tensor], list[float], list[Tensor]], Tensor]] = {
    "singlelh": slow_singlelh,
    "rand1lh": slow_singlelh,
    "jointlh": slow_jointlh,
    "jointlh-sum": slow_jointlh_sum,
    "summarglh": slow_summarglh,
    "lsepair": slow_lsepair,
    "lsepair-minpos": slow_minpos,
    "lsepair-maxpos": slow_maxpos,
    "lsepair-hardneg": slow_lsepair,
    "lsepair-trimmed": slow_trimmed,
    "gce": slow_gce,
}


def slow(name: str, one: Row) -> tuple[float, list[float], list[float]]:
    """Loss and gradients of one row by the slow loop; a row without positives is 0."""
    if not one.positives:
        return 0.0, [], [0.0] * len(one.negatives)
    s_p = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in one.positives]
    s_n = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in one.negatives]
    loss = SLOW[name](s_p, one.weights, s_n)
    if loss.requires_grad:
        torch.autograd.backward(loss)
    return (
        loss.item(),
        [0.0 if s.grad is None else float(s.grad) for s in s_p],
        [0.0 if s.grad is None else float(s.grad) for s in s_n],
    )


scores = st.floats(-20, 20)
weights = st.floats(0.05, 5)


@st.composite
def rows(draw: st.DrawFn, min_positives: int = 0, min_negatives: int = 0) -> Row:
    positives = draw(st.lists(scores, min_size=min_positives, max_size=4))
    return Row(
        positives,
        draw(st.lists(weights, min_size=len(positives), max_size=len(positives))),
        draw(st.lists(scores, min_size=min_negatives, max_size=5)),
    )


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=40)
@given(batch=st.lists(rows(), min_size=1, max_size=4), filler=st.sampled_from([0.0, 1e30, -1e30, math.nan]))
def test_ragged_batches_equal_the_slow_loop(name: str, batch: list[Row], filler: float) -> None:
    found = run(name, batch, filler=filler)
    for number, one in enumerate(batch):
        loss, pos_grad, neg_grad = slow(name, one)
        assert float(found.loss[number]) == pytest.approx(loss, rel=1e-9, abs=1e-12)
        width = len(one.positives)
        assert found.pos_grad[number, :width].tolist() == pytest.approx(pos_grad, rel=1e-7, abs=1e-9)
        assert found.neg_grad[number, : len(one.negatives)].tolist() == pytest.approx(neg_grad, rel=1e-7, abs=1e-9)
        assert (found.pos_grad[number, width:] == 0).all()
        assert (found.neg_grad[number, len(one.negatives) :] == 0).all()


@settings(deadline=None)
@given(positive=scores, negatives=st.lists(scores, max_size=5))
def test_identity_1_with_one_positive_all_five_agree(positive: float, negatives: list[float]) -> None:
    found = [run(name, [row([positive], negatives)]) for name in FIVE]
    for other in found[1:]:
        torch.testing.assert_close(other.loss, found[0].loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other.pos_grad, found[0].pos_grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(other.neg_grad, found[0].neg_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=40)
@given(one=rows(min_positives=1), shift=st.floats(-30, 30))
def test_identity_2_gradients_sum_to_zero_and_a_shift_changes_nothing(name: str, one: Row, shift: float) -> None:
    found = run(name, [one])
    assert float(found.pos_grad.sum() + found.neg_grad.sum()) == pytest.approx(0, abs=1e-10)
    moved = Row([s + shift for s in one.positives], one.weights, [s + shift for s in one.negatives])
    # Rounding may make a tie of two near scores, and then it is their places that say which of them is trimmed.
    assume(len({*moved.positives}) == len({*one.positives}))
    torch.testing.assert_close(run(name, [moved]).loss, found.loss, rtol=1e-9, atol=1e-10)


@settings(deadline=None)
@given(one=rows(min_positives=1, min_negatives=1), tied=scores)
def test_identity_3_lsepair_is_at_least_summarg(one: Row, tied: float) -> None:
    plain = row(one.positives, one.negatives)
    assert run("lsepair", [plain]).loss >= run("summarglh", [plain]).loss - 1e-12
    s = torch.tensor(plain.positives, dtype=torch.float64)
    log_m = math.log(len(s))
    assert float(s.logsumexp(0) + (-s).logsumexp(0)) >= 2 * log_m - 1e-12
    # Tied positives: equality of the two log-sum-exps, and both losses are softplus(A - s -+ log m).
    level = torch.full_like(s, tied)
    assert float(level.logsumexp(0) + (-level).logsumexp(0)) == pytest.approx(2 * log_m, abs=1e-12)


@settings(deadline=None)
@given(one=rows(min_positives=1, min_negatives=1))
def test_identity_4_lsepair_lies_between_the_worst_and_the_sum_of_single_losses(one: Row) -> None:
    singles = [float(run("singlelh", [row([s], one.negatives)]).loss) for s in one.positives]
    found = float(run("lsepair", [row(one.positives, one.negatives)]).loss)
    assert max(singles) - 1e-10 <= found <= sum(singles) + 1e-10


def test_identity_5_the_values_at_score_zero() -> None:
    one = [row([0.0] * 3, [0.0] * 6)]
    assert float(run("jointlh", one).loss) == pytest.approx(math.log(9), abs=1e-14)
    assert float(run("jointlh-sum", one).loss) == pytest.approx(3 * math.log(9), abs=1e-14)
    assert float(run("summarglh", one).loss) == pytest.approx(math.log(3), abs=1e-14)
    assert float(run("lsepair", one).loss) == pytest.approx(math.log(19), abs=1e-14)


def test_identity_6_the_gradients_by_hand() -> None:
    positives, negatives = [math.log(2), 0.0], [0.0]
    expected = {
        "jointlh-sum": (0, -1 / 2, 1 / 2),
        "summarglh": (-1 / 6, -1 / 12, 1 / 4),
        "lsepair": (-1 / 5, -2 / 5, 3 / 5),
    }
    for name, gradient in expected.items():
        found = run(name, [row(positives, negatives)])
        assert [*found.pos_grad[0].tolist(), *found.neg_grad[0].tolist()] == pytest.approx(gradient, abs=1e-14)
    first, second = (run("rand1lh", [row([s], negatives)]) for s in positives)
    mean = (
        float(first.pos_grad) / 2,
        float(second.pos_grad) / 2,
        float(first.neg_grad + second.neg_grad) / 2,
    )
    assert mean == pytest.approx((-1 / 6, -1 / 4, 5 / 12), abs=1e-14)
    assert mean != pytest.approx(expected["lsepair"], abs=0.01), "Rand1 is no unbiased LSEPair"


@pytest.mark.parametrize("name", ALL)
def test_identity_7_and_trap_no_guard_for_rows_without_positives(name: str) -> None:
    full, empty, bare = row([1.0, 0.5], [0.3]), row([], [2.0, 9.0]), row([], [])
    found = run(name, [full, empty, bare])
    assert found.loss[1:].tolist() == [0.0, 0.0]
    assert found.pos_grad[1:].abs().sum() == 0
    assert found.neg_grad[1:].abs().sum() == 0
    counts = torch.tensor([True, False, False])
    assert mean_over_processes(found.loss, counts) == run(name, [full]).loss[0]


@pytest.mark.parametrize("name", ALL)
def test_a_batch_without_any_positive_has_loss_zero(name: str) -> None:
    found = run(name, [row([], [1.0]), row([], [])])
    assert mean_over_processes(found.loss, torch.zeros(2, dtype=torch.bool)) == 0
    no_columns = torch.zeros(2, 0, dtype=torch.float64, requires_grad=True)
    loss = OBJECTIVES[name].loss(
        no_columns, no_columns, torch.zeros(2, 0, dtype=torch.bool), torch.tensor([1.0, -math.inf])
    )
    assert loss.tolist() == [0.0, 0.0]
    torch.autograd.backward(loss.sum())


def test_identity_7_without_negatives() -> None:
    one = [row([3.0, -1.0, 0.5], [])]
    for name in set(ALL) - {"jointlh", "jointlh-sum"}:
        found = run(name, one)
        assert float(found.loss) == 0.0
        assert found.pos_grad.tolist() == [[0.0, 0.0, 0.0]]
    assert float(run("jointlh-sum", one).loss) >= 3 * math.log(3)
    assert float(run("jointlh-sum", [row([2.0] * 3, [])]).loss) == pytest.approx(3 * math.log(3), abs=1e-14)
    assert torch.isfinite(run("jointlh", one).pos_grad).all()


@pytest.mark.parametrize("name", ALL)
def test_identity_8_order_repeats_and_masked_entries(name: str) -> None:
    found = float(run(name, [row([1.0, -0.5, 2.0], [0.3, 1.1, -2.0], [1.0, 0.5, 2.0])]).loss)
    assert float(run(name, [row([1.0, 2.0, -0.5], [-2.0, 0.3, 1.1], [1.0, 2.0, 0.5])]).loss) == pytest.approx(found)
    wide = run(name, [row([1.0, -0.5, 2.0], [0.3, 1.1, -2.0], [1.0, 0.5, 2.0]), row([0.0] * 6, [0.0] * 9)])
    assert float(wide.loss[0]) == pytest.approx(found)
    repeated = run(name, [row([1.0, -0.5], [0.3, 0.3, 0.3])])
    louder = run(name, [row([1.0, -0.5], [0.3 + math.log(3)])])
    torch.testing.assert_close(repeated.loss, louder.loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("extreme", [60.0, 1e4, -1e4])
def test_extreme_scores_give_finite_losses_and_gradients(name: str, extreme: float) -> None:
    found = run(name, [row([extreme, 0.0], [0.0, -extreme]), row([], [extreme])])
    for tensor in found:
        assert torch.isfinite(tensor).all()


def test_trap_masked_entries_leak_no_nan_into_the_gradient() -> None:
    """finfo.min as a mask passes isfinite and poisons the backward pass; here nan itself may stand masked."""
    for name in ALL:
        found = run(name, [row([1.0], [0.5]), row([1.0, 2.0, 3.0], [0.5, 0.1]), row([], [])], filler=math.nan)
        for tensor in found:
            assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("name", UNTRUNCATED)
def test_trap_a_clamp_after_the_softmax_kills_the_gradient_of_a_hopeless_positive(name: str) -> None:
    found = run(name, [row([-900.0], [900.0])])
    assert float(found.loss) == pytest.approx(1800.0)
    assert float(found.pos_grad) == -1.0
    assert float(found.neg_grad) == 1.0


def test_trap_ragged_rows_do_not_shift_each_other() -> None:
    batch = [row([1.0], [0.2]), row([0.3, 0.9, -1.0], [0.1, 0.4]), row([0.5, 0.5], [])]
    for name in ALL:
        together = run(name, batch).loss
        alone = torch.cat([run(name, [one]).loss for one in batch])
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)


def test_trimmed_lsepair_drops_the_weakest_share_and_never_all() -> None:
    four = [row([3.0, -2.0, 1.0, 0.0], [0.5, 0.1])]
    found = run("lsepair-trimmed", four)
    assert found.pos_grad[0, 1] == 0, "the weakest of four"
    assert (found.pos_grad[0, [0, 2, 3]] < 0).all()
    half = run("lsepair-trimmed", four, trim=0.5)
    assert half.pos_grad[0, [1, 3]].tolist() == [0.0, 0.0]
    torch.testing.assert_close(half.loss, run("lsepair", [row([3.0, 1.0], [0.5, 0.1])]).loss)
    single = [row([-3.0], [0.5])]
    torch.testing.assert_close(run("lsepair-trimmed", single, trim=0.99).loss, run("lsepair", single).loss)
    tied = run("lsepair-trimmed", [row([1.0] * 4, [0.5])])
    assert int((tied.pos_grad == 0).sum()) == 1, "of tied positives too only the share is dropped"


def test_gce_is_infonce_weighted_by_belief_and_nothing_below_the_floor() -> None:
    believed, unlikely = [row([1.0], [0.0])], [row([-6.0], [0.0])]
    f = 1 / (1 + math.exp(-1))
    plain = float(run("singlelh", believed).pos_grad)
    assert float(run("gce", believed).pos_grad) == pytest.approx(plain * f**0.7)
    assert float(run("gce", unlikely).pos_grad) == 0.0
    assert float(run("gce", unlikely, floor=1e-4).pos_grad) < 0
    assert float(run("gce", believed, power=1e-9).loss) == pytest.approx(
        float(run("singlelh", believed).loss), rel=1e-6
    )


class Listed(NamedTuple):
    """One query's group: scores and targets."""

    scores: list[float]
    targets: list[float]


def distil(name: str, groups: Sequence[Listed], *, filler: float = 0.0) -> tuple[Tensor, Tensor]:
    """Loss `[Q]` and the gradient of its sum on the scores `[Q, G]`."""
    group_scores, target, mask = padded([one.scores for one in groups], [one.targets for one in groups], filler)
    group_scores.requires_grad_()
    loss = OBJECTIVES[name].loss(group_scores, target, mask)
    torch.autograd.backward(loss.sum())
    assert group_scores.grad is not None
    return loss.detach(), group_scores.grad


def slow_distil(name: str, one: Listed) -> float:
    def shares(values: list[float]) -> list[float]:
        total = sum(math.exp(value) for value in values)
        return [math.exp(value) / total for value in values]

    if name == "listwise-kl":
        pairs = zip(shares(one.targets), shares(one.scores), strict=True)
        return sum(t * math.log(t / s) for t, s in pairs)
    errors = [
        ((one.scores[i] - one.scores[j]) - (one.targets[i] - one.targets[j])) ** 2
        for i in range(len(one.scores))
        for j in range(len(one.scores))
        if one.targets[i] > one.targets[j]
    ]
    return sum(errors) / len(errors) if errors else 0.0


@st.composite
def listed(draw: st.DrawFn) -> Listed:
    size = draw(st.integers(0, 5))
    values = st.lists(st.floats(-4, 4), min_size=size, max_size=size)
    return Listed(draw(values), draw(values))


@pytest.mark.parametrize("name", DISTILLING)
@settings(deadline=None, max_examples=60)
@given(batch=st.lists(listed(), min_size=1, max_size=4), filler=st.sampled_from([0.0, 1e30, math.nan]))
def test_distillation_equals_the_slow_loop(name: str, batch: list[Listed], filler: float) -> None:
    loss, gradient = distil(name, batch, filler=filler)
    for number, one in enumerate(batch):
        assert float(loss[number]) == pytest.approx(slow_distil(name, one), rel=1e-9, abs=1e-12)
        assert float(gradient[number].sum()) == pytest.approx(0, abs=1e-10)
        assert (gradient[number, len(one.scores) :] == 0).all()


@pytest.mark.parametrize("name", DISTILLING)
def test_distillation_is_zero_at_the_target_and_pulls_towards_it(name: str) -> None:
    at_target = distil(name, [Listed([2.0, 0.5, -1.0], [2.0, 0.5, -1.0])])
    assert float(at_target[0]) == pytest.approx(0, abs=1e-15)
    torch.testing.assert_close(at_target[1], torch.zeros(1, 3, dtype=torch.float64))
    _, gradient = distil(name, [Listed([0.0, 0.0], [3.0, -3.0])])
    assert gradient[0, 0] < 0 < gradient[0, 1]


@pytest.mark.parametrize("name", DISTILLING)
def test_degenerate_groups_are_finite(name: str) -> None:
    groups = [Listed([], []), Listed([1.0], [2.0]), Listed([1e4, -1e4], [3.0, -3.0]), Listed([0.5, 0.5], [1.0, 1.0])]
    loss, gradient = distil(name, groups, filler=math.nan)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()
    assert loss[:2].tolist() == [0.0, 0.0]
    empty = torch.zeros(2, 0, dtype=torch.float64, requires_grad=True)
    nothing = OBJECTIVES[name].loss(empty, empty, torch.zeros(2, 0, dtype=torch.bool))
    assert nothing.tolist() == [0.0, 0.0]


def test_settings_are_the_keywords_of_the_loss() -> None:
    assert settings_of(OBJECTIVES["lsepair-trimmed"]) == {"trim": 0.25}
    assert settings_of(OBJECTIVES["gce"]) == {"power": 0.7, "floor": 0.01}
    assert settings_of(OBJECTIVES["lsepair"]) == {}
