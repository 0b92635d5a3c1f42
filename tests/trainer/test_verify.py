"""`trainer verify` as a user runs it, and that its checks can fail."""

import subprocess
import sys

import pytest
import torch

from trainer import contrast, loss, verify
from trainer.contrast import Pairs

CPU = torch.device("cpu")


def test_every_invariance_holds_on_this_machine() -> None:
    """On 1, 2 and 4 processes, with and without the cache, in float64 and float32."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer.cli", "verify", "--device", "cpu"], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count(": held") == len(verify.CHECKS)
    assert "MISSED" not in done.stdout
    assert all(name.split(",")[0] in done.stdout for name in verify.CHECKS)


def test_an_engine_that_forgets_its_masks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = verify.random_groups(9, 40)

    def no_pairs(row: torch.Tensor, key: torch.Tensor, passage_key: torch.Tensor) -> Pairs:
        return Pairs(row[:0], row[:0])

    monkeypatch.setattr(contrast, "known_pairs", no_pairs)
    for check in (verify.check_tiles, verify.check_masks):
        difference, allowed, what = check(groups, CPU)
        assert not verify.Check("masks", what, difference, allowed).held


def test_a_cache_that_sums_where_the_loss_means_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loss.MultiPositiveLoss.calculate_loss

    def sums(self: loss.MultiPositiveLoss, *args: object, with_backward: bool = False) -> torch.Tensor:
        found: torch.Tensor = plain(self, *args, with_backward=with_backward)  # type: ignore[arg-type]
        return found * 8 if with_backward else found

    monkeypatch.setattr(loss.MultiPositiveLoss, "calculate_loss", sums)
    difference, allowed, what = verify.check_cache(verify.random_groups(3, 20), CPU)
    assert not verify.Check("cache", what, difference, allowed).held


def test_nan_is_no_small_difference() -> None:
    assert not verify.Check("x", "y", float("nan"), 1.0).held
