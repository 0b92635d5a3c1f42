"""Mined negatives: each rule leaves out what it names, every candidate is counted, and the origin is kept."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer
from labelkit.datasets.mining import mine as writing
from labelkit.datasets.mining import rankings
from labelkit.datasets.mining.mine import Mined, mine
from labelkit.datasets.mix import mix
from labelkit.datasets.options import MineOptions, MixOptions
from labelkit.errors import DataError, UnknownNameError, UsageError
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import write_pool
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.storage import folders
from labelkit.storage.dataset import examples_to_table, read_dataset, records_to_table
from labelkit.storage.manifest import DATASET, LABELS
from trainer.config.fit_config import FitConfig
from trainer.data.store import open_store
from trainer.data.training_sets import TrainingSet

pytestmark = pytest.mark.slow  # almost every test mixes labels

TREES = [
    *("alder", "ash", "aspen", "beech", "birch", "cedar", "elm", "fir", "hazel"),
    *("larch", "lime", "maple", "oak", "pine", "plane", "poplar", "rowan", "spruce"),
]
PASSAGES = {
    f"p{number:02}": ("", f"{tree} leaves turn {number} days before winter") for number, tree in enumerate(TREES)
}
LONG = "the old oak in the village square was planted two hundred years ago by the first mayor of the town"
QUERIES = {"q1": "oldest oak of the village", "q2": "days before winter"}


@pytest.fixture(scope="module")
def forest(write_beir, tmp_path_factory):
    """A collection of 20 passages; `twin` is a near-duplicate of `old`."""
    passages = PASSAGES | {"old": ("", LONG), "twin": ("", f"{LONG}.")}
    return write_beir(tmp_path_factory.mktemp("forest") / "beir", passages, QUERIES, {"q1": {"old": 3}})


@pytest.fixture
def mixed(forest, write_qrels, tmp_path):
    """Mix qrels into a dataset: by default the positive `old` and the negative `p00` for q1, and p17 for q2."""

    def run(qrels=None, **rules) -> Path:
        human = write_qrels(tmp_path / "human.tsv", qrels or {"q1": {"old": 3, "p00": 0}, "q2": {"p17": 2}})
        target: Path = tmp_path / "dataset"
        mix(target, MixOptions(data=forest, human=human, **rules))
        return target

    return run


def run_file(folder: Path, **scores: Mapping[str, float]) -> Path:
    """A run with the scores of each query's passages."""
    path = folder / "some.run"
    lines = [f"{qid} Q0 {pid} 1 {score} tag\n" for qid, ranked in scores.items() for pid, score in ranked.items()]
    path.write_text("".join(lines))
    return path


def labels_folder(path: Path, scores: Mapping[str, float], **fields: Any) -> Path:
    """A labels folder with the raw scores of a reranker for passages of q1."""
    judge = Judge(judge_id="rerank-m", kind="llm", name="m", **{"method": "rerank", **fields})
    said = [Judgement(query_id="q1", passage_id=pid, judge_id="rerank-m", score=score) for pid, score in scores.items()]
    with folders.writing(path, LABELS, "test") as draft:
        draft.write_table("judgements", records_to_table(said, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([judge], JUDGE_SCHEMA))
    return path


def mined(dataset: Path, **options: Any) -> tuple[dict[str, list[str]], Mined]:
    """Mine a dataset; gives the mined passages of each query, and the counts."""
    made = mine(dataset, dataset.parent / "hard", MineOptions(**options))
    assert made.candidates == made.negatives + sum(made.left_out.values())
    examples = read_dataset(dataset.parent / "hard").examples
    found = {one.query_id: [label.passage_id for label in one.negatives if label.source == "mined"] for one in examples}
    return found, made


def falling(*names: str, best: float = 1.0, step: float = 0.1) -> dict[str, float]:
    """Passages with falling scores."""
    return {name: best - step * place for place, name in enumerate(names)}


def test_only_the_window_of_ranks_is_mined(mixed, tmp_path):
    run = run_file(tmp_path, q1=falling("p01", "old", "p02", "p03", "p04"))
    found, made = mined(mixed(), run=run, ranks="3-4")
    assert found == {"q1": ["p02", "p03"], "q2": []}
    assert (made.negatives, made.queries, made.queries_without_ranking) == (2, 1, 1)


def test_ranks_follow_the_scores_and_not_the_lines_of_a_run(mixed, tmp_path):
    run = run_file(tmp_path, q1={"p01": 0.1, "p02": 0.9, "p03": 0.5})
    assert mined(mixed(), run=run, ranks="1-2")[0]["q1"] == ["p02", "p03"]


def test_labelled_pairs_are_left_out(mixed, tmp_path):
    run = run_file(tmp_path, q1=falling("old", "p00", "p01"), q2=falling("old", "p00"))
    found, made = mined(mixed(), run=run, ranks="1-10")
    assert found == {"q1": ["p01"], "q2": ["old", "p00"]}
    assert (made.left_out["known_positive"], made.left_out["already_labelled"]) == (1, 1)


def test_a_judgment_that_the_mix_did_not_use_leaves_its_pair_out(mixed, tmp_path):
    dataset = mixed({"q1": {"old": 3, "p00": 0, "p01": 0, "p02": 1}, "q2": {"p17": 2}}, max_negatives=1)
    (example, _) = read_dataset(dataset).examples
    assert [one.passage_id for one in example.negatives] == ["p02"]
    run = run_file(tmp_path, q1=falling("p00", "p01", "p03"))
    found, made = mined(dataset, run=run, ranks="1-10")
    assert (found["q1"], made.left_out["already_labelled"]) == (["p03"], 2)


def test_a_near_duplicate_of_a_positive_is_left_out_for_its_query_alone(mixed, tmp_path):
    run = run_file(tmp_path, q1=falling("twin", "p01"), q2=falling("twin", "p01"))
    found, made = mined(mixed(), run=run, ranks="1-10")
    assert found == {"q1": ["p01"], "q2": ["twin", "p01"]}
    assert made.left_out["twin_of_positive"] == 1


@pytest.mark.parametrize(("against", "kept"), [("lowest", ["p03"]), ("mean", ["p02", "p03"])])
def test_a_candidate_needs_a_score_below_a_share_of_the_positives(mixed, tmp_path, against, kept):
    dataset = mixed({"q1": {"old": 3, "p17": 2}, "q2": {"p16": 0}})
    run = run_file(tmp_path, q1={"old": 1.0, "p01": 0.80, "p17": 0.6, "p02": 0.6, "p03": 0.5})
    found, made = mined(dataset, run=run, ranks="1-10", max_share=0.9, against=against)
    assert found["q1"] == kept
    assert made.left_out["close_to_positive"] == 3 - len(kept)
    assert made.queries_without_positives == 1


def test_a_score_equal_to_the_share_is_kept(mixed, tmp_path):
    run = run_file(tmp_path, q1={"old": 1.0, "p01": 0.5, "p02": math.nextafter(0.5, 1)})
    assert mined(mixed(), run=run, ranks="1-10", max_share=0.5)[0]["q1"] == ["p01"]


def test_without_a_score_of_a_positive_the_share_keeps_nothing(mixed, tmp_path):
    run = run_file(tmp_path, q1=falling("old", "p01", step=0.5), q2=falling("p02", "p03"))
    found, made = mined(mixed(), run=run, ranks="1-10", max_share=0.9)
    assert found == {"q1": ["p01"], "q2": []}
    assert made.left_out["no_positive_score"] == 2


def test_scores_that_are_not_above_0_are_refused_for_a_share(mixed, tmp_path):
    run = run_file(tmp_path, q1={"old": -1.0, "p01": -2.0})
    with pytest.raises(UsageError, match=r"run:some.run gives .* 1 of 1 queries .*'q1': -1.*leave --max-share out"):
        mined(mixed(), run=run, ranks="1-10", max_share=0.9)
    assert mined(mixed(), run=run, ranks="1-10")[0]["q1"] == ["p01"]


def test_a_judge_leaves_out_relevant_and_unjudged_candidates(mixed, tmp_path):
    run = run_file(tmp_path, q1=falling("old", "p01", "p02", "p03"), q2=falling("p01", "p02"))
    # Logits: 0.95 of P(old) = 0.881 is 0.837, which is the logit 1.63.
    judge = labels_folder(tmp_path / "scores", {"old": 2.0, "p01": 1.7, "p02": 1.6})
    found, made = mined(mixed(), run=run, ranks="1-10", judge=judge)
    assert found == {"q1": ["p02"], "q2": []}
    assert (made.left_out["judged_close_to_positive"], made.left_out["not_judged"]) == (1, 3)
    (origin,) = pq.read_table(tmp_path / "hard" / "mined.parquet").to_pylist()
    assert origin["filter_judge_id"] == "rerank-m"
    assert origin["filter_value"] == pytest.approx(1 / (1 + math.exp(-1.6)))


def test_a_share_of_negative_logits_is_a_share_of_probabilities(mixed, tmp_path):
    """0.95 times the logit -1 would be -0.95, which no candidate below the positive reaches."""
    run = run_file(tmp_path, q1=falling("old", "p01", "p02"))
    judge = labels_folder(tmp_path / "scores", {"old": -1.0, "p01": -1.01, "p02": -4.0})
    assert mined(mixed(), run=run, ranks="1-10", judge=judge)[0]["q1"] == ["p02"]


def test_the_first_ranks_are_kept_and_a_draw_depends_on_the_seed(mixed, tmp_path):
    dataset, names = mixed(), [f"p{number:02}" for number in range(1, 17)]
    run = run_file(tmp_path, q1=falling(*names, step=0.01))
    rules: dict[str, Any] = {"run": run, "ranks": "1-16", "max_negatives": 3}
    found, made = mined(dataset, **rules)
    assert found["q1"] == names[:3]
    assert made.left_out["over_limit"] == 13
    assert mined(dataset, **rules, seed=7)[0] == found
    draws = [mined(dataset, **rules, draw=True, seed=seed)[0]["q1"] for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len({*map(tuple, draws)}) == 3
    assert all(draw == sorted(draw) for draw in draws)


def test_two_runs_give_the_same_bytes_whatever_the_slices(mixed, tmp_path, monkeypatch):
    dataset = mixed()
    run = run_file(tmp_path, q1=falling("old", "p01", "p02"), q2=falling("p01", "p17", "p02"))

    def files() -> dict[str, bytes]:
        mine(dataset, tmp_path / "hard", MineOptions(run=run, ranks="1-10"), command="same")
        return {path.name: path.read_bytes() for path in (tmp_path / "hard").iterdir()}

    first = files()
    assert files() == first
    monkeypatch.setattr(writing, "QUERIES_AT_ONCE", 1)
    assert files() == first


def test_negatives_keep_their_order_and_mined_ones_follow_with_their_origin(mixed, tmp_path):
    run = run_file(tmp_path, q1=falling("old", "p03", "p01", best=2.0))
    dataset = mixed()
    before = read_dataset(dataset)
    mined(dataset, run=run, ranks="2-3", max_share=0.97)
    after = read_dataset(tmp_path / "hard")
    (old, other), (new, same) = before.examples, after.examples
    assert same == other
    assert (new.positives, new.ignored, new.negatives[:1]) == (old.positives, old.ignored, old.negatives)
    labels = [(one.passage_id, one.grade, one.judge_id, one.weight, one.score) for one in new.negatives[1:]]
    assert labels == [(name, None, "mined-run:some.run", 1.0, None) for name in ("p03", "p01")]
    origins = pq.read_table(tmp_path / "hard" / "mined.parquet").to_pylist()
    assert [(one["passage_id"], one["rank"], one["positive_score"]) for one in origins] == [
        ("p01", 3, 2.0),
        ("p03", 2, 2.0),
    ]
    assert origins[0]["revision"] == f"sha256:{folders.file_sha256(run)}"
    facts = after.manifest.facts
    assert (facts.negatives, facts.positives) == (before.manifest.facts.negatives + 2, 2)
    assert facts.mined[0]["left_out"]["close_to_positive"] == 0
    assert facts.mined[0]["rules"] == {"against": "lowest", "ranks": "2-3", "run": str(run), "max_share": 0.97}
    assert after.manifest.inputs[str(run)] == folders.file_sha256(run)


def test_mining_again_adds_to_the_origins(mixed, tmp_path):
    mined(mixed(), run=run_file(tmp_path, q1=falling("old", "p01", "p02")), ranks="2-2")
    again = tmp_path / "again"
    mine(tmp_path / "hard", again, MineOptions(run=tmp_path / "some.run", ranks="1-3"))
    (example, _) = read_dataset(again).examples
    assert [one.passage_id for one in example.negatives] == ["p00", "p01", "p02"]
    assert [row["passage_id"] for row in pq.read_table(again / "mined.parquet").to_pylist()] == ["p01", "p02"]
    assert len(folders.read_manifest(again, DATASET).facts.mined) == 2


def test_a_dataset_of_an_earlier_version_without_scores_is_mined(mixed, tmp_path):
    dataset = mixed()
    train = pq.read_table(dataset / "train.parquet")
    old = train.drop_columns([name for name in train.column_names if name.endswith("_scores")])
    with folders.writing(tmp_path / "earlier", DATASET, "test") as draft:
        for path in dataset.glob("*.parquet"):
            draft.write_table(path.stem, old if path.stem == "train" else pq.read_table(path))
    run = run_file(tmp_path, q1=falling("p01", "p02"))
    found, _ = mined(tmp_path / "earlier", run=run, ranks="1-2")
    assert found["q1"] == ["p01", "p02"]
    assert all(label.score is None for one in read_dataset(tmp_path / "hard").examples for label in one.negatives)


def test_a_pool_is_mined_by_one_of_its_retrievers(forest, mixed, tmp_path):
    run = run_file(tmp_path, q1=falling("p05", "p06"), q2=falling("p07"))
    human = tmp_path / "human.tsv"
    dataset = mixed()
    options = PoolOptions(bm25=4, run=(f"{run}:2",), human=human)
    write_pool(forest, tmp_path / "pool", options)
    with pytest.raises(UsageError, match=r"several retrievers; give --retriever with one of: bm25, run:some.run"):
        mined(dataset, pool=tmp_path / "pool", ranks="1-4")
    with pytest.raises(UsageError, match="no retriever 'human'"):
        mined(dataset, pool=tmp_path / "pool", ranks="1-4", retriever="human")
    found, made = mined(dataset, pool=tmp_path / "pool", ranks="1-4", retriever="run:some.run")
    assert (found, made.retriever) == ({"q1": ["p05", "p06"], "q2": ["p07"]}, "run:some.run")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small model with random weights over the words of the collection."""
    from tiny_encoder import write_encoder

    return write_encoder(tmp_path_factory.mktemp("encoder"), [*TREES, *LONG.split(), "leaves", "winter", "days"])


@pytest.mark.parametrize("at_once", [1, 1000])
def test_a_model_searches_the_corpus_of_the_dataset(mixed, encoder, tmp_path, monkeypatch, at_once):
    """The ranks and the scores of positives outside the window equal those of a search by hand."""
    from sentence_transformers import SentenceTransformer

    for name in ("QUERIES_AT_ONCE", "RANKINGS_AT_ONCE", "PASSAGES_AT_ONCE", "PAIRS_AT_ONCE"):
        monkeypatch.setattr(rankings, name, at_once)
    model = SentenceTransformer(str(encoder))
    corpus = read_dataset(mixed()).corpus
    names = sorted(corpus)
    near = model.encode([QUERIES[name] for name in ("q1", "q2")], normalize_embeddings=True)
    scores = near @ model.encode([corpus[name].full_text for name in names], normalize_embeddings=True).T
    known = {"q1": {"old", "p00", "twin"}, "q2": {"p17"}}
    positive = {"q1": scores[0][names.index("old")], "q2": scores[1][names.index("p17")]}
    expected = {}
    for query_id, row in zip(("q1", "q2"), scores, strict=True):
        window = [names[place] for place in np.argsort(-row)[1:5]]
        share = 0.999 * positive[query_id]
        expected[query_id] = [
            name for name in window if name not in known[query_id] and row[names.index(name)] <= share
        ]
    assert any(expected.values())
    found, made = mined(tmp_path / "dataset", model=str(encoder), ranks="2-5", max_share=0.999)
    assert found == expected
    assert made.candidates == 8


NAMES = [*PASSAGES, "old", "twin"]
GRADED = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=8)
SCORED = st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 9), min_size=4)


@settings(max_examples=12, deadline=None)
@given(grades=GRADED, scored=SCORED, first=st.integers(1, 4), share=st.none() | st.floats(0.1, 1), draw=st.booleans())
def test_no_known_positive_is_ever_mined(forest, tmp_path_factory, write_qrels, grades, scored, first, share, draw):
    folder = tmp_path_factory.mktemp("random")
    human = write_qrels(folder / "human.tsv", {"q1": {**grades, "p00": 2}, "q2": {"p01": 2}})
    mix(folder / "dataset", MixOptions(data=forest, human=human, positive_grade=1))
    run = run_file(folder, q1=scored, q2=scored)
    options: dict[str, Any] = {"max_negatives": 2, "draw": True} if draw else {}
    found, _ = mined(folder / "dataset", run=run, ranks=f"{first}-9", max_share=share, **options)
    ranked = sorted(scored, key=lambda name: -scored[name])
    for query_id, graded in (("q1", {**grades, "p00": 2}), ("q2", {"p01": 2})):
        positives = {name for name, grade in graded.items() if grade >= 1}
        assert not {*found[query_id]} & {*graded}
        assert not ({"old", "twin"} & positives and {"old", "twin"} & {*found[query_id]})
        assert {*found[query_id]} <= {*ranked[first - 1 : 9]}
        limits = [scored[name] for name in positives if name in scored]
        if share is not None:
            assert all(limits and scored[name] <= share * min(limits) for name in found[query_id])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "m"}, "ranks is not set; give --ranks"),
        ({"model": "m", "ranks": "0-5"}, "expected FIRST-LAST"),
        ({"model": "m", "ranks": "9-5"}, "expected FIRST-LAST"),
        ({"model": "m", "ranks": "10"}, "expected FIRST-LAST"),
        ({"ranks": "1-5"}, "give one ranking to mine"),
        ({"ranks": "1-5", "model": "m", "run": "r"}, "give one ranking to mine"),
        ({"ranks": "1-5", "model": "m", "retriever": "bm25"}, "--retriever names a retriever of --pool"),
        ({"ranks": "1-5", "model": "m", "draw": True}, "give --max-negatives, too"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        MineOptions(**options)


def test_an_unknown_score_of_the_positives_is_refused():
    with pytest.raises(UnknownNameError, match="choose one of: lowest, mean"):
        MineOptions(ranks="1-5", model="m", against="highest")


def test_inputs_that_do_not_fit_are_refused(mixed, tmp_path):
    dataset = mixed()
    run = run_file(tmp_path, q1=falling("old", "p01"))
    with pytest.raises(DataError, match=r"run:some.run ranks passages only up to rank 2: give lower --ranks"):
        mined(dataset, run=run, ranks="3-9")
    with pytest.raises(UsageError, match="choose another -o"):
        mine(dataset, dataset, MineOptions(run=run, ranks="1-2"))
    with pytest.raises(DataError, match=r"some.run: passage 'p99' of query 'q1' is not in the corpus"):
        mined(dataset, run=run_file(tmp_path, q1=falling("p99")), ranks="1-2")
    with pytest.raises(DataError, match="ranks passages for no query of the dataset"):
        mined(dataset, run=run_file(tmp_path, other=falling("p01")), ranks="1-2")
    assert not (tmp_path / "hard").exists()


def test_a_dataset_without_positives_is_refused(mixed, tmp_path):
    dataset = mixed({"q1": {"p01": 1, "p02": 2}}, drop=("twins",))
    empty = [one.model_copy(update={"positives": ()}) for one in read_dataset(dataset).examples]
    with folders.writing(tmp_path / "empty", DATASET, "test") as draft:
        for path in dataset.glob("*.parquet"):
            draft.write_table(path.stem, examples_to_table(empty) if path.stem == "train" else pq.read_table(path))
    with pytest.raises(UsageError, match="has no positive"):
        mined(tmp_path / "empty", run=run_file(tmp_path, q1=falling("p03")), ranks="1-2")


def test_a_filter_of_several_judges_is_refused(labelkit, mixed, tmp_path):
    dataset = mixed()
    run = run_file(tmp_path, q1=falling("old", "p01"))
    judges = [Judge(judge_id=name, kind="llm", name=name) for name in ("a", "b")]
    with folders.writing(tmp_path / "two", LABELS, "test") as draft:
        draft.write_table("judgements", records_to_table([], JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table(judges, JUDGE_SCHEMA))
    with pytest.raises(UsageError, match=r"two has 2 judges \(a, b\)"):
        mined(dataset, run=run, ranks="1-2", judge=tmp_path / "two")


def test_every_reader_of_datasets_reads_mined_negatives(labelkit, mixed, tmp_path):
    dataset, hard = mixed(), tmp_path / "hard"
    run = run_file(tmp_path, q1=falling("old", "p00", "p03", "p04", "p05"), q2=falling("p17", "twin"))
    called = labelkit("mine", dataset, "-o", hard, "--run", run, "--ranks", "1-4", "--json")
    assert called.code == 0, called.err
    counts = json.loads(called.out)
    assert (counts["negatives"], counts["left_out"]["known_positive"]) == (3, 2)
    assert "left out 1: labelled or judged already" in called.err
    assert folders.read_manifest(hard, DATASET).facts.mined[0]["left_out"] == counts["left_out"]
    assert labelkit("verify", hard).code == 0
    assert labelkit("audit", hard).code == 0
    shown = labelkit("show", hard, "--query", "q1", "--passage", "p04")
    assert "p04 mined, unjudged" in shown.out
    assert "rank: 4" in shown.out
    told = json.loads(labelkit("show", hard, "--query", "q1", "--json").out)["labels"]
    assert {label["passage_id"]: label.get("mined", {}).get("rank") for label in told} == {
        "old": None,
        "p00": None,
        "p03": 3,
        "p04": 4,
    }
    assert labelkit("export", hard, "--to", "st-triplet", "-o", tmp_path / "triplets").code == 0
    assert len(pq.read_table(tmp_path / "triplets" / "train.parquet")) == 4
    assert "Negatives of source `mined`" in (hard / "README.md").read_text()
    published = labelkit("publish", hard, "org/set", "--dry-run", "--license", "mit", "--allow", "unaudited")
    assert published.code == 0, published.err


@pytest.mark.parametrize(("labels", "known"), [("all", True), ("human + mined", True), ("human", False)])
def test_the_trainer_takes_mined_negatives_as_unjudged_ones(mixed, tmp_path, labels, known):
    """A mined passage is a negative of its query, but never one that the false-negative filter must keep."""
    mined(mixed(), run=run_file(tmp_path, q1=falling("old", "p03", "p04")), ranks="2-3")
    query = TrainingSet(open_store(tmp_path / "hard"), FitConfig(model="m", objective="lsepair", labels=labels)).query(
        0
    )
    assert {one.passage_id for one in query.negatives} == ({"p00", "p03", "p04"} if known else {"p00"})
    assert query.judged_negatives == {"p00"}
    assert query.unjudged == (set() if known else {"p03", "p04"})


@pytest.mark.parametrize("labels", ["all", "human + mined"])
def test_a_retriever_is_trained_with_mined_negatives(mixed, encoder, tmp_path, labels):
    mined(mixed(), run=run_file(tmp_path, q1=falling("old", "p03", "p04"), q2=falling("p05")), ranks="1-3")
    config = FitConfig(model=str(encoder), objective="lsepair", labels=labels, max_steps=2, batch_size=2)
    report = trainer.fit(tmp_path / "hard", tmp_path / "model", config)
    assert report.steps == 2
    assert all(math.isfinite(value) for value in report.stages[0].loss_at_ends())


def test_mined_negatives_cannot_be_distilled(mixed, tmp_path):
    mined(mixed(), run=run_file(tmp_path, q1=falling("old", "p03")), ranks="2-3")
    with pytest.raises(DataError, match="have no probability and no score"):
        TrainingSet(open_store(tmp_path / "hard"), FitConfig(model="m", objective="listwise-kl"))
