"""Compute keys of requests: sha256 over everything that determines a reply."""

import hashlib
import json
import secrets
from json.encoder import encode_basestring
from typing import Any

from labelkit.engines import Request
from labelkit.judging.methods.steps import Ask
from labelkit.records import SCHEMA_VERSION, Judge

CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
ESCAPED = bytes(range(32)) + b'"\\'
"""Bytes that JSON does not contain as they are."""
MARK, QUERY_MARK = (f"\ue000{secrets.token_hex(16)}\ue000" for _ in range(2))
"""Texts that no prompt contains: they take the places of a passage and of a query."""
SERVED = ("base_url", "engine_args", "reasoning_effort", "sent")
"""Fields of a judge's decoding that may change a reply and are not in its requests."""


def sent_of(judge: Judge) -> dict[str, Any]:
    """Return the options of a judge's requests that are not the default, because its server refuses the default."""
    sent: dict[str, Any] = json.loads(judge.decoding or "{}").get("sent", {})
    return sent


def options_key(judge: Judge) -> str:
    """Return a hash over a judge without the options that its server accepts, which its first requests show."""
    decoding = {name: value for name, value in json.loads(judge.decoding or "{}").items() if name != "sent"}
    plain = judge.model_copy(update={"decoding": canonical_json(decoding)})
    return digest(["options", identity_of(plain), plain.decoding, plain.seed])


def identity_of(judge: Judge) -> dict[str, Any]:
    """Return the fields of a judge that may change a reply.

    A model that ran here is identified by the revision of its weights, a model behind a server by the requested name.
    Engine versions are provenance and not included, nor is the scale, which the hash of the prompt covers.
    """
    provenance = (
        "judge_id",
        "name",
        "family",
        "model_answered",
        "engine_version",
        "decoding",
        "seed",
        "reading",
        "scale",
    )
    kept = {name: value for name, value in judge.model_dump().items() if name not in provenance}
    decoding = json.loads(judge.decoding or "{}").items()
    served = {name: value for name, value in decoding if name in SERVED}
    known = judge.dtype and judge.revision
    return kept | {"model": known or judge.name, "served": served}


def request_key(identity: str, request: Request) -> str:
    """Return the sha256 over everything that determines a reply: judge, messages, labels, decoding and schema.

    Requests with equal keys share one reply.
    """
    return digest(_decisive(identity, request))


def _decisive(identity: str, request: Request) -> list[Any]:
    """Return everything that determines the reply to a request."""
    return [SCHEMA_VERSION, identity, *request[2:]]


class KeysOfPrompt:
    """Makes the functions that compute the keys of a query's requests, for requests that differ in their texts only.

    The canonical JSON of a request around its texts is the same for all of them, so that it is made only once.
    """

    def __init__(self, identity: str, marked: Request) -> None:
        """`marked`: the request with `QUERY_MARK` in place of the query and `MARK` in place of the passage."""
        self._json = canonical_json(_decisive(identity, marked))

    def of_query(self, query: str) -> "KeysOfQuery":
        """Return the keys of the requests about a query, which must not be empty."""
        return KeysOfQuery(self._json.replace(QUERY_MARK, encode_basestring(query)[1:-1]))


class KeysOfQuery:
    """Computes the keys of requests that differ in their passage only, four times faster than `request_key`.

    The canonical JSON of a request around its passage is the same for all of them, so that it is hashed only once.
    """

    def __init__(self, marked: str) -> None:
        """`marked`: the canonical JSON of what determines the reply, with `MARK` in place of the passage."""
        first, *self._rest = (part.encode() for part in marked.split(MARK))
        self._first = hashlib.sha256(first)

    def key(self, passage: str) -> str:
        """Return the key of the request with this passage, which must not be empty."""
        text = passage.encode()
        if len(text.translate(None, ESCAPED)) < len(text):
            text = encode_basestring(passage)[1:-1].encode()
        hashed = self._first.copy()
        for part in self._rest:
            hashed.update(text)
            hashed.update(part)
        return hashed.hexdigest()


def next_key(first: str, ask: Ask) -> str:
    """Return the key of a later step from the key of the first step, which covers all texts, so that none is needed."""
    return digest([first, *ask])


def canonical_json(value: Any) -> str:
    """Return a value as JSON with sorted keys and without spaces, so that equal values give equal bytes."""
    return CANONICAL.encode(value)


def digest(value: Any) -> str:
    """Return the sha256 over a value as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
