"""The real model writes queries that a person could have typed, and judges them.

Run with LABELKIT_JUDGE pointing to the folder of an instruct model of one or two billion parameters.
"""

import json
import os

import pytest

JUDGE = os.environ.get("LABELKIT_JUDGE")
pytestmark = [
    pytest.mark.judge,
    pytest.mark.skipif(JUDGE is None, reason="LABELKIT_JUDGE does not point to the folder of a judge model"),
]


def test_a_real_model_writes_and_judges_queries_for_five_passages(labelkit, corpus, tmp_path):
    made = labelkit(
        *("queries", corpus, "-o", tmp_path / "made", "--engine", "local", "--model", JUDGE, "--passages", 5),
        *("--registers", "question,keywords,claim,situation,multi-passage", "--json"),
    )
    assert made.code == 0, made.err
    counts = json.loads(made.out)
    assert counts["written"] == dict.fromkeys(["question", "keywords", "claim", "situation", "multi-passage"], 1)
    lines = [line for name in ("queries", "dropped") for line in (tmp_path / "made" / f"{name}.jsonl").open()]
    rows = {
        row["metadata"]["register"] if "metadata" in row else row["register"]: row for row in map(json.loads, lines)
    }
    assert len(rows) == 5
    question, words = rows["question"]["text"], rows["keywords"]["text"]
    assert question.endswith("?")
    assert 3 <= len(question.split()) <= 40
    assert len(words.split()) <= 12
    assert not any(reason.startswith("not written") for reasons in counts["dropped"].values() for reason in reasons)
