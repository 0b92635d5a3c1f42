"""A disk that fills up while a model is trained: one line, and the last checkpoint serves."""

import contextlib
import logging
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from disks import disk

from labelkit.errors import DiskError
from labelkit.storage import folders
from trainer.config.fit_config import FitConfig
from trainer.training.checkpoints import step_of
from trainer.training.fit import fit, train

SIZE = 8 << 20
REPOSITORY = Path(__file__).parents[3]


def settings(model: Path) -> FitConfig:
    return FitConfig(
        model=str(model), objective="lsepair", max_steps=12, batch_size=5, learning_rate=5e-3, checkpoint_minutes=0.0
    )


@pytest.mark.parametrize(
    "room", [30_000, 100_000, 190_000, 205_000, 215_000, 250_000, 310_000, 400_000, 410_000, 500_000, 590_000]
)
def test_a_disk_that_is_full_at_any_file_of_a_checkpoint_costs_no_more_than_that_checkpoint(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path, room: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tiny_model)
    fit(toy_dataset, tmp_path / "whole", config)
    with disk(tmp_path / "disk", SIZE) as folder:
        ballast, model = folder / "ballast", folder / "model"
        ballast.write_bytes(bytes(SIZE - room))
        told = r"model was not trained, its checkpoints are kept: .*; free the disk and run the same command again$"
        with pytest.raises(DiskError, match=told):
            fit(toy_dataset, model, config)
        kept = sorted(map(step_of, (folder / "model.checkpoints").glob("stage-1/checkpoint-*")))
        assert all(
            (path / folders.MANIFEST).is_file() for path in folder.glob("model.checkpoints/stage-1/checkpoint-*")
        )
        assert not list(folder.rglob("*.unfinished"))
        ballast.unlink()
        with caplog.at_level(logging.INFO):
            fit(toy_dataset, model, config)
        resumed = [record.getMessage() for record in caplog.records if "resumes from step" in record.getMessage()]
        assert resumed == ([f"stage 1 resumes from step {kept[-1]}"] if kept else [])
        one, other = (folders.read_manifest(path, "model").files for path in (model, tmp_path / "whole"))
        assert one["model.safetensors"] == other["model.safetensors"]
        assert not (folder / "model.checkpoints").exists()


def test_a_disk_without_room_for_the_finished_model_keeps_the_checkpoints(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with disk(tmp_path / "disk", SIZE) as folder:
        ballast, model = folder / "ballast", folder / "model"

        def fill(trained: object) -> Any:
            """The measuring takes hours, and somebody else fills the disk meanwhile."""
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass

        with pytest.raises(DiskError, match=r"model was not written: No space left on device; free the disk and run"):
            train(toy_dataset, model, settings(tiny_model), measure=fill, command="test")
        assert sorted(path.name for path in folder.iterdir()) == ["ballast", "model.checkpoints"]
        ballast.unlink()
        with caplog.at_level(logging.INFO):
            fit(toy_dataset, model, settings(tiny_model))
        assert "resumes from step 11" in caplog.text
        folders.read_manifest(model, "model")


def test_a_limit_on_file_sizes_is_one_line_of_the_command(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    config = tmp_path / "fit.toml"
    config.write_text(f'model = "{tiny_model}"\nobjective = "lsepair"\nmax_steps = 12\ncheckpoint_minutes = 0.0\n')

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-m", "trainer", "fit", toy_dataset, "--config", config, "-o", tmp_path / "model"],
        cwd=REPOSITORY, preexec_fn=limit, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"error: {tmp_path / 'model'} was not trained, its checkpoints are kept"
    )


def test_a_model_is_trained_into_a_mount_point_with_its_checkpoints_in_it(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path
) -> None:
    """Of a container only its volumes outlive it."""
    with disk(tmp_path / "volume", SIZE) as volume:
        ballast = volume / ".ballast"
        ballast.write_bytes(bytes(SIZE - 400_000))
        with pytest.raises(DiskError):
            fit(toy_dataset, volume, settings(tiny_model))
        assert list(volume.glob(".checkpoints/stage-1/checkpoint-*/manifest.json"))
        ballast.unlink()
        fit(toy_dataset, volume, settings(tiny_model))
        folders.read_manifest(volume, "model")
        assert not (volume / ".checkpoints").exists()
        assert "# volume" in (volume / "README.md").read_text()
