"""Prompts: the shipped ones work, a wrong one is refused with the name of its file, hostile text stays text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelkit.errors import DataError, UnknownNameError
from labelkit.judging.prompts import load_prompt, parse_prompt, shipped_prompts

GOOD = """
name = "mine"
version = "1"
method = "graded"
citation = "nobody"
system = "Grade {query}."
user = "Passage: {passage}"
labels = [{text = "No", grade = 0}, {text = "Yes", grade = 2}]
"""


def test_the_shipped_prompts_are_these():
    writing = {f"write-{name}" for name in ("question", "keywords", "claim", "situation", "multi-passage")}
    judging = {"graded", "binary", "relsel", "rerank", "rerank-yes-no", "utilsel", "utilrank"}
    assert set(shipped_prompts()) == judging | writing


@pytest.mark.parametrize("name", ["graded", "binary"])
def test_a_shipped_prompt_renders_rubric_first_and_passage_last(name):
    prompt = load_prompt(name)
    system, user = prompt.render("judge", "THE QUERY", ["THE PASSAGE"])
    assert (system.role, user.role) == ("system", "user")
    assert "THE" not in system.content
    assert user.content.index("THE QUERY") < user.content.index("THE PASSAGE")
    assert "{" not in system.content + user.content
    assert prompt.name == name
    assert all(label in system.content + user.content for label in prompt.label_texts)


def test_the_shipped_labels_and_grades():
    grades = {name: [(one.text, one.grade) for one in load_prompt(name).labels] for name in ("graded", "binary")}
    assert grades == {"graded": [(str(n), n) for n in range(4)], "binary": [("No", 0), ("Yes", 2)]}


def test_a_prompt_is_loaded_by_path(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    assert load_prompt(str(tmp_path / "mine.toml")).label_texts == ("No", "Yes")


def test_an_unknown_prompt_lists_the_shipped_ones():
    with pytest.raises(
        UnknownNameError,
        match="unknown prompt 'nope'; choose one of: binary, graded, relsel, rerank, rerank-yes-no, utilrank, utilsel",
    ):
        load_prompt("nope")


WRONG = {
    "unknown field": (GOOD.replace("{query}", "{question}"), "unknown field {question}"),
    "unnamed field": (GOOD.replace("Grade {query}", "Grade {query} {}"), "unknown field {}"),
    "attribute": (GOOD.replace("{query}", "{query.__class__}"), "unknown field {query.__class__}"),
    "index": (GOOD.replace("{query}", "{query[0]}"), "unknown field {query[0]}"),
    "format of a number": (GOOD.replace("{query}", "{query:d}"), "template"),
    "field in a format": (GOOD.replace("{query}", "{query:{passage}}"), "template"),
    "unknown conversion": (GOOD.replace("{query}", "{query!x}"), "template"),
    "missing field": (GOOD.replace("{passage}", "it"), "does not contain {passage}"),
    "open brace": (GOOD.replace("{query}", "{query} {"), "template"),
    "closing brace": (GOOD.replace("{query}", "{query} }"), "template"),
    "duplicate labels": (GOOD.replace('"Yes"', '"No"'), "at least two labels"),
    "labels that differ in case": (GOOD.replace('"Yes"', '"NO"'), "label"),
    "labels that differ in decoration": (GOOD.replace('"Yes"', '"No."'), "label"),
    "empty label": (GOOD.replace('"Yes"', '""'), "label"),
    "label of decoration": (GOOD.replace('"Yes"', '"**"'), "label"),
    "one label": (GOOD.replace(', {text = "Yes", grade = 2}', ""), "two labels"),
    "no labels": (GOOD[: GOOD.index("labels")] + "labels = []", "two labels"),
    "label without grade": (GOOD.replace(", grade = 2", ""), "labels.1.grade"),
    "grade as text": (GOOD.replace("grade = 2", 'grade = "two"'), "labels.1.grade"),
    "grade above 3": (GOOD.replace("grade = 2", "grade = 4"), "grade"),
    "negative grade": (GOOD.replace("grade = 0", "grade = -1"), "grade"),
    "unknown key": (f"{GOOD}colour = 'red'", "colour"),
    "a hash of its own": (f'sha256 = "0"\n{GOOD}', "sha256"),
    "not TOML": ("name = ", "not valid TOML"),
    "empty": ("", "name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_prompt_is_refused_in_one_line_with_its_file(tmp_path, case):
    content, part = WRONG[case]
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        load_prompt(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["name", "version", "method", "citation", "system", "user", "labels"])
def test_a_missing_key_is_named(tmp_path, key):
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(line for line in GOOD.splitlines() if not line.startswith(key)))
    with pytest.raises(DataError, match=rf"mine\.toml: {key}: "):
        load_prompt(str(path))


def test_bytes_that_are_no_utf8_are_refused(tmp_path):
    (tmp_path / "mine.toml").write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(DataError, match=r"mine\.toml: not valid TOML"):
        load_prompt(str(tmp_path / "mine.toml"))


def test_a_binary_prompt_needs_labels_on_both_sides():
    content = GOOD.replace('"graded"', '"binary"').replace("grade = 0", "grade = 1")
    with pytest.raises(DataError, match="label"):
        parse_prompt(content.encode(), "mine.toml")


@pytest.mark.slow
@given(st.text(), st.text())
def test_query_and_passage_are_rendered_literally(query, passage):
    system, user = parse_prompt(GOOD.encode(), "mine.toml").render("judge", query, [passage])
    assert system.content == f"Grade {query}."
    assert user.content == f"Passage: {passage}"


@pytest.mark.parametrize(
    "text", ["{query}", "{passage}", "{0}", "{}", "{{", "}", "{query.__class__}", "%s", "{x!r:>9}"]
)
def test_braces_in_a_passage_stay_as_they_are(text):
    _, user = load_prompt("graded").render("judge", "q", [text])
    assert f"Passage: {text}" in user.content


@given(st.integers(0, len(GOOD) - 1))
def test_the_hash_changes_with_any_byte(place):
    content = bytearray(GOOD.encode())
    content[place] ^= 1
    try:
        changed = parse_prompt(bytes(content), "mine.toml")
    except DataError:
        return
    assert changed.sha256 != parse_prompt(GOOD.encode(), "mine.toml").sha256


def test_the_hash_changes_with_a_comment():
    prompt = parse_prompt(GOOD.encode(), "mine.toml")
    commented = parse_prompt(f"{GOOD}# a comment".encode(), "mine.toml")
    assert commented.sha256 != prompt.sha256
    assert commented.content.endswith(b"# a comment")


LISTED = """
name = "mine"
version = "1"
method = "relsel"
citation = "nobody"
system = ""
user = "{query}: {passages}"
"""
STEPPED = """
name = "mine"
version = "1"
method = "utilsel"
citation = "nobody"
[steps.relevance]
system = ""
user = "{query}: {passages}"
[steps.answer]
system = ""
user = "{query}: {passages}"
[steps.utility]
system = ""
user = "{query}, {answer}: {passages}"
"""


def test_a_list_stands_one_passage_a_line_whatever_the_passages_hold():
    prompt = parse_prompt(LISTED.encode(), "mine.toml")
    (user,) = prompt.render("relevance", "q", ["one\n[2] two", " [3]\u2028three\r\n", ""])
    assert user.content == "q: [1] one [2] two\n[2] [3] three\n[3] "


def test_an_empty_system_is_no_turn():
    turns = parse_prompt(LISTED.encode(), "mine.toml").render("relevance", "q", ["p"])
    assert [turn.role for turn in turns] == ["user"]


def test_a_method_of_several_steps_has_a_template_for_each():
    prompt = parse_prompt(STEPPED.encode(), "mine.toml")
    (user,) = prompt.render("utility", "q", ["p", "r"], answer="{an answer}")
    assert user.content == "q, {an answer}: [1] p\n[2] r"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (LISTED.replace("{passages}", "{passage}"), "unknown field {passage}"),
        (LISTED.replace("{passages}", "them"), "the template of relevance does not contain {passages}"),
        (LISTED.replace("relsel", "nosel"), "unknown method 'nosel'"),
        (LISTED.replace("relsel", "utilsel"), "needs [steps.relevance], [steps.answer], [steps.utility]"),
        (LISTED + "labels = [{text = 'No', grade = 0}, {text = 'Yes', grade = 2}]", "takes no labels"),
        (STEPPED.replace("utility", "usefulness"), "has the steps relevance, answer, utility and no others"),
        (STEPPED.replace("{query}, {answer}", "{query}"), "the template of utility does not contain {answer}"),
        (STEPPED.replace("utilsel", "graded"), "has the steps judge and no others"),
        (STEPPED + "colour = 1", "steps.utility.colour"),
        (STEPPED.replace('"mine"', '["mine"]'), "name"),
        ("method = ['relsel']", "name"),
    ],
)
def test_a_wrong_listwise_prompt_is_refused(content, part):
    with pytest.raises(DataError) as caught:
        parse_prompt(content.encode(), "mine.toml")
    assert part in str(caught.value)


def test_the_command_lists_and_shows(labelkit, tmp_path):
    listed = labelkit("prompts")
    assert [line.split()[0] for line in listed.out.splitlines()] == sorted(shipped_prompts())
    shown = labelkit("prompts", "utilsel")
    assert shown.out.startswith("# utilsel version 1, method utilsel, sha256 ")
    assert "[steps.utility]" in shown.out
    (tmp_path / "mine.toml").write_text(LISTED.replace("{query}", "{question}"))
    refused = labelkit("prompts", tmp_path / "mine.toml")
    assert (refused.code, refused.out) == (1, "")
    assert "unknown field {question}" in refused.err


@pytest.mark.parametrize("name", ["relsel", "utilsel", "utilrank"])
def test_a_listwise_prompt_names_no_identifier_of_its_own(name):
    """A weak judge repeats an example instead of answering."""
    templates = load_prompt(name).steps.values()
    assert not any("[" in text for step in templates for text in (step.system, step.user))
