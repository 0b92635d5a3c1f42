"""Ask servers which models they serve, without a request to a model."""

from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from labelkit.engines.http import BODY_BYTES, checked_url
from labelkit.engines.stopping import names_of_models
from labelkit.errors import UsageError
from labelkit.storage.credentials import NO_KEY, found_key, key_cure, key_for

SECONDS = 10
"""Longest time in seconds for an answer."""


class Server(NamedTuple):
    """A server and the models that it serves."""

    url: str
    models: tuple[str, ...]
    problem: str | None = None
    """Reason why the server cannot be used, with the remedy."""


class NoRedirects(HTTPRedirectHandler):
    """Follows no redirect, which could lead the key to another host."""

    def redirect_request(self, *about: Any) -> None:
        return None


def ask(url: str, *, insecure: bool = False) -> Server:
    """Ask a server for its models, with the key for its host.

    Raises `UsageError` for an address to which no key may be sent.
    """
    address = checked_url(url, insecure=insecure)
    try:
        key = key_for(address)
    except UsageError as error:
        return Server(address, (), str(error))
    request = Request(f"{address}/models")
    if key != NO_KEY:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with build_opener(NoRedirects).open(request, timeout=SECONDS) as answer:
            names = names_of_models(answer.read(BODY_BYTES))
    except HTTPError as error:
        return Server(address, (), problem_of(error.code, address))
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Server(address, (), f"does not answer ({reason}); start it, or check host and port")
    if names is None:
        return Server(address, (), "answers without a list of models; if it is a judge, the address often ends in /v1")
    return Server(address, tuple(names))


def problem_of(status: int, address: str) -> str:
    """Explain the status of a refusal."""
    if status in (401, 403):
        found = found_key(address)
        if found is None:
            return f"asks for a key (status {status}); {key_cure(address)}"
        return f"refuses the key in {found[1]} (status {status}); correct it"
    if status == 404:
        return "has no path /models (status 404); the address of most servers ends in /v1"
    if 300 <= status < 400:
        return f"redirects to another address (status {status}); give that address"
    return f"answers with status {status}; read the log of the server"
