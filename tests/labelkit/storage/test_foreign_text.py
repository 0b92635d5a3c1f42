"""Texts from outside in Markdown, in YAML and on a terminal: shown as they are, whatever they hold."""

import json
import unicodedata

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from labelkit.storage.foreign_text import (
    Markdown,
    escaped_controls,
    markdown,
    markdown_code,
    markdown_fenced,
    markdown_indented,
    markdown_paragraphs,
    quoted,
    without_controls,
)

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PIECES = [
    "a",
    "1",
    " ",
    "\n",
    "\r",
    "\t",
    *"`*_[]()<>&|$#~!\\-+=.:;\"'/",
    "&lt;",
    "```",
    "](x)",
    "]: x",
    "\x1b",
    "\u202e",
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.characters(codec="utf-8")), max_size=20).map("".join)


def words(text: str) -> str:
    return " ".join(without_controls(text).split())


def kinds_and_text(source: str) -> tuple[set[str], str]:
    """The kinds of tokens in a Markdown document, and its text."""
    tokens = [child for token in READER.parse(source) for child in (token, *(token.children or ()))]
    text = "".join(token.content for token in tokens if token.type in ("text", "code_inline", "text_special"))
    return {token.type for token in tokens}, text


PLAIN = {"inline", "paragraph_open", "paragraph_close", "text", "text_special", "code_inline"}
LISTED = PLAIN | {"bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"}
TABLED = PLAIN | {
    f"{part}_{end}" for part in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")
}


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_a_text_in_a_line_an_item_or_a_cell_is_itself(text):
    for show in (markdown, markdown_code):
        found, said = kinds_and_text(f"x {show(text)}")
        assert (found <= PLAIN, words(said)) == (True, words(f"x {text}"))
        found, said = kinds_and_text(f"- {show(text)}\n- y")
        assert (found <= LISTED, words(said)) == (True, words(f"{words(text)}y"))
        found, said = kinds_and_text(f"| a | b |\n|---|---|\n| {show(text)} | c |")
        assert (found <= TABLED, words(said)) == (True, words(f"ab{words(text)}c"))
        assert READER.render(f"| a | b |\n|---|---|\n| {show(text)} | c |").count("<td>") == 2


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("```\x1f```")  # longer without its control character
@example("\xa0")  # no blank line in Markdown
def test_a_text_in_a_block_of_code_is_itself(text):
    for block, kind in ((markdown_indented(text), "code_block"), (markdown_fenced(text, "json"), "fence")):
        tokens = READER.parse(f"x\n\n{block}\n\ny")
        empty = kind == "code_block" and not without_controls(text).strip(" \t\r\n")
        expected = ["paragraph_open", "inline", "paragraph_close", *([] if empty else [kind])]
        assert [token.type for token in tokens] == [*expected, *expected[:3]]


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_a_quoted_text_is_the_same_in_yaml(text):
    expected = without_controls(text)
    assert yaml.safe_load(f"a: {quoted(text)}\nb: 1") == {"a": expected, "b": 1}
    assert yaml.safe_load(f"- {quoted(text)}") == [expected]


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_a_document_without_controls_has_the_same_value(text):
    document = escaped_controls(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(document) == {"a": text}
    assert without_controls(document) == document


def test_paragraphs_stay_paragraphs():
    assert markdown_paragraphs("one\ntwo\n\n<b>\n \n1. three") == "one two\n\n&lt;b&gt;\n\n1\\. three"


def test_markdown_of_ours_is_left_alone():
    assert markdown(Markdown("**0.5** [0.4, 0.6]")) == "**0.5** [0.4, 0.6]"


@pytest.mark.parametrize("text", ["0.5 [0.4, 0.6], p", "cc-by-4.0", "1.5", "C++", "a-b", "2024 (new)"])
def test_an_ordinary_text_is_not_disfigured(text):
    assert markdown(text) == text


def test_every_control_character_goes_but_newline_and_tab():
    everything = "".join(map(chr, range(0x3000)))
    kept = without_controls(everything)
    controls = {c for c in everything if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    bidi = {c for c in everything if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF")}
    isolates = {c for c in everything if unicodedata.bidirectional(c) in ("LRI", "RLI", "FSI", "PDI")}
    assert set(everything) - set(kept) == controls | bidi | isolates
