"""Tables in a terminal: no number is broken, and nothing is wider than the terminal. Lines of numbers."""

import io
import re
from pathlib import Path

import pytest
from rich.table import Table

from labelkit.commands.dataset_tables import mix_lines
from labelkit.commands.terminal import Terminal

FIGURE = "0.512 [0.401, 0.623]"


def printed(table: Table, width: int) -> str:
    out = io.StringIO()
    Terminal(file=out, width=width).print(table)
    return out.getvalue()


def table_of(columns: int, first: str = "judge") -> Table:
    table = Table(first, *(f"figure {n}" for n in range(columns)), title="a title", caption="a caption")
    for row in range(2):
        table.add_row(f"model-{row}", *(f"{row}.{n}12 [0.401, 0.623]" for n in range(columns)))
    return table


@pytest.mark.parametrize("columns", [1, 2, 3, 8])
@pytest.mark.parametrize("width", [60, 80, 300])
def test_no_figure_is_broken_at_any_width(columns, width):
    text = printed(table_of(columns), width)
    assert max(map(len, text.splitlines())) <= width
    for row in range(2):
        for n in range(columns):
            assert f"{row}.{n}12 [0.401, 0.623]" in text
    assert ("┃" in text) == (11 + 23 * columns <= width)
    assert all(words in text for words in ("a title", "a caption", "model-1", "figure 0"))


def test_a_row_becomes_a_list_that_names_its_columns():
    text = printed(table_of(4), 80)
    assert "judge: model-1\n" in text
    assert re.search(r"figure 3 +1\.312 \[0\.401, 0\.623\]", text)


def test_a_long_text_is_wrapped_and_the_figures_beside_it_are_not():
    table = Table("finding", "items", "text")
    table.add_row("leaking", "1,234,567", "a text with many words " * 20)
    text = printed(table, 80)
    assert "┃" in text
    assert "1,234,567" in text
    assert max(map(len, text.splitlines())) <= 80


def test_texts_from_outside_are_plain_in_a_list_too():
    table = Table("judge", *"abcdef")
    table.add_row("[bold]x\x1b[31m[/bold]", *[FIGURE] * 6)
    assert "judge: [bold]x[31m[/bold]\n" in printed(table, 80)


def test_no_line_ends_inside_an_interval():
    out = io.StringIO()
    terminal = Terminal(file=out, width=60)
    terminal.print(f"alpha of all raters on {'many ' * 3}pairs of each query is {FIGURE}; the end of it")
    terminal.print("a text  with  two blanks and no figure that is longer than the sixty characters of a line")
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert f"{FIGURE}; the end of it" in lines
    assert lines[2].startswith("a text  with  two")


def test_commands_print_their_figures_whole_in_80_columns(labelkit, beir, pool, tmp_path, monkeypatch):
    labels = tmp_path / "labels"
    for method in ("graded", "binary"):
        command = ("annotate", pool, "-o", labels, "--engine", "scripted", "--model", "overlap", "--method", method)
        assert labelkit(*command, "--add-judge").code == 0
    human = beir / "qrels" / "test.tsv"
    agree = ("agree", labels, "--human", human, "--by", "length", "--data", beir)
    monkeypatch.setenv("COLUMNS", "300")
    wide = labelkit(*agree)
    monkeypatch.setenv("COLUMNS", "80")
    narrow = labelkit(*agree)
    assert (wide.code, narrow.code) == (0, 0), wide.err + narrow.err
    assert max(map(len, narrow.out.splitlines())) <= 80
    figures = re.findall(r"[-+]?\d\.\d{3} \[[^\]]+\]", wide.out)
    assert len(figures) > 20
    assert sorted(re.findall(r"[-+]?\d\.\d{3} \[[^\]]+\]", narrow.out)) == sorted(figures)


def test_the_numbers_of_a_mix_are_lines_for_people() -> None:
    totals = {
        "queries": 1_200,
        "queries_without_positives": 3,
        "positives": 5_600,
        "negatives": 7,
        "ignored": 0,
        "conflicts": 9,
        "conflicts_between": {"human/llm": 8, "llm": 1},
        "judged_by_both": 0,
        "failed_judgements": 2,
        "positives_per_query": {"human": 2.567, "llm": 2.1},
        "human_queries_set_aside": 0,
    }
    assert mix_lines(Path("made"), totals) == [
        "made: 1,200 queries, 5,600 positives, 7 negatives, 0 ignored",
        "positives per query: 2.57 human, 2.10 llm",
        "queries without positives: 3",
        "conflicts: 9 (8 human/llm, 1 llm)",
        "failed judgments: 2",
    ]
