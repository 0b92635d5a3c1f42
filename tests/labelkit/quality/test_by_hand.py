"""Without human grades, the commands that need them give the line that lets people grade pairs; the line works."""

import re
import shlex

import pytest


@pytest.fixture
def labels(labelkit, pool, tmp_path):
    folder = tmp_path / "my labels"
    command = ("annotate", pool, "-o", folder, "--engine", "scripted", "--model", "overlap", "--method", "graded")
    assert labelkit(*command).code == 0
    return folder


def line_in(text: str) -> list[str]:
    found = re.search(r"labelkit review .*? --pairs 50", text)
    assert found, text
    return shlex.split(found[0])


def test_agree_and_calibrate_point_to_review(labelkit, labels, pool, tmp_path):
    wanted = ["labelkit", "review", str(labels), "-o", "my-grades", "--name", "me", "--pairs", "50"]
    for command in (("agree", labels), ("calibrate", labels, "-o", tmp_path / "calibration.json")):
        called = labelkit(*command)
        assert called.code == 2
        assert line_in(called.err) == wanted
        assert "--human my-grades" in called.err
    second = ("annotate", pool, "-o", labels, "--engine", "scripted", "--model", "overlap", "--method", "binary")
    assert labelkit(*second, "--add-judge").code == 0
    called = labelkit("agree", labels)
    assert called.code == 0
    assert line_in(called.err) == wanted


def test_with_human_grades_nobody_is_pointed_to_review(labelkit, labels, beir):
    called = labelkit("agree", labels, "--human", beir / "qrels" / "test.tsv")
    assert called.code == 0
    assert "labelkit review" not in called.err + called.out


def test_the_report_points_to_review(labelkit, labels, tmp_path):
    assert labelkit("report", labels, "-o", tmp_path / "report.html").code == 0
    text = (tmp_path / "report.html").read_text().replace("&#39;", "'")
    assert line_in(text)[2] == str(labels)
    assert "--human my-grades" in text


def test_the_line_is_a_command_of_review(labelkit, labels):
    command = line_in(labelkit("agree", labels).err)
    called = labelkit(*command[1:], "--port", "70000")
    assert called.code == 2
    assert "--port" in called.err
