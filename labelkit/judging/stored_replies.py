"""How a reply is stored in a journal and in a cache: its body as JSON, its columns, and the digest over them."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from labelkit.engines import Reply
from labelkit.errors import JournalError

REPLY = "key, attempt, reply, failed, tokens, usd, at, digest"
"""Columns of the table `replies`; the digest covers all other columns."""
REPLY_BYTES = "CAST(key AS BLOB), attempt, CAST(reply AS BLOB), failed, tokens, usd, CAST(at AS BLOB), digest"
"""The same columns with texts as bytes, which SQLite returns in half of the time."""
REPLIES = TypeAdapter(list[Reply])


def body_of(reply: Reply) -> str:
    """Return a reply as JSON for storage: fields that differ from their defaults, without its key."""
    return reply.model_dump_json(exclude={"key"}, exclude_defaults=True)


def reply_of(key: str, body: str, path: Path) -> Reply:
    """Return a stored reply. Raises `JournalError` if it has another schema."""
    return replies_of([(key, body.encode())], path)[0]


def replies_of(stored: Iterable[tuple[str, bytes]], path: Path) -> list[Reply]:
    """Return stored replies from their keys and bodies. Raises `JournalError` if one has another schema."""
    # A body is an object, to which the key is added as text: parsing it takes half of the time.
    whole = (
        b'{"key":%b%b%b' % (encode_basestring(key).encode(), b"" if body == b"{}" else b",", body[1:])
        for key, body in stored
    )
    try:
        return REPLIES.validate_json(b"[%b]" % b",".join(whole))
    except (ValueError, ValidationError):
        raise JournalError(f"{path} has a reply of another schema; use the labelkit release that wrote it") from None


def digest_of_reply(columns: Sequence[Any]) -> bytes | None:
    """Return the same as `digest_of`, in half of the time, for the columns of the table `replies` with texts as bytes;
    None if damage has removed one of them.
    """
    key, attempt, reply, failed, tokens, usd, at = columns
    if key is None or reply is None or at is None:
        return None
    cost = f"\x1f{failed}\x1f{tokens}\x1f{usd}\x1f"
    return sha256(b"%b\x1f%b\x1f%b%b%b" % (key, str(attempt).encode(), reply, cost.encode(), at)).digest()


def dollars(rows: Iterable[Sequence[Any]]) -> float | None:
    """Return the US dollars spent on rows of `replies`; None if none was paid or one had no price."""
    charged = [usd for _, _, _, _, tokens, usd, *_ in rows if tokens is not None]
    return None if not charged or None in charged else sum(charged)
