"""The command line as a user meets it: exit codes, one-line errors, clean standard output."""

import json
import sys
from pathlib import Path

import pytest

from trainer.commands.measuring import short_names
from trainer.data.store import open_store
from trainer.packages import TRAINING_PACKAGES

from ..conftest import call


def test_fit_then_eval(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    toy_dataset: Path,
    beir: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    settings, model = tmp_path / "fit.toml", tmp_path / "model"
    settings.write_text(f'model = "{tiny_model}"\nobjective = "singlelh"\nepochs = 3\n')
    flags = ("--config", settings, "--objective", "jointlh", "--max-steps", "2", "-o", model)
    assert call(monkeypatch, "fit", toy_dataset, *flags) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"wrote {model}: 2 steps of jointlh" in printed.err
    assert "left out 1 of 13 queries, which have no positive" in printed.err
    manifest = json.loads((model / "manifest.json").read_text())
    assert manifest["command"].startswith(f"trainer fit {toy_dataset} --config")

    assert call(monkeypatch, "eval", model, beir, "--compare", tiny_model, "--json", "--relevant-grade", "2") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["models"] == [str(model), str(tiny_model)]
    assert result["collections"][0]["queries_without_relevant"] == 1

    assert call(monkeypatch, "eval", model, beir, "--compare", tiny_model, "--relevant-grade", "2") == 0
    printed = capsys.readouterr()
    mean = result["measured"][0]["means"]["nDCG@10"]
    assert f"{mean['mean']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]" in printed.out
    assert "difference to" in printed.out
    assert "83% of the passages in the first ten ranks are unjudged" in printed.err
    assert "1 of 2 queries have no passage of grade 2 or above" in printed.err
    assert "was trained on" not in printed.err

    asked = open_store(toy_dataset).labels["train"]["query"][0].as_py()
    (beir / "queries.jsonl").write_text(
        f'{{"_id": "q0", "text": "{asked.upper()}?"}}\n{{"_id": "q1", "text": "word5"}}\n'
    )
    assert call(monkeypatch, "eval", model, beir, "--compare", tiny_model, "--json") == 0
    printed = capsys.readouterr()
    assert f"{model} was trained on 1 of the 2 queries of beir, split test" in printed.err
    assert printed.err.count("was trained on") == 1
    assert [one["training_queries"] for one in json.loads(printed.out)["measured"]] == [1, None]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("fit", "{tmp}/none", "--model", "m", "--objective", "lsepair", "-o", "{tmp}/m"),
            1,
            "does not exist",
        ),
        (
            ("fit", "{tmp}/half", "--model", "m", "--objective", "lsepair", "-o", "{tmp}/m"),
            1,
            "not a finished dataset",
        ),
        (
            ("fit", "{toy}", "--model", "m", "--objective", "infonce", "-o", "{tmp}/m"),
            2,
            "unknown objective",
        ),
        (
            ("fit", "{toy}", "--objective", "lsepair", "-o", "{tmp}/m"),
            2,
            "model is not set; give --model",
        ),
        (
            ("fit", "{toy}", "--config", "{tmp}/no.toml", "-o", "{tmp}/m"),
            2,
            "cannot read the settings in",
        ),
        (("fit", "{tmp}/none", "--objective", "infonce", "-o", "{tmp}/m"), 1, "none does not exist, but a dataset is"),
        (
            ("bakeoff", "{tmp}/none", "--objectives", "x", "--eval", "{tmp}/none", "-o", "{tmp}/m"),
            1,
            "a dataset is needed",
        ),
        (("suspects", "{tmp}/none", "--objective", "x", "-o", "{tmp}/m"), 1, "a dataset is needed"),
        (("eval", "{tmp}/none", "{tmp}/half"), 1, "corpus.jsonl does not exist"),
        (("eval", "m", "{tmp}/none"), 1, "does not exist; give a folder with corpus.jsonl and queries.jsonl"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    toy_dataset: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "train.parquet").touch()
    assert call(monkeypatch, *(argument.format(tmp=tmp_path, toy=toy_dataset) for argument in arguments)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("name", ["..\\elsewhere", "two\nlines", "a\x1b[2Jb"])
def test_the_name_of_a_run_that_leads_elsewhere_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    beir: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """The file of a run is named after the folder of the data, which may come from an archive of somebody else."""
    data, runs = tmp_path / "data" / name, tmp_path / "runs"
    data.parent.mkdir()
    beir.rename(data)
    assert call(monkeypatch, "eval", tiny_model, data, "--compare", tiny_model, "--runs", runs) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("error: ")
    assert f"is not the name of a file inside {runs}: refused" in said.err
    assert "nDCG@10" not in said.err
    assert not runs.exists()
    assert call(monkeypatch, "eval", tiny_model, data) == 0, "without runs no file is named after it"


def test_a_model_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    beir: Path,
    toy_dataset: Path,
    tmp_path: Path,
) -> None:
    for arguments in (
        ("eval", "/no/model", beir),
        ("fit", toy_dataset, "--model", "/no/model", "--objective", "lsepair", "-o", tmp_path / "m"),
    ):
        assert call(monkeypatch, *arguments) == 2
        assert "error: cannot load the model '/no/model'" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("module", TRAINING_PACKAGES)
def test_an_absent_package_prints_the_install_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], beir: Path, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert call(monkeypatch, "eval", "m", beir) == 2
    assert "which is not installed; run: pip install '" in capsys.readouterr().err


def test_unknown_flags_and_missing_arguments_exit_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "fit") == 2
    assert call(monkeypatch, "eval", "m", "d", "--frobnicate") == 2
    assert call(monkeypatch, "--help") == 0


def test_models_are_shown_by_name_where_that_leaves_them_apart() -> None:
    assert short_names(("/a/b/mine", "org/base")) == {"/a/b/mine": "mine", "org/base": "base"}
    assert short_names(("run-1/model", "run-2/model")) == {"run-1/model": "run-1/model", "run-2/model": "run-2/model"}
