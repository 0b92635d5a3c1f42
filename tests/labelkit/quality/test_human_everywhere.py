"""Every `--human` takes a labels folder, a qrels file, or an export of Argilla or Label Studio."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labelkit.corpora.qrels import read_qrels
from labelkit.storage.labels import read_labels

GRADES = {
    ("q1", "p1"): 3, ("q1", "p5"): 1, ("q1", "p2"): 0, ("q2", "p3"): 3, ("q2", "p4"): 0, ("q3", "p2"): 2,
}  # fmt: skip
Command = Callable[..., Any]


@pytest.fixture
def sources(labelkit: Command, tmp_path: Path) -> dict[str, Path]:
    """The same grades in every form."""
    qrels = tmp_path / "grades.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{p}\t{g}\n" for (q, p), g in GRADES.items()))
    folder = tmp_path / "anna"
    called = labelkit("import", qrels, "--judge", "anna", "--kind", "human", "-o", folder)
    assert called.code == 0, called.err
    records = [
        {
            "id": f"{q} {p}", "status": "completed", "metadata": {"query_id": q, "passage_id": p},
            "responses": {"grade": [{"value": str(g), "user_id": "a"}]},
        }
        for (q, p), g in GRADES.items()
    ]  # fmt: skip
    (tmp_path / "argilla.json").write_text(json.dumps(records))
    rows = [
        {"query_id": q, "passage_id": p, "grade": str(g), "annotator": 1, "annotation_id": number}
        for number, ((q, p), g) in enumerate(GRADES.items())
    ]
    (tmp_path / "ls-min.json").write_text(json.dumps(rows))
    return {
        "qrels": qrels,
        "labels": folder,
        "argilla": tmp_path / "argilla.json",
        "label-studio": tmp_path / "ls-min.json",
    }


COMMANDS: dict[str, Callable[[Path, Path, Path], list[Any]]] = {
    "pool": lambda beir, here, human: ["pool", beir, "--human", human, "--bm25", "0", "-o", here / "out"],
    "agree": lambda beir, here, human: ["agree", here / "labels", "--human", human, "--json"],
    "bias": lambda beir, here, human: ["bias", here / "labels", "--data", beir, "--human", human, "--json"],
    "select": lambda beir, here, human: [
        *("select", here / "labels", "--pool", here / "pool", "--budget", "2", "--human", human, "-o", here / "out")
    ],
    "report": lambda beir, here, human: ["report", here / "labels", "--human", human, "-o", here / "out.html"],
    "redteam": lambda beir, here, human: [
        *("redteam", beir, "--human", human, "--model", "overlap", "--engine", "scripted", "--prompt", "binary"),
        *("--attack", "authority", "--defence", "none", "-o", here / "out"),
    ],
    "mix": lambda beir, here, human: ["mix", "--data", beir, "--human", human, "-o", here / "out", "--json"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_every_form(
    labelkit: Command, beir: Path, pool: Path, tmp_path: Path, sources: Any, name: str
) -> None:
    called = labelkit("annotate", pool, "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
    assert called.code == 0, called.err
    results = {}
    for form, human in sources.items():
        called = labelkit(*COMMANDS[name](beir, tmp_path, human))
        assert called.code == 0, f"{form}: {called.err}"
        if name == "agree":
            read = json.loads(called.out)["comparisons"][0]
            results[form] = (read["reference_kind"], read["pairs"], read["figures"])
        elif name in ("mix", "bias"):
            results[form] = json.loads(called.out)
        elif name in ("pool", "select"):
            results[form] = called.err
        if (tmp_path / "out").exists():
            (tmp_path / "out").rename(tmp_path / f"{form}-out")
    assert all(result == results["qrels"] for result in results.values())


def test_a_folder_without_people_is_refused_with_the_cure(
    labelkit: Command, beir: Path, pool: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    assert labelkit("annotate", pool, "-o", labels, "--engine", "scripted", "--model", "overlap").code == 0
    for arguments in (["mix", "--data", beir, "-o", tmp_path / "d"], ["agree", labels]):
        called = labelkit(*arguments, "--human", labels)
        assert called.code == 2
        assert (
            "labels has no human grades, its judges are: overlap; if a person graded them, import them again"
            in called.err
        )


def test_only_what_is_missing_does_not_exist(labelkit: Command, beir: Path, tmp_path: Path) -> None:
    called = labelkit("mix", "--data", beir, "--human", beir / "qrels", "-o", tmp_path / "d")
    assert called.code == 1
    assert (
        f"{beir / 'qrels'} is a folder, but a file is needed here ({beir / 'qrels'} contains test.tsv); give a"
        in called.err
    )
    called = labelkit("mix", "--data", beir, "--human", beir / "qrels" / "tset.tsv", "-o", tmp_path / "d")
    assert "tset.tsv does not exist; beside it lies test.tsv" in called.err
    (tmp_path / "empty").mkdir()
    cases = {
        beir / "qrels" / "test.tsv": "test.tsv is a file, but a folder of labelkit is needed here",
        tmp_path / "empty": "empty is empty, but a folder of labelkit is needed here",
        tmp_path / "biir": "biir does not exist, but a folder of labelkit is needed here; beside it lies beir",
    }
    for path, message in cases.items():
        called = labelkit("agree", path, "--human", beir / "qrels" / "test.tsv")
        assert called.code == 1
        assert message in called.err


def test_the_grades_of_labels_are_exported_as_qrels(
    labelkit: Command, pool: Path, tmp_path: Path, sources: Any
) -> None:
    called = labelkit("export", sources["labels"], "--to", "qrels", "-o", tmp_path / "out")
    assert called.code == 0, called.err
    ((judge,)) = read_labels(sources["labels"])[1]
    qrels = read_qrels(tmp_path / "out" / f"{judge.judge_id}.tsv")
    assert {(q, p): grade for q, graded in qrels.items() for p, grade in graded.items()} == GRADES
    assert labelkit("verify", tmp_path / "out").code == 0
    called = labelkit("export", sources["labels"], "--to", "beir", "-o", tmp_path / "beir-out")
    assert called.code != 0


def test_unknown_ids_name_their_line_or_are_skipped(labelkit: Command, beir: Path, tmp_path: Path) -> None:
    qrels = beir / "qrels" / "test.tsv"
    with qrels.open("a") as file:
        file.write("q1\tp9\t2\n")
    commands = {
        "pool": ["pool", beir, "--human", qrels, "-o", tmp_path / "pool"],
        "pool of a split": ["pool", beir, "--split", "test", "-o", tmp_path / "split"],
        "mix": ["mix", "--data", beir, "--human", qrels, "-o", tmp_path / "dataset"],
    }
    for name, arguments in commands.items():
        called = labelkit(*arguments)
        assert called.code == 1, name
        assert f"{qrels}:9: " in called.err, name
        assert "'p9'" in called.err
        assert "--skip-unknown leaves such pairs out" in called.err
        called = labelkit(*arguments, "--skip-unknown")
        assert called.code == 0, called.err
        assert "are left out" in called.err, name
