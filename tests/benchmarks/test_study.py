"""The program of the study: its loop trains as `trainer fit`, its judges have the precision asked for, it resumes."""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from study import collections, grid, judges, tables, training, workers
from study.report import write_report
from tiny_encoder import write_encoder

from labelkit.pooling.packing import unpadded
from labelkit.records import Passage, Query
from labelkit.storage import folders
from labelkit.storage.dataset import write_tables
from trainer.config.fit_config import FitConfig
from trainer.data.training_sets import View
from trainer.training.fit import fit

WORDS = tuple(f"word{number}" for number in range(60))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder without dropout."""
    folder = write_encoder(tmp_path_factory.mktemp("models"), WORDS)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    path.write_text(json.dumps(config))
    return folder


def make_data(folder: Path, splits: dict[str, int]) -> Path:
    """A BEIR folder of 80 passages; each query repeats words of its three relevant passages."""
    (folder / "qrels").mkdir(parents=True)
    source = np.random.default_rng(0)
    texts = [" ".join(source.choice(WORDS, size=6)) for _ in range(80)]
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"p{n}", "title": "", "text": text}) + "\n" for n, text in enumerate(texts))
    )
    queries, number = [], 0
    for split, count in splits.items():
        rows = ["query-id\tcorpus-id\tscore"]
        for _ in range(count):
            good = source.choice(80, size=3, replace=False).tolist()
            text = " ".join(texts[row].split()[k] for row in good for k in (0, 3))
            queries.append({"_id": f"q{number}", "text": text})
            rows += [f"q{number}\tp{row}\t1" for row in good]
            number += 1
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    return folder


@pytest.fixture(scope="module")
def prepared(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four collections of one data set each, prepared."""
    data = tmp_path_factory.mktemp("data")
    os.environ["LABELKIT_CACHE"] = str(data / "cache")
    encoder = SentenceTransformer(str(model), device="cpu")
    target = data / "study" / "prepared"
    target.mkdir(parents=True)
    for name in collections.NAMES:
        splits = {"train": 30, "test": 10} if name == "scifact" else {"test": 40}
        collections._prepare(make_data(data / name, splits), encoder, str(model), target / f"{name}.zip")
    return target


def test_a_prepared_collection_is_read_as_it_was_written(prepared: Path, tmp_path: Path) -> None:
    first = collections.read(prepared / "cranfield.zip")
    collections.write(first, tmp_path / "cranfield.zip")
    again = collections.read(tmp_path / "cranfield.zip")
    assert again.parts == first.parts
    assert again.qrels == first.qrels
    assert all(
        np.array_equal(one, other) for one, other in zip(again.passage_tokens, first.passage_tokens, strict=True)
    )
    pool, other = next(iter(first.pools.values())), next(iter(again.pools.values()))
    assert (pool.passages, pool.z.tolist(), pool.relevant.tolist()) == (
        other.passages,
        other.z.tolist(),
        other.relevant.tolist(),
    )


def test_no_query_is_trained_on_and_measured_and_dev_queries_are_neither(prepared: Path) -> None:
    for name in collections.NAMES:
        collection = collections.read(prepared / f"{name}.zip")
        measured = [query_id for part in collection.parts for query_id in part.measured]
        assert len(measured) == len(set(measured))
        for part in collection.parts:
            assert not set(part.train) & {*part.dev, *part.measured}
            assert not set(part.dev) & set(measured)
            assert set(part.train) <= set(collection.pools)
        assert set(measured) | set(collection.parts[0].dev) | {
            q for part in collection.parts for q in part.train
        } == set(collection.qrels)


def some_pools(count: int = 60) -> list[judges.Pool]:
    source = np.random.default_rng(1)
    found = []
    for number in range(count):
        relevant = np.arange(80) < 7
        z = source.normal(size=80) + relevant
        found.append(judges.Pool(f"q{number}", [f"p{k}" for k in range(80)], collections.standardized(z), relevant))
    return found


@pytest.mark.parametrize("kind", ["near", "uniform"])
@pytest.mark.parametrize("precision", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("positives", [3.0, 7.0])
def test_a_judge_has_the_precision_and_the_number_of_positives_asked_for(
    kind: judges.Kind, precision: float, positives: float
) -> None:
    drawn = judges.draw_labels(some_pools(), judges.Setting(kind, precision, positives), seed=3)
    assert drawn.facts["precision"] == pytest.approx(precision, abs=0.01)
    assert drawn.facts["positives"] == pytest.approx(positives, abs=0.01)
    labels = [label for one in drawn.examples.values() for label in one.positives]
    assert len(labels) == round(positives * 60)
    assert {label.grade for label in labels} == {2, 3}
    assert np.mean([int(label.passage_id[1:]) < 7 for label in labels]) == pytest.approx(precision, abs=0.01)
    refused = [int(label.passage_id[1:]) for one in drawn.examples.values() for label in one.negatives]
    assert np.mean([number < 7 for number in refused]) < (0.001 if precision == 1 else 0.1)


def test_wrong_positives_of_near_misses_are_more_similar_than_those_of_uniform_noise() -> None:
    pools = some_pools()

    def similarity(kind: judges.Kind) -> float:
        drawn = judges.draw_labels(pools, judges.Setting(kind, 0.3, 7.0), seed=0)
        wrong = [
            pool.z[int(label.passage_id[1:])]
            for pool in pools
            for label in drawn.examples[pool.query_id].positives
            if int(label.passage_id[1:]) >= 7
        ]
        return float(np.mean(wrong))

    assert similarity("near") > similarity("uniform") + 0.5


@pytest.mark.slow
def test_probabilities_are_about_calibrated_and_labels_change_with_the_seed() -> None:
    pools = some_pools(400)
    drawn = judges.draw_labels(pools, judges.Setting("near", 0.5, 7.0), seed=0)
    labels = [
        label
        for one in drawn.examples.values()
        for side in (one.positives, one.negatives, one.ignored)
        for label in side
    ]
    p = np.array([label.probability for label in labels])
    right = np.array([int(label.passage_id[1:]) < 7 for label in labels])
    for low, high in ((0.0, 0.1), (0.3, 0.6), (0.6, 1.0)):
        inside = (p >= low) & (p < high)
        assert right[inside].mean() == pytest.approx(p[inside].mean(), abs=0.12)
    assert drawn.examples != judges.draw_labels(pools, judges.Setting("near", 0.5, 7.0), seed=1).examples
    assert drawn.examples == judges.draw_labels(pools, judges.Setting("near", 0.5, 7.0), seed=0).examples


def test_the_fit_finds_the_numbers_that_grades_were_drawn_from() -> None:
    source = np.random.default_rng(0)
    z = source.normal(size=20_000)
    human = np.where(
        source.random(20_000) < 0.3, 2, np.where(source.random(20_000) < 1 / (1 + np.exp(0.9 - 0.5 * z)), 1, 0)
    )
    scores = 0.8 * (human == 1) + 2.4 * (human == 2) + 0.9 * z + source.logistic(size=20_000)
    grades = np.digitize(scores, [-1.0, 0.7, 2.5])
    misses, (judge,) = judges.fit(human, [grades], z)
    assert misses == pytest.approx([-0.9, 0.5], abs=0.06)
    assert judge == pytest.approx([0.8, 2.4, 0.9], abs=0.1)


def test_the_loop_leaves_the_weights_that_trainer_fit_leaves(
    prepared: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path / "cache"))
    collection = collections.read(prepared / "cranfield.zip")
    data = prepared.parents[1] / "cranfield"
    texts = {one["_id"]: one["text"] for one in map(json.loads, (data / "queries.jsonl").read_text().splitlines())}
    passages = [Passage(passage_id=one["_id"], title="", text=one["text"])
                for one in map(json.loads, (data / "corpus.jsonl").read_text().splitlines())]  # fmt: skip
    examples = {name: judges.human_example(collection.pools[name]) for name in collection.parts[0].train}
    with folders.writing(tmp_path / "dataset", "dataset", "test") as draft:
        write_tables(
            draft,
            examples=[one.model_copy(update={"query": texts[name]}) for name, one in sorted(examples.items())],
            corpus=sorted(passages, key=lambda one: one.passage_id),
            queries=[Query(query_id=name, text=texts[name]) for name in sorted(examples)],
            judgements=(),
            judges=(),
        )
    config = FitConfig(model=str(model), objective="lsepair", max_steps=5, batch_size=4, learning_rate=1e-3, seed=3)
    fit(tmp_path / "dataset", tmp_path / "model", config)
    expected = SentenceTransformer(str(tmp_path / "model"), device="cpu").state_dict()
    found = SentenceTransformer(str(model), device="cpu")
    before = {name: value.clone() for name, value in found.state_dict().items()}
    view = View({"human"}, {"human"}, None, {})
    labelled = training.StudySet({name: [one] for name, one in examples.items()}, view, collection, config)
    losses = training.train(found, labelled, config)
    assert len(losses) == 5
    moved = 0.0
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)
        moved = max(moved, float((value - before[name]).abs().max()))
    assert moved > 1e-3
    packed = SentenceTransformer(str(model), device="cpu")
    with unpadded(packed) as packing:
        assert packing is not None
        assert training.train(packed, labelled, config, packing=packing) == pytest.approx(losses, rel=1e-4)


def test_every_regime_trains_and_the_program_resumes(
    prepared: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regimes: list[Any] = ["llm", "merged", "curriculum", "single", "few", "few short", "few + llm", "all human"]
    cells = tuple(
        grid.Cell("cranfield", regime, "lsepair+distil" if regime == "llm" else "bixse", "near", 0.7,
                  0.0 if regime in grid.HUMAN_ALONE else 2.0)
        for regime in regimes
    )  # fmt: skip
    blocks = (
        grid.Block("0", (grid.Cell("cranfield", "untrained"),), seeds=1),
        grid.Block("1", cells, seeds=2, rates=(1e-4,)),
        grid.Block("2", (grid.Cell("scifact", "untrained", start="reset"),), seeds=2),
    )
    part = grid.Part(blocks, 4, rate=None)
    monkeypatch.setattr(training, "RESET_LAYERS", 1)
    output = tmp_path / "study"

    def plan(limit: int | None) -> workers.Plan:
        return workers.Plan(prepared, str(model), output, "cpu", workers=2, minutes=5, part=part, limit=limit)

    assert len(workers.work(plan(4)).lines) == 4
    path = output / "results.jsonl"
    path.write_text(path.read_text() + '{"key": "cut o')
    results = workers.work(plan(None))
    assert not (output / "failures.jsonl").exists()
    assert len(results.lines) == 1 + 2 * 2 * len(regimes) + 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["key"] for line in lines} == set(results.lines)
    for line in lines:
        trained = "untrained" not in line["key"]
        assert (line["drift"]["passages"] > 1e-6) == trained
        assert set(line["values"]) == set(tables.MEASURES)
    first = next(line for line in lines if "llm |" in line["key"])
    assert first["labels"]["precision"] == pytest.approx(0.7, abs=0.1)
    again = training.perform(training.Session(SentenceTransformer(str(model), device="cpu"),
                                              {"cranfield": collections.read(prepared / "cranfield.zip")}, 4),
                             grid.Run(cells[0], 0, 0, 1e-4))  # fmt: skip
    same = results.lines[again["key"]]
    assert again["values"] == same["values"], "a run does not depend on the process or on what ran before"


def test_a_rate_is_chosen_on_dev_queries_and_the_lower_of_equal_ones() -> None:
    cell = grid.judged("cranfield", "lsepair", 0.3)
    keys = {rate: [grid.Run(one, 0, 0, rate).key for one in grid.rate_cells(cell)] for rate in grid.RATES}
    dev = {key: {1e-5: 0.1, 2e-5: 0.5, 5e-5: 0.5, 1e-4: 0.2}[rate] for rate, each in keys.items() for key in each}
    assert grid.chosen_rate(cell, dev) == 2e-5
    dev.pop(keys[1e-4][0])
    assert grid.chosen_rate(cell, dev) is None


def test_the_blocks_have_the_runs_of_the_design() -> None:
    counts: dict[str, int] = {}
    for block in grid.BLOCKS:
        number = block.name.split(" ")[0]
        counts[number] = counts.get(number, 0) + len(list(block.runs()))
    assert counts == {"0": 4, "1": 56, "2": 72, "3": 105, "4": 60, "5": 92, "6": 60, "7": 90, "8": 121, "9": 180}


def test_the_part_for_a_cpu_has_one_rate() -> None:
    cpu = grid.PARTS["cpu"]
    runs = [cpu.settled(run, {}) for block in cpu.blocks for run in block.runs()]
    assert {run.rate for run in runs if run is not None and run.cell.regime != "untrained"} == {2e-5}
    assert len({run.key for run in runs if run is not None}) == 2 + 3 * 8 + 3 * 8 * 2


@pytest.mark.parametrize("name", ["whole", "cpu"])
def test_the_report_tells_a_difference_that_was_put_in(prepared: Path, tmp_path: Path, name: str) -> None:
    """Made-up values: judges help on SciFact from 0.7 on, by 0.1."""
    study = tmp_path / "study"
    study.mkdir()
    (study / "prepared").symlink_to(prepared)
    found = {path.stem: collections.read(path) for path in prepared.glob("*.zip")}
    source = np.random.default_rng(0)
    hard = {query_id: source.uniform(0.2, 0.6) for one in found.values() for query_id in one.qrels}
    with (study / "results.jsonl").open("w") as file:
        for block in grid.PARTS[name].blocks:
            for run in block.runs():
                helped = 0.1 if run.cell.regime == "few + llm" and run.cell.precision >= 0.7 else 0.0
                for rate in (run.rate,) if run.rate is not None else (grid.PARTS[name].rate or 1e-5,):
                    run = grid.Run(run.cell, run.fold, run.seed, rate)
                    values = {q: hard[q] + helped + source.normal(0, 0.02) for q in found[run.cell.collection].qrels}
                    if rate not in (0.0, grid.PARTS[name].rate or 1e-5):
                        values = dict.fromkeys(values, 0.01)
                    file.write(json.dumps({
                        "key": run.key, "rate": rate, "values": dict.fromkeys(tables.MEASURES, values),
                        "drift": {"queries": 0.1, "passages": 0.1},
                        "labels": {"precision": 0.7, "recall": 0.5, "auc": 0.9} if run.cell.positives else {},
                    }) + "\n")  # fmt: skip
    write_report(study, name)
    text = (study / "report.md").read_text()
    part = text[text.index("## H4") :].split("## H5")[0]
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in part.splitlines() if " - " in line}
    assert rows["judge of 0.7 - human-few"].endswith("*")
    assert not rows["judge of 0.5 - human-few"].endswith("*")
    assert "Not complete" not in text
    assert (study / "break_even.svg").read_text().count("<polyline") == 6
