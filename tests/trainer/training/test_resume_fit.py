"""A run that is killed and goes on computes what it would have computed."""

import json
import random
import threading
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from labelkit.commands.console import show_log
from labelkit.errors import ArtifactError, UsageError
from labelkit.storage import folders
from labelkit.storage.manifest import Facts
from trainer.config.fit_config import FitConfig
from trainer.training.checkpoints import Checkpoints, step_of
from trainer.training.fit import fit

from ..conftest import Trap

KILLS = 20


def curriculum(model: Path, **settings: Any) -> FitConfig:
    plan: dict[str, Any] = {
        "stages": ["llm", {"labels": "human", "objective": "singlelh", "max_steps": 12}],
        "max_steps": 18,
        "batch_size": 5,
        "learning_rate": 5e-3,
        "learn_temperature": True,
        "checkpoint_minutes": 0.0,
    }
    return FitConfig(model=str(model), objective="lsepair", **(plan | settings))


def run_of(folder: Path) -> tuple[str, list[Any], list[Any]]:
    """Everything that a run computed."""
    manifest = folders.read_manifest(folder, "model")
    stages = manifest.facts.stages
    return manifest.files["model.safetensors"], [s["losses"] for s in stages], [s["dev"] for s in stages]


def start(dataset: Path, output: Path, config: FitConfig) -> ForkProcess:
    """A fork of this process, which has everything loaded, as `trainer fit` would be."""
    process = ForkProcess(target=fit_alone, args=(dataset, output, config))
    process.start()
    return process


def fit_alone(dataset: Path, output: Path, config: FitConfig) -> None:
    """tqdm's lock is shared with forks: one that is killed while it holds the lock would stop all that come later."""
    tqdm.set_lock(threading.RLock())
    show_log()
    fit(dataset, output, config)


def progress_of(output: Path) -> tuple[int, int]:
    """The stage that a run is in, and the step of its newest whole checkpoint."""
    folder = output.with_name(output.name + ".checkpoints")
    stage = 1 + len(list(folder.glob("stage-*.json")))
    steps = [step_of(path.parent) for path in folder.glob(f"stage-{stage}/checkpoint-*/manifest.json")]
    return stage, max(steps, default=0)


def kill_after(progress: tuple[int, int], pause: float, dataset: Path, output: Path, config: FitConfig) -> bool:
    """Start the run and kill it a moment after it has come so far; False where it was faster."""
    process = start(dataset, output, config)
    while progress_of(output) < progress and process.is_alive():
        time.sleep(0.002)
    time.sleep(pause)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


def test_killed_at_random_moments_a_run_ends_bit_equal(
    tiny_model: Path, two_sources: Path, beir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL at 20 moments over both stages, their boundary and the writing of checkpoints and results among them."""
    # Enough steps for a fast machine too: it takes several before a kill arrives.
    human = {"labels": "human", "objective": "singlelh", "max_steps": 60}
    config = curriculum(tiny_model, dev=f"{beir}:test", stages=["llm", human], max_steps=90)
    fit(two_sources, tmp_path / "whole", config)
    output, source = tmp_path / "killed", random.Random(3)
    steps = [(1, step) for step in range(90)] + [(2, step) for step in range(60)]
    kills = [
        kill_after(progress, source.uniform(0, 0.08), two_sources, output, config)
        for progress in sorted(source.sample(steps, KILLS))
    ]
    assert sum(kills) >= KILLS - 1, "the last may come too late"
    last = start(two_sources, output, config)
    last.join()
    assert last.exitcode == 0
    assert capfd.readouterr().err.count("resumes from step") >= KILLS // 2
    assert run_of(output) == run_of(tmp_path / "whole")
    assert not output.with_name("killed.checkpoints").exists()


def killed_after(step: int, dataset: Path, output: Path, config: FitConfig) -> list[Path]:
    """The checkpoints, oldest first, of a run of one stage that is killed after a step."""
    assert kill_after((1, step), 0.0, dataset, output, config)
    folder = output.with_name(output.name + ".checkpoints")
    return sorted((path.parent for path in folder.glob("stage-1/checkpoint-*/manifest.json")), key=step_of)


def test_a_truncated_newest_checkpoint_is_passed_over_for_the_one_before(
    tiny_model: Path, two_sources: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = curriculum(tiny_model, stages=())
    fit(two_sources, tmp_path / "whole", config)
    before, newest = killed_after(5, two_sources, tmp_path / "cut", config)[-2:]
    with (newest / "optimizer.pt").open("rb+") as file:
        file.truncate(100)
    capfd.readouterr()
    start(two_sources, tmp_path / "cut", config).join()
    said = capfd.readouterr().err
    assert f"removing the damaged {newest.name}" in said
    assert f"resumes from step {step_of(before)}" in said
    assert run_of(tmp_path / "cut") == run_of(tmp_path / "whole")


def test_another_run_is_not_mixed_with_the_one_that_was_killed(
    tiny_model: Path, two_sources: Path, tmp_path: Path
) -> None:
    config = curriculum(tiny_model, stages=())
    killed_after(2, two_sources, tmp_path / "model", config)
    other = curriculum(tiny_model, stages=(), learning_rate=1e-3)
    with pytest.raises(UsageError, match=r"with learning_rate = 0\.005 instead of 0\.001; finish that run"):
        fit(two_sources, tmp_path / "model", other)
    harmless = curriculum(tiny_model, stages=(), workers=1)
    fit(two_sources, tmp_path / "model", harmless)
    assert (tmp_path / "model" / folders.MANIFEST).is_file()


def test_a_pickle_in_a_checkpoint_is_not_executed(tiny_model: Path, two_sources: Path, tmp_path: Path) -> None:
    """A checkpoint of somebody else, whole by its manifest, whose optimizer runs a command when it is unpickled."""
    config = curriculum(tiny_model, stages=())
    (*_, newest) = killed_after(3, two_sources, tmp_path / "model", config)
    torch.save(Trap(tmp_path / "executed"), newest / "optimizer.pt")
    (newest / folders.MANIFEST).unlink()
    folders.write_manifest(newest, "checkpoint", "trainer fit", inputs={}, rows={}, facts=Facts())
    with pytest.raises(ArtifactError, match=r"contains other objects than tensors and was not written by trainer"):
        fit(two_sources, tmp_path / "model", config)
    assert not (tmp_path / "executed").exists()


def test_a_folder_without_a_run_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none", {"seed": 0})
    checkpoints.check()
    assert checkpoints.newest(1) is None
    assert checkpoints.report(1) is None
    checkpoints.prepare()
    assert json.loads((tmp_path / "none" / "run.json").read_text()) == {"seed": 0}
    with pytest.raises(UsageError, match="seed = 0 instead of 1"):
        Checkpoints(tmp_path / "none", {"seed": 1}).check()
