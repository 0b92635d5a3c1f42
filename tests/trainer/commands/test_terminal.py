"""Names and texts from outside in the tables of `trainer`: shown, and never obeyed by a terminal."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from trainer.commands.app import main

SHOWN = "[link=file:///etc]x[/y]"
EVIL = f"\x1b]0;pwned\x07\x1b[2J\x9b31m\x7f\u202e{SHOWN}"
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Without the carriage return, by which the line of progress is drawn over itself."""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["trainer", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "400")
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_names_of_models_and_data_are_harmless(monkeypatch, capsys, tiny_model, beir, tmp_path):
    evil = EVIL.replace("/", "")
    data, model = tmp_path / f"data {evil}", tmp_path / f"model {evil}"
    shutil.copytree(beir, data)
    shutil.copytree(tiny_model, model)
    assert call(monkeypatch, "eval", model, data, "--compare", tiny_model) == 0
    said = capsys.readouterr()
    assert CONTROLS.findall(said.out + said.err) == []
    assert said.out.count(SHOWN.replace("/", "")) >= 3
    assert call(monkeypatch, "eval", model, data, "--json") == 0
    document = capsys.readouterr().out
    assert CONTROLS.findall(document) == []
    assert json.loads(document)["models"] == [str(model)]


def test_doubted_labels_and_errors_are_harmless(monkeypatch, capsys, tiny_model, write_dataset, tmp_path):
    from labelkit.records import Example, Label, Passage

    def label(passage_id: str, grade: int) -> Label:
        return Label(passage_id=passage_id, grade=grade, source="llm", judge_id="judge")

    passages = [Passage(passage_id=f"p{n}", title=EVIL, text=f"word{n} {EVIL}") for n in range(12)]
    examples = [
        Example(
            query_id=f"q{n}",
            query=f"word{n} {EVIL}",
            positives=(label(f"p{n}", 3),),
            negatives=(label(f"p{n + 1}", 0),),
            ignored=(),
        )
        for n in range(8)
    ]
    dataset = write_dataset(examples, passages)
    fit = ("suspects", dataset, "-o", tmp_path / "out", "--model", tiny_model, "--objective", "lsepair", "--folds", 2)
    assert call(monkeypatch, *fit, "--max-steps", 2) == 0
    said = capsys.readouterr()
    assert CONTROLS.findall(said.out + said.err) == []
    assert SHOWN in said.out
    for arguments in (("eval", EVIL, tmp_path / "none"), ("fit", Path(EVIL), "-o", tmp_path / "m"), (EVIL,)):
        assert call(monkeypatch, *arguments) in (1, 2)
        error = capsys.readouterr().err
        assert error
        assert CONTROLS.findall(error) == []
