"""Write the prompts that tuning tries: the parent with other instructions, or with examples, as TOML files."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tomli_w

from labelkit.corpora.words import beginning
from labelkit.judging.defences import strip
from labelkit.judging.prompts import Prompt, parse_prompt

EXAMPLE_WORDS = 80
"""Words of a passage in an example."""
FIELD = re.compile(r"\{(query|passage)\}")
EXAMPLES = "\n\nExamples of correct answers:\n"


BY = "Tuned by labelkit tune."
"""End of the citation of a tuned prompt."""


class Example(NamedTuple):
    """A labelled pair that is shown to the judge."""

    query: str
    passage: str
    label: str


def reworded(parent: Prompt, system: str, user: str, *, name: str) -> Prompt:
    """Return the parent with other templates; braces that are no field are doubled.

    Raises `DataError` if the result is not a valid prompt.
    """
    return prompt_of(document_of(parent) | {"system": escaped(system), "user": escaped(user)}, name)


def with_examples(parent: Prompt, examples: Sequence[Example], *, name: str) -> Prompt:
    """Return the parent with examples after its instructions: in the system turn, or before the query without one."""
    document = document_of(parent)
    text = "".join(
        f"\nQuery: {braced(one.query)}\nPassage: {braced(short(one.passage))}\nAnswer: {braced(one.label)}\n"
        for one in examples
    )
    if document["system"].strip():
        document["system"] = f"{document['system'].rstrip()}{EXAMPLES}{text}"
    else:
        document["user"] = f"{EXAMPLES.strip()}\n{text}\n{document['user'].lstrip()}"
    return prompt_of(document, name)


def with_history(prompt: Prompt, history: Mapping[str, Any]) -> bytes:
    """Return the file of a prompt with the history of its tuning."""
    return written(document_of(prompt) | {"history": dict(history)})


def document_of(prompt: Prompt) -> dict[str, Any]:
    """Return the TOML document of a pointwise prompt, with its templates at the top level and without its history."""
    document = tomllib.loads(prompt.content.decode())
    kept = ("name", "version", "method", "citation", "scale", "labels")
    own = {key: document[key] for key in kept if key in document}
    (step,) = prompt.steps.values()
    return own | step.model_dump(include={"system", "user"}) | ({"answer": step.answer} if step.answer else {})


def prompt_of(document: Mapping[str, Any], name: str) -> Prompt:
    """Return the prompt of a document under another name."""
    cited = str(document["citation"])
    by = "" if cited.endswith(BY) else f"{cited.rstrip('.')}. {BY}"
    return parse_prompt(written({**document, "name": name, "citation": by or cited}), f"prompt {name}")


def written(document: Mapping[str, Any]) -> bytes:
    """Return a document as TOML, with texts over several lines as people write them."""
    order = ("name", "version", "method", "citation", "scale", "system", "user", "answer", "labels", "history")
    return tomli_w.dumps({key: document[key] for key in order if key in document}, multiline_strings=True).encode()


def escaped(template: str) -> str:
    """Return a template in which all braces are doubled, except around `{query}` and `{passage}`.

    Braces that are doubled already are not doubled again.
    """
    parts = FIELD.split(template.replace("{{", "{").replace("}}", "}"))
    return "".join(f"{{{part}}}" if place % 2 else braced(part) for place, part in enumerate(parts))


def braced(text: str) -> str:
    """Return a text for a template, with every brace doubled."""
    return text.replace("{", "{{").replace("}", "}}")


def short(passage: str) -> str:
    """Return the beginning of a passage on one line, without invisible characters and reserved tokens."""
    return " ".join(strip(beginning(passage, EXAMPLE_WORDS)).split()[:EXAMPLE_WORDS])
