"""A reranker's scores from annotate to training: raw everywhere, without a grade until calibrate draws thresholds."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from labelkit.judging.journal import Journal
from labelkit.judging.methods.steps import Verdict, lowest
from labelkit.storage import tables
from labelkit.storage.dataset import read_dataset
from labelkit.storage.labels import read_labels
from trainer.config.fit_config import FitConfig
from trainer.data.store import open_store
from trainer.data.training_sets import TrainingSet

RERANK = ("--engine", "scripted", "--model", "overlap", "--method", "rerank")
WORDS = ["ash", "birch", "cedar", "elm", "fir", "oak", "pine", "yew"]


@pytest.fixture
def forest(labelkit, write_beir, tmp_path):
    """Six queries of four words and twelve passages each with one to four of them, graded by people with noise."""
    draw = np.random.default_rng(1)
    queries: dict[str, str] = {}
    passages: dict[str, tuple[str, str]] = {}
    qrels: dict[str, dict[str, int]] = {}
    for number in range(6):
        query = [f"{word}{number}" for word in WORDS[:4]]
        queries[f"q{number}"] = " ".join(query)
        qrels[f"q{number}"] = {}
        for place in range(12):
            shared = place % 4 + 1
            passages[f"p{number}x{place:02}"] = ("", " ".join([*query[:shared], f"tree{place}"]))
            qrels[f"q{number}"][f"p{number}x{place:02}"] = int(np.clip(shared - 1 + draw.integers(-1, 2) // 2, 0, 3))
    beir = write_beir(tmp_path / "forest", passages, queries, qrels)
    human = beir / "qrels" / "test.tsv"
    assert labelkit("pool", beir, "--bm25", 12, "--human", human, "-o", tmp_path / "wood").code == 0
    return beir, tmp_path / "wood", human


@pytest.fixture
def scored(labelkit, forest, tmp_path):
    """The labels folder of a scripted reranker."""
    called = labelkit("annotate", forest[1], "-o", tmp_path / "scores", *RERANK)
    assert called.code == 0, called.err
    return tmp_path / "scores"


@pytest.fixture
def calibration(labelkit, forest, scored, tmp_path):
    """A calibration of the reranker's scores."""
    called = labelkit("calibrate", scored, "--human", forest[2], "-o", tmp_path / "calibration.json")
    assert called.code == 0, called.err
    assert "no raw grades can be compared" in " ".join(called.out.split())
    return tmp_path / "calibration.json"


def raw_scores(folder):
    """The score of each pair in a labels folder."""
    return {(row.query_id, row.passage_id): row.score for row in read_labels(folder)[0]}


def test_a_reranker_gives_scores_and_no_grades(labelkit, forest, scored, tmp_path):
    rows, (judge,), manifest = read_labels(scored)
    assert {(row.grade, row.failure, row.probs) for row in rows} == {(None, None, None)}
    assert {row.score for row in rows} == {-2.0, 0.0, 2.0, 4.0}
    assert (judge.method, judge.label_grades, judge.prompt_name) == ("rerank", None, "rerank")
    facts = manifest.facts
    assert (facts.without_grade, facts.failures, facts.rerankers) == (72, {}, {judge.judge_id: "unknown"})
    again = labelkit("annotate", forest[1], "-o", scored, *RERANK)
    assert "72 pairs, 0 requests" in again.err
    assert "72 x score without a grade: draw the thresholds with labelkit calibrate" in again.err
    assert {(row.query_id, row.passage_id): row.score for row in read_labels(scored)[0]} == raw_scores(scored)


def test_replies_are_cached_and_planned_and_capped_like_others(labelkit, forest, tmp_path):
    cached = ("--cache", tmp_path / "cache")
    assert labelkit("annotate", forest[1], "-o", tmp_path / "one", *RERANK, *cached).code == 0
    called = labelkit("annotate", forest[1], "-o", tmp_path / "two", *RERANK, *cached)
    assert "72 pairs, 0 requests" in called.err
    assert "72 replies from the cache" in called.err
    planned = json.loads(labelkit("plan", forest[1], *RERANK, "--json").out)
    with Journal(tmp_path / "one") as journal:
        assert journal.spent().tokens == planned["prompt_tokens"] > 0
    assert (planned["calls"], planned["most_completion_tokens"]) == (72, 0)
    capped = labelkit("annotate", forest[1], "-o", tmp_path / "three", *RERANK, "--max-tokens", 60)
    assert capped.code == 1
    assert "pairs are not judged" in capped.err
    assert len(raw_scores(tmp_path / "three")) == 60 // 8
    assert labelkit("annotate", forest[1], "-o", tmp_path / "three", *RERANK).code == 0
    assert raw_scores(tmp_path / "three") == raw_scores(tmp_path / "one")
    assert labelkit("replay", tmp_path / "one").code == 0


def test_mix_names_the_cure_for_scores_without_grades(labelkit, forest, scored, tmp_path):
    called = labelkit("mix", "--data", forest[0], "--llm", scored, "-o", tmp_path / "dataset")
    assert called.code == 2
    assert "gives scores without grades: draw the thresholds between grades with labelkit calibrate" in called.err
    assert "--calibration calibration.json" in called.err
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("applied_by", ["mix", "calibrate"])
def test_raw_scores_reach_the_dataset_the_export_and_the_training(
    labelkit, forest, scored, calibration, tmp_path, applied_by
):
    given: tuple[object, ...] = ("--llm", scored, "--calibration", calibration)
    if applied_by == "calibrate":
        assert labelkit("calibrate", scored, "--apply", calibration, "-o", tmp_path / "done").code == 0
        given = ("--llm", tmp_path / "done")
    called = labelkit("mix", "--data", forest[0], "--human", forest[2], *given, "-o", tmp_path / "dataset")
    assert called.code == 0, called.err
    raw = raw_scores(scored)
    dataset = read_dataset(tmp_path / "dataset")
    labels = [
        (one.query_id, label) for one in dataset.examples for label in (*one.positives, *one.negatives, *one.ignored)
    ]
    assert {(query_id, label.passage_id): label.score for query_id, label in labels} == raw
    assert max(raw.values()) - min(raw.values()) > 1, "these are no probabilities"
    assert dataset.manifest.facts.scored_by in dataset.manifest.facts.rerankers
    called = labelkit("export", tmp_path / "dataset", "--to", "flag-embedding", "-o", tmp_path / "flags")
    assert called.code == 0, called.err
    rows = [json.loads(line) for line in (tmp_path / "flags" / "train.jsonl").read_text().splitlines()]
    written = {score for row in rows for score in (*row["pos_scores"], *row["neg_scores"])}
    assert written == set(raw.values())
    back = labelkit("import", tmp_path / "flags", "--from", "flag-embedding", "--judge", "r", "-o", tmp_path / "back")
    assert back.code == 0, back.err
    again = read_dataset(tmp_path / "back").examples
    assert {label.score for one in again for label in (*one.positives, *one.negatives)} == written
    for config in (
        {"objective": "listwise-kl"},
        {"objective": "margin-mse"},
        {"objective": "lsepair", "distil_weight": 1.0},
    ):
        for folder in ("dataset", "back"):
            store = open_store(tmp_path / folder)
            group = TrainingSet(store, FitConfig(model="unused", labels="human+llm+imported", **config))[0, 0]
            assert {one.target for one in group.members} <= written


def test_labels_have_probabilities_from_the_calibration(labelkit, forest, scored, calibration, tmp_path):
    called = labelkit(
        "mix", "--data", forest[0], "--llm", scored, "--calibration", calibration, "-o", tmp_path / "dataset"
    )
    assert called.code == 0, called.err
    (row,) = pq.read_table(tmp_path / "dataset" / "train.parquet").slice(0, 1).to_pylist()
    assert all(0.7 <= one <= 1 for one in row["positive_probabilities"])
    assert set(row["positive_grades"]) <= {2, 3}
    called = labelkit("audit", tmp_path / "dataset", "--json")
    (finding,) = [one for one in json.loads(called.out) if one["name"] == "rerankers"]
    assert any("reranker overlap, family unknown" in one["note"] for one in finding["examples"])


def test_agreement_with_a_reranker_is_that_of_its_scores(labelkit, forest, scored):
    called = labelkit("agree", scored, "--human", forest[2], "--json")
    assert called.code == 0, called.err
    (found,) = json.loads(called.out)["comparisons"]
    assert found["pairs"] == 72
    assert found["figures"]["auc"]["value"] > 0.9
    assert found["figures"]["kappa"]["value"] is None
    assert sum(map(sum, found["confusion"])) == 0
    assert labelkit("agree", scored, "--human", forest[2]).code == 0


def test_commands_that_need_grades_say_so(labelkit, forest, scored, calibration, tmp_path):
    wanted = ("select", scored, "--pool", forest[1], "--budget", 5, "-o", tmp_path / "todo")
    called = labelkit(*wanted)
    assert (called.code, "gives scores without grades" in called.err) == (2, True)
    assert labelkit(*wanted, "--calibration", calibration).code == 0
    strong = ("--cascade", "overlap", "--cascade-engine", "scripted", "--cascade-share", 0.5)
    called = labelkit("annotate", forest[1], "-o", tmp_path / "both", *RERANK, *strong)
    assert (called.code, "a cascade needs judges that give grades" in called.err) == (2, True)
    given = ("--engine", "scripted", "--model", "overlap", "--prompt", "rerank", "--human", forest[2])
    called = labelkit("redteam", forest[0], "-o", tmp_path / "attacks", *given)
    assert (called.code, "gives no grades" in called.err) == (2, True)


@pytest.mark.parametrize("given", [("--votes", 3), ("--defence", "nonce"), ("--permutations", 2)])
def test_options_for_judges_with_words_are_refused(labelkit, forest, tmp_path, given):
    called = labelkit("annotate", forest[1], "-o", tmp_path / "no", *RERANK, *given)
    assert called.code == 2, called.err


def test_a_prompt_for_another_kind_of_reranker_is_refused(labelkit, forest, tmp_path):
    called = labelkit("annotate", forest[1], "-o", tmp_path / "no", *RERANK, "--prompt", "rerank-yes-no")
    assert called.code == 2
    assert "does not fit this reranker, which scores pairs of texts" in called.err
    batch = ("--engine", "openai-batch", "--model", "m", "--method", "rerank")
    assert "runs no rerankers" in labelkit("annotate", forest[1], "-o", tmp_path / "no", *batch).err


def test_templates_of_a_pair(labelkit, forest, tmp_path):
    prompt = tmp_path / "mine.toml"
    lines = ('name = "mine"', 'version = "1"', 'method = "rerank"', 'citation = "nobody"')
    texts = ('query = "<Query>: {query}\\n"', 'document = "<Document>: {passage}"')
    prompt.write_text("\n".join((*lines, *texts)))
    called = labelkit("annotate", forest[1], "-o", tmp_path / "mine", *RERANK, "--prompt", prompt)
    assert called.code == 0, called.err
    prompt.write_text("\n".join((*lines, texts[0], 'document = "{query}"')))
    called = labelkit("prompts", prompt)
    assert (called.code, "does not contain {passage}" in called.err) == (1, True)
    prompt.write_text("\n".join(lines).replace("rerank", "graded") + "\n" + "\n".join(texts))
    assert labelkit("prompts", prompt).code == 1


def test_a_second_look_counts_the_lower_score():
    looks = [Verdict(score=2.0), Verdict(score=-1.5)]
    failed = [Verdict(score=2.0), Verdict(failure="no score")]
    assert lowest([looks, failed], ()) == [Verdict(score=-1.5), Verdict(failure="no score")]


def test_review_shows_pairs_of_a_reranker(scored, beir):
    from labelkit.review.choosing import choose, open_judged
    from labelkit.review.options import ReviewOptions

    pairs = {(row.query_id, row.passage_id) for row in read_labels(scored)[0]}
    with tables.temporary() as db:
        open_judged(db, scored, beir)
        chosen, count = choose(db, ReviewOptions(name="anna", by="disagreement"))
    assert ({pair for (pair,) in chosen}, count) == (pairs, len(pairs))
