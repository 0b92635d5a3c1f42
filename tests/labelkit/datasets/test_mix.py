"""Mixing: who wins, what is ignored, where the lines are, and equal bytes for equal inputs."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from present import present

from labelkit.datasets.deciding import decide
from labelkit.datasets.inputs import register_judges
from labelkit.datasets.mix import mix
from labelkit.datasets.options import MixOptions
from labelkit.datasets.policies import POLICIES
from labelkit.errors import DataError, UnknownNameError, UsageError
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, QUERY_SCHEMA, ROLES, Judge, Judgement, Query
from labelkit.storage import tables
from labelkit.storage.dataset import examples_from_table, read_dataset, records_to_table
from labelkit.storage.folders import Draft, writing
from labelkit.storage.labels import read_labels

pytestmark = pytest.mark.slow  # almost every test mixes labels

HUMAN = Judge(judge_id="human-x", kind="human", name="x")
GRADED = Judge(judge_id="graded-m", kind="llm", name="m", label_grades=(0, 1, 2, 3))
BINARY = Judge(judge_id="binary-m", kind="llm", name="m", label_grades=(0, 2))
BARE = Judge(judge_id="imported-y", kind="imported", name="y")
JUDGES = {judge.judge_id: judge for judge in (HUMAN, GRADED, BINARY, BARE)}


def said(judge, passage_id, grade=None, probs=None, query_id="q"):
    failure = "no label" if grade is None else None
    return Judgement(
        query_id=query_id, passage_id=passage_id, judge_id=judge.judge_id, grade=grade, probs=probs, failure=failure
    )


def sure(passage_id, relevant, judge=GRADED, query_id="q"):
    """A judge that puts this share of its probability on grades from 2 up."""
    grade = 2 if relevant >= 0.5 else 0
    probs = (1 - relevant, 0.0, relevant, 0.0) if judge is GRADED else (1 - relevant, relevant)
    return said(judge, passage_id, grade, probs, query_id)


def sides_of(example):
    """Passage ids by side."""
    return {name: [one.passage_id for one in getattr(example, name)] for name in ROLES.values()}


@pytest.fixture(name="mixed")
def mixed_fixture(tmp_path):
    """Mix judgements of queries q and r; gives the ids by side of the first query, its example, and the counts."""

    def run(*rows, weights=None, **rules):
        folder = tmp_path / "mixed"
        folder.mkdir(exist_ok=True)
        with tables.session(folder / "scratch") as db:
            db.register("judgements", records_to_table(rows, JUDGEMENT_SCHEMA))
            queries = [Query(query_id=name, text=f"text of {name}") for name in "qr"]
            db.register("queries", records_to_table(queries, QUERY_SCHEMA))
            register_judges(db, list(JUDGES.values()), weights or {})
            totals = decide(db, Draft(folder, "dataset", "test"), MixOptions(data=folder, **rules))
        made = list(examples_from_table(pq.read_table(folder / "train.parquet")))
        return sides_of(made[0]), made, totals

    return run


@pytest.mark.parametrize(("grade", "side"), [(0, "negatives"), (1, "negatives"), (2, "positives"), (3, "positives")])
def test_a_human_grade_decides_whatever_the_llm_says(mixed, grade, side):
    for relevant in (0.0, 0.5, 1.0):
        sides, made, _ = mixed(sure("a", relevant), said(HUMAN, "a", grade))
        assert sides.pop(side) == ["a"]
        assert not any(sides.values())
        (label,) = getattr(made[0], side)
        assert (label.source, label.judge_id, label.grade) == ("human", "human-x", grade)


@pytest.mark.parametrize(
    ("relevant", "side"),
    [
        (0.0, "negatives"),
        (0.3, "negatives"),
        (0.31, "ignored"),
        (0.5, "ignored"),
        (0.69, "ignored"),
        (0.7, "positives"),
        (1.0, "positives"),
    ],
)
def test_an_unsure_llm_is_ignored(mixed, relevant, side):
    sides, made, _ = mixed(sure("a", relevant))
    assert sides[side] == ["a"]
    (label,) = getattr(made[0], side)
    assert label.probability == pytest.approx(relevant)
    assert label.source == "llm"


def test_the_lines_can_be_moved(mixed):
    assert mixed(sure("a", 0.6), llm_positive=0.6)[0]["positives"] == ["a"]
    assert mixed(sure("a", 0.4), llm_negative=0.4)[0]["negatives"] == ["a"]
    assert mixed(said(HUMAN, "a", 1), positive_grade=1)[0]["positives"] == ["a"]
    assert mixed(said(HUMAN, "a", 2), positive_grade=3)[0]["negatives"] == ["a"]


def test_the_probability_is_the_mass_on_grades_from_2_up(mixed):
    _, (made,), _ = mixed(said(GRADED, "a", 1, (0.1, 0.4, 0.2, 0.3)), sure("b", 0.8, BINARY))
    labels = {label.passage_id: label.probability for label in made.ignored + made.positives}
    assert labels == {"a": pytest.approx(0.5), "b": pytest.approx(0.8)}


@pytest.mark.parametrize(("grade", "side"), [(0, "negatives"), (1, "ignored"), (2, "positives"), (3, "positives")])
def test_a_bare_grade_without_probabilities_has_its_side(mixed, grade, side):
    assert mixed(said(BARE, "a", grade))[0][side] == ["a"]


def test_failures_are_ignored_and_counted(mixed):
    sides, (made,), totals = mixed(said(GRADED, "a"), said(GRADED, "b"), sure("c", 1.0))
    assert (sides["ignored"], sides["positives"], totals["failed_judgements"]) == (["a", "b"], ["c"], 2)
    assert [label.grade for label in made.ignored] == [None, None]


def test_a_failure_gives_way_to_another_judge(mixed):
    sides, _, totals = mixed(said(BINARY, "a"), sure("a", 1.0))
    assert (sides["positives"], totals["failed_judgements"], totals["conflicts"]) == (["a"], 1, 0)


def test_conflicts_are_pairs_on_different_sides(mixed):
    rows = [
        *(sure("agree", 1.0), said(HUMAN, "agree", 3)),
        *(sure("against", 0.0), said(HUMAN, "against", 3)),
        *(sure("unsure", 0.5), said(HUMAN, "unsure", 3)),
        *(said(GRADED, "failed"), said(HUMAN, "failed", 0)),
        *(sure("machines", 1.0), sure("machines", 0.0, BINARY)),
    ]
    totals = mixed(*rows)[2]
    assert (totals["conflicts"], totals["conflicts_between"]) == (2, {"human/llm": 1, "llm": 1})


def test_of_two_llm_judges_the_first_by_id_speaks(mixed):
    sides, _, totals = mixed(sure("a", 1.0), sure("a", 0.0, BINARY), sure("b", 1.0), sure("c", 1.0, BINARY))
    assert sides == {"positives": ["b", "c"], "negatives": ["a"], "ignored": []}
    assert totals["conflicts"] == 1


VOTES = {
    "two yes": (sure("two yes", 0.9), said(BARE, "two yes", 3), said(HUMAN, "two yes", 0)),
    "one yes": (sure("one yes", 0.9), said(BARE, "one yes", 1)),
    "one no": (sure("one no", 0.5), said(BARE, "one no", 0)),
    "two no": (sure("two no", 0.1), said(BARE, "two no", 0)),
    "split": (sure("split", 0.9), sure("split", 0.1, BINARY), said(BARE, "split", 3), said(HUMAN, "split", 0)),
    "unsure": (sure("unsure", 0.4), said(BARE, "unsure", 1)),
}


@pytest.mark.parametrize(
    ("policy", "positives", "negatives", "ignored"),
    [
        ("human-first", ["one yes"], ["split", "two no", "two yes"], ["one no", "unsure"]),
        ("union", ["one yes", "split", "two yes"], ["one no", "two no"], ["unsure"]),
        ("agreement", ["two yes"], ["two no"], ["one no", "one yes", "split", "unsure"]),
        ("weighted", ["one yes"], ["one no", "two no"], ["split", "two yes", "unsure"]),
    ],
)
def test_every_policy_on_the_same_votes(mixed, policy, positives, negatives, ignored):
    sides, _, _ = mixed(*(row for rows in VOTES.values() for row in rows), policy=policy)
    assert {name: sorted(ids) for name, ids in sides.items()} == {
        "positives": positives, "negatives": negatives, "ignored": ignored,
    }  # fmt: skip


def test_agreement_of_k_judges(mixed):
    for agree, side in ((1, "ignored"), (2, "positives"), (3, "ignored")):
        assert mixed(*VOTES["two yes"], policy="agreement", agree=agree)[0][side] == ["two yes"]


def test_a_label_names_a_judge_that_says_so(mixed):
    _, (made,), _ = mixed(*VOTES["two yes"], policy="union")
    (label,) = made.positives
    assert (label.judge_id, label.source, label.probability) == ("graded-m", "llm", pytest.approx(0.9))


def test_weighted_is_the_weighted_mean_of_probabilities(mixed):
    rows = (sure("a", 0.9), sure("a", 0.2, BINARY), said(BARE, "a", 1), said(HUMAN, "a", 3))
    for weights in ({}, {"x": 3.0}, {"human-x": 2.0, "binary-m": 5.0, "y": 0.5}):
        of = [weights.get(judge.judge_id, weights.get(judge.name, 1.0)) for judge in (GRADED, BINARY, BARE, HUMAN)]
        mean = sum(w * p for w, p in zip(of, (0.9, 0.2, 0.5, 1.0), strict=True)) / sum(of)
        _, (made,), _ = mixed(*rows, policy="weighted", weights=weights)
        (label,) = made.positives + made.negatives + made.ignored
        assert label.probability == pytest.approx(mean)
        assert bool(made.positives) == (mean >= 0.7)


def test_weights_of_nobody_are_refused(mixed):
    with pytest.raises(UsageError, match="--weight gpt: no judge has this name; the judges are: x, m, m, y"):
        mixed(sure("a", 1.0), policy="weighted", weights={"gpt": 1.0})


def test_dawid_skene_finds_the_judge_that_is_wrong(mixed):
    """Three judges, one of which says the opposite: the pairs follow the other two, and all are sure."""
    rows = []
    for n in range(60):
        grade = 3 * (n % 3 == 0)
        honest = [said(GRADED, f"p{n:02}", grade), said(BARE, f"p{n:02}", 3 - grade if n % 10 == 1 else grade)]
        rows += [*honest, said(BINARY, f"p{n:02}", 3 - grade)]
    sides, (made,), _ = mixed(*rows, policy="dawid-skene")
    assert sorted(sides["positives"]) == [f"p{n:02}" for n in range(0, 60, 3)]
    assert all(label.probability > 0.99 for label in made.positives)


def test_dawid_skene_takes_people_for_the_truth(mixed):
    """Two judges that always agree, and people who say on half the pairs that both are wrong."""
    rows = []
    for n in range(40):
        grade = 3 * (n % 2)
        rows += [said(GRADED, f"p{n:02}", grade), said(BARE, f"p{n:02}", grade)]
        rows += [said(HUMAN, f"p{n:02}", 3 - grade)] if n < 20 else []
    sides, _, _ = mixed(*rows, policy="dawid-skene")
    assert sorted(sides["positives"]) == [f"p{n:02}" for n in range(0, 40, 2)]


def test_dawid_skene_needs_two_judges(mixed):
    with pytest.raises(UsageError, match="no pair has grades from two judges"):
        mixed(said(BARE, "a", 1), policy="dawid-skene")


def test_stages_keep_both_labels_of_a_pair(mixed, tmp_path):
    rows = (sure("a", 1.0), said(HUMAN, "a", 0), sure("b", 1.0), said(HUMAN, "c", 3), sure("a", 0.0, query_id="r"))
    sides, _, totals = mixed(*rows, policy="staged")
    assert (sides["positives"], sides["negatives"], totals["conflicts"]) == (["c", "b"], ["a"], 1)
    assert totals["judged_by_both"] == 1
    stages = {
        name: list(examples_from_table(pq.read_table(tmp_path / "mixed" / f"stage_{name}.parquet")))
        for name in ("llm", "human")
    }
    assert [one.query_id for one in stages["llm"]] == ["q", "r"]
    assert [label.passage_id for label in stages["llm"][0].positives] == ["a", "b"]
    (human,) = stages["human"]
    assert ([one.passage_id for one in human.positives], [one.passage_id for one in human.negatives]) == (["c"], ["a"])


def test_lines_by_grade_leave_probabilities_alone(mixed):
    rows = (said(GRADED, "a", 3, (0.4, 0.0, 0.0, 0.6)), said(GRADED, "b", 1, (0.0, 0.5, 0.5, 0.0)), sure("c", 0.0))
    assert mixed(*rows, by="grade")[0] == {"positives": ["a"], "negatives": ["c"], "ignored": ["b"]}
    assert mixed(*rows, by="grade", llm_negative_grade=1)[0]["negatives"] == ["b", "c"]
    assert mixed(*rows, by="grade", llm_positive_grade=3)[0]["positives"] == ["a"]


@pytest.mark.parametrize(
    ("rules", "error", "words"),
    [
        ({"policy": "vote"}, UnknownNameError, "unknown policy 'vote'; choose one of: agreement, dawid-skene"),
        ({"by": "score"}, UnknownNameError, "unknown measure 'score'"),
        ({"llm_negative_grade": 2}, UsageError, "--llm-negative-grade must be below --llm-positive-grade"),
    ],
)
def test_rules_that_make_no_sense_are_refused(mixed, rules, error, words):
    with pytest.raises(error, match=words):
        mixed(sure("a", 1.0), **rules)


def test_positives_stand_best_first(mixed):
    rows = [
        said(GRADED, "sure-3", 3, (0.0, 0.0, 0.1, 0.9)),
        said(GRADED, "less-sure-3", 3, (0.1, 0.0, 0.0, 0.9)),
        sure("b-2", 0.9),
        sure("a-2", 0.9),
        said(HUMAN, "human-2", 2),
        said(HUMAN, "human-3", 3),
    ]
    best = ["human-3", "human-2", "sure-3", "less-sure-3", "a-2", "b-2"]
    assert mixed(*rows)[0]["positives"] == best
    sides, _, _ = mixed(*rows, max_positives=2)
    assert sides["positives"] == best[:2]
    assert sides["ignored"] == sorted(best[2:])
    assert sides["negatives"] == []


def test_negatives_stand_hardest_first(mixed):
    rows = [
        sure("b", 0.1),
        sure("c", 0.2),
        said(HUMAN, "d", 1),
        said(GRADED, "e", 1, (0.8, 0.0, 0.1, 0.1)),
        said(BARE, "a", 0),
    ]
    hardest = ["e", "d", "c", "b", "a"]
    assert mixed(*rows)[0]["negatives"] == hardest
    assert mixed(*rows, max_negatives=2)[0] == {"positives": [], "negatives": hardest[:2], "ignored": []}


def test_a_share_of_the_human_labels(mixed):
    """Half of the queries keep theirs; the other falls back on the LLM; another seed may draw the other."""
    rows = [row for name in "qr" for row in (said(HUMAN, "a", 3, query_id=name), sure("a", 0.0, query_id=name))]
    drawn = set()
    for seed in range(8):
        _, made, totals = mixed(*rows, human_fraction=0.5, seed=seed)
        assert totals["human_queries_set_aside"] == 1
        ((kept,),) = [[one.query_id for one in made if one.positives]]
        assert [label.source for one in made for label in one.negatives] == ["llm"]
        drawn.add(kept)
    assert drawn == {"q", "r"}
    assert all(one.negatives for one in mixed(*rows, human_fraction=0.0)[1])
    assert all(one.positives for one in mixed(*rows)[1])


def test_queries_stand_by_id(mixed):
    _, made, _ = mixed(sure("a", 1.0, query_id="r"), sure("a", 1.0, query_id="q"))
    assert [(one.query_id, one.query) for one in made] == [("q", "text of q"), ("r", "text of r")]


def test_slices_of_queries_change_nothing(mixed, monkeypatch):
    rows = [sure(f"p{n}", n / 7, query_id=name) for name in "qr" for n in range(8)]
    whole = mixed(*rows)[1:]
    monkeypatch.setattr("labelkit.datasets.labels_in_sql.QUERIES_AT_ONCE", 1)
    assert mixed(*rows)[1:] == whole


def test_every_policy_is_explained(labelkit):
    shown = " ".join(labelkit("mix", "--help").out.split())
    for name, policy in POLICIES.items():
        assert f"{name}: {present(policy.__doc__).splitlines()[0]}" in shown


@pytest.fixture
def labels(labelkit, pool, tmp_path):
    for model in ("overlap", "garbage"):
        called = labelkit("annotate", pool, "-o", tmp_path / model, "--engine", "scripted", "--model", model)
        assert called.code == 0
    return tmp_path / "overlap"


def test_the_folder_holds_every_judgement_and_judge(labels, beir, tmp_path):
    human, target = beir / "qrels" / "test.tsv", tmp_path / "dataset"
    totals = mix(target, MixOptions(data=beir, human=human, llm=(labels, tmp_path / "garbage")), command="test")
    dataset = read_dataset(target)
    judged = sum(len(read_labels(folder)[0]) for folder in (labels, tmp_path / "garbage"))
    assert dataset.manifest.rows == {
        "train": 3, "corpus": 6, "queries": 3, "judges": 3, "judgements": judged + 7, "prompts": 1, "replies": judged,
        "ballots": 0,
    }  # fmt: skip
    facts = dataset.manifest.facts
    assert facts.as_json().items() >= totals.items()
    assert facts.failed_judgements > 0
    assert facts.positives == sum(len(one.positives) for one in dataset.examples)
    assert set(dataset.manifest.inputs) == {
        *(str(beir / name) for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")),
        *(str(folder / "manifest.json") for folder in (labels, tmp_path / "garbage")),
    }
    assert sorted(path.suffix for path in target.iterdir()) == [".json", ".md", *[".parquet"] * 8]


def test_human_labels_alone_and_llm_labels_alone_make_datasets(labels, beir, tmp_path):
    mix(tmp_path / "human", MixOptions(data=beir, human=beir / "qrels" / "test.tsv"))
    positives = [[label.passage_id for label in one.positives] for one in read_dataset(tmp_path / "human").examples]
    assert positives == [["p1"], ["p3"], ["p2"]]
    mix(tmp_path / "llm", MixOptions(data=beir, llm=(labels,)))
    machine = read_dataset(tmp_path / "llm").examples
    assert {label.source for one in machine for label in one.positives + one.negatives} == {"llm"}


def test_people_may_come_as_a_labels_folder(labelkit, beir, tmp_path):
    human = beir / "qrels" / "test.tsv"
    labelkit("import", human, "-o", tmp_path / "people", "--judge", "us", "--kind", "human")
    for name, source in (("folder", tmp_path / "people"), ("file", human)):
        assert labelkit("mix", "--data", beir, "--human", source, "-o", tmp_path / name).code == 0
    folder, file = (read_dataset(tmp_path / name).examples for name in ("folder", "file"))
    assert [sides_of(one) for one in folder] == [sides_of(one) for one in file]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_inputs_give_the_same_bytes(labelkit, labels, beir, tmp_path, policy):
    human, target = beir / "qrels" / "test.tsv", tmp_path / "dataset"
    command = ("mix", "--data", beir, "--human", human, "--llm", labels, "--llm", tmp_path / "garbage")
    seen = []
    for _ in range(2):
        called = labelkit(*command, "--policy", policy, "--human-fraction", 0.5, "--json", "-o", target)
        assert called.code == 0, called.err
        assert json.loads(called.out)["queries"] == 3
        seen.append({path.name: path.read_bytes() for path in target.iterdir()})
    assert len(seen[0]) == (12 if policy == "staged" else 10)
    assert seen[0] == seen[1]


def test_binary_qrels_need_a_word(beir, write_qrels, tmp_path):
    human = write_qrels(tmp_path / "human.tsv", {"q1": {"p1": 1, "p2": 0}})
    with pytest.raises(UsageError, match="no human grade is 2 or higher; for binary qrels give --positive-grade 1"):
        mix(
            tmp_path / "dataset",
            MixOptions(
                data=beir,
                human=human,
            ),
        )
    assert not (tmp_path / "dataset").exists()
    mix(tmp_path / "dataset", MixOptions(data=beir, human=human, positive_grade=1))
    (example,) = read_dataset(tmp_path / "dataset").examples
    assert [label.passage_id for label in example.positives] == ["p1"]


@pytest.mark.parametrize(("qrels", "what"), [({"q9": {"p1": 3}}, "query 'q9'"), ({"q1": {"p9": 3}}, "passage 'p9'")])
def test_unknown_ids_are_refused(beir, write_qrels, tmp_path, qrels, what):
    with pytest.raises(DataError, match=rf"{what}, which is missing in the (queries|corpus) of"):
        mix(tmp_path / "dataset", MixOptions(data=beir, human=write_qrels(tmp_path / "human.tsv", qrels)))
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("corpus.jsonl", '{"_id": "p2", "text": "again"}', r"corpus\.jsonl:7: passage id 'p2' is duplicated"),
        ("queries.jsonl", '{"_id": "q1", "text": "again"}', r"queries\.jsonl:4: query id 'q1' is duplicated"),
        ("qrels/test.tsv", "q1\tp1\t3", r"test\.tsv:9: the pair 'q1', 'p1' is duplicated"),
        ("corpus.jsonl", '{"_id": "p9"', r"corpus\.jsonl:7: not valid JSON"),
    ],
)
def test_malformed_data_is_refused_with_its_place(beir, tmp_path, file, line, words):
    with (beir / file).open("a", encoding="utf-8") as text:
        text.write(line + "\n")
    with pytest.raises(DataError, match=words):
        mix(tmp_path / "dataset", MixOptions(data=beir, human=beir / "qrels" / "test.tsv"))
    assert not (tmp_path / "dataset").exists()


def test_odd_text_survives_the_tables(write_beir, tmp_path):
    odd = "a\u2028b\u0085c\0d\u200be\r\nf"
    beir = write_beir(tmp_path / "odd", {odd: (odd, odd)}, {odd: odd}, {})
    rows = [{"query_id": odd, "passage_id": odd, "judge_id": "b", "grade": 3}]
    judge = Judge(judge_id="b", kind="llm", name="b")
    with writing(tmp_path / "labels", "labels", "test") as draft:
        draft.write_table("judgements", pa.Table.from_pylist(rows, schema=JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([judge], JUDGE_SCHEMA))
    mix(tmp_path / "dataset", MixOptions(data=beir, llm=(tmp_path / "labels",)))
    ((example,), corpus, _) = read_dataset(tmp_path / "dataset")
    assert (example.query_id, example.query, example.positives[0].passage_id) == (odd, odd, odd)
    assert corpus[odd].title == corpus[odd].text == odd


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--policy", "agreement", "--agree", 3), "--agree 3 is more than the 2 judges"),
        (("--weight", "test=2"), "--weight can be used only with --policy weighted, not with human-first"),
        (("--drop", "leaked-queries"), "--drop leaked-queries needs the evaluation set"),
        (("--drop", "typos"), "unknown finding to drop 'typos'; choose one of: contradictions"),
        (("--weight", "test=zero", "--policy", "weighted"), "expected JUDGE=WEIGHT"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(labelkit, labels, beir, tmp_path, options, words):
    human = beir / "qrels" / "test.tsv"
    called = labelkit("mix", "--data", beir, "--human", human, "--llm", labels, "-o", tmp_path / "dataset", *options)
    assert (called.code, words in called.err) == (2, True), called.err
    assert not (tmp_path / "dataset").exists()


def test_the_same_labels_twice_are_refused(labels, beir, tmp_path):
    with pytest.raises(UsageError, match="another source has the same judge"):
        mix(
            tmp_path / "dataset",
            MixOptions(
                data=beir,
                llm=(
                    labels,
                    labels,
                ),
            ),
        )


def test_licence_and_revision_are_carried(labelkit, beir, tmp_path):
    command = ("mix", "--data", beir, "--human", beir / "qrels" / "test.tsv", "-o", tmp_path / "dataset")

    def source(*options):
        assert labelkit(*command, *options).code == 0
        return present(read_dataset(tmp_path / "dataset").manifest.facts.source).as_json()

    assert source() == {"licence": None, "revision": None}
    assert source("--license", "cc-by-4.0", "--revision", "v1") == {"licence": "cc-by-4.0", "revision": "v1"}
    (beir / "dataset_info.json").write_text('{"license": "mit", "revision": "abc"}')
    assert source() == {"licence": "mit", "revision": "abc"}
    assert source("--license", "cc0-1.0") == {"licence": "cc0-1.0", "revision": "abc"}


def test_a_calibration_speaks_for_its_judges(labelkit, write_beir, tmp_path):
    """A judge whose probabilities are upside down: calibrated, they are not; what it said itself stays, silent."""
    passages = {f"p{n:02}": ("", f"passage {n}") for n in range(30)}
    queries = {f"q{n}": f"query {n}" for n in range(5)}
    human = {name: {pid: 3 * (int(pid[1:]) % 3 == 0) for pid in passages} for name in queries}
    beir = write_beir(tmp_path / "beir", passages, queries, human)
    rows = [
        sure(pid, 0.1 + 0.01 * number if grade else 0.9 - 0.01 * number, query_id=name)
        for name, graded in human.items()
        for number, (pid, grade) in enumerate(graded.items())
    ]
    with writing(tmp_path / "labels", "labels", "test") as draft:
        draft.write_table("judgements", records_to_table(rows, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([GRADED], JUDGE_SCHEMA))
    labels, file = tmp_path / "labels", tmp_path / "calibration.json"
    called = labelkit("calibrate", labels, "--human", beir / "qrels" / "test.tsv", "-o", file)
    assert called.code == 0, called.err
    command = ("mix", "--data", beir, "--llm", labels, "-o", tmp_path / "dataset")
    wrong = {pid for pid in passages if int(pid[1:]) % 3}
    for given, expected in (((), wrong), (("--calibration", file), set(passages) - wrong)):
        called = labelkit(*command, *given)
        assert called.code == 0, called.err
        examples, _, manifest = read_dataset(tmp_path / "dataset")
        assert all({label.passage_id for label in one.positives} >= expected & {"p00", "p01"} for one in examples)
        assert all({label.passage_id for label in one.positives} <= expected for one in examples)
    assert manifest.facts.calibrated_judges == ("graded-m",)
    assert manifest.facts.conflicts == 0
    assert str(file) in manifest.inputs
    judges = pq.read_table(tmp_path / "dataset" / "judgements.parquet").column("judge_id").unique().to_pylist()
    assert sorted(name.partition("-")[0] for name in judges) == ["calibrated", "graded"]
    people = ("--human", beir / "qrels" / "test.tsv")
    refused = labelkit("mix", "--data", beir, *people, "--calibration", file, "-o", tmp_path / "x")
    assert (refused.code, "needs judge 'm' (llm), but these labels are by no judge" in refused.err) == (2, True)
