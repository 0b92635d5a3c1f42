"""The dataset folder: nothing is lost on the way to disk, and the field's own readers open it."""

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelkit.errors import ArtifactError
from labelkit.records import Example, Label, Passage, Query
from labelkit.storage.dataset import CONFIGS, examples_from_table, examples_to_table, read_dataset, write_tables
from labelkit.storage.folders import writing

SHARES = st.floats(0, 1, width=32)
LABELS = st.builds(
    Label,
    passage_id=st.text(),
    grade=st.none() | st.integers(0, 3),
    source=st.sampled_from(["human", "llm", "imported"]),
    judge_id=st.text(),
    weight=st.floats(0, 1e6, width=32, exclude_min=True),
    probability=st.none() | SHARES,
)
GROUPS = st.lists(LABELS, max_size=4).map(tuple)
EXAMPLES = st.builds(Example, query_id=st.text(), query=st.text(), positives=GROUPS, negatives=GROUPS, ignored=GROUPS)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(EXAMPLES, max_size=5))
def test_examples_survive_the_table(examples):
    assert list(examples_from_table(examples_to_table(examples))) == examples


def test_the_columns_are_the_documented_ones():
    suffixes = ["ids", "grades", "sources", "judges", "weights", "probabilities", "scores"]
    columns = [f"{role}_{suffix}" for role in ("positive", "negative", "ignored") for suffix in suffixes]
    assert examples_to_table([]).column_names == ["query_id", "query", *columns]


@pytest.fixture
def mixed(labelkit, beir, pool, tmp_path):
    """A dataset of human and LLM labels."""
    labels, human = tmp_path / "labels", beir / "qrels" / "test.tsv"
    labelkit("annotate", pool, "-o", labels, "--engine", "scripted", "--model", "garbage")
    called = labelkit("mix", "--data", beir, "--human", human, "--llm", labels, "-o", tmp_path / "dataset")
    assert called.code == 0, called.err
    return tmp_path / "dataset"


def test_a_dataset_is_read_with_its_texts(mixed):
    dataset = read_dataset(mixed)
    assert [one.query_id for one in dataset.examples] == ["q1", "q2", "q3"]
    assert dataset.corpus["p3"] == Passage(
        passage_id="p3", title="Tea", text="green tea is brewed with water below the boiling point"
    )
    known = {label.passage_id for one in dataset.examples for label in one.positives + one.negatives + one.ignored}
    assert known <= set(dataset.corpus)


@pytest.fixture
def load(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda config: datasets.load_dataset(str(mixed), config, split="train", cache_dir=str(tmp_path / "cache"))


def test_every_config_loads_with_datasets(mixed, load):
    rows = read_dataset(mixed).manifest.rows
    for config in CONFIGS:
        assert len(load(config)) == rows[config] > 0
    assert load("corpus").column_names == ["passage_id", "title", "text"]
    assert set(load("judges")["kind"]) == {"human", "llm"}


def test_loaded_rows_are_the_examples(mixed, load):
    examples = {one.query_id: one for one in read_dataset(mixed).examples}
    for row in load("train"):
        example = examples[row["query_id"]]
        assert row["positive_ids"] == [label.passage_id for label in example.positives]
        assert row["positive_grades"] == [label.grade for label in example.positives]
        assert row["negative_ids"] == [label.passage_id for label in example.negatives]
        assert row["ignored_sources"] == [label.source for label in example.ignored]


def test_resolve_ids_joins_the_texts(load):
    util = pytest.importorskip("sentence_transformers.util")
    if not hasattr(util, "resolve_ids"):
        pytest.skip("this sentence-transformers has no resolve_ids")
    queries, corpus, train = load("queries"), load("corpus"), load("train")
    lookups = {
        "query_id": queries,
        "positive_ids": (corpus, "passage_id", "text"),
        "negative_ids": (corpus, "passage_id", "text"),
    }
    texts = dict(zip(corpus["passage_id"], corpus["text"], strict=True))
    asked = dict(zip(queries["query_id"], queries["text"], strict=True))
    joined = train.with_transform(util.resolve_ids(lookups, output_format="lists"))
    for raw, row in zip(train, joined, strict=True):
        assert row["query"] == asked[raw["query_id"]]
        assert row["positives"] == [texts[name] for name in raw["positive_ids"]]
        assert row["negatives"] == [texts[name] for name in raw["negative_ids"]]


def test_the_card_names_judges_rows_and_rules(mixed):
    card = (mixed / "README.md").read_text(encoding="utf-8")
    for part in ('config_name: "train"', "| `corpus` | 6 |", "garbage", '"llm_positive": 0.7', "labelkit mix"):
        assert part in card


def test_odd_text_survives_the_folder(tmp_path):
    text = "a\u2028b\u0085c\0d\u200be\r\nf"
    with writing(tmp_path / "d", "dataset", "test") as draft:
        example = Example(query_id=text, query=text, positives=(), negatives=(), ignored=())
        passage, query = Passage(passage_id=text, title=text, text=text), Query(query_id=text, text=text)
        write_tables(draft, examples=[example], corpus=[passage], queries=[query], judgements=[], judges=[])
    assert read_dataset(tmp_path / "d")[:2] == ([example], {text: passage})


def test_a_damaged_dataset_is_refused(mixed):
    path = mixed / "corpus.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"corpus\.parquet changed since it was written"):
        read_dataset(mixed)
