"""Keys of requests: sha256 over everything that decides a reply."""

import hashlib
import json
from typing import Any

from labelkit.engines import Request
from labelkit.judging.methods.steps import Ask
from labelkit.records import SCHEMA_VERSION, Judge


def identity_of(judge: Judge) -> dict[str, Any]:
    """What of a judge may change a reply. Weights that ran here are known by their revision, whatever they were
    called; a model behind a server by the name that it was asked for, too. Engine versions are provenance.
    """
    provenance = ("judge_id", "name", "model_answered", "engine_version", "decoding", "seed", "reading")
    kept = {name: value for name, value in judge.model_dump().items() if name not in provenance}
    served = {name: value for name, value in json.loads(judge.decoding or "{}").items() if name == "base_url"}
    known = judge.dtype and judge.revision
    return kept | {"model": known or judge.name, "served": served}


def request_key(identity: str, request: Request) -> str:
    """sha256 over everything that decides a reply: judge, messages, labels, decoding, schema. Equal keys share one
    reply."""
    return digest([SCHEMA_VERSION, identity, *request[2:]])


def next_key(first: str, ask: Ask) -> str:
    """The key of a later step. The key of the first step stands for all texts, so that the journal alone gives it."""
    return digest([first, *ask])


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 over a value as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
