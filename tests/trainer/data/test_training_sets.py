"""What is drawn for a query: pure in seed, epoch and query id, uniform, known positives never negatives."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import pyarrow.compute as pc
import pytest
import torch

from labelkit.errors import DataError
from labelkit.records import PASSAGE_SCHEMA, Example, Label, Passage
from labelkit.storage.dataset import examples_to_table, records_to_table
from trainer.config.fit_config import FitConfig
from trainer.data.batch_order import BatchOrder
from trainer.data.collate import Collator
from trainer.data.draws import draw
from trainer.data.store import Store, make_store
from trainer.data.training_sets import TrainingSet, draw_group
from trainer.objectives.batch import Group, Negative, Positive, key_of, passages_of

pytestmark = pytest.mark.slow  # almost every test mixes labels


def label(
    passage_id: str, grade: int | None = 1, source: Literal["human", "llm", "imported"] = "llm", **fields: Any
) -> Label:
    return Label(passage_id=passage_id, grade=grade, source=source, judge_id="judge", **fields)


def example(
    query_id: str, positives: Sequence[Label], negatives: Sequence[str] = (), ignored: Sequence[str] = ()
) -> Example:
    return Example(
        query_id=query_id,
        query=f"text of {query_id}",
        positives=tuple(positives),
        negatives=tuple(label(name, 0) for name in negatives),
        ignored=tuple(label(name, None, "llm") for name in ignored),
    )


def dataset(examples: Sequence[Example], texts: dict[str, str] | None = None) -> Store:
    names = {one.passage_id for each in examples for one in (*each.positives, *each.negatives, *each.ignored)}
    corpus = {
        name: Passage(passage_id=name, title="", text=(texts or {}).get(name, f"text of {name}")) for name in names
    }
    return make_store({"train": examples_to_table(examples)}, records_to_table(corpus.values(), PASSAGE_SCHEMA))


def config(objective: str = "lsepair", **settings: Any) -> FitConfig:
    return FitConfig(model="unused", objective=objective, **settings)


NOT_RELEVANT = math.log(0.02 / 0.98)
"""Log-odds that distillation is taught for what a person called irrelevant."""
MANY = [example(f"q{n}", [label(f"p{k}") for k in range(6)], [f"n{k}" for k in range(12)]) for n in range(30)]


def groups(training_set: TrainingSet, epoch: int) -> dict[str, Group]:
    drawn = [training_set[epoch, row] for row in range(len(training_set))]
    return {group.query_id: group for group in drawn}


def negatives_of(group: Group) -> tuple[str, ...]:
    return tuple(negative.passage_id for negative in group.negatives)


def test_a_group_is_filled_with_judged_negatives() -> None:
    for group in groups(TrainingSet(dataset(MANY), config(group_size=8, max_positives=4)), 0).values():
        assert len(group.positives) == 4
        assert len(set(negatives_of(group))) == 4
        assert {positive.passage_id for positive in group.positives} <= {f"p{k}" for k in range(6)}
        assert set(negatives_of(group)) < {f"n{k}" for k in range(12)} == group.judged_negatives
        assert group.excluded == {f"p{k}" for k in range(6)}


def test_a_query_with_few_labels_has_a_smaller_group() -> None:
    group = TrainingSet(dataset([example("q", [label("p")], ["n"])]), config())[0, 0]
    assert ([positive.passage_id for positive in group.positives], negatives_of(group)) == (["p"], ("n",))


def test_the_draw_does_not_depend_on_the_order_of_queries_or_labels() -> None:
    turned = [
        Example(
            query_id=one.query_id,
            query=one.query,
            positives=one.positives[::-1],
            negatives=one.negatives[::-1],
            ignored=(),
        )
        for one in reversed(MANY)
    ]
    forward, backward = TrainingSet(dataset(MANY), config()), TrainingSet(dataset(turned), config())
    last_first = {backward[3, row].query_id: backward[3, row] for row in reversed(range(len(MANY)))}
    assert last_first == groups(forward, 3)


def test_trap_seed_sweeps_share_neither_draws_nor_data_order() -> None:
    first, second = (TrainingSet(dataset(MANY), config(seed=seed)) for seed in (0, 1))
    assert groups(first, 0) != groups(second, 0)
    orders = [list(BatchOrder(first.keys, 8, seed)) for seed in (0, 1)]
    assert orders[0] != orders[1]
    same = TrainingSet(dataset(MANY), config(seed=0))
    assert groups(first, 5) == groups(same, 5)


def test_trap_always_the_same_first_k_positives() -> None:
    training_set = TrainingSet(dataset(MANY), config(max_positives=2))
    seen = Counter(p.passage_id for epoch in range(50) for p in training_set[epoch, 0].positives)
    assert set(seen) == {f"p{k}" for k in range(6)}


@pytest.mark.parametrize("query", range(3))
def test_trap_rand1_draws_uniformly_over_all_positives_and_not_round_robin(query: int) -> None:
    known = TrainingSet(dataset(MANY), config("rand1lh")).query(query)
    settings = config("rand1lh")
    drawn = [draw_group(known, epoch, settings).positives for epoch in range(6000)]
    assert {len(positives) for positives in drawn} == {1}
    names = [positives[0].passage_id for positives in drawn]
    counts = Counter(names)
    # Each count is binomial(6000, 1/6) with standard deviation 29; five of them on either side.
    assert len(counts) == 6
    assert all(abs(count - 1000) < 145 for count in counts.values())
    follows = Counter(pairwise(names))
    assert len(follows) == 36, "a round robin would visit 6 pairs only"


def test_negatives_are_drawn_anew_each_epoch_and_all_of_them_in_time() -> None:
    training_set = TrainingSet(dataset(MANY), config())
    assert training_set[0, 0].negatives != training_set[1, 0].negatives
    assert {name for epoch in range(50) for name in negatives_of(training_set[epoch, 0])} == {
        f"n{k}" for k in range(12)
    }


def test_the_draw_is_pinned_so_that_an_upgrade_cannot_change_it_unseen() -> None:
    assert draw(["a", "b", "c", "d", "e"], 3, (0, 1, "q7")) == ["e", "c", "a"]
    assert draw(["e", "d", "c", "b", "a"], 3, (0, 1, "q7")) == ["e", "c", "a"]
    assert draw(["a"], 3, (0, 1, "q7")) == ["a"]


def test_singlelh_takes_the_best_ranked_positive() -> None:
    ranked = [
        label("z", 1, "human"),
        label("b", 2, probability=0.9),
        label("a", 2, probability=0.5, score=1.0),
        label("c", 2, probability=0.5, score=0.5),
        label("y", 3, probability=0.4),
        label("s", 1, score=9.0),
        label("g", 3),
        label("h", 2),
        label("x", None, "imported"),
    ]
    training_set = TrainingSet(dataset([example("q", ranked[::-1], ["n"])]), config("singlelh"))
    names = [one.passage_id for one in ranked]
    assert [positive.passage_id for positive in training_set.query(0).positives] == names
    for epoch in range(5):
        group = training_set[epoch, 0]
        assert [positive.passage_id for positive in group.positives] == ["z"]
        assert group.excluded == set(names), "the unused positives are still no negatives"


def test_ignored_and_positive_passages_are_never_drawn_as_negatives() -> None:
    one = example("q", [label("p")], ["p", "i", "n"], ["i"])
    assert TrainingSet(dataset([one]), config())[0, 0].negatives == (Negative("n"),)


def test_passages_with_one_text_are_one_passage() -> None:
    """Under two ids a positive would be pushed away as its own negative."""
    one = example("q", [label("b", 2), label("a", 1)], ["c", "d"], ["e"])
    same = {"a": "same", "b": "same", "c": "same", "e": "other", "d": "other"}
    training_set = TrainingSet(dataset([one], same), config())
    group = training_set[0, 0]
    assert [positive.passage_id for positive in group.positives] == ["a"]
    assert group.negatives == ()
    assert training_set.counts["passages_with_the_text_of_another"] == 3


def test_queries_left_out_are_left_out_and_counted() -> None:
    training_set = TrainingSet(
        dataset([example("q0", [], ["n"]), example("q1", [label("p")]), example("q2", [label("p")], ["n"])]),
        config(),
    )
    assert [training_set.query(row).query_id for row in range(2)] == ["q1", "q2"]
    assert training_set.counts == {
        "queries": 3,
        "queries_left_out": 1,
        "passages_with_the_text_of_another": 0,
    }


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([example("q", [], ["n"])], "none of the dataset's 1 queries has a positive"),
        ([example("q", [label("p")]), example("q", [label("p")])], "query id 'q' is duplicated"),
    ],
)
def test_datasets_that_cannot_be_trained_on(examples: list[Example], message: str) -> None:
    with pytest.raises(DataError) as error:
        TrainingSet(dataset(examples), config())
    assert message in str(error.value)


def test_a_label_without_its_passage_names_query_and_passage() -> None:
    whole = dataset([example("q", [label("p")], ["n"])])
    with pytest.raises(DataError, match="query 'q' labels passage 'n', which is not in the corpus"):
        make_store(whole.labels, whole.corpus.filter(pc.not_equal(whole.corpus["passage_id"], "n")))


def test_an_epoch_holds_every_query_once_in_an_order_of_its_own() -> None:
    order = BatchOrder(TrainingSet(dataset(MANY), config()).keys, 8, seed=0)
    epochs = []
    for epoch in (0, 1):
        order.set_epoch(epoch)
        batches = list(order)
        assert [len(batch) for batch in batches] == [8, 8, 8, 6]
        assert len(batches) == len(order)
        assert {number for batch in batches for number, _ in batch} == {epoch}
        epochs.append([row for batch in batches for _, row in batch])
        assert sorted(epochs[-1]) == list(range(30))
    assert epochs[0] != epochs[1]
    assert epochs[0] != list(range(30))


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_every_batch_of_the_single_process(processes: int) -> None:
    keys = TrainingSet(dataset(MANY), config()).keys[:9]
    whole = list(BatchOrder(keys, 8, 0))
    parts = [list(BatchOrder(keys, 8, 0, 0, process, processes)) for process in range(processes)]
    assert {len(part) for part in parts} == {len(whole)}
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert [index for share in shares for index in share if index[1] >= 0] == batch
        assert all(shares), "a process without a query still takes part"
    assert sum(share[1][0][1] < 0 for share in parts) == processes - 1, "the last batch has one query"


def test_the_part_that_stands_in_for_no_query_has_passages_and_no_positives() -> None:
    training_set = TrainingSet(dataset(MANY), config())
    real, inert = training_set[0, 3], training_set[0, -1 - 3]
    assert inert.query_id == real.query_id
    assert inert.positives == ()
    assert set(negatives_of(inert)) == {p.passage_id for p in real.positives} | set(negatives_of(real))


def test_weights_multiply_those_of_the_dataset_source_and_probability() -> None:
    labels = [label("h", 3, "human"), label("l", 2, "llm", weight=2.0, probability=0.5), label("m", 2, "llm")]
    one = dataset([example("q", labels)])

    def weights(**settings: Any) -> dict[str, float]:
        positives = TrainingSet(one, config(**settings)).query(0).positives
        return {positive.passage_id: positive.weight for positive in positives}

    assert weights() == {"h": 1.0, "l": 2.0, "m": 1.0}
    assert weights(source_weights={"llm": 0.25}) == {"h": 1.0, "l": 0.5, "m": 0.25}
    assert weights(source_weights={"llm": 0.25}, weight_by_probability=True) == {"h": 1.0, "l": 0.25, "m": 0.25}


def test_a_tie_of_the_best_positive_is_drawn_with_the_seed_and_is_never_the_lowest_id() -> None:
    tied = dataset([example("q", [label(f"p{k}") for k in range(6)], ["n"])])
    best = Counter(
        TrainingSet(tied, config("singlelh", seed=seed))[0, 0].positives[0].passage_id for seed in range(300)
    )
    # Each count is binomial(300, 1/6) with standard deviation 6.5.
    assert len(best) == 6
    assert all(abs(count - 50) < 33 for count in best.values())
    again = TrainingSet(tied, config("singlelh", seed=7))
    assert {again[epoch, 0].positives[0] for epoch in range(5)} == {again.query(0).positives[0]}


def targets(group: Group) -> dict[str, float | None]:
    return {member.passage_id: member.target for member in group.members}


def judged(positives: Sequence[Label], negatives: Sequence[Label]) -> Store:
    one = Example(query_id="q", query="", positives=tuple(positives), negatives=tuple(negatives), ignored=())
    return dataset([one])


def test_targets_of_distillation_are_log_odds_that_end_somewhere() -> None:
    store = judged([label("p", 2, probability=0.75)], [label("n", 0, probability=0.25), label("z", 0, probability=0.0)])
    expected = {"p": math.log(3), "n": -math.log(3), "z": NOT_RELEVANT}
    assert targets(TrainingSet(store, config("listwise-kl"))[0, 0]) == pytest.approx(expected)
    assert targets(TrainingSet(store, config(distil_weight=1.0))[0, 0]) == pytest.approx(expected)
    assert set(targets(TrainingSet(store, config())[0, 0]).values()) == {None}, "nothing is distilled"


def test_raw_scores_of_a_teacher_reach_the_group_as_they_are() -> None:
    store = judged([label("p", 2, score=5.31)], [label("n", 0, score=-11.25), label("m", 0, score=0.5)])
    assert targets(TrainingSet(store, config("margin-mse"))[0, 0]) == {"p": 5.31, "n": -11.25, "m": 0.5}
    both = judged([label("p", 2, score=5.31, probability=0.75)], [label("n", 0, score=-2.0, probability=0.25)])
    assert targets(TrainingSet(both, config("listwise-kl"))[0, 0]) == pytest.approx(
        {"p": math.log(3), "n": -math.log(3)}
    )
    assert targets(TrainingSet(both, config("listwise-kl", teacher="score"))[0, 0]) == {"p": 5.31, "n": -2.0}


def test_distillation_refuses_labels_without_scores() -> None:
    some = judged([label("p", 2, score=5.31), label("h", 3, "human")], [label("n", 0, score=-2.0)])
    for objective in ("listwise-kl", "margin-mse"):
        with pytest.raises(DataError, match="1 of the 3 labels of 'all' have no probability and no score"):
            TrainingSet(some, config(objective))
        TrainingSet(some, config(objective, labels="llm"))
    assert targets(TrainingSet(some, config(distil_weight=0.5))[0, 0]) == {"p": 5.31, "h": None, "n": -2.0}
    with pytest.raises(DataError, match="have no probability, from which distil_weight learns"):
        TrainingSet(some, config(distil_weight=0.5, teacher="probability"))
    bare = judged([label("p", 2)], [label("n", 0)])
    with pytest.raises(DataError, match="2 of the 2 labels"):
        TrainingSet(bare, config(distil_weight=0.5))


def test_passages_of_grade_1_stand_between_only_where_grades_are_read() -> None:
    one = Example(
        query_id="q",
        query="",
        positives=(label("p", 3), label("r", 2)),
        negatives=(label("n", 0),),
        ignored=(label("i", 1), label("u", None), label("v", 2)),
    )
    graded = TrainingSet(dataset([one]), config("lsepair-graded"))[0, 0]
    assert {member.passage_id: member.grade for member in graded.members} == {"p": 3, "r": 2, "n": 0, "i": 1}
    assert "i" in graded.excluded, "it is no negative of the positives outside the group's pairs"
    assert set(negatives_of(TrainingSet(dataset([one]), config())[0, 0])) == {"n"}
    below = TrainingSet(dataset([example("q", [label("p", 2), label("w", 1)])]), config("jointlh-gain", min_grade=2))
    assert {member.passage_id: member.grade for member in below[0, 0].members} == {"p": 2, "w": 1}


def test_the_collator_sorts_queries_and_passages_by_their_tokens() -> None:
    def preprocess(texts: list[str], **_: Any) -> dict[str, Any]:
        lengths = [len(text.split()) for text in texts]
        mask = torch.zeros(len(texts), max(lengths), dtype=torch.int64)
        for row, length in enumerate(lengths):
            mask[row, :length] = 1
        return {"attention_mask": mask, "input_ids": mask * torch.arange(len(texts)).unsqueeze(-1)}

    texts = {"p": "one", "n": "one two three", "m": "one two"}
    collate = Collator(preprocess, texts, None, None, None, None)
    short = Group("s", "a", (Positive("p", 1.0, "llm"),), (Negative("n"),), frozenset("p"))
    long = Group("l", "a b", (Positive("m", 1.0, "llm"),), (), frozenset("m"))
    batch = collate([short, long])
    assert batch["query_attention_mask"].sum(dim=1).tolist() == [2, 1]
    assert batch["document_attention_mask"].sum(dim=1).tolist() == [3, 2, 1]
    assert batch["document_input_ids"].amax(dim=1).tolist() == [1, 2, 0], "n, m, p"
    assert batch["label"]["passage_key"].tolist() == [key_of(name) for name in "nmp"]
    assert batch["label"]["pos_index"].tolist() == [[1], [2]], "the longer query comes first"


def test_the_collator_reads_each_passage_once_with_prompt_and_limit() -> None:
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def preprocess(texts: list[str], **settings: Any) -> dict[str, Any]:
        calls.append((texts, settings))
        return {"input_ids": len(texts)}

    training_set = TrainingSet(dataset(MANY), config(max_positives=6, group_size=6))
    collate = Collator(preprocess, training_set.passages, "find: ", "text: ", 8, None)
    batch = collate([training_set[0, 0], training_set[0, 1]])
    assert calls == [
        (["text of q0", "text of q1"], {"prompt": "find: ", "task": "query", "max_length": 8}),
        ([f"text of {name}" for name in passages_of([training_set[0, 0]])], {"prompt": "text: ", "task": "document"}),
    ]
    assert sorted(batch["label"]["excluded_key"].tolist()) == sorted([key_of(f"p{k}") for k in range(6)] * 2)
    assert {key for key in batch if key != "label"} == {
        "query_input_ids",
        "query_task",
        "document_input_ids",
        "document_task",
    }
