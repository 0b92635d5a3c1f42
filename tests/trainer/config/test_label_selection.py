"""Whose labels count: the little language, shares, stages, and what other sources said."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from labelkit.errors import DataError, UnknownNameError, UsageError
from labelkit.records import PASSAGE_SCHEMA, Example
from labelkit.storage.dataset import OF_MODELS, OF_PEOPLE, examples_to_table, records_to_table
from labelkit.storage.manifest import DatasetFacts
from trainer.config.fit_config import FitConfig, read_config
from trainer.config.label_selection import parse_labels
from trainer.data.draws import draw_weighted, mixed
from trainer.data.store import Store, make_store
from trainer.data.training_sets import TrainingSet
from trainer.objectives.batch import Group

from ..conftest import label, passage

pytestmark = pytest.mark.slow  # every test mixes labels


def config(**settings: Any) -> FitConfig:
    return FitConfig(**({"model": "unused", "objective": "lsepair"} | settings))


def store(examples: list[Example]) -> Store:
    names = {one.passage_id for each in examples for one in (*each.positives, *each.negatives, *each.ignored)}
    corpus = [passage(name, f"text of {name}") for name in sorted(names)]
    return make_store({"train": examples_to_table(examples)}, records_to_table(corpus, PASSAGE_SCHEMA))


def mixed_example(query_id: str) -> Example:
    """A human and an LLM positive and negative, and a passage that the LLM was unsure of."""
    return Example(
        query_id=query_id,
        query=query_id,
        positives=(label("hp", 3, "human"), label("lp", 2, "llm", probability=0.8)),
        negatives=(label("hn", 0, "human"), label("ln", 0, "llm")),
        ignored=(label("li", 1, "llm"),),
    )


def groups(settings: FitConfig, examples: list[Example], known: Mapping[str, float] | None = None) -> list[Group]:
    training_set = TrainingSet(store(examples), settings, dict(known) if known is not None else None)
    return [training_set[0, row] for row in range(len(training_set))]


def ids(members: Any) -> set[str]:
    return {member.passage_id for member in members}


def test_the_little_language() -> None:
    assert parse_labels("human") == {"human": 1.0}
    assert parse_labels(" 20% human+llm ") == {"human": 0.2, "llm": 1.0}
    assert parse_labels("all") == {"human": 1.0, "llm": 1.0, "imported": 1.0, "mined": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a source"),
        ("human, llm", "'human, llm' is not a source"),
        ("0% human", "a share must be above 0%"),
        ("120% human", "at most 100%"),
        ("human + human", "contain human twice"),
        ("all + llm", "contain llm twice"),
    ],
)
def test_texts_that_say_nothing(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_labels(text)
    with pytest.raises(UnknownNameError, match="unknown source of labels 'people'; choose one of: all, human"):
        parse_labels("people")


def test_what_no_stage_asked_is_as_if_it_had_never_been_given() -> None:
    """Human labels alone: the LLM's passages are the query's unjudged pool, its positive among them."""
    (group,) = groups(config(labels="human"), [mixed_example("q")])
    assert ids(group.positives) == {"hp"}
    assert ids(group.negatives) == {"hn", "lp", "ln", "li"}
    assert group.excluded == {"hp"}
    assert group.judged_negatives == {"hn"}, "the others may still be taken for missed positives"


def test_judged_negatives_come_before_the_pool() -> None:
    for seed in range(9):
        (group,) = groups(config(labels="human", group_size=3, max_positives=1, seed=seed), [mixed_example("q")])
        assert "hn" in ids(group.negatives)
        assert len(group.negatives) == 2
    (group,) = groups(config(labels="human", in_batch_negatives=False), [mixed_example("q")])
    assert ids(group.negatives) == {"hn"}, "nobody judged the pool"


def test_in_a_curriculum_the_other_stages_positives_are_no_negatives() -> None:
    curriculum = config(stages=("llm", "human"))
    first, second = curriculum.stage_configs()
    known = curriculum.known_labels()
    assert known == {"llm": 1.0, "human": 1.0}
    (group,) = groups(second, [mixed_example("q")], known)
    assert ids(group.positives) == {"hp"}
    assert ids(group.negatives) == {"hn", "ln"}
    assert group.excluded == {"hp", "lp", "li"}
    (group,) = groups(first, [mixed_example("q")], known)
    assert ids(group.positives) == {"lp"}
    assert group.excluded == {"hp", "lp", "li"}


def staged() -> Store:
    """A person and a model judged the same four passages of q, and the model alone judged r."""
    both = {"yes": (3, 3), "missed": (3, 0), "wrong": (0, 3), "unsure": (3, None)}
    people = {name: grade for name, (grade, _) in both.items()}
    model = {name: grade for name, (_, grade) in both.items()} | {"found": 2}
    examples = {
        "train": [told("q", people | {"found": 2}, "human", found="llm"), told("r", {"found": 2}, "llm")],
        OF_MODELS: [told("q", model, "llm"), told("r", {"found": 2}, "llm")],
        OF_PEOPLE: [told("q", people, "human")],
    }
    corpus = [passage(name, f"text of {name}") for name in sorted(model)]
    tables = {name: examples_to_table(each) for name, each in examples.items()}
    return make_store(tables, records_to_table(corpus, PASSAGE_SCHEMA))


def told(query_id: str, grades: Mapping[str, int | None], source: str, **others: str) -> Example:
    """2 and 3 are positives, 0 is a negative, None is ignored."""
    named: Mapping[str, Any] = others
    labels = [label(name, grade, named.get(name, source)) for name, grade in grades.items()]
    return Example(
        query_id=query_id,
        query=query_id,
        positives=tuple(one for one in labels if one.grade),
        negatives=tuple(one for one in labels if one.grade == 0),
        ignored=tuple(one for one in labels if one.grade is None),
    )


@pytest.mark.parametrize(
    ("labels", "known", "positives", "negatives", "judged"),
    [
        ("human", None, {"yes", "missed", "unsure"}, {"wrong", "found"}, {"wrong"}),
        ("llm", None, {"yes", "wrong", "found"}, {"missed"}, {"missed"}),
        ("human + llm", None, {"yes", "missed", "unsure", "found"}, {"wrong"}, {"wrong"}),
        ("llm", {"llm": 1.0, "human": 1.0}, {"yes", "wrong", "found"}, set(), set()),
        ("human", {"llm": 1.0, "human": 1.0}, {"yes", "missed", "unsure"}, {"wrong"}, {"wrong"}),
    ],
)
def test_where_labels_are_kept_apart_each_source_is_heard_on_what_another_judged_too(
    labels: str, known: dict[str, float] | None, positives: set[str], negatives: set[str], judged: set[str]
) -> None:
    training_set = TrainingSet(staged(), config(labels=labels), known)
    group = training_set[0, 0]
    assert (ids(group.positives), ids(group.negatives)) == (positives, negatives)
    assert group.judged_negatives == judged
    assert len(training_set) == (1 if labels == "human" else 2)


def test_a_share_reads_the_models_labels_where_people_are_not_heard() -> None:
    for seed in range(8):
        training_set = TrainingSet(staged(), config(labels="50% human + llm", seed=seed))
        heard = training_set.places[0] < 0.5
        expected = {"yes", "missed", "unsure", "found"} if heard else {"yes", "wrong", "found"}
        assert ids(training_set[0, 0].positives) == expected


def test_labels_that_the_dataset_lost_are_refused() -> None:
    whole = staged()
    train = make_store({"train": whole.labels["train"]}, whole.corpus)
    train.facts = DatasetFacts(judged_by_both=4, rules={"policy": "human-first"})
    for labels in ("llm", "50% human + llm"):
        with pytest.raises(UsageError, match=r"4 pairs .* some labels of llm are lost; mix it again"):
            TrainingSet(train, config(labels=labels))
    for labels in ("human", "human + llm", "all"):
        assert len(TrainingSet(train, config(labels=labels)))
    train.facts = DatasetFacts(judged_by_both=4, rules={"policy": "union"})
    with pytest.raises(UsageError, match="some labels of human are lost"):
        TrainingSet(train, config(labels="human"))


def test_a_share_of_queries_is_the_same_one_in_every_stage_and_lies_within_larger_ones() -> None:
    examples = [mixed_example(f"q{n}") for n in range(400)]

    def with_human(labels: str, seed: int = 0) -> set[str]:
        found = groups(config(labels=labels, seed=seed), examples)
        return {group.query_id for group in found if "hp" in ids(group.positives)}

    fifth, half = with_human("20% human"), with_human("50% human")
    assert 55 < len(fifth) < 105, "binomial(400, 0.2): 80 with standard deviation 8"
    assert fifth < half
    assert with_human("20% human + llm") == fifth
    assert with_human("20% human", seed=1) != fifth
    merged = {group.query_id: group for group in groups(config(labels="20% human + llm"), examples)}
    assert len(merged) == 400
    outside = merged[min(set(merged) - fifth)]
    assert outside.excluded == {"lp", "li"}, "without a human label the human positive is unknown"


def test_positives_by_grade_and_probability() -> None:
    examples = [mixed_example("q")]
    (group,) = groups(config(min_grade=3), examples)
    assert ids(group.positives) == {"hp"}
    assert "lp" in group.excluded, "too low for a positive is not yet a negative"
    (group,) = groups(config(min_probability=0.5), examples)
    assert ids(group.positives) == {"lp"}
    with pytest.raises(DataError, match="none of the dataset's 1 queries has a positive from 'llm'"):
        groups(config(labels="llm", min_probability=0.9), examples)


def test_queries_without_a_selected_positive_are_left_out() -> None:
    only_llm = Example(query_id="q1", query="", positives=(label("lp"),), negatives=(), ignored=())
    training_set = TrainingSet(store([mixed_example("q0"), only_llm]), config(labels="human"))
    assert [training_set.query(row).query_id for row in range(len(training_set))] == ["q0"]
    assert training_set.counts["queries_left_out"] == 1


def test_the_best_positives_and_positives_by_grade() -> None:
    many = Example(
        query_id="q",
        query="",
        positives=tuple(label(f"p{n}", 3 if n < 2 else 1) for n in range(8)),
        negatives=(),
        ignored=(),
    )
    training_set = TrainingSet(store([many]), config(positives="best", max_positives=2))
    assert {frozenset(ids(training_set[epoch, 0].positives)) for epoch in range(5)} == {frozenset({"p0", "p1"})}
    drawn = TrainingSet(store([many]), config(positives="grade", max_positives=1))
    high = sum(ids(drawn[epoch, 0].positives) <= {"p0", "p1"} for epoch in range(600))
    assert 250 < high < 350, "6 of 12 parts of the grade: binomial(600, 0.5), standard deviation 12"


def test_a_weighted_draw_takes_each_next_one_in_proportion() -> None:
    """Two of weights 1, 2, 3: the light one is left out with 2/6 * 3/4 + 3/6 * 2/3 = 7/12."""
    left_out = sum("a" not in draw_weighted({"a": 1.0, "b": 2.0, "c": 3.0}, 2, (0, n)) for n in range(2400))
    assert left_out == pytest.approx(1400, abs=120)
    assert draw_weighted({"a": 1.0}, 3, (0,)) == ["a"]


def test_mixed_keys_look_uniform_and_differ_by_scope() -> None:
    keys = np.arange(4000, dtype=np.int64)
    shares = mixed(keys, (0, "x")) / 2.0**64
    assert np.histogram(shares, bins=10, range=(0, 1))[0].min() > 300
    assert len(np.unique(mixed(keys, (0, "x")))) == 4000
    assert abs(np.corrcoef(shares, mixed(keys, (1, "x")) / 2.0**64)[0, 1]) < 0.06


def test_stages_have_settings_of_their_own_and_refuse_others() -> None:
    plan = config(
        epochs=40,
        learning_rate=1e-5,
        stages=["llm", {"labels": "20% human", "objective": "singlelh", "max_steps": 7, "learning_rate": 3e-5}],
    )
    first, second = plan.stage_configs()
    assert (first.labels, first.objective, first.epochs, first.learning_rate) == ("llm", "lsepair", 40, 1e-5)
    assert (second.labels, second.objective, second.epochs, second.max_steps) == ("20% human", "singlelh", None, 7)
    assert (second.learning_rate, second.model) == (3e-5, "unused")
    for stage, message in (
        ({"model": "x"}, "stage 2 cannot set 'model'; settings of a stage are: labels, min_grade"),
        ({"lables": "human"}, "stage 2 cannot set 'lables'; did you mean labels"),
        ({"epochs": 0}, "stage 2: epochs = 0: input should be greater than or equal to 1"),
        ({"labels": "humans"}, "stage 2: unknown source of labels 'humans'"),
    ):
        with pytest.raises(UsageError, match=message):
            config(stages=["llm", stage])


def test_contradictions_between_settings(tmp_path: Any) -> None:
    for settings, message in (
        ({"objective": "singlelh", "positives": "new"}, "singlelh always takes the best positive; remove positives"),
        ({"gradient_cache": True, "gradient_checkpointing": True}, "gradient_checkpointing saves no memory"),
        ({"patience": 2}, "patience needs a dev folder; set dev"),
        ({"patience": 2, "dev": "d", "max_steps": 3}, "patience needs whole epochs"),
    ):
        with pytest.raises(UsageError, match=message):
            config(**settings)
    path = tmp_path / "fit.toml"
    path.write_text('model = "m"\nobjective = "lsepair"\nstages = ["llm", "human"]\n')
    assert read_config(path, {"labels": "human"}).stages == (), "a flag for labels drops the file's stages"
