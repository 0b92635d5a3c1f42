"""The bake-off end to end on a small stand-in, and what it says of results that are known."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from present import present

from labelkit.errors import UnknownNameError, UsageError
from labelkit.statistics import simultaneous
from trainer.bakeoffs.comparison import cells_of, compare_objectives, recommendation, verdict
from trainer.bakeoffs.config import BakeoffConfig, find_config, parse_regimes, read_bakeoff
from trainer.bakeoffs.report import objective_words, table_rows
from trainer.bakeoffs.runner import UNTRAINED, RunResult, grid

from ..conftest import call

QUERIES = 200


def test_a_grid_is_run_reported_and_resumed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    two_sources: Path,
    beir: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    command: list[str | Path] = [
        "bakeoff",
        two_sources,
        "--model",
        tiny_model,
        "--objectives",
        "singlelh,lsepair",
        "--seeds",
        "1",
    ]
    command += ["--regime", "human", "--regime", "llm, human", "--eval", beir, "--dev", f"{beir}:test", "-o", output]
    assert call(monkeypatch, *command) == 0
    said = capsys.readouterr().err
    assert "4/4 llm then human.lsepair.0" in said
    assert "has the highest nDCG@10" in said
    table = json.loads((output / "table.json").read_text())["table"]
    cells = {(row["labels"], row["objective"]) for row in table}
    labels = ("human", "llm then human")
    assert cells == {(UNTRAINED, "")} | {(one, objective) for one in labels for objective in ("singlelh", "lsepair")}
    for name in ("means.svg", "dev-1.svg"):
        drawn = ElementTree.parse(output / name).getroot()
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(drawn.findall(".//{*}circle")) >= 2
        assert f"![{name}]({name})" in (output / "README.md").read_text()
    page = (output / "report.html").read_text()
    assert page.count("<svg ") >= 2
    assert 'src="http' not in page
    assert not list((output / "models").iterdir()), "a model is removed once it is measured"

    kept = {path.name: path.read_bytes() for path in (output / "results").iterdir()}
    (output / "results" / "human.lsepair.0.json").unlink()
    assert call(monkeypatch, *command) == 0
    assert capsys.readouterr().err.count("/4 ") == 1, "only what is missing is run"
    again = json.loads((output / "results" / "human.lsepair.0.json").read_text())["result"]
    before = json.loads(kept["human.lsepair.0.json"])["result"]
    assert again["values"] == before["values"]

    assert call(monkeypatch, *command, "--batch-size", "3") == 2
    assert "was made with batch_size = None instead of 3; choose another output" in capsys.readouterr().err


def test_the_report_overwrites_no_other_folder(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    toy_dataset: Path,
    beir: Path,
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    (project / "results").mkdir(parents=True)
    (project / "README.md").write_text("about my project")
    for output in (project, toy_dataset):
        command: list[str | Path] = ["bakeoff", toy_dataset, "--model", tiny_model, "--max-steps", "1"]
        command += ["--seeds", "1", "--eval", beir]
        assert call(monkeypatch, *command, "--objectives", "lsepair", "-o", output) == 1
        assert f"{output} exists and is not the folder of a bake-off; choose another" in capsys.readouterr().err
    assert (project / "README.md").read_text() == "about my project"
    assert not (toy_dataset / "report.html").exists()


def test_a_regime_without_labels_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    toy_dataset: Path,
    beir: Path,
    tmp_path: Path,
) -> None:
    command: list[str | Path] = [
        "bakeoff",
        toy_dataset,
        "--model",
        tiny_model,
        "--regime",
        "llm",
        "--regime",
        "human",
        "--eval",
        beir,
    ]
    assert call(monkeypatch, *command, "-o", tmp_path / "out") == 1
    assert "none of the dataset's 13 queries has a positive from 'human'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["paper-nq.toml", "paper-msmarco.toml", "paper-beir.toml"])
def test_the_papers_configurations_run_end_to_end_on_a_stand_in(
    monkeypatch: pytest.MonkeyPatch,
    long_model: Path,
    two_sources: Path,
    beir: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """All settings and regimes of the paper, one objective, one seed and epoch, on a tiny BERT."""
    other = tmp_path / "other"
    shutil.copytree(beir, other)
    command: list[str | Path] = [
        "bakeoff",
        two_sources,
        "--config",
        name,
        "--model",
        long_model,
        "--objectives",
        "lsepair",
    ]
    command += ["--seeds", "1", "--epochs", "1", "--eval", beir, "--eval", other, "-o", tmp_path / "out"]
    assert call(monkeypatch, *command) == 0
    runs = {path.stem for path in (tmp_path / "out" / "results").iterdir()}
    regimes = read_bakeoff(name, {}, {}).regimes
    assert runs == {UNTRAINED} | {f"{regime}.lsepair.0" for regime in regimes}
    table = json.loads((tmp_path / "out" / "table.json").read_text())["table"]
    assert len(table) == 1 + len(regimes)


def test_the_papers_settings() -> None:
    nq, marco = (read_bakeoff(name, {}, {}) for name in ("paper-nq.toml", "paper-msmarco.toml"))
    assert len(list(grid(nq))) == 5 * 4 * 3
    assert nq.objectives == marco.objectives == ("singlelh", "rand1lh", "jointlh-sum", "summarglh", "lsepair")
    first, second = nq.fit_config("curriculum", "jointlh-sum", 2).stage_configs()
    assert (first.labels, first.objective, first.epochs, first.batch_size) == ("llm", "jointlh-sum", 40, 64)
    assert (first.positives, first.max_query_length) == ("best", 32)
    assert nq.fit_config("llm", "rand1lh", 0).positives is None
    assert marco.fit_config("llm", "lsepair", 0).max_query_length == 16
    assert (second.labels, second.epochs, second.seed) == ("human", 1, 2)
    assert (first.learning_rate, first.group_size, first.max_positives) == (1e-5, 8, 4)
    (merged,) = marco.fit_config("merged-20", "lsepair", 0).stage_configs()
    assert (merged.labels, merged.epochs, merged.batch_size, merged.learning_rate) == ("20% human + llm", 3, 128, 3e-5)


def test_what_a_bakeoff_refuses(tmp_path: Path) -> None:
    fit = {"model": "m"}
    for settings, message in (
        ({"fit": fit | {"seed": 3}}, r"fit\.seed is varied by the bake-off; remove it"),
        ({"fit": fit, "regimes": {"a/b": ["human"]}}, "leave out slashes"),
        ({"fit": fit, "regimes": {"x": ["people"]}}, "regime x: .*unknown source of labels 'people'"),
        ({"fit": fit | {"epoks": 3}}, "regime all: unknown setting 'epoks'; did you mean epochs?"),
    ):
        with pytest.raises(UsageError, match=message):
            BakeoffConfig(**settings)
    with pytest.raises(UnknownNameError, match="unknown objective 'infonce'"):
        BakeoffConfig(fit=fit, objectives=("infonce",))
    with pytest.raises(UsageError, match=r"nq\.toml does not exist; files of the package are: paper-beir\.toml, "):
        find_config("nq.toml")
    assert parse_regimes(["llm, 20% human", "llm"]) == {"llm then 20% human": ["llm", "20% human"], "llm": ["llm"]}


def made(regime: str, objective: str, seed: int, values: Any, seconds: float = 10.0) -> RunResult:
    per_query = {f"q{n}": float(value) for n, value in enumerate(values)}
    measures = dict.fromkeys(("nDCG@10", "RR@10", "AP@100", "R@100"), per_query)
    return RunResult(regime, objective, seed, seconds, 1, [], {"data": measures})


def test_a_clear_winner_a_tie_and_the_words_for_them() -> None:
    source = np.random.default_rng(0)
    base = source.uniform(0.3, 0.5, QUERIES)
    noise = [source.normal(0, 0.05, QUERIES) for _ in range(9)]
    results = [made(UNTRAINED, "", 0, base - 0.1)]
    for seed in range(3):
        results += [
            made("llm", "lsepair", seed, base + 0.05 + noise[seed]),
            made("llm", "summarglh", seed, base + 0.049 + noise[3 + seed], seconds=4.0),
            made("human", "lsepair", seed, base - 0.02 + noise[6 + seed]),
            made("human", "summarglh", seed, base - 0.04),
            made("human single", "singlelh", seed, base - 0.06),
        ]
    found = verdict(results)
    assert [cell.regime for cell in found.cells][-2:] == ["human single", UNTRAINED]
    words = "\n".join(recommendation(found))
    assert "The difference from the untrained model is +0.1" in words
    assert "No significant difference from summarglh on llm: lsepair on llm." in words
    assert "Choose among them by cost: summarglh on llm took least time, 4 s per run." in words
    assert "Significantly worse than summarglh on llm: lsepair on human, summarglh on human, singlelh on " in words
    assert "To detect a difference of 0.01 between the two highest you need about" in words
    assert found.regime_gaps == [], "no two regimes have all three objectives"
    grids = verdict([result for result in results if result.regime != "human single"])
    (regime,) = grids.regime_gaps
    assert (regime.name, regime.against, regime.sure) == ("llm", "human", True)
    assert regime.difference.value == pytest.approx(0.08, abs=0.01)
    assert list(grids.regimes) == ["llm", "human"]
    told = [
        (name, best.objective, other.objective, gap.sure)
        for name, best, gaps in compare_objectives(grids)
        for other, gap in gaps
    ]
    assert told == [("llm", "summarglh", "lsepair", False), ("human", "lsepair", "summarglh", True)]
    assert not list(compare_objectives(verdict([result for result in results if result.regime == "llm"])))
    said = objective_words(grids)
    assert said[0].startswith("On the labels 'llm' summarglh has the highest mean, 0.4")
    assert said[1].endswith(", no significant difference")
    rows = table_rows(found, {measure: cells_of(results, measure) for measure in ("nDCG@10", "RR@10")})
    assert rows[1][4] == "best"
    assert len(rows) == 7


def test_queries_that_tell_what_seeds_do_not() -> None:
    base = np.random.default_rng(2).uniform(0.3, 0.5, QUERIES)
    results = [made("llm", "lsepair", seed, base + 0.1 * seed) for seed in range(3)]
    results += [made("llm", "summarglh", seed, base + 0.05) for seed in range(3)]
    results += [made("human", "lsepair", seed, base) for seed in range(3)]
    said = objective_words(verdict(results))
    assert said[1].endswith(", no significant difference")


def test_training_that_gains_nothing_is_not_recommended() -> None:
    source = np.random.default_rng(1)
    base = source.uniform(0, 1, 50)
    results = [made(UNTRAINED, "", 0, base), made("llm", "lsepair", 0, base + source.normal(0, 0.1, 50))]
    words = "\n".join(recommendation(verdict(results)))
    assert "No significant difference from the untrained model" in words
    assert "keep that model" in words
    worse = [results[0], *(made("llm", "lsepair", seed, base - 0.2) for seed in range(2))]
    assert "The untrained model is better (-0.200" in "\n".join(recommendation(verdict(worse)))


def test_the_luck_of_seeds_is_in_the_interval() -> None:
    """Queries do not vary at all; seeds do, so only they can make the interval."""
    results = [made("llm", "lsepair", seed, np.full(50, 0.4 + 0.05 * seed)) for seed in range(3)]
    (cell,) = verdict(results).cells
    assert cell.mean.value == pytest.approx(0.45)
    assert present(cell.mean.low) < 0.4
    assert present(cell.mean.high) > 0.5
    assert cell.spread == pytest.approx(0.05)
    once = [made(UNTRAINED, "", 0, np.full(50, 0.2)), made("llm", "lsepair", 0, np.full(50, 0.4))]
    assert "With one seed, intervals do not include the variance of seeds" in "\n".join(recommendation(verdict(once)))


def test_a_pair_of_cells_reads_the_same_from_both_sides() -> None:
    source = np.random.default_rng(5)
    base = source.uniform(0, 1, 60)
    results = [made(UNTRAINED, "", 0, base), made("llm", "lsepair", 0, base - 0.05 + source.normal(0, 0.02, 60))]
    found = verdict(results)
    (gap,) = found.gaps
    assert (gap.name, gap.against, found.cells[0].regime) == ("lsepair on llm", UNTRAINED, UNTRAINED)
    low, value, high = map(present, (gap.difference.low, gap.difference.value, gap.difference.high))
    assert low < value < high < 0
    assert gap.turned.turned == gap
    (alone,) = verdict(results[1:]).cells
    assert verdict(results[1:]).gaps == []
    assert alone.name == "lsepair on llm"


def test_equal_cells_are_seldom_called_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight equal cells of three seeds whose luck differs: at most 8 of 60 worlds, where 3 are expected."""
    monkeypatch.setattr(simultaneous, "DRAWS", 999)
    source = np.random.default_rng(9)
    wrong = 0
    for _ in range(60):
        base = source.uniform(0.2, 0.6, 100)
        results = [
            made("llm", f"objective-{cell}", seed, base + source.normal(0, 0.003) + source.normal(0, 0.05, 100))
            for cell in range(8)
            for seed in range(3)
        ]
        wrong += any("Significantly worse" in line for line in recommendation(verdict(results)))
    assert wrong <= 8
