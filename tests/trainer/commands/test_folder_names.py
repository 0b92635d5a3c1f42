"""Folder names are literal for the trainer too."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from trainer.retrieval.evaluate import run_tags

from ..conftest import call

NAMES = ("plain", "lab[1]*?", '~/query_id=7/it\'s "100%s"\nstraße 漢字 {0}')


def test_every_command_reads_and_writes_the_folder_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    toy_dataset: Path,
    beir: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab1xy").mkdir()
    results = []
    for name in NAMES:
        folder = Path(name)
        for source, copy in ((toy_dataset, "data"), (beir, "beir"), (tiny_model, "start")):
            shutil.copytree(source, folder / copy)
        settings = folder / "fit.toml"
        settings.write_text("checkpoint_minutes = 0\n")
        flags: list[str | Path] = ["--model", folder / "start", "--objective", "singlelh", "--max-steps", "2"]
        flags += ["--config", settings]
        measured = ("--dev", f"{folder / 'beir'}:test", "--eval", folder / "beir")
        assert call(monkeypatch, "fit", folder / "data", "-o", folder / "model", *flags, *measured) == 0, name
        flags = ["--model", folder / "start", "--objective", "lsepair", "--max-steps", "1", "--folds", "2"]
        assert call(monkeypatch, "suspects", folder / "data", "-o", folder / "doubted", *flags) == 0, name
        capsys.readouterr()
        compared = ("--compare", folder / "start", "--runs", folder / "runs", "--json")
        assert call(monkeypatch, "eval", folder / "model", folder / "beir", *compared) == 0, name
        values = [entry["per_query"] for entry in json.loads(capsys.readouterr().out)["measured"]]
        results.append((values, (folder / "doubted/suspects.tsv").read_bytes(), len(list((folder / "runs").iterdir()))))
    assert results[1:] == results[:1] * 2
    weights = [load_file(Path(name) / "model/model.safetensors") for name in NAMES]
    for other in weights[1:]:
        assert all(other[key].equal(value) for key, value in weights[0].items())
    assert not any((tmp_path / "lab1xy").iterdir())
    assert not (Path.home() / "query_id=7").exists()


def test_each_model_gets_a_run_of_its_own() -> None:
    assert run_tags(["a/b", "a_b", "models/m[1]", "m"]) == ["a_b", "a_b_2", "models_m_1", "m"]
