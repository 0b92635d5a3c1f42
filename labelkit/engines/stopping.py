"""Decide which failures end a run, because every further request would fail alike, and state their cure.

A wrong key, an empty account, an unknown model and a wrong address are final at any time of a run. Faults that pass
(an overloaded server, a broken connection) are not: `labelkit.engines.client` waits for those.
"""

import difflib
import json
import logging
import re
from collections.abc import Sequence
from typing import Any

from labelkit.engines.client import Client
from labelkit.engines.http import REASON_LENGTH, AuthenticationError, CallError, OutOfCreditError, SilentError
from labelkit.errors import EngineError
from labelkit.storage.credentials import refused_key

log = logging.getLogger(__name__)

NO_CREDIT = re.compile(
    r"credit balance is too low|insufficient.balance|used all available credits|monthly spending limit", re.IGNORECASE
)
"""Words of vendors that report an empty or suspended account with status 400, 403 or 412."""
WRONG_KEY = re.compile(
    r"(incorrect|invalid) api.?key|api.?key (is )?(not valid|invalid|expired)|API_KEY_INVALID", re.IGNORECASE
)
"""Words of vendors that refuse a key with status 400 or 403."""
NO_ACCESS = re.compile(r"(location|country|region).{0,30} not (supported|available)", re.IGNORECASE)
"""Words of vendors that refuse a country with status 400."""
NO_PATH = re.compile(r"unexpected endpoint or method", re.IGNORECASE)
"""Words of LM Studio for a path that it does not have, with status 200."""
ONE_REQUEST = re.compile(r"moderat|flagged|content.?(filter|polic|management)|safety", re.IGNORECASE)
"""Words of a refusal of the content of one request."""
MODEL_CODES = ("model_not_found", "invalid_model", "deploymentnotfound", "model_not_supported", "modelnotfound")
"""Codes and types of an error about the name of the model, in lower case."""
NO_MODEL = re.compile(
    r"\bmodels?\b.{0,80}?(?:not.?(?:exist|found|available|a valid)|unknown|not supported|no longer|decommissioned)"
    r"|(?:unknown|invalid|no such|unable to access|not a valid) model|deployment.{0,60}not (?:exist|found)",
    re.IGNORECASE | re.DOTALL,
)
"""Words of a refusal of the name of the model."""
OF_AN_OPTION = re.compile(r"param|token|context|length|logprob|temperature|\brole|system|image|tool", re.IGNORECASE)
"""Words of a refusal of an option or of a long text, which may mention the model as well."""
MODELS_SECONDS = 5.0
"""Longest time in seconds for a server's list of models."""
RESUME = "then run the same command again to resume"
LISTED = 8
"""Most names of models that an error lists."""
FIRST_PAGES, PAGES = 2, 5
"""Number of consecutive web pages instead of answers that end a run, before its first answer and later."""


class FinalErrors:
    """Recognises the failures of one engine after which no request can be answered."""

    def __init__(self, model: str, *, any_path: bool = False) -> None:
        """Begin a run of a model. With `any_path`, a missing path is not final, because another one is tried next."""
        self._model = model
        self._any_path = any_path
        self.served: list[str] | None = None
        """Names of the models that the server lists; None if it has no list."""
        self._url = "the server"
        self._looked = self._answered = False
        self._pages = 0

    async def look(self, client: Client) -> None:
        """Ask the server once for the models that it serves. A server without such a list is no error."""
        if not self._looked:
            self._looked, self._url = True, client.addresses
            self.served = names_of_models(await client.look("/models", MODELS_SECONDS) or b"")

    def see(self, answer: bytes) -> None:
        """Take in the body of an answer with status 2xx. Raises `EngineError` for a web page from a wrong address."""
        url = self._url
        if not is_page(answer):
            if not self._answered and self.unlisted:
                log.info(f"the server does not list model {self._model!r}, but answers; it lists {self._names()}")
            self._answered, self._pages = True, 0
            return
        self._pages += 1
        if self._pages >= (PAGES if self._answered else FIRST_PAGES):
            raise EngineError(f"{url} answers with a web page{titled(answer)}: {address_cure(url)}")

    def refuse(self, error: CallError) -> None:
        """Raise `EngineError`, with the server's words and the cure, if a failure is final for the whole run."""
        if (problem := self.problem(error)) is not None:
            raise EngineError(problem) from None

    @property
    def unlisted(self) -> bool:
        """Whether the server lists its models and the model is not among them."""
        return bool(self.served) and plain_name(self._model) not in map(plain_name, self.served or ())

    def certain(self, error: CallError) -> str | None:
        """Return why a failure is final, whatever the options and the path of the request; None if it may not be."""
        words, url = said(error), error.url or "the server"
        if isinstance(error, AuthenticationError) or (error.status in (400, 403) and WRONG_KEY.search(error.body)):
            return f"{refused_key(url, words)}, {RESUME}"
        if isinstance(error, OutOfCreditError) or error.status == 402 or NO_CREDIT.search(error.body):
            return f"the account at {url} has no credit left: {words}; add credit or use another key, {RESUME}"
        if error.status == 400 and NO_ACCESS.search(error.body):
            return f"{url} refuses access: {words}; check where the vendor offers this API"
        if error.status in (400, 403, 404, 422) and names_no_model(error.body):
            return f"{url} has no model {self._model!r}: {words}; {self._model_cure()}"
        return None

    def problem(self, error: CallError, *, any_path: bool = False) -> str | None:
        """Return why a failure is final; None if it concerns one request alone, or passes."""
        words, url = said(error), error.url or "the server"
        if isinstance(error, SilentError):
            return str(error)
        if (certain := self.certain(error)) is not None:
            return certain
        if error.status == 403 and not ONE_REQUEST.search(error.body):
            return f"{url} refuses access: {words}; check what the key is allowed to do and its limits, {RESUME}"
        if any_path or self._any_path:
            return None
        redirected = error.status is not None and error.status // 100 == 3
        if error.status in (404, 405) or redirected or NO_PATH.search(error.body):
            return f"{url} is not the address of this API: {words}; {address_cure(url)}"
        return None

    def _model_cure(self) -> str:
        if not self.served:
            return "correct --model"
        close = difflib.get_close_matches(self._model, self.served, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}? " if close and self.unlisted else ""
        return f"{hint}it lists {self._names()}"

    def _names(self) -> str:
        names = sorted(self.served or ())
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return ", ".join(names[:LISTED]) + more


def address_cure(url: str) -> str:
    """Return the cure for a wrong address."""
    hint = "" if re.search(r"/v\d\w*(/|$)", url) else f", such as {url}/v1"
    return f"correct --base-url, which ends before /chat/completions{hint}"


def plain_name(name: str) -> str:
    """Return the name of a model without what servers add to it or leave out: a prefix, a tag, upper case."""
    return name.lower().removeprefix("models/").removesuffix(":latest").split("/")[-1]


def names_no_model(body: str) -> bool:
    """Return whether the body of a refusal says that there is no such model."""
    error = error_in(body)
    codes = {str(error.get(field)).lower() for field in ("code", "type", "status")}
    words = words_in(body)
    said_so = NO_MODEL.search(words) is not None and OF_AN_OPTION.search(words) is None
    return said_so or bool(codes & set(MODEL_CODES)) or error.get("param") == "model"


def error_in(body: str) -> dict[str, Any]:
    """Return the error object in the body of a refusal; an empty one if there is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    return error if isinstance(error, dict) else {"message": error, **document}


def words_in(body: str) -> str:
    """Return the message in the body of a refusal; the body itself if it has no message, without the markup of HTML."""
    error = error_in(body)
    for field in ("message", "detail", "msg", "error"):
        if isinstance(error.get(field), str) and error[field].strip():
            return " ".join(error[field].split())
    return " ".join(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", body, flags=re.DOTALL | re.IGNORECASE).split())


def said(error: CallError) -> str:
    """Return the status and the server's own words of a failure, on one line."""
    words = words_in(error.body)[:REASON_LENGTH]
    redirected = error.status is not None and error.status // 100 == 3
    text = f"status {error.status}: {words}" if words and error.status and not redirected else str(error)
    return " ".join(text.split()).encode(errors="backslashreplace").decode()


def is_page(answer: bytes) -> bool:
    """Return whether an answer is a web page."""
    beginning = rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body)\b"
    return re.match(beginning, answer[:2000], re.IGNORECASE | re.DOTALL) is not None


def titled(page: bytes) -> str:
    """Return the title of a web page for a message; empty if it has none."""
    found = re.search(r"<title[^>]*>(.*?)</title>", page[:10_000].decode(errors="replace"), re.I | re.S)
    title = " ".join(found[1].split())[:80] if found else ""
    return f" titled {title!r}" if title else ""


def names_of_models(body: bytes) -> list[str] | None:
    """Return the names in a server's list of models; None if the list has an unknown form or is empty."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for field in ("data", "models"):
        if isinstance(document, dict) and isinstance(document.get(field), list):
            document = document[field]
    if not isinstance(document, Sequence) or isinstance(document, str):
        return None
    names = [one.get("id") or one.get("name") or one.get("model") if isinstance(one, dict) else one for one in document]
    return [name for name in names if isinstance(name, str)] or None
