"""Several annotators: the division of the pairs, their notes, and the queue of their disagreements."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import pytest

from labelkit.errors import DataError, UsageError
from labelkit.exchange.exporting import export
from labelkit.exchange.options import ExportOptions
from labelkit.judging.reply_parser import CANNOT_TELL
from labelkit.quality.agree import agree
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.review.choosing import share_of
from labelkit.review.options import ReviewOptions
from labelkit.review.session import Reviewed, review
from labelkit.storage.dataset import records_to_table
from labelkit.storage.folders import read_table, writing
from labelkit.storage.labels import read_labels

TEAM = ("anna", "ben", "carl")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A judge's grades of 3 queries with 4 passages each, and their texts."""
    data = tmp_path / "data"
    data.mkdir()
    corpus = [{"_id": f"p{n}", "title": "", "text": f"passage {n}"} for n in range(4)]
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(3)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = Judge(judge_id="m", kind="llm", name="model")
    said = [Judgement(query_id=f"q{n // 4}", passage_id=f"p{n % 4}", judge_id="m", grade=n % 4) for n in range(12)]
    with writing(tmp_path / "labels", "labels", "test") as draft:
        draft.write_table("judgements", records_to_table(said, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([judge], JUDGE_SCHEMA))
    return tmp_path / "labels"


Answers = Callable[[str, str], dict[str, str] | None]
"""Function from the texts of a query and a passage to the answer to send; None sends none."""


@pytest.fixture
def annotate(labels: Path, tmp_path: Path) -> Callable[..., tuple[Reviewed, list[Any]]]:
    """Run a session whose annotator answers by a function; returns its counts and the screens as they came."""

    def run(name: str, answers: Answers, output: str = "", **options: Any) -> tuple[Reviewed, list[Any]]:
        screens: list[Any] = []

        def ask(url: str, body: Any = None) -> Any:
            content = None if body is None else json.dumps(body).encode()
            with urlopen(Request(url, content, {"Content-Type": "application/json"})) as answer:
                return json.load(answer)

        def answer_all(url: str) -> None:
            number, end = 0, 1
            while number < end:
                screens.append(screen := ask(f"{url}screen/{number}"))
                for place, pair in enumerate(screen["pairs"]):
                    if body := answers(screen["query"], pair["text"]):
                        ask(f"{url}pair/{screen['first'] + place}/grade", body)
                number, end = number + 1, screen["screens"]
            ask(f"{url}finish", {})

        def ready(url: str) -> None:
            Thread(target=answer_all, args=(url,), daemon=True).start()

        given = ReviewOptions(name=name, texts=tmp_path / "data", **options)
        return review(labels, tmp_path / (output or name), given, ready=ready), screens

    return run


def answers_in(folder: Path) -> dict[tuple[str, str], str]:
    judgements, _, _ = read_labels(folder)
    return {(row.query_id, row.passage_id): str(row.failure if row.grade is None else row.grade) for row in judgements}


@pytest.mark.parametrize("overlap", [0.0, 0.2, 1.0])
def test_a_part_of_the_pairs_is_for_all_and_the_rest_for_one_each(overlap):
    groups = [[(f"q{n}", "p")] for n in range(50)]
    shares = [share_of(name, groups, ReviewOptions(name=name, team=TEAM, overlap=overlap)) for name in TEAM]
    times = Counter(pair for share in shares for (pair,) in share)
    common = round(overlap * 50)
    assert Counter(times.values()) == Counter(
        {3: common, 1: 50 - common} if 0 < common < 50 else {3 if common else 1: 50}
    )
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    for share in shares:
        assert share == [group for group in groups if group in share]
    reordered = ReviewOptions(name="ben", team=TEAM[::-1], overlap=overlap)
    assert share_of("ben", groups, reordered) == shares[1]
    assert overlap == 1 or share_of("ben", groups, reordered.but(seed=1)) != shares[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"team": ("ben", "carl")}, "at least two different names, among them 'anna'"),
        ({"team": ("anna",)}, "at least two different names"),
        ({"team": ("anna", "anna")}, "at least two different names"),
        ({"overlap": 0.1}, "give each of them with --team"),
        ({"settle": ("x",), "pairs": 5}, "pairs does not apply to --settle"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        ReviewOptions(name="anna", **options)


def test_all_passages_of_a_query_are_shown_together_in_random_order(annotate, tmp_path):
    found, screens = annotate("anna", lambda query, text: {"grade": "1"}, unit="query", pairs=5)
    assert found == Reviewed(8, 0, 0)  # the second query is complete
    assert [len(screen["pairs"]) for screen in screens] == [4, 4]
    assert all({pair["text"] for pair in screen["pairs"]} == {f"passage {n}" for n in range(4)} for screen in screens)
    assert [pair["text"] for screen in screens for pair in screen["pairs"]] != [f"passage {n}" for n in range(4)] * 2
    assert len(answers_in(tmp_path / "anna")) == 8


def test_notes_and_cannot_tell_are_stored_and_are_no_labels(annotate, labels, tmp_path):
    def answer(query: str, text: str) -> dict[str, str] | None:
        if text == "passage 0":
            return {"grade": CANNOT_TELL, "note": " two readings\nof the query "}
        return None if text == "passage 1" else {"grade": text[-1], "note": "ünsure" if text == "passage 2" else ""}

    found, _ = annotate("anna", answer)
    assert found == Reviewed(6, 3, 3)
    judgements, _, manifest = read_labels(tmp_path / "anna")
    assert Counter(row.grade for row in judgements) == {None: 3, 2: 3, 3: 3}
    assert (manifest.facts.failures, manifest.facts.pending) == ({CANNOT_TELL: 3}, 3)
    notes = read_table(tmp_path / "anna", "notes").to_pylist()
    assert Counter((row["passage_id"], row["grade"], row["note"]) for row in notes) == {
        ("p0", CANNOT_TELL, "two readings\nof the query"): 3, ("p2", "2", "ünsure"): 3,
    }  # fmt: skip
    assert manifest.rows["notes"] == 6
    (comparison,) = agree([tmp_path / "anna", labels]).agreement.comparisons
    assert comparison.pairs == 6
    made = export(tmp_path / "anna", tmp_path / "out", ExportOptions(to="qrels"))
    assert made.rows["notes/notes.jsonl"] == 6
    exported = [json.loads(line) for line in (tmp_path / "out" / "notes" / "notes.jsonl").read_text().splitlines()]
    assert exported == notes
    again, screens = annotate("anna", lambda query, text: {"grade": "0"} if text == "passage 0" else None)
    assert again == Reviewed(9, 0, 3)
    assert {pair["note"] for screen in screens for pair in screen["answers"]} == {
        "", "ünsure", "two readings\nof the query",
    }  # fmt: skip
    assert read_labels(tmp_path / "anna")[2].rows["notes"] == 3


def test_disagreements_are_settled_and_the_other_grades_stay(annotate, tmp_path):
    anna = {"passage 0": "0", "passage 1": "1", "passage 2": "2", "passage 3": CANNOT_TELL}
    ben = {"passage 0": "0", "passage 1": "3", "passage 2": "3", "passage 3": "1"}
    annotate("anna", lambda query, text: {"grade": anna[text], "note": f"so says anna of {text}"})
    annotate("ben", lambda query, text: {"grade": ben[text]} if query != "query 2" else None)
    folders = (tmp_path / "anna", tmp_path / "ben")
    found, screens = annotate("anna", lambda query, text: {"grade": "2", "note": "agreed"}, "settled", settle=folders)
    assert found == Reviewed(6, 0, 0)
    assert [screen["pairs"][0]["text"] for screen in screens] == ["passage 1"] * 2 + ["passage 2"] * 2 + [
        "passage 3"
    ] * 2
    assert screens[0]["pairs"][0]["annotators"] == [
        {"name": "anna", "grade": "1", "note": "so says anna of passage 1"}, {"name": "ben", "grade": "3", "note": ""},
    ]  # fmt: skip
    judgements, judges, manifest = read_labels(tmp_path / "settled")
    assert {judge.name for judge in judges} == {"anna", "ben", "anna-settled"}
    graded = Counter((row.judge_id.split("-")[1:-1][-1], row.passage_id, row.grade) for row in judgements)
    assert graded == {
        ("anna", "p0", 0): 3, ("ben", "p0", 0): 2, ("anna", "p1", 1): 1, ("anna", "p2", 2): 1, ("anna", "p3", None): 1,
        ("settled", "p1", 2): 2, ("settled", "p2", 2): 2, ("settled", "p3", 2): 2,
    }  # fmt: skip
    assert manifest.facts.review is not None
    assert (manifest.facts.review.by, manifest.facts.review.pairs, manifest.facts.review.of) == ("settling", 6, 12)
    # Ben changes his mind: fewer pairs are disputed, and what was settled stays settled.
    annotate("ben", lambda query, text: {"grade": "1"} if text == "passage 1" and query == "query 0" else None)
    found, screens = annotate("anna", lambda query, text: None, "settled", settle=folders)
    assert (found, len(screens)) == (Reviewed(5, 0, 0), 5)
    assert len(read_labels(tmp_path / "settled")[0]) == 5 + 5 + 2 + 3


def test_only_folders_of_different_annotators_are_settled(annotate, labels, tmp_path):
    annotate("anna", lambda query, text: {"grade": "1"})
    with pytest.raises(UsageError, match="has grades by model, not from labelkit review"):
        annotate("carl", lambda query, text: None, settle=(labels, tmp_path / "anna"))
    with pytest.raises(DataError, match="have grades by anna; give one of them"):
        annotate("carl", lambda query, text: None, settle=(tmp_path / "anna", tmp_path / "anna"))
    found, screens = annotate("carl", lambda query, text: None, settle=(tmp_path / "anna",))
    assert (found, screens) == (Reviewed(0, 0, 0), [])
    assert answers_in(tmp_path / "carl") == answers_in(tmp_path / "anna")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"\xff", "is not UTF-8"), (b"x" * 1_000_001, "more than 1,000,000 bytes")],
)
def test_guidelines_that_cannot_be_read_are_refused(annotate, tmp_path, content, words):
    if content is not None:
        (tmp_path / "guide.md").write_bytes(content)
    with pytest.raises(DataError, match=words):
        annotate("anna", lambda query, text: None, guidelines=tmp_path / "guide.md")
