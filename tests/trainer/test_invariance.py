"""`trainer verify` as a user runs it, and that its checks can fail."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

from trainer import invariance
from trainer.objectives import contrast, loss, processes
from trainer.objectives.tiles import PositivePairs

CPU = torch.device("cpu")


def test_every_invariance_holds_on_this_machine() -> None:
    """On 1, 2 and 4 processes, with and without the cache, in float64 and float32."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "verify", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count(": passed") == len(invariance.CHECKS)
    assert "FAILED" not in done.stdout
    assert all(name.split(",")[0] in done.stdout for name in invariance.CHECKS)


def test_an_engine_that_forgets_its_masks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = invariance.random_groups(9, 40)

    def no_pairs(row: torch.Tensor, key: torch.Tensor, passage_key: torch.Tensor) -> PositivePairs:
        return PositivePairs(row[:0], row[:0])

    monkeypatch.setattr(contrast, "known_pairs", no_pairs)
    for check in (invariance.check_tiles, invariance.check_masks):
        difference, allowed, what = check(groups, CPU)
        assert not invariance.SelfCheck("masks", what, difference, allowed).held


def test_a_cache_that_sums_where_the_loss_means_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loss.MultiPositiveLoss.calculate_loss

    def sums(self: loss.MultiPositiveLoss, *args: object, with_backward: bool = False) -> torch.Tensor:
        found: torch.Tensor = plain(self, *args, with_backward=with_backward)  # type: ignore[arg-type]
        return found * 8 if with_backward else found

    monkeypatch.setattr(loss.MultiPositiveLoss, "calculate_loss", sums)
    difference, allowed, what = invariance.check_cache(invariance.random_groups(3, 20), CPU)
    assert not invariance.SelfCheck("cache", what, difference, allowed).held


def scale_gradients(by: float) -> Callable[..., Any]:
    """The backward of a gather that is off by a factor."""
    right = processes._Gathered.backward

    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return right(ctx, *gradients) * by

    return backward


def keep_to_itself(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
    """The backward of a gather that hands back the local block alone."""
    return gradients[dist.get_rank()]


def gather_with_padding(passages: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A gather that pads the shorter rank with passages of its own under new ids and never cuts them off."""
    counts = [int(count) for count in processes._gather(key.new_tensor([len(key)]))]
    short = max(counts) - len(key)
    padded = torch.cat([passages, passages[:1].expand(short, -1)])
    keys = torch.cat([key, torch.arange(short)])
    everything = torch.cat(processes._gather_with_gradient(padded))
    before = max(counts) * dist.get_rank()
    return everything, torch.arange(before, before + len(key)), torch.cat(processes._gather(keys))


FAULTS: dict[str, tuple[Any, str, Callable[[], Any]]] = {
    "a gather that scales by 1/W": (processes._Gathered, "backward", lambda: staticmethod(scale_gradients(1 / 2))),
    "a gather that scales by W": (processes._Gathered, "backward", lambda: staticmethod(scale_gradients(2))),
    "a gather of local blocks only": (processes._Gathered, "backward", lambda: staticmethod(keep_to_itself)),
    "ranks that are padded with wrong ids": (contrast, "gather_passages", lambda: gather_with_padding),
}
"""Trap -> what to replace, and by what."""


def fall_into(rank: int, folder: Path) -> None:
    """Compute one batch on two processes, right and with each fault."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    groups = invariance.random_groups(5, 20)
    found = {"none": invariance.compute(groups, invariance.settings("lsepair"), CPU, process=rank, processes=2)}
    for name, (owner, attribute, fault) in FAULTS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, attribute, fault())
            found[name] = invariance.compute(groups, invariance.settings("lsepair"), CPU, process=rank, processes=2)
    dist.destroy_process_group()
    if rank == 0:
        torch.save({name: (one.loss, one.gradient) for name, one in found.items()}, folder / "found.pt")


def test_traps_of_gathering_across_processes_are_caught(tmp_path: Path) -> None:
    """1/W, W, local blocks only, wrong ids on padding: each makes two processes differ from one."""
    spawn(fall_into, (tmp_path,), nprocs=2)
    found = {name: invariance.CheckResult(*one) for name, one in torch.load(tmp_path / "found.pt").items()}
    alone = invariance.compute(invariance.random_groups(5, 20), invariance.settings("lsepair"), CPU)
    allowed = invariance.PROCESSES[torch.float64]
    assert found.pop("none").differs(alone) <= allowed
    assert set(found) == set(FAULTS)
    for name, outcome in found.items():
        assert outcome.differs(alone) > 1000 * allowed, name


def test_nan_is_no_small_difference() -> None:
    assert not invariance.SelfCheck("x", "y", float("nan"), 1.0).held
