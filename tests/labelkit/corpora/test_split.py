"""`labelkit split`: by the hash of the id, with near-duplicates, and with --by document all queries of a document."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

import labelkit
from labelkit.corpora.beir import read_data
from labelkit.corpora.layout import is_collection
from labelkit.errors import DataError, UnknownNameError, UsageError

TOPICS = ("leave", "travel", "salary", "parking", "lunch", "desk", "laptop", "phone", "training", "holiday")


def write_qrels(path: Path, qrels: dict[str, dict[str, int]]) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [f"{query}\t{passage}\t{grade}\n" for query, graded in qrels.items() for passage, grade in graded.items()]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))


def questions(count: int) -> dict[str, str]:
    return {
        f"q{n}": f"{TOPICS[n % 10]} rules of country number {n * 7919 % 10007} in year {n * 31}" for n in range(count)
    }


def collection(folder: Path, queries: dict[str, str], sources: bool = True) -> Path:
    """Passage n answers query n; the passages 0 to 9, 10 to 19, … come from the same document."""
    folder.mkdir()
    passages = [
        {"_id": f"p{n}", "title": "", "text": f"text {n}"}
        | ({"metadata": {"source": f"{n // 10}.md"}} if sources else {})
        for n in range(len(queries))
    ]
    rows = [{"_id": name, "text": text} for name, text in queries.items()]
    for name, lines in (("corpus", passages), ("queries", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    half = len(queries) // 2
    graded = {name: {f"p{n}": 2, f"p{(n + 10) % len(queries)}": 0} for n, name in enumerate(queries)}
    names = list(queries)
    write_qrels(folder / "qrels" / "train.tsv", {name: graded[name] for name in names[:half]})
    write_qrels(folder / "qrels" / "test.tsv", {name: graded[name] for name in names[half:]})
    return folder


def splits_of(folder: Path) -> dict[str, str]:
    lines = (folder / "splits.tsv").read_text().splitlines()[1:]
    return {name: split for name, split, _ in (line.split("\t") for line in lines)}


def test_splits_have_their_shares_and_keep_every_pair(tmp_path: Path) -> None:
    data = collection(tmp_path / "data", questions(1000))
    made = labelkit.split(data, tmp_path / "out", labelkit.SplitOptions(train=0.7, dev=0.1, test=0.2))
    for name, share in (("train", 0.7), ("dev", 0.1), ("test", 0.2)):
        assert abs(made.queries[name] - 1000 * share) < 4 * math.sqrt(1000 * share * (1 - share))
    found = {name: read_data(tmp_path / "out", name).qrels for name in made.queries}
    assert {name: set(qrels) for name, qrels in found.items()} == {
        name: {query for query, split in splits_of(tmp_path / "out").items() if split == name} for name in found
    }
    whole = {name: graded for qrels in found.values() for name, graded in qrels.items()}
    assert whole == read_data(data, "train").qrels | read_data(data, "test").qrels
    assert (tmp_path / "out" / "corpus.jsonl").read_bytes() == (data / "corpus.jsonl").read_bytes()
    assert is_collection(tmp_path / "out")
    assert labelkit.verify(tmp_path / "out").kind == "split"


def test_added_queries_and_another_order_change_no_split(tmp_path: Path) -> None:
    queries = questions(300)
    labelkit.split(collection(tmp_path / "few", dict(list(queries.items())[:200])), tmp_path / "one")
    labelkit.split(collection(tmp_path / "many", queries), tmp_path / "two")
    labelkit.split(collection(tmp_path / "back", dict(reversed(queries.items()))), tmp_path / "three")
    one, two, three = (splits_of(tmp_path / name) for name in ("one", "two", "three"))
    assert {name: two[name] for name in one} == one
    assert two == three


def test_near_duplicates_are_in_one_split(tmp_path: Path) -> None:
    queries = questions(100)
    again = {f"again{n}": text.upper() + "?" for n, text in enumerate(queries.values())}
    near = {f"near{n}": f"the {text}" for n, text in enumerate(queries.values())}
    made = labelkit.split(collection(tmp_path / "data", queries | again | near), tmp_path / "out")
    found = splits_of(tmp_path / "out")
    assert made.groups == 100
    assert all(found[f"q{n}"] == found[f"again{n}"] == found[f"near{n}"] for n in range(100))
    assert set(found.values()) == {"train", "dev", "test"}


@pytest.mark.parametrize("sources", [True, False])
def test_queries_of_a_document_are_in_one_split(sources: bool, tmp_path: Path) -> None:
    data = collection(tmp_path / "data", questions(200), sources)
    qrels = {f"q{n}": {"p0": 1 if n in (41, 77) else 0} | {f"p{n}": 2} for n in range(200)}
    (data / "qrels" / "train.tsv").unlink()
    write_qrels(data / "qrels" / "test.tsv", qrels)
    made = labelkit.split(data, tmp_path / "out", labelkit.SplitOptions(by="document"))
    found = splits_of(tmp_path / "out")
    assert made.groups == (18 if sources else 198)
    assert found["q0"] == found["q41"] == found["q77"]
    if sources:
        assert all(found[f"q{n}"] == found[f"q{n // 10 * 10}"] for n in range(200))


def test_queries_without_grades_have_a_split_but_no_qrels(tmp_path: Path) -> None:
    data = collection(tmp_path / "data", questions(20))
    (data / "qrels" / "test.tsv").unlink()
    made = labelkit.split(data, tmp_path / "out", labelkit.SplitOptions(train=0.5, dev=0, test=0.5))
    assert made.without_grades == 10
    assert len(splits_of(tmp_path / "out")) == 20
    assert set(made.queries) == {"train", "test"}
    assert sorted(path.name for path in (tmp_path / "out" / "qrels").iterdir()) == ["test.tsv", "train.tsv"]


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    data = collection(tmp_path / "data", questions(20))
    with pytest.raises(UsageError, match=r"add up to 1\.2; choose shares that add up to 1"):
        labelkit.SplitOptions(dev=0.3)
    with pytest.raises(UnknownNameError, match="choose one of: document, query"):
        labelkit.SplitOptions(by="passage")
    with pytest.raises(UsageError, match="is read by this command"):
        labelkit.split(data, data)
    write_qrels(data / "qrels" / "dev.tsv", {"q1": {"p1": 3}})
    with pytest.raises(DataError, match=r"passage 'p1' has the grades 3 and 2; keep one of them"):
        labelkit.split(data, tmp_path / "out")
    write_qrels(data / "qrels" / "dev.tsv", {"q1": {"nothing": 3}, "q99": {"p1": 1}})
    with pytest.raises(DataError, match=r"passage id 'nothing' .* --skip-unknown leaves such pairs out"):
        labelkit.split(data, tmp_path / "out")
    made = labelkit.split(data, tmp_path / "out", labelkit.SplitOptions(skip_unknown=True))
    assert sum(made.pairs.values()) == 40


def test_the_command_prints_the_counts(labelkit: Any, tmp_path: Path) -> None:
    data = collection(tmp_path / "data", questions(50))
    done = labelkit("split", data, "--train", "0.6", "--dev", "0", "--test", "0.4", "-o", tmp_path / "out", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert set(found["queries"]) == {"train", "test"}
    assert sum(found["queries"].values()) == 50
    assert f"train {found['queries']['train']} queries" in done.err
