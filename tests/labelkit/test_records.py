"""The records hold what they promise, and their Arrow schemas hold the records."""

from typing import Any

import pytest
from pydantic import ValidationError

from labelkit import records
from labelkit.records import Judge, Judgement, Label, Passage

PAIR: dict[str, Any] = {"query_id": "q", "passage_id": "p", "judge_id": "j"}


@pytest.mark.parametrize("fields", [{}, {"grade": 2, "failure": "no label"}])
def test_a_judgement_has_a_grade_or_a_score_or_a_failure(fields):
    with pytest.raises(ValidationError, match="either a grade, or a score without a grade, or a failure"):
        Judgement(**PAIR, **fields)


def test_a_score_alone_is_an_answer():
    assert Judgement(**PAIR, score=-5.31).score_only
    assert not Judgement(**PAIR, score=2.0, grade=2).score_only
    assert not Judgement(**PAIR, score=2.0, failure="positive and negative of the same query").score_only


@pytest.mark.parametrize("grade", [-1, 4, 100])
def test_a_grade_lies_between_0_and_3(grade):
    with pytest.raises(ValidationError, match=r"outside 0\.\.3"):
        Judgement(**PAIR, grade=grade)


@pytest.mark.parametrize("grade", range(4))
def test_grades_and_failures_are_accepted(grade):
    assert Judgement(**PAIR, grade=grade).failure is None
    assert Judgement(**PAIR, failure="no label").grade is None


def test_records_are_frozen_and_closed():
    one = Passage(passage_id="p", title="", text="x")
    with pytest.raises(ValidationError):
        one.text = "y"
    with pytest.raises(ValidationError):
        Passage.model_validate({"passage_id": "p", "title": "", "text": "x", "colour": "red"})


@pytest.mark.parametrize(("title", "text", "full"), [("A", "b", "A b"), ("", "b", "b"), ("A", "", "A"), ("", "", "")])
def test_title_and_text_are_joined_by_one_space(title, text, full):
    assert Passage(passage_id="p", title=title, text=text).full_text == full


@pytest.mark.parametrize(
    ("record", "arrow"),
    [
        (records.Query, records.QUERY_SCHEMA),
        (records.Passage, records.PASSAGE_SCHEMA),
        (records.Candidate, records.CANDIDATE_SCHEMA),
        (records.Judge, records.JUDGE_SCHEMA),
        (records.Judgement, records.JUDGEMENT_SCHEMA),
    ],
)
def test_an_arrow_schema_has_the_fields_of_its_record(record, arrow):
    assert arrow.names == list(record.model_fields)


def test_the_columns_of_a_label_are_its_fields():
    assert [field for field, _ in records.LABEL_COLUMNS.values()] == list(Label.model_fields)
    assert len(records.EXAMPLE_SCHEMA) == 2 + 3 * len(Label.model_fields)


def test_a_judge_is_of_a_known_kind():
    with pytest.raises(ValidationError):
        Judge.model_validate({"judge_id": "j", "kind": "robot", "name": "r"})
