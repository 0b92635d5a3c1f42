"""Judges distilled into a tiny cross-encoder: the split, the gate, the provenance, the use as a judge, the plan."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoder import write_encoder

import trainer
from labelkit.errors import DataError, UsageError
from labelkit.judging.annotate import annotate
from labelkit.judging.options import AnnotateOptions, PlanOptions
from labelkit.judging.plan import lines, plan
from labelkit.judging.savings import share_above
from labelkit.quality.calibration.apply import recalibrate
from labelkit.quality.distillation.held_out import held_out_pairs, judges_of, pool_of_pairs, write_training
from labelkit.quality.distillation.options import DistilOptions
from labelkit.quality.distillation.run import distil
from labelkit.quality.options import CalibrateOptions
from labelkit.records import Example, Judge, Judgement, Label, Passage, Query
from labelkit.storage import folders, tables
from labelkit.storage.dataset import write_tables
from labelkit.storage.labels import judgements_in
from labelkit.storage.manifest import DATASET, JUDGE

pytestmark = pytest.mark.slow  # most tests train a model

WORDS = tuple(f"word{number}" for number in range(40))
LEARNS = {"max_steps": 60, "learning_rate": 1e-2, "objective": "bixse", "batch_size": 16, "group_size": 8}
QUERIES, PER_QUERY = 40, 8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_encoder(tmp_path_factory.mktemp("models"), [*WORDS, "answer"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 queries with 8 passages each. People call a passage with the word "answer" relevant; the teacher is wrong on a
    tenth of the pairs, and leaves the last of every query out.
    """
    draw = random.Random(0)
    passages, examples, judgements = [], [], []
    for number in range(QUERIES):
        query_id, labels = f"q{number:02d}", []
        for place in range(PER_QUERY):
            name, relevant = f"{query_id}-p{place}", place % 2 == 0
            text = " ".join([*draw.sample(WORDS, 4), *(["answer"] if relevant else [])])
            passages.append(Passage(passage_id=name, title="", text=text))
            judgements.append(Judgement(query_id=query_id, passage_id=name, judge_id="person", grade=3 * relevant))
            if place == PER_QUERY - 1:
                continue
            said = relevant != (draw.random() < 0.1)
            p = draw.uniform(0.7, 0.95) if said else draw.uniform(0.05, 0.3)
            graded: dict[str, Any] = {"grade": 2 if said else 0, "score": 3 * p, "probs": (1 - p, 0.0, p, 0.0)}
            judgements.append(Judgement(query_id=query_id, passage_id=name, judge_id="teacher", **graded))
            labels.append(
                Label(passage_id=name, grade=graded["grade"], source="llm", judge_id="teacher", probability=p)
            )
        examples.append(
            Example(
                query_id=query_id,
                query=f"{WORDS[number % 40]} {WORDS[(3 * number + 1) % 40]}",
                positives=tuple(one for one in labels if one.grade),
                negatives=tuple(one for one in labels if not one.grade),
                ignored=(),
            )
        )
    folder = tmp_path_factory.mktemp("data") / "dataset"
    with folders.writing(folder, DATASET, "test") as draft:
        write_tables(
            draft,
            examples=examples,
            corpus=passages,
            queries=[Query(query_id=one.query_id, text=one.query) for one in examples],
            judgements=sorted(judgements, key=lambda one: (one.query_id, one.passage_id, one.judge_id)),
            judges=[
                Judge(judge_id="person", kind="human", name="person"),
                Judge(
                    judge_id="teacher",
                    kind="llm",
                    name="teacher",
                    engine="x",
                    method="graded",
                    label_grades=(0, 1, 2, 3),
                ),
            ],
        )
    return folder


def options(model: Path, folder: Path, **settings: Any) -> DistilOptions:
    """Options whose settings file has these settings of the training."""
    path = folder / "fit.toml"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in (LEARNS | settings).items()))
    return DistilOptions(model=str(model), config=path, passage_tokens=20)


def train(folder: Path, model: Path, settings: Mapping[str, Any]) -> None:
    trainer.fit(folder, model, trainer.FitConfig(**settings))


@pytest.fixture(scope="module")
def judge(tiny: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge that has learnt the word."""
    folder = tmp_path_factory.mktemp("judge")
    distil(dataset, folder / "judge", options(tiny, folder), train=train)
    return folder / "judge"


def test_held_out_queries_are_in_no_table_of_the_training(dataset: Path, tmp_path: Path) -> None:
    with tables.temporary() as db:
        judges = judges_of(db, dataset, None)
        pairs = held_out_pairs(judges, 0.3, 0)
        other = held_out_pairs(judges, 0.3, 1)
    held = {query_id for query_id, _ in pairs}
    assert len(held) == 12
    assert held != {query_id for query_id, _ in other}
    assert len(pairs) == 12 * (PER_QUERY - 1), "the teacher did not judge the last pair of a query"
    counts = write_training(dataset, tmp_path / "training", held, command="test")
    for name in ("train", "judgements", "queries"):
        left = set(folders.read_table(tmp_path / "training", name)["query_id"].to_pylist())
        assert left == {f"q{number:02d}" for number in range(QUERIES)} - held, name
    assert counts["queries"] == 28
    pool = pool_of_pairs(dataset, pairs)
    assert [(one.query_id, one.passage_id) for one in pool.candidates] == pairs
    assert pool.passages.keys() == {name for _, name in pairs}


def test_a_judge_that_learnt_passes_and_says_where_it_comes_from(judge: Path, dataset: Path, tiny: Path) -> None:
    facts = folders.read_manifest(judge, JUDGE).facts
    found = facts.gate
    assert found["passed"]
    assert found["faults"] == []
    assert found["distilled"]["auc"]["value"] > 0.9
    assert found["distilled"]["kappa"]["value"] > found["teacher"]["kappa"]["value"], "the teacher is wrong on a tenth"
    assert found["difference"]["kappa"]["value"] == pytest.approx(
        found["distilled"]["kappa"]["value"] - found["teacher"]["kappa"]["value"]
    )
    assert (found["queries"], found["pairs"]) == (12, 84)
    assert found["grades_needed"] > 0
    assert facts.trained_on["queries"] == 28
    assert facts.training["objective"] == "bixse"
    assert facts.training["model"] == str(tiny)
    assert {one["judge_id"]: one["kind"] for one in facts.taught_by} == {"person": "human", "teacher": "llm"}
    assert not judge.with_name("judge.distilling").exists()
    assert dataset.joinpath("manifest.json").is_file()


def test_its_labels_get_grades_from_its_calibration(judge: Path, dataset: Path, tmp_path: Path) -> None:
    with tables.temporary() as db:
        pairs = held_out_pairs(judges_of(db, dataset, None), 0.9, 5)
    own = AnnotateOptions(model=str(judge / "model"), method="rerank", passage_tokens=20)
    annotate(pool_of_pairs(dataset, pairs), tmp_path / "labels", own).check()
    applied = CalibrateOptions(apply=judge / "calibration.json")
    assert recalibrate([tmp_path / "labels"], tmp_path / "graded", applied) == len(pairs)
    graded, _ = judgements_in(tmp_path / "graded")
    right = [(one.grade or 0) >= 2 == (int(one.passage_id[-1]) % 2 == 0) for one in graded]
    assert sum(((one.grade or 0) >= 2) == (int(one.passage_id[-1]) % 2 == 0) for one in graded) > 0.95 * len(right)


def test_a_judge_that_learnt_nothing_is_refused_unless_it_is_wanted(
    tiny: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = options(tiny, tmp_path, max_steps=1, learning_rate=1e-7)
    calls = []

    def counted(folder: Path, model: Path, settings: Mapping[str, Any]) -> None:
        calls.append(folder)
        train(folder, model, settings)

    with pytest.raises(DataError, match=r"fails the gate: .*kappa is significantly lower than the teacher's") as error:
        distil(dataset, tmp_path / "judge", poor, train=counted)
    assert "graded pairs are needed" in str(error.value)
    assert not (tmp_path / "judge").exists()
    distil(dataset, tmp_path / "judge", poor.but(write_anyway=True), train=counted)
    assert len(calls) == 1, "the model of the first call is used"
    assert folders.read_manifest(tmp_path / "judge", JUDGE).facts.gate["passed"] is False
    assert "it FAILED its gate" in lines(plan_of(dataset, tmp_path / "judge", tmp_path), "gpt-4o")[7]


def test_datasets_that_cannot_be_distilled_are_refused(dataset: Path, tmp_path: Path) -> None:
    with tables.temporary() as db:
        with pytest.raises(UsageError, match="unknown teacher"):
            judges_of(db, dataset, "nobody")
        with pytest.raises(DataError, match="at least 3 must be held out"):
            held_out_pairs(judges_of(db, dataset, "teacher"), 0.02, 0)
    every = {f"q{number:02d}" for number in range(QUERIES)}
    with pytest.raises(DataError, match="no query with a positive is left"):
        write_training(dataset, tmp_path / "training", every, command="test")


@pytest.mark.parametrize("line", ["seed = 5", "model = 'another'", "architecture = 'dense'"])
def test_a_setting_that_the_file_cannot_decide_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "fit.toml").write_text(f"{line}\nepochs = 1\n")
    with pytest.raises(UsageError, match=rf"fit.toml: {line}, but the .* remove the setting"):
        DistilOptions(model="m", config=tmp_path / "fit.toml").training()
    (tmp_path / "fit.toml").write_text("seed = 3\nepochs = 1\n")
    same = DistilOptions(model="m", config=tmp_path / "fit.toml", seed=3).training()
    assert (same["seed"], same["epochs"]) == (3, 1)


def plan_of(dataset: Path, judge: Path, folder: Path, confidence: float | None = None) -> Any:
    """A plan of a paid model over 20 queries."""
    with tables.temporary() as db:
        pairs = held_out_pairs(judges_of(db, dataset, None), 0.5, 0)
    prices = folder / "prices.toml"
    prices.write_text('["gpt-4o"]\ninput = 2.5\noutput = 10.0\n')
    wanted = PlanOptions(model="gpt-4o", engine="openai", distilled=judge, confidence=confidence)
    return plan(pool_of_pairs(dataset, pairs), wanted)


def test_a_plan_shows_the_money_saved(judge: Path, dataset: Path, tmp_path: Path) -> None:
    everything = plan_of(dataset, judge, tmp_path)
    assert everything.saving.share == 1
    assert everything.saving.usd == everything.usd > 0
    quantiles = folders.read_manifest(judge, JUDGE).facts.gate["confidence"]
    some = plan_of(dataset, judge, tmp_path, quantiles[60])
    above = sum(one >= quantiles[60] for one in quantiles) / len(quantiles)
    assert some.saving.share == pytest.approx(above, abs=0.02)
    assert some.saving.share < 1
    assert some.saving.most_usd == pytest.approx(some.saving.share * some.most_usd)
    assert any("distilled judge    takes" in line for line in lines(some, "gpt-4o"))
    with pytest.raises(UsageError, match="--confidence is about the judge of --distilled"):
        PlanOptions(model="gpt-4o", engine="openai", confidence=0.9)


def test_the_share_above_a_value_is_read_from_quantiles() -> None:
    assert share_above([0.5, 0.6, 0.7, 0.8, 0.9], 0.7) == pytest.approx(0.5)
    assert share_above([0.5, 0.6, 0.7, 0.8, 0.9], 0.75) == pytest.approx(0.375)
    assert share_above([0.5, 0.9, 0.9, 0.9, 0.9], 0.9) == pytest.approx(0.75)
    assert share_above([0.5, 0.9], 0.4) == 1
    assert share_above([0.5, 0.9], 0.95) == 0


def test_the_command(labelkit: Any, tiny: Path, dataset: Path, tmp_path: Path) -> None:
    config = options(tiny, tmp_path).config
    arguments = ("--model", tiny, "--config", config, "--passage-tokens", 20, "--json")
    called = labelkit("distil", dataset, "-o", tmp_path / "judge", *arguments)
    assert called.code == 0, called.err
    assert json.loads(called.out)["gate"]["passed"] is True
    assert "mix the labels with --calibration" in called.err
    assert "held-out queries" in called.err


def test_another_call_after_a_refusal_trains_with_its_own_settings(
    tiny: Path, dataset: Path, tmp_path: Path, labelkit: Any
) -> None:
    config = options(tiny, tmp_path, max_steps=1, learning_rate=1e-7).config
    assert config is not None
    command = ("distil", dataset, "-o", tmp_path / "judge", "--model", tiny, "--config", config)
    refused = labelkit(*command, "--passage-tokens", 20)
    assert refused.code == 1
    assert "fails the gate" in refused.err
    model = tmp_path / "judge.distilling" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    # Without the rate, the settings are a subset of those of the model that was refused.
    config.write_text(config.read_text().replace("learning_rate = 1e-07\n", ""))
    assert labelkit(*command, "--passage-tokens", 20).code == 1
    assert model.stat().st_mtime_ns > before, "other settings train again"
    before = model.stat().st_mtime_ns
    written = labelkit(*command, "--passage-tokens", 10, "--write-anyway")
    assert written.code == 0, written.err
    assert (tmp_path / "judge" / "model" / "model.safetensors").stat().st_mtime_ns == before, "the model is the same"
    options(tiny, tmp_path)
    passed = labelkit(*command, "--passage-tokens", 20)
    assert passed.code == 0, passed.err
