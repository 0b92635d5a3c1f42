"""Load, check and render prompts: one TOML file each, shipped in `prompts/` or the user's own.

A prompt names its method, its labels with the grade each stands for, and the source of its idea. The content hash is
part of every judgement's provenance: a changed byte is another prompt.
"""

import hashlib
import string
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from labelkit.engines import Message
from labelkit.errors import DataError, UnknownNameError
from labelkit.parse import normalise
from labelkit.schema import MAX_GRADE, Record

FOLDERS = (Path(__file__).parent / "_prompts", Path(__file__).parent.parent / "prompts")
"""Where the shipped prompts are: in an installed wheel, and in a checkout."""
FIELDS = {"query", "passage"}
"""What a pointwise template must mention, each once or more."""


class PromptLabel(Record):
    """An answer that the model may give, and the grade it stands for."""

    text: str = Field(min_length=1)
    grade: int = Field(ge=0, le=MAX_GRADE)


class Prompt(Record):
    """A checked prompt. `system` and `user` are templates with `{query}` and `{passage}`."""

    name: str
    version: str
    method: str
    citation: str
    system: str
    user: str
    labels: tuple[PromptLabel, ...]
    sha256: str
    content: bytes
    """The file as it was read: the journal keeps it, so that a judgement can be read again years later."""

    @property
    def label_texts(self) -> tuple[str, ...]:
        return tuple(label.text for label in self.labels)

    def render(self, query: str, passage: str) -> tuple[Message, ...]:
        """The chat turns for one pair. Rubric first, passage last, so that pairs of a query share their opening."""
        fields = {"query": query, "passage": passage}
        return (
            Message("system", self.system.strip().format(**fields)),
            Message("user", self.user.strip().format(**fields)),
        )


def shipped_prompts() -> dict[str, Path]:
    """Names of the prompts that come with labelkit -> their files."""
    return {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.toml"))}


def load_prompt(name_or_path: str) -> Prompt:
    """A shipped prompt by name, or any TOML file by path. Raises `DataError` where the prompt cannot work."""
    shipped = shipped_prompts()
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise UnknownNameError("prompt", name_or_path, shipped)
    return parse_prompt(path.read_bytes(), str(path))


def parse_prompt(content: bytes, where: str) -> Prompt:
    """Check the TOML of a prompt: its fields, its labels, what its templates mention."""
    try:
        document: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
        if reserved := {"sha256", "content"} & set(document):
            raise DataError(f"{where}: {min(reserved)} is computed from the file and cannot be set in it")
        prompt = Prompt(**document, sha256=hashlib.sha256(content).hexdigest(), content=content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not valid TOML ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    answers = {normalise(text) for text in prompt.label_texts}
    if len(answers) < max(2, len(prompt.labels)) or "" in answers:
        raise DataError(f"{where}: a prompt needs at least two labels that differ by more than case and decoration")
    if not {True, False} <= {label.grade == 0 for label in prompt.labels}:
        raise DataError(f"{where}: the labels need a grade 0 and a grade above 0")
    mentioned = _fields(prompt.system, where) | _fields(prompt.user, where)
    if unknown := mentioned - FIELDS:
        raise DataError(f"{where}: unknown field {{{min(unknown)}}}; a template may use {{query}} and {{passage}}")
    if missing := FIELDS - mentioned:
        raise DataError(f"{where}: the template never mentions {{{min(missing)}}}")
    return prompt


def _fields(template: str, where: str) -> set[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"{where}: template: {error}; write {{{{ and }}}} for braces") from None
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise DataError(f"{where}: template: write {{query}} and {{passage}} bare, without format or conversion")
    return {field for _, field, _, _ in parts if field is not None}
