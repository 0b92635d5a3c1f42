"""Spell the options of a chat completion as a server accepts them.

Servers that call themselves OpenAI-compatible refuse different options: the name of the token limit, any temperature, a
long list of log-probabilities, every spelling of a constraint but their own, a seed, a system turn. A dialect names one
spelling of each option. `RUNGS` lists the spellings in the order in which they are tried; `labelkit.engines.ladder`
finds the ones that a server accepts.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from labelkit.engines import Message, Request
from labelkit.errors import EngineError

JSON_TOKENS = 16
"""Tokens that an answer in JSON needs besides the answer itself."""
JSON_KEY = "answer"
"""Name of the answer in an answer in JSON."""
JSON_TURN = f'\n\nWrite the answer as a JSON object of the form {{"{JSON_KEY}": "..."}} and nothing else.'
"""Instruction for servers that accept JSON without a schema; OpenAI and DeepSeek refuse this without the word JSON."""


class Dialect(NamedTuple):
    """One spelling of each option. The defaults are what a server is asked for first."""

    constraint: str = "structured_outputs"
    """Constraint of the answer to the labels or the pattern: a name from `CONSTRAINTS`."""
    logprobs: int = 20
    """Length of the list of log-probabilities per token; 0 asks for none."""
    limit: str = "max_tokens"
    temperature: str = "sent"
    seed: str = "seed"
    system: str = "system"
    """Role of the turn with the instructions; `user` puts them at the beginning of the user's turn."""

    @property
    def in_json(self) -> bool:
        """Whether the answer is a JSON object."""
        return self.constraint in ("json_schema", "json_object")

    def changes(self) -> dict[str, Any]:
        """Return the spellings that differ from the defaults, as JSON for provenance."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}


RUNGS: dict[str, tuple[Any, ...]] = {
    "constraint": ("structured_outputs", "guided", "regex", "grammar", "none", "json_schema", "json_object"),
    "logprobs": (20, 5, 1, 0),
    "limit": ("max_tokens", "max_completion_tokens"),
    "temperature": ("sent", "none"),
    "seed": ("seed", "random_seed", "none"),
    "system": ("system", "user"),
}
"""Option -> its spellings, the preferred one first. An answer without a constraint precedes JSON, because a label in
JSON is not the first token, costs more, and contradicts the prompt; JSON serves judges that do not give a label alone.
"""
NAMES = {
    "constraint": re.compile(
        r"structured_?outputs?|guided_|\bregex\b|\bgrammar|response_?format|response_?schema|json_?schema|json_object|"
        r"json (mode|output)|structured output",
        re.IGNORECASE,
    ),
    "limit": re.compile(r"max_(completion_|output_)?tokens", re.IGNORECASE),
    "logprobs": re.compile(r"log_?-?prob|log.?probability|log.?probabilities|top_n_tokens", re.IGNORECASE),
    "temperature": re.compile(r"temperature", re.IGNORECASE),
    "seed": re.compile(r"seed\b", re.IGNORECASE),
    "system": re.compile(
        r"""system.{0,3}(role|message|prompt|instruction|turn)|(role|developer).{0,40}["'`]?system|["'`]system["'`]|"""
        r"developer (role|message|instruction)|messages?\[0\]\.?\[?['\"]?role|roles? must alternate",
        re.IGNORECASE,
    ),
}
"""Option -> its names in the refusals of servers."""
A_LIMIT = re.compile(
    r"greater|less|maximum|at most|max allowed|between|range|exceed|limit|up to|<=|≤|must be|invalid top_",
    re.IGNORECASE,
)
"""Words of a refusal of a list of log-probabilities that is too long, while a shorter one is accepted."""
UNKNOWN = re.compile(
    r"unrecogni[sz]ed|unknown|extra_forbidden|extra inputs|not permitted|cannot find field|additional property|"
    r"additional properties|unexpected|property .{0,40} is unsupported",
    re.IGNORECASE,
)
"""Words of a server that refuses every field that it does not know. It knows no other server's constraint either."""
FOREIGN = ("structured_outputs", "guided", "regex", "grammar")
"""Constraints that are no fields of OpenAI's API."""


def chat_body(model: str, request: Request, dialect: Dialect, effort: str | None = None) -> dict[str, Any]:
    """Return the JSON body of a chat completion. `effort`: value of `reasoning_effort`; None sends none."""
    seed = {} if request.seed is None or dialect.seed == "none" else {dialect.seed: request.seed}
    listed = {"logprobs": True, "top_logprobs": dialect.logprobs} if request.labels and dialect.logprobs else {}
    return {
        "model": model,
        "messages": [message._asdict() for message in turns(request, dialect)],
        **({"temperature": request.temperature} if dialect.temperature == "sent" else {}),
        dialect.limit: request.max_tokens,
        **seed,
        **listed,
        **(CONSTRAINTS[dialect.constraint](request) if request.labels or request.pattern else {}),
        **({"reasoning_effort": effort} if effort else {}),
    }


def turns(request: Request, dialect: Dialect) -> tuple[Message, ...]:
    """Return the chat turns of a request; without a system turn, the user's turn begins with the instructions."""
    messages = request.messages
    if dialect.system == "user" and has_system(request):
        rest = [message for message in messages if message.role != "system"]
        words = [message.content for message in messages if message.role == "system"]
        messages = (Message("user", "\n\n".join([*words, *(rest[0].content for _ in rest[:1])])), *rest[1:])
    if dialect.constraint == "json_object" and (request.labels or request.pattern):
        messages = (*messages[:-1], messages[-1]._replace(content=messages[-1].content + JSON_TURN))
    return messages


def has_system(request: Request) -> bool:
    """Return whether a request has a system turn."""
    return any(message.role == "system" for message in request.messages)


def options_of(request: Request, dialect: Dialect) -> Iterator[str]:
    """Yield the options that are sent with a request and may be refused, in the order in which they are given up."""
    constrained = bool(request.labels or request.pattern)
    sent = {
        "constraint": constrained and dialect.constraint != "none",
        "logprobs": bool(request.labels and dialect.logprobs),
        "temperature": dialect.temperature == "sent",
        "seed": request.seed is not None and dialect.seed != "none",
        "system": dialect.system == "system" and has_system(request),
        "limit": True,
    }
    return (option for option, there in sent.items() if there)


def regex_of(request: Request) -> str:
    """Return a regular expression for the whole answer: the pattern, or one of the labels."""
    return request.pattern or f"({'|'.join(map(re.escape, request.labels))})"


def grammar_of(request: Request) -> str:
    """Return a grammar in llama.cpp's GBNF for one of the labels or for a pattern.

    A pattern is made of literals, groups, `|` and `{m,n}` after a group, like the ones of the listwise methods.
    """
    parts = re.findall(r"\\.|\{\d+(?:,\d*)?\}|[()|]|[^\\(){}|]+", regex_of(request))
    words = (part if part[0] in "()|{" else json.dumps(re.sub(r"\\(.)", r"\1", part)) for part in parts)
    return f"root ::= {' '.join(words)}"


def schema_of(request: Request) -> dict[str, Any]:
    """Return the JSON schema of an answer in JSON, in the subset that OpenAI's strict mode accepts."""
    allowed = {"enum": list(request.labels)} if request.labels else {"pattern": f"^{request.pattern}$"}
    return {
        "type": "object",
        "properties": {JSON_KEY: {"type": "string", **allowed}},
        "required": [JSON_KEY],
        "additionalProperties": False,
    }


def _structured(request: Request) -> dict[str, Any]:
    """Return the constraint of vLLM since release 0.12."""
    return {"structured_outputs": {"choice": list(request.labels)} if request.labels else {"regex": request.pattern}}


def _guided(request: Request) -> dict[str, Any]:
    """Return the constraint of vLLM before release 0.12."""
    return {"guided_choice": list(request.labels)} if request.labels else {"guided_regex": request.pattern}


def _json_schema(request: Request) -> dict[str, Any]:
    named = {"name": JSON_KEY, "strict": True, "schema": schema_of(request)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


CONSTRAINTS: dict[str, Callable[[Request], dict[str, Any]]] = {
    "structured_outputs": _structured,
    "guided": _guided,
    "regex": lambda request: {"regex": regex_of(request)},
    "grammar": lambda request: {"grammar": grammar_of(request)},
    "none": lambda request: {},
    "json_schema": _json_schema,
    "json_object": lambda request: {"response_format": {"type": "json_object"}},
}
"""Name of a constraint -> function from a request to its fields. `regex` is SGLang's, `grammar` llama.cpp's."""


def dialect_of(changes: Mapping[str, Any]) -> Dialect:
    """Return a dialect from its `changes`. Raises `EngineError` if another release made them."""
    known = {name: RUNGS[name] for name in changes if name in RUNGS}
    if len(known) < len(changes) or any(changes[name] not in rungs for name, rungs in known.items()):
        raise EngineError(f"unknown options of requests {dict(changes)}: use the labelkit release that sent them")
    return Dialect(**changes)
