"""An answer of a person counts if the person submitted it, and the newest of several counts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelkit.corpora.answers import read_argilla, read_label_studio, tool_of
from labelkit.corpora.human import human_grades, human_qrels
from labelkit.errors import DataError

IDS = {"query_id": "q", "passage_id": "p"}
ANNA, BEN = "11111111-aaaa-4aaa-8aaa-111111111111", "22222222-bbbb-4bbb-8bbb-222222222222"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def read(path: Path, reader: Any) -> dict[str, int]:
    """Person -> grade, for one pair."""
    judgements, judges = reader(path, "team")
    names = {judge.judge_id: judge.name.removeprefix("team: ") for judge in judges}
    assert {judge.kind for judge in judges} == {"human"}
    return {names[row.judge_id]: row.grade for row in judgements}


def flat(*answers: tuple[str, str | None, str]) -> dict[str, Any]:
    """A record of `records.to_list(flatten=True)` and `to_datasets` of argilla 2.8: (person, value, status)."""
    people, values, statuses = (list(column) for column in zip(*answers, strict=True))
    return {
        "id": "1", "status": "pending", "_server_id": "s", "query": "x", "passage": "y", **IDS,
        "grade.responses": values, "grade.responses.users": people, "grade.responses.status": statuses,
    }  # fmt: skip


def test_drafts_and_discarded_answers_of_argilla_are_no_labels(tmp_path, caplog):
    record = flat((ANNA, "3", "submitted"), (BEN, "0", "draft"), ("c", None, "discarded"))
    path = write(tmp_path / "flat.json", [record])
    assert read(path, read_argilla) == {ANNA: 3}
    assert [record.message for record in caplog.records] == [
        f"{path}: 1 answers are left out: discarded by their annotators",
        f"{path}: 1 answers are left out: drafts, which their annotators have not submitted",
    ]
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "flat.parquet")
    assert read(tmp_path / "flat.parquet", read_argilla) == {ANNA: 3}


def test_the_nested_form_of_argilla_has_no_status_so_only_completed_records_count(tmp_path, caplog):
    """`records.to_json` of argilla 2.8 writes value and user_id of an answer and the status of the record."""

    def record(status: str, value: str, name: str) -> dict[str, Any]:
        answers = {"grade": [{"value": value, "user_id": ANNA}]}
        return {
            "id": name,
            "fields": {},
            "metadata": {**IDS, "passage_id": name},
            "responses": answers,
            "status": status,
        }

    path = write(tmp_path / "records.json", [record("completed", "2", "p"), record("pending", "0", "r")])
    judgements, _ = read_argilla(path, "team")
    assert {row.passage_id: row.grade for row in judgements} == {"p": 2}
    assert "1 answers are left out: possibly drafts" in caplog.records[-1].message
    assert "records.to_list(flatten=True)" in caplog.records[-1].message


def test_the_newest_answer_of_a_person_counts_by_time(tmp_path):
    """The API of Argilla's server lists responses in any order, each with its time."""

    def response(value: str, time: str, status: str = "submitted") -> dict[str, Any]:
        return {"values": {"grade": {"value": value}}, "user_id": ANNA, "status": status, "updated_at": time}

    rows = [
        {
            "metadata": IDS,
            "responses": [response("3", "2026-03-02T10:00:00+02:00"), response("1", "2026-03-02T09:00:00")],
        }
    ]
    assert read(write(tmp_path / "a.json", rows), read_argilla) == {ANNA: 1}, "9:00 UTC is later than 10:00 at +2"
    later = [{"metadata": IDS, "responses": [response("2", "2026-03-03T00:00:00Z", "discarded")]}]
    with pytest.raises(DataError, match="has no answers"):
        read(write(tmp_path / "b.json", rows + later), read_argilla)


def annotation(who: object, grade: str | None, time: str | None = None, **more: object) -> dict[str, Any]:
    result = [{"from_name": "grade", "value": {"choices": [grade]}}] if grade else []
    return {"completed_by": who, "result": result, **({"updated_at": time} if time else {}), **more}


def test_skipped_tasks_of_label_studio_are_no_labels_and_the_newest_annotation_counts(tmp_path, caplog):
    tasks = [
        {
            "data": IDS,
            "annotations": [
                annotation(7, "1", "2026-03-02T10:00:00.5Z"),
                annotation(7, "3", "2026-03-01T10:00:00.5Z"),
                annotation(8, "2", "2026-03-01T00:00:00Z"),
                annotation(8, None, "2026-03-02T00:00:00Z", was_cancelled=True),
            ],
        },
        {"data": IDS, "annotations": [annotation({"id": 9, "email": "c@x"}, "0")]},
    ]
    path = write(tmp_path / "tasks.json", tasks)
    assert read(path, read_label_studio) == {"7": 1, "c@x": 0}
    assert caplog.records[-1].message == f"{path}: 1 answers are left out: skipped by their annotators"


def test_json_min_of_label_studio_is_read(tmp_path):
    """JSON-MIN has a row per annotation, with the choice under the name of its control (label-studio-sdk 2.1.2)."""
    common = {**IDS, "query": "x", "passage": "y", "lead_time": 2.5, "created_at": "2026-03-01T00:00:00Z"}
    rows = [
        {**common, "id": 1, "grade": "1", "annotator": 4, "annotation_id": 1, "updated_at": "2026-03-02T00:00:00Z"},
        {**common, "id": 1, "grade": "3", "annotator": 4, "annotation_id": 2, "updated_at": "2026-03-01T00:00:00Z"},
        {**common, "id": 1, "grade": "2", "annotator": 5, "annotation_id": 3, "updated_at": "2026-03-01T00:00:00Z"},
        {**common, "id": 2, "annotator": 5, "annotation_id": 4, "updated_at": "2026-03-01T00:00:00Z"},
    ]
    path = write(tmp_path / "project-1.json", rows)
    assert tool_of(path) == "label-studio"
    assert read(path, read_label_studio) == {"4": 1, "5": 2}
    assert human_qrels(path) == {"q": {"p": 1}}, "the lower one of two grades"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"metadata": IDS, "responses": {"grade": "3"}}, "record|row 1: expected a list of objects, found '3'"),
        ({"metadata": IDS, "responses": [{"values": {"grade": 3}}]}, "expected a list of objects"),
        ({**IDS, "grade.responses": ["1"], "grade.responses.users": "a"}, "expected a list, found 'a'"),
        ({"metadata": IDS, "responses": [{"values": {}, "updated_at": "soon"}]}, "'soon' is not a time in ISO 8601"),
        ({"metadata": IDS, "responses": {"grade": [{"value": "7"}]}, "status": "completed"}, "the answer '7' is not a"),
    ],
)
def test_hostile_records_are_one_line(tmp_path, record, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "r.json", [record]), read_argilla)


def test_a_table_of_qrels_is_not_taken_for_answers(tmp_path):
    path = tmp_path / "qrels.jsonl"
    path.write_text('{"query-id": "q", "corpus-id": "p", "score": 2}\n')
    assert tool_of(path) is None
    ((row,), (judge,)) = human_grades(path)
    assert (row.grade, judge.kind, judge.name) == (2, "human", "qrels")
    with pytest.raises(DataError, match=r"qrels\.json does not exist; beside it lies qrels\.jsonl; give"):
        human_grades(tmp_path / "qrels.json")


def test_a_folder_of_qrels_names_its_files(tmp_path):
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "anna.tsv").write_text("q\tp\t2\n")
    with pytest.raises(DataError, match=r"a file is needed here \(.*q contains anna\.tsv\); give a labels folder"):
        human_grades(tmp_path / "q")
