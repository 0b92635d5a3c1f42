"""A dataset leaves for the format of another tool and comes back with all that the format can hold."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import pyarrow.parquet as pq
import pytest
from present import present

from labelkit.commands.exchange import FORMAT_NAMES
from labelkit.errors import DataError, UsageError
from labelkit.exchange.exporting import export
from labelkit.exchange.formats import FORMATS, readable, recognised, writable
from labelkit.exchange.formats.base import View
from labelkit.exchange.formats.collecting import name_of
from labelkit.exchange.importing import import_dataset, import_grades
from labelkit.exchange.options import ExportOptions, ImportOptions
from labelkit.records import Example, Judge, Judgement, Label, Passage, Query
from labelkit.storage.dataset import Dataset, read_dataset, write_tables
from labelkit.storage.folders import manifest_kind, read_manifest, writing
from labelkit.storage.labels import read_labels

HUMAN = Judge(judge_id="human-anna", kind="human", name="anna")
MODEL = Judge(judge_id="graded-model", kind="llm", name="model", label_grades=(0, 1, 2, 3))
TEXTS = {
    "a": ("Title", 'a text with "quotes", a \u2028 separator and a \u0085 next line'),
    "b": ("", "plain"),
    "c": ("Übung", "שלום 你好"),
    "d": ("", "nul \0 inside"),
    "e": ("", "fifth"),
    "f": ("", "sixth, unlabelled"),
}


def label(passage_id: str, grade: int | None, probability: float | None = 0.5) -> Label:
    return Label(passage_id=passage_id, grade=grade, source="llm", judge_id="graded-model", probability=probability)


def make(folder: Path, examples: list[Example], texts: dict[str, tuple[str, str]] = TEXTS) -> Path:
    with writing(folder, "dataset", "test") as draft:
        judgements = [
            Judgement(query_id=one.query_id, passage_id=each.passage_id, judge_id=judge.judge_id, grade=each.grade,
                      score=None if judge is HUMAN else float(each.grade) + 0.25,
                      probs=None if judge is HUMAN else (0.1, 0.2, 0.3, 0.4))
            for one in examples
            for each in sorted((*one.positives, *one.negatives), key=lambda one: one.passage_id)
            if each.grade is not None
            for judge in (MODEL, HUMAN)
        ]  # fmt: skip
        write_tables(
            draft,
            examples=examples,
            corpus=[Passage(passage_id=name, title=title, text=text) for name, (title, text) in texts.items()],
            queries=[Query(query_id=one.query_id, text=one.query) for one in examples],
            judgements=judgements,
            judges=[MODEL, HUMAN],
        )
    return folder


EXAMPLES = [
    Example(
        query_id="q1",
        query="one \u2028 query",
        positives=(label("a", 3), label("b", 2, 0.75)),
        negatives=(label("c", 0, 0.125), label("d", 1, 0.25)),
        ignored=(label("e", None),),
    ),
    Example(query_id="q2", query="two", positives=(), negatives=(label("a", 0),), ignored=()),
    Example(
        query_id="q3",
        query="three",
        positives=(label("e", 3),),
        negatives=(label("a", 0), label("b", 0), label("c", 1), label("d", 0), label("f", 0)),
        ignored=(),
    ),
    Example(query_id="q4", query="four", positives=(label("d", 2),), negatives=(), ignored=()),
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make(tmp_path / "dataset", EXAMPLES)


Sides = dict[str, tuple[list[str], list[str]]]


def read(path: Path) -> Dataset:
    """Import what lies at a path, in the format that is recognised."""
    with TemporaryDirectory() as folder:
        import_dataset(path, Path(folder) / "read", ImportOptions(judge="somebody", format=recognised(path)))
        return read_dataset(Path(folder) / "read")


def names(labels: tuple[Label, ...]) -> list[str]:
    return sorted(each.passage_id for each in labels)


def sides(found: Dataset) -> Sides:
    return {one.query_id: (names(one.positives), names(one.negatives)) for one in found.examples}


def grades(examples: list[Example]) -> dict[tuple[str, str], int | None]:
    return {(one.query_id, each.passage_id): each.grade for one in examples for each in one.positives + one.negatives}


def by_text(found: Sides) -> Sides:
    """The same under the ids that texts without ids get."""
    names = {name: name_of("p", f"{title} {text}".strip()) for name, (title, text) in TEXTS.items()}
    queries = {one.query_id: name_of("q", one.query) for one in EXAMPLES}
    return {
        queries[query_id]: (sorted(names[name] for name in positives), sorted(names[name] for name in negatives))
        for query_id, (positives, negatives) in found.items()
    }


def only(*query_ids: str) -> Callable[[Sides], Sides]:
    return lambda found: {name: found[name] for name in query_ids}


ALL = only("q1", "q2", "q3", "q4")
TRAINABLE = only("q1", "q3", "q4")
HELD: dict[str, Callable[[Sides], Sides]] = {
    "beir": ALL,
    "msmarco": ALL,
    "tevatron": TRAINABLE,
    "tevatron-classic": TRAINABLE,
    "flag-embedding": lambda found: by_text(TRAINABLE(found)),
    "st-labeled-list": lambda found: by_text(ALL(found)),
    "st-triplet": lambda found: by_text(only("q1", "q3")(found)),
    "st-ntuple": lambda found: by_text({"q3": (found["q3"][0], ["a", "b", "c", "d"])}),
}
"""What of the sides each format can hold."""


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD)
def test_a_round_trip_keeps_all_that_the_format_can_hold(dataset, tmp_path, name):
    export(dataset, tmp_path / "out", ExportOptions(to=name))
    import_dataset(tmp_path / "out", tmp_path / "back", ImportOptions(judge="back", format=name))
    back = read_dataset(tmp_path / "back")
    assert sides(back) == HELD[name](sides(read_dataset(dataset)))
    assert {passage.full_text for passage in back.corpus.values()} <= {full(name) for name in TEXTS}
    assert sides(read(tmp_path / "out")) == sides(back)
    assert read(tmp_path / "out").corpus == back.corpus
    if name in ("beir", "msmarco"):
        assert grades(back.examples) == grades(EXAMPLES)


def full(name: str) -> str:
    title, text = TEXTS[name]
    return f"{title} {text}".strip()


def test_every_format_that_can_be_read_is_tried():
    assert set(HELD) == {name for name in FORMATS if readable(name) and writable(name)}
    assert ", ".join(filter(writable, FORMATS)) == FORMAT_NAMES


def test_beir_keeps_titles_and_the_whole_corpus(dataset, tmp_path):
    export(dataset, tmp_path / "out", ExportOptions(to="beir"))
    assert read(tmp_path / "out").corpus == read_dataset(dataset).corpus


def test_flag_embedding_scores_are_the_probabilities(dataset, tmp_path):
    export(dataset, tmp_path / "out", ExportOptions(to="flag-embedding"))
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().split("\n") if line]
    assert rows[0]["pos_scores"] == [0.5, 0.75]
    assert rows[0]["neg_scores"] == [0.125, 0.25]
    back = read(tmp_path / "out")
    assert sorted(present(each.probability) for one in back.examples for each in one.positives) == [0.5, 0.5, 0.5, 0.75]


def test_flag_embedding_has_no_scores_where_a_label_has_no_probability(tmp_path):
    examples = [EXAMPLES[0].model_copy(update={"negatives": (label("c", 0, None),)})]
    made = export(make(tmp_path / "dataset", examples), tmp_path / "out", ExportOptions(to="flag-embedding"))
    assert "pos_scores" not in (tmp_path / "out" / "train.jsonl").read_text()
    assert any(what.startswith("probabilities and scores") for what in made.left_out)


def test_raw_scores_of_a_reranker_survive_import_and_export(tmp_path):
    rows = [
        {"query": "one", "pos": ["a", "b"], "neg": ["c"], "pos_scores": [5.31, 0.5], "neg_scores": [-11.25]},
        {"query": "two", "pos": ["b"], "neg": ["a", "c"], "pos_scores": [2.0], "neg_scores": [0.25, 1]},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_dataset(
        tmp_path / "train.jsonl", tmp_path / "dataset", ImportOptions(judge="reranker", format="flag-embedding")
    )
    first, second = read_dataset(tmp_path / "dataset").examples
    every = [label for one in (first, second) for label in (*one.positives, *one.negatives)]
    assert sorted(present(label.score) for label in every) == [-11.25, 0.25, 0.5, 1.0, 2.0, 5.31]
    assert {label.probability for label in every} == {None}, "0.5 beside 5.31 is a logit and no probability"
    export(tmp_path / "dataset", tmp_path / "out", ExportOptions(to="flag-embedding"))
    back = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    scores = {(row["query"], text): score for row in back for side in ("pos", "neg")
              for text, score in zip(row[side], row[f"{side}_scores"], strict=True)}  # fmt: skip
    assert scores["one", "a"] == 5.31
    assert scores["one", "c"] == -11.25
    assert scores["two", "c"] == 1


def test_labelled_lists_carry_the_grades(dataset, tmp_path):
    export(dataset, tmp_path / "out", ExportOptions(to="st-labeled-list"))
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert rows[0] == {
        "query": "one \u2028 query",
        "docs": [full("a"), full("b"), full("c"), full("d")],
        "labels": [3, 2, 0, 1],
    }


def test_what_is_left_out_is_counted_and_written(dataset, tmp_path):
    made = export(dataset, tmp_path / "out", ExportOptions(to="st-ntuple"))
    assert made.left_out == {
        "queries without positives": 1,
        "queries with fewer than 4 negatives": 2,
        "negatives after the first 4": 1,
        "ignored passages": 1,
    }
    facts = read_manifest(tmp_path / "out", "export").facts
    assert facts.left_out == made.left_out
    readme = (tmp_path / "out" / "README.md").read_text()
    for what in (*made.lacks, "- 2 queries with fewer than 4 negatives"):
        assert what in readme


def test_a_format_that_leaves_all_out_is_refused(tmp_path):
    few = make(tmp_path / "dataset", [EXAMPLES[0].model_copy(update={"negatives": (label("c", 0, None),)})])
    with pytest.raises(
        DataError, match=r"st-ntuple can store nothing of .* \(left out: .*1 queries with fewer than 4 neg"
    ):
        export(few, tmp_path / "out", ExportOptions(to="st-ntuple"))
    assert not (tmp_path / "out").exists()
    alone = make(tmp_path / "alone", [EXAMPLES[0].model_copy(update={"negatives": ()})])
    made = export(alone, tmp_path / "out", ExportOptions(to="msmarco"))
    assert made.left_out
    assert made.rows["qidpidtriples.train.tsv"] == 0, "one empty file of several is no reason"


def test_trec_files_have_grades_and_scores(dataset, tmp_path):
    export(dataset, tmp_path / "out", ExportOptions(to="trec"))
    qrels = (tmp_path / "out" / "qrels.train.txt").read_text().splitlines()
    assert qrels[:4] == ["q1 0 a 3", "q1 0 b 2", "q1 0 c 0", "q1 0 d 1"]
    run = (tmp_path / "out" / "runs" / "graded-model.run").read_text().splitlines()
    assert run[:4] == [
        "q1 Q0 a 1 3.25 graded-model",
        "q1 Q0 b 2 2.25 graded-model",
        "q1 Q0 d 3 1.25 graded-model",
        "q1 Q0 c 4 0.25 graded-model",
    ]


def test_ms_marco_triples_pair_every_positive_with_every_negative(dataset, tmp_path):
    export(dataset, tmp_path / "out", ExportOptions(to="msmarco"))
    with (tmp_path / "out" / "qidpidtriples.train.tsv").open() as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows[:4] == [["q1", "a", "c"], ["q1", "a", "d"], ["q1", "b", "c"], ["q1", "b", "d"]]
    assert len(rows) == 4 + 5


def test_a_tab_in_a_text_becomes_a_blank_and_is_counted(tmp_path):
    texts = TEXTS | {"a": ("", "one\ttwo\r\nthree")}
    made = export(make(tmp_path / "dataset", EXAMPLES, texts), tmp_path / "out", ExportOptions(to="msmarco"))
    assert made.left_out["tabs and line ends"] == 1
    assert "a\tone two  three\n" in (tmp_path / "out" / "collection.tsv").read_text()


@pytest.mark.parametrize("name", ["beir", "trec", "msmarco"])
def test_an_id_that_is_no_word_is_refused_and_leaves_no_folder(tmp_path, name):
    examples = [EXAMPLES[1].model_copy(update={"query_id": "two words"})]
    with pytest.raises(DataError, match="'two words' contains a space"):
        export(make(tmp_path / "dataset", examples), tmp_path / "out", ExportOptions(to=name))
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.configs])
def test_every_export_loads_with_datasets(dataset, tmp_path, name):
    made = export(dataset, tmp_path / "out", ExportOptions(to=name))
    for config, file in FORMATS[name].configs.items():
        rows = datasets.load_dataset(str(tmp_path / "out"), config, split="train", cache_dir=str(tmp_path / "cache"))
        assert len(rows) == made.rows[file] > 0
    assert manifest_kind(tmp_path / "out") == "export"


@pytest.mark.parametrize("name", ["argilla", "label-studio"])
def test_people_s_grades_come_back_from_records(dataset, tmp_path, name):
    export(dataset, tmp_path / "out", ExportOptions(to=name))
    options = ImportOptions(judge="team", kind="human", format=name)
    count = import_grades(tmp_path / "out", tmp_path / "labels", options)
    judgements, (judge,), _ = read_labels(tmp_path / "labels")
    assert {(row.query_id, row.passage_id): row.grade for row in judgements} == grades(EXAMPLES)
    assert count == len(grades(EXAMPLES))
    assert judge.kind == "human"
    assert judge.name.startswith("team: ")


def test_two_people_in_label_studio_are_two_judges(tmp_path):
    def annotation(who: object, grade: str, **more: object) -> dict[str, object]:
        return {"completed_by": who, "result": [{"from_name": "grade", "value": {"choices": [grade]}}], **more}

    task = {
        "data": {"query_id": 12, "passage_id": "p"},
        "annotations": [annotation({"email": "a@x"}, "3"), annotation(7, "1"), annotation(8, "2", was_cancelled=True)],
    }
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    options = ImportOptions(judge="ls", kind="human", format="label-studio")
    import_grades(tmp_path / "tasks.json", tmp_path / "labels", options)
    judgements, judges, _ = read_labels(tmp_path / "labels")
    names = {judge.judge_id: judge.name for judge in judges}
    assert {names[row.judge_id]: row.grade for row in judgements} == {"ls: a@x": 3, "ls: 7": 1}
    assert {row.query_id for row in judgements} == {"12"}, "ids may be numbers"


@pytest.mark.parametrize("name", ["argilla", "label-studio"])
def test_an_export_of_a_tool_is_not_imported_as_qrels(dataset, tmp_path, name):
    made = export(dataset, tmp_path / "out", ExportOptions(to=name))
    (file,) = (file for file in made.rows if file.endswith(".json"))
    with pytest.raises(UsageError, match=f"is an export of {name}.*--from {name}"):
        import_grades(tmp_path / "out" / file, tmp_path / "labels", ImportOptions(judge="team", kind="human"))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [{"data": {"query_id": "q"}}],
            r"row 1: field 'passage_id' .* need query_id and passage_id",
        ),
        ([{"data": {"query_id": "q", "passage_id": "p"}}], r"has no answers to the question"),
        ({"data": 1}, "the records need query_id and passage_id"),
        ([1, 2], "expected a JSON object, found int"),
    ],
)
def test_records_that_are_none_are_refused(tmp_path, records, message):
    (tmp_path / "tasks.json").write_text(json.dumps(records))
    options = ImportOptions(judge="x", kind="human", format="label-studio")
    with pytest.raises(DataError, match=message):
        import_grades(tmp_path / "tasks.json", tmp_path / "labels", options)


def test_a_passage_on_both_sides_is_ignored(tmp_path):
    rows = [{"anchor": "q", "positive": "x", "negative": "y"}, {"anchor": "q", "positive": "y", "negative": "z"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (one,) = read(tmp_path / "t.jsonl").examples
    assert [each.passage_id for each in one.positives] == [name_of("p", "x")]
    assert [each.passage_id for each in one.negatives] == [name_of("p", "z")]
    assert [each.passage_id for each in one.ignored] == [name_of("p", "y")]
    assert one.ignored[0].grade is None


def test_text_triples_of_ms_marco_are_read(tmp_path):
    (tmp_path / "triples.tsv").write_text("query\tgood\tbad\nquery\tbetter\tbad\n")
    import_dataset(tmp_path / "triples.tsv", tmp_path / "d", ImportOptions(judge="x", format="msmarco"))
    (one,) = read_dataset(tmp_path / "d").examples
    assert (len(one.positives), len(one.negatives)) == (2, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"query_id": "q", "query": "x", "positive_passages": [{"docid": 1.5}], "negative_passages": []}',
         r":1: field 'docid' must be text"),
        ('{"query_id": "q", "query": "x", "positive_passages": "p", "negative_passages": []}',
         r":1: field 'positive_passages' must be a list in which each value is an object"),
        ('{"query_id": "q", "query": "x", "positive_passages": [{"docid": "p", "text": "1"}], '
         '"negative_passages": [{"docid": "p", "text": "2"}]}', r":1: passage 'p' has two different texts"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_named(tmp_path, content, message):
    (tmp_path / "t.jsonl").write_text(content + "\n")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.jsonl")


HOSTILE = [
    ('{"query": "q", "pos": ["\\ud800"], "neg": []}', "must be a list in which each value is a text"),
    ('{"query": "\\ud800", "pos": ["a"], "neg": []}', "lone surrogate"),
    ('{"query": "q", "pos": ["a"], "neg": [], "pos_scores": [NaN]}', "each value is a finite number"),
    ('{"query": "q", "pos": ["a"], "neg": [], "pos_scores": [1, 2]}', "1 texts in 'pos' and 2 scores"),
    ('{"query": "q", "pos": null, "neg": []}', "must be a list"),
    ('{"query": "q", "pos": [' + "[" * 100_000, "not valid JSON"),
    ('["query", "pos"]', "expected a JSON object"),
    ('{"query": "q", "docs": ["a"], "labels": [0.5]}', "the label 0.5 is not an integer grade"),
    ('{"query": "q", "docs": ["a", "b"], "labels": [1]}', "2 docs and 1 labels"),
    ('{"anchor": "q", "positive": 3}', "field 'positive' must be text"),
]


@pytest.mark.parametrize(("line", "message"), HOSTILE)
def test_hostile_rows_are_one_line_each(labelkit, tmp_path, line, message):
    (tmp_path / "t.jsonl").write_text(line + "\n")
    form = "st-labeled-list" if "docs" in line else "st-ntuple" if "anchor" in line else "flag-embedding"
    called = labelkit("import", tmp_path / "t.jsonl", "--from", form, "--judge", "x", "-o", tmp_path / "out")
    assert called.code == 1
    assert message in called.err
    assert called.err.count("\n") == 1
    assert f"{tmp_path / 't.jsonl'}:1: " in called.err
    assert not (tmp_path / "out").exists()


def test_labels_without_texts_are_refused(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"docid": "p", "text": "x"}\n')
    row = {"query_id": "q", "query_text": "x", "positive_document_ids": ["p"], "negative_document_ids": ["n"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"passage 'n' \(query 'q'\) has no text"):
        read(tmp_path)


def test_an_unknown_shape_lists_the_formats(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"what": 1}\n')
    with pytest.raises(UsageError, match="can be read: beir, msmarco, tevatron"):
        recognised(tmp_path / "x.jsonl")


def test_a_view_looks_passages_up_over_many_batches(tmp_path):
    texts = {f"p{number:06}": (f"t{number}", f"text {number}") for number in range(40_000)}
    examples = [Example(query_id="q", query="x", positives=(label("p000001", 2),), negatives=(), ignored=())]
    folder = make(tmp_path / "dataset", examples, texts)
    with View(folder, tmp_path) as view:
        for number in (0, 1, 16_383, 16_384, 39_999):
            assert view.passage(f"p{number:06}").full_text == f"t{number} text {number}"
        with pytest.raises(DataError, match="labels passage 'nowhere'"):
            view.passage("nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]


def test_the_commands(labelkit, dataset, tmp_path):
    called = labelkit("export", dataset, "--to", "tevatron", "-o", tmp_path / "out")
    assert called.code == 0, called.err
    assert "tevatron cannot store" in called.err
    called = labelkit("import", tmp_path / "out", "--from", "tevatron", "--judge", "t", "-o", tmp_path / "back")
    assert called.code == 0, called.err
    assert "queries 3, positives 4, negatives 7" in called.err
    assert labelkit("verify", tmp_path / "out").code == 0
    wrong = labelkit("export", dataset, "--to", "csv", "-o", tmp_path / "x")
    assert wrong.code == 2
    assert "unknown format 'csv'; choose one of: argilla" in wrong.err
    wrong = labelkit("import", tmp_path / "out", "--from", "trec", "--judge", "t", "-o", tmp_path / "y")
    assert wrong.code == 2
