"""examples/paper: every recipe runs on its replicas from the Hub to the table, and resumes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trainer.bakeoffs.config import read_bakeoff

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "paper"
QRELS = f"python {os.path.relpath(EXAMPLE / 'qrels.py')}"
Cells = dict[tuple[str, str], tuple[str, str]]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all recipes, since two of them share a collection and its labels."""
    return tmp_path_factory.mktemp("paper")


def start(work: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE / "run.py"), "--work", str(work), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def commands(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The names of the printed commands."""
    assert done.returncode == 0, done.stderr
    return [" ".join(line.split()[1:3]) for line in done.stderr.splitlines() if line.startswith("$ ")]


def cells(text: str) -> Cells:
    """Labels and objective of each row of the table -> measured and published figure."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {(labels, objective): (ours, theirs) for labels, objective, ours, theirs in rows[2:]}


def assert_measured(found: Cells, settings: str) -> None:
    """Every objective is measured on every regime of the settings file."""
    config = read_bakeoff(settings, {}, {})
    wanted = {(regime, objective) for regime in config.regimes for objective in config.objectives}
    assert {cell for cell, (ours, _) in found.items() if re.fullmatch(r"\d+\.\d", ours)} == {("untrained", ""), *wanted}


def test_natural_questions(work: Path) -> None:
    done = start(work, "nq", "--tiny")
    steps = ["labelkit import", "labelkit export", QRELS]
    steps += ["labelkit pool", "labelkit annotate", "labelkit mix", "trainer bakeoff"]
    assert commands(done) == steps
    assert_measured(cells(done.stdout), "paper-nq.toml")
    graded = (work / "nq" / "human.tsv").read_text().splitlines()
    assert graded[:2] == ["query-id\tcorpus-id\tscore", "1000\t1\t2"], "the first positive in the file, not by its id"
    assert len(graded) == 1 + 12

    folder = work / "nq" / "with-labels"
    lost = "curriculum.lsepair.0"
    (folder / "bakeoff" / "results" / f"{lost}.json").unlink()
    again = start(work, "nq", "--tiny")
    assert commands(again) == ["labelkit annotate", "trainer bakeoff"]
    assert re.findall(r"\d+/20 (\S+):", again.stderr) == [lost]
    assert cells(again.stdout) == cells(done.stdout) == cells((folder / "table.md").read_text())


def test_ms_marco(work: Path) -> None:
    done = start(work, "msmarco", "--tiny")
    assert commands(done)[0] == "labelkit tidy"
    found = cells(done.stdout)
    assert found["llm", "summarglh"][1] == "35.3"
    assert found["curriculum-20", "not named"] == ("", "38.2")
    assert_measured(found, "paper-msmarco.toml")
    queries = pq.read_table(work / "msmarco" / "with-labels" / "dataset" / "train.parquet", columns=["query_id"])
    assert queries.num_rows == 11, "the query that the split dev repeats is left out"


def test_the_average_of_beir_after_ms_marco(work: Path) -> None:
    done = start(work, "beir", "--tiny")
    assert commands(done) == ["labelkit annotate", "labelkit mix", "trainer bakeoff"], "the labels are those of msmarco"
    assert "nDCG@10 here, mean of 14 collections" in done.stdout
    assert "mean of 25 collections" in done.stderr
    found = cells(done.stdout)
    assert_measured(found, "paper-beir.toml")
    assert found["llm", "not named"] == ("", "45.3")


def test_published_labels_take_the_place_of_a_judge(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the form that the authors' training code reads: the passages that an LLM selected, and no negatives."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    from recipes import RECIPES
    from run import Choices, measure, prepare

    published, models = tmp_path / "labels.tsv", work / "models"
    published.write_text("".join(f"{1000 + n}\t{100 * n},{100 * n + 1}\n" for n in range(12)))
    training = ("--model", str(models / "bert"), "--max-steps", "1", "--seeds", "1")
    choices = Choices(work, (), published, dense=str(models / "tiny"), depth=8, training=training)
    folder = prepare(RECIPES["msmarco"], choices)
    train = pq.read_table(folder / "dataset" / "stage_llm.parquet").to_pylist()
    assert all(len(row["positive_ids"]) == 2 and not row["negative_ids"] for row in train)
    measure(RECIPES["msmarco"], choices, folder, "--regime", "llm", "--objectives", "lsepair")
    assert (folder / "bakeoff" / "results" / "llm.lsepair.0.json").is_file()
    printed = [line.split()[1:3] for line in capsys.readouterr().err.splitlines() if line.startswith("$ ")]
    assert [" ".join(words) for words in printed] == [QRELS, "labelkit import", "labelkit mix", "trainer bakeoff"]


def test_calls_that_cannot_work_say_so(work: Path, tmp_path: Path) -> None:
    refused = start(tmp_path, "nq")
    assert refused.returncode == 2
    assert "give a judge after --, such as: -- --engine vllm" in refused.stderr
    published = tmp_path / "labels.tsv"
    published.write_text("1000\t0,1\n1001 100\n")
    made = subprocess.run(
        [sys.executable, EXAMPLE / "qrels.py", "lists", published, "-o", tmp_path / "qrels.tsv"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 1
    assert "labels.tsv:2: wanted a query id, a tab, and passage ids separated by commas" in made.stderr
    assert not (tmp_path / "qrels.tsv").exists()


def test_a_folder_of_other_options_is_not_mixed_up(work: Path) -> None:
    refused = start(work, "nq", "--depth", 4, "--", "--engine", "scripted", "--model", "overlap")
    assert refused.returncode == 2
    assert "pool was made by another command: labelkit pool" in refused.stderr
