"""The vocabulary of CONTRIBUTING.md: documentation and code avoid the phrases of docs/words.txt."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
WORDS = REPOSITORY / "docs" / "words.txt"
ATTACK = ("labelkit/quality/redteam/attacks.py", "go on")
"""File and phrase of an attack on judges: another wording would be another attack."""
DOCUMENTS = ("*.md", "docs/*.md", "benchmarks/*.md", "examples/*/*.md", "data_cards/README.md")
"""The other files of data_cards/ were written by `labelkit publish`."""
CODE = ("labelkit", "trainer", "examples", "benchmarks", "docs/tools")
TEMPLATES = ("labelkit/shipped/*.jinja", "labelkit/shipped/*.html", "labelkit/shipped/*.toml", "trainer/shipped/*")
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
"""Blocks of code and output: their words come from the code."""


class Found(NamedTuple):
    place: str
    phrase: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.place}: {self.phrase!r}; write {self.wanted or 'another phrase'!r}"


def wanted_words() -> dict[str, str]:
    """Phrases to avoid and their replacements, in codespell's format: `phrase->replacement, other replacement,`."""
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    return {phrase: wanted.strip(", ") for phrase, _, wanted in (line.partition("->") for line in lines)}


WANTED = wanted_words()
PATTERN = re.compile(
    r"\b(" + "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in WANTED) + r")\b", re.IGNORECASE
)


def phrases(text: str, name: str, first_line: int = 1) -> Iterator[Found]:
    """The phrases of a text, with file and line."""
    for match in PATTERN.finditer(text):
        phrase = " ".join(match[1].lower().split())
        line = first_line + text.count("\n", 0, match.start())
        yield Found(f"{name}:{line}", phrase, WANTED[phrase])


def in_document(text: str, name: str) -> Iterator[Found]:
    """The phrases of a Markdown text outside its fenced blocks."""
    return phrases(FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text), name)


def in_strings(source: str, name: str) -> Iterator[Found]:
    """The phrases of all texts in Python code: docstrings, help and messages."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from phrases(node.value, name, node.lineno)


def files(*patterns: str) -> Iterator[tuple[str, str]]:
    """Name and text of the files of some patterns."""
    for path in sorted({path for pattern in patterns for path in REPOSITORY.glob(pattern)}):
        yield path.relative_to(REPOSITORY).as_posix(), path.read_text(encoding="utf-8")


def test_the_search_sees_case_line_breaks_and_fences():
    phrase, wanted = next((phrase, wanted) for phrase, wanted in WANTED.items() if " " in phrase)
    broken = phrase.capitalize().replace(" ", "\n", 1)
    assert list(in_document(f"one\n{broken} two", "page")) == [Found("page:2", phrase, wanted)]
    assert list(in_document(f"one\n```text\n{phrase}\n```\n", "page")) == []
    assert list(in_strings(f'def f():\n    """One {phrase}."""\n', "code")) == [Found("code:2", phrase, wanted)]


def test_phrases_are_sorted_and_need_no_regular_expression():
    assert list(WANTED) == sorted(WANTED)
    assert all(phrase == phrase.lower() and re.fullmatch(r"[\w -]+", phrase) for phrase in WANTED)


def test_the_documentation_avoids_the_phrases():
    found = [one for name, text in files(*DOCUMENTS) for one in in_document(text, name)]
    assert not found, "\n".join(map(str, found))


def test_the_code_avoids_the_phrases():
    found = [one for name, text in files(*(f"{folder}/**/*.py" for folder in CODE)) for one in in_strings(text, name)]
    found += [one for name, text in files(*TEMPLATES) for one in phrases(text, name)]
    found = [one for one in found if (one.place.partition(":")[0], one.phrase) != ATTACK]
    assert not found, "\n".join(map(str, found))
