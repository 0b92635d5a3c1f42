"""Load, check and render prompts: one TOML file each, from `labelkit/shipped/prompts/` or from the user.

A prompt has a method, the templates of the method's steps, the labels of a pointwise method with their grades, or the
name of a scale that has them, and a citation. The prompt of a reranker that scores pairs has the templates `query` and
`document` and no labels. The hash of the file is part of every judgement's provenance: changing one byte makes another
prompt.
"""

import hashlib
import string
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from labelkit.corpora.scales import read_scale
from labelkit.engines import PAIR_ROLES, Message
from labelkit.engines.answer_text import normalise
from labelkit.errors import DataError, UnknownNameError, UsageError
from labelkit.judging.defences import announced, between_marks
from labelkit.records import MAX_GRADE, RERANK, Record
from labelkit.storage.shipped import SHIPPED

PAIR = {"query", "passage"}
LIST = {"query", "passages"}
STEPS = {
    "graded": {"judge": PAIR},
    "binary": {"judge": PAIR},
    "rerank": {"judge": PAIR},
    "relsel": {"relevance": LIST},
    "utilsel": {"relevance": LIST, "answer": LIST, "utility": LIST | {"answer"}},
    "utilrank": {"relevance": LIST, "answer": LIST, "ranking": LIST | {"answer"}},
    "write": {"write": {"passage"}},
    "write-from-several": {"write": {"passages"}},
}
"""Method -> step -> fields that its templates must contain, each at least once, and no others."""
POINTWISE = {method for method, steps in STEPS.items() if "judge" in steps}
"""Methods whose answers are labels of the prompt."""
YES_NO = "rerank-yes-no"
"""Shipped prompt of method `rerank` for language models that answer yes or no."""


class PromptLabel(Record):
    """A possible answer of the model, and its grade."""

    text: str = Field(min_length=1)
    grade: int = Field(ge=0, le=MAX_GRADE)


class Templates(Record):
    """Templates of one step, with `{query}` and the other fields of its method."""

    system: str
    user: str
    answer: str = ""
    """Beginning of the answer, which the model continues."""
    pair: bool = False
    """True if the two texts are the query and the document of a reranker instead of chat turns."""

    @cached_property
    def turns(self) -> tuple[Message, ...]:
        """The templates as messages."""
        if self.pair:
            return tuple(map(Message, PAIR_ROLES, (self.system, self.user)))
        begun = (Message("assistant", self.answer),) if self.answer else ()
        return (Message("system", self.system.strip()), Message("user", self.user.strip()), *begun)


class Prompt(Record):
    """A checked prompt. Its file has `system` and `user` at the top level if the method has one step, else under
    `[steps.NAME]`.
    """

    name: str
    version: str
    method: str
    citation: str
    steps: dict[str, Templates]
    labels: tuple[PromptLabel, ...] = ()
    max_overlap: float | None = Field(default=None, ge=0, le=1)
    """Largest share of a written text's words that may occur in its passages; None for the default limit."""
    history: dict[str, Any] | None = None
    """How `labelkit tune` made the prompt: its parent, split, scores and labels. No request contains it."""
    sha256: str
    content: bytes
    """Content of the file, stored in the journal so that replies can be parsed again later."""

    @property
    def pair(self) -> bool:
        """Whether the prompt is for rerankers that score pairs of texts."""
        return any(step.pair for step in self.steps.values())

    @cached_property
    def label_texts(self) -> tuple[str, ...]:
        return tuple(label.text for label in self.labels)

    @cached_property
    def grades(self) -> tuple[int, ...]:
        """Grades of the labels, in their order."""
        return tuple(label.grade for label in self.labels)

    @cached_property
    def grade_of(self) -> dict[str, int]:
        """Text of a label -> its grade."""
        return dict(zip(self.label_texts, self.grades, strict=True))

    @property
    def scale(self) -> str | None:
        """The mapping from labels to grades as text; None if every label is its grade."""
        if all(label.text == str(label.grade) for label in self.labels):
            return None
        return ",".join(f"{label.text}={label.grade}" for label in self.labels)

    def render(
        self, step: str, query: str, passages: Sequence[str], *, answer: str = "", marked: bool = False
    ) -> tuple[Message, ...]:
        """Return the chat turns of a step: rubric, then query, so that the prompts of a query share their beginning.

        With `marked`, each passage is put between marks that its author cannot know (the defence `nonce`).

        In a list, every passage is on one line after its identifier, `[1] ...`. White space inside it becomes single
        spaces, so that no passage can start the line of another.
        """
        passages = between_marks(query, passages) if marked else passages
        fields = {"query": query, "passage": passages[0], "answer": answer}
        if self.method not in POINTWISE:
            numbered = (f"[{number}] {' '.join(text.split())}" for number, text in enumerate(passages, 1))
            fields["passages"] = "\n".join(numbered)
        rendered = (Message(turn.role, turn.content.format(**fields)) for turn in self.steps[step].turns)
        sent = tuple(turn for turn in rendered if turn.content or self.pair)
        return announced(sent) if marked else sent


def shipped_prompts() -> dict[str, Path]:
    """Return the prompts that come with labelkit: name -> file."""
    return {path.stem: path for path in sorted((SHIPPED / "prompts").glob("*.toml"))}


def load_prompt(name_or_path: str) -> Prompt:
    """Return a shipped prompt by its name, or any prompt by the path of its TOML file.

    Raises `UnknownNameError` if there is neither, and `DataError` if the prompt is invalid.
    """
    shipped = shipped_prompts()
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise UnknownNameError("prompt", name_or_path, shipped)
    return parse_prompt(path.read_bytes(), str(path))


def prompt_for(method: str, name_or_path: str | None, pairs: Callable[[], bool | None] = lambda: None) -> Prompt:
    """Return the shipped prompt of a method, or another prompt by its name or path.

    `pairs` says whether the judge is a reranker that scores pairs of texts; it is called for method `rerank` only.
    Raises `UsageError` if the prompt is for another method or another kind of reranker.
    """
    if method != RERANK:
        prompt = load_prompt(name_or_path or method)
    elif (scores := pairs()) is None:
        raise UsageError("this engine runs no rerankers: use --engine local, vllm, openai, ray or scripted")
    else:
        prompt = load_prompt(name_or_path or (RERANK if scores else YES_NO))
        if prompt.method == method and prompt.pair != scores:
            kind = "scores pairs of texts" if scores else "is a language model that answers yes or no"
            raise UsageError(
                f"prompt {prompt.name!r} does not fit this reranker, which {kind}: leave out --prompt, or adapt a copy "
                f"of {RERANK if scores else YES_NO!r}"
            )
    if prompt.method != method:
        raise UsageError(f"prompt {prompt.name!r} is for method {prompt.method!r}, not {method!r}")
    return prompt


def parse_prompt(content: bytes, where: str) -> Prompt:
    """Parse and check the TOML of a prompt: fields, steps, labels and templates. Raises `DataError`."""
    try:
        document: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
        if reserved := {"sha256", "content"} & set(document):
            raise DataError(f"{where}: {min(reserved)} is computed from the file and cannot be set in it")
        if "scale" in document:
            document["labels"] = _labels_of(document, where)
        if flat := "steps" not in document:
            document["steps"] = _only_step(document, where)
        prompt = Prompt(**document, sha256=hashlib.sha256(content).hexdigest(), content=content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not valid TOML ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = first["loc"][2:] if flat and first["loc"][0] == "steps" else first["loc"]
        raise DataError(f"{where}: {'.'.join(map(str, place))}: {first['msg']}{_cure(place)}") from None
    _check_steps(prompt, where)
    if prompt.pair and (prompt.method != RERANK or prompt.labels):
        raise DataError(f"{where}: query and document are templates of method {RERANK!r}, and take no labels")
    if prompt.method in POINTWISE and not prompt.pair:
        _check_labels(prompt, where)
    elif prompt.labels:
        answers = "a text" if "write" in prompt.steps else "identifiers of passages"
        raise DataError(f"{where}: method {prompt.method!r} asks for {answers}: it takes no labels")
    return prompt


def _labels_of(document: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the labels of the scale that a file names instead of labels."""
    text = document.pop("scale")
    if "labels" in document:
        raise DataError(f"{where}: scale: give labels or scale, not both")
    try:
        grades = read_scale(str(text)).grades
    except UsageError as error:
        raise DataError(f"{where}: scale: {error}") from None
    return [{"text": name, "grade": grade} for name, grade in grades.items()]


def _cure(place: Sequence[Any]) -> str:
    """Return the cure of a wrong grade in a file, as the end of a sentence."""
    if place[:1] != ("labels",) or place[-1] != "grade":
        return ""
    return f'; map labels to grades from 0 to {MAX_GRADE}, or write scale = "1-5" instead of labels'


def _only_step(document: dict[str, Any], where: str) -> Mapping[str, Any]:
    """Return the templates at the top level of a file as the only step of its method."""
    steps = STEPS.get(str(document.get("method")), {"judge": PAIR})
    if len(steps) > 1:
        raise DataError(f"{where}: steps: method {document['method']!r} needs [steps.{'], [steps.'.join(steps)}]")
    if document.get("method") == RERANK and "document" in document:
        names = zip(("system", "user"), PAIR_ROLES, strict=True)
        return {"judge": {name: document.pop(key) for name, key in names if key in document} | {"pair": True}}
    return {next(iter(steps)): {key: document.pop(key) for key in ("system", "user", "answer") if key in document}}


def _check_steps(prompt: Prompt, where: str) -> None:
    """Raise `DataError` if the prompt lacks a step of its method, or a template has wrong fields."""
    if prompt.method not in STEPS:
        raise DataError(f"{where}: method: unknown method {prompt.method!r}; choose one of: {', '.join(sorted(STEPS))}")
    wanted = STEPS[prompt.method]
    if set(prompt.steps) != set(wanted):
        raise DataError(f"{where}: steps: method {prompt.method!r} has the steps {', '.join(wanted)} and no others")
    for name, templates in prompt.steps.items():
        fields = " and ".join(f"{{{field}}}" for field in sorted(wanted[name]))
        texts = (templates.system, templates.user, templates.answer)
        mentioned = set().union(*(_fields(text, where, fields) for text in texts))
        if unknown := mentioned - wanted[name]:
            raise DataError(f"{where}: unknown field {{{min(unknown)}}}; the template of {name} may use {fields}")
        if missing := wanted[name] - mentioned:
            raise DataError(f"{where}: the template of {name} does not contain {{{min(missing)}}}")


def _check_labels(prompt: Prompt, where: str) -> None:
    answers = {normalise(text) for text in prompt.label_texts}
    if len(answers) < max(2, len(prompt.labels)) or "" in answers:
        raise DataError(
            f"{where}: labels: a prompt needs at least two labels that differ by more than case and punctuation"
        )
    if not {True, False} <= {label.grade == 0 for label in prompt.labels}:
        raise DataError(f"{where}: labels: a prompt needs a label of grade 0 and a label of a grade above 0")


def _fields(template: str, where: str, fields: str) -> set[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"{where}: template: {error}; write {{{{ and }}}} for braces") from None
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise DataError(f"{where}: template: write {fields} without format or conversion")
    return {field for _, field, _, _ in parts if field is not None}
