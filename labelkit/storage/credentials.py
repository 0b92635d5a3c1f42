"""API keys: out of the environment, or out of a file that nobody but its owner may read. They are kept nowhere else.

All secrets that this process was given are listed by `secrets`, and `blot` removes them from what is shown or written.
"""

import base64
import json
import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from labelkit.errors import UsageError
from labelkit.storage.cache_folder import home_folder

KEY, GENERAL_KEY = "LABELKIT_API_KEY", "OPENAI_API_KEY"
KEYRING = "LABELKIT_KEYRING"
PLACES = f"{KEY}, {GENERAL_KEY} or the keyring"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NO_KEY = "none"
"""What a server gets that wants none."""
SHORTEST_SECRET = 8
"""Characters; a shorter value guards nothing, and may stand in any text."""
BLOT = "[secret]"
"""Stands where a secret stood."""
SECRET_NAME = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PAT|SAS|CREDENTIALS?|CONNECTION_STRING)$|PASS(?:WORD|WD|PHRASE)$",
    re.IGNORECASE,
)
"""Matches the variables whose values are secret: LABELKIT_API_KEY, HF_TOKEN, HUGGING_FACE_HUB_TOKEN, WANDB_API_KEY,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, GOOGLE_API_KEY, AZURE_CLIENT_SECRET, PGPASSWORD and others named like them.
"""
SECRET_PART = re.compile(
    r'(?:(?:AccountKey|SharedAccessKey|SharedAccessSignature)=|"(?:private_key|client_secret|refresh_token)":\s*")([^;"\s]+)'
)
"""Matches the secret in a connection string (Azure) and in credentials as JSON (Google)."""
LOGIN = re.compile(r"(?:^|//)([^\s/:@]*):([^\s/]+)@")
"""Matches user and password in an address, such as the proxy's."""
SIGNATURE = re.compile(r"[?&](?:[\w-]*(?:signature|token|key|secret|password)|sig)=([^&\s]+)", re.IGNORECASE)
"""Matches the secret in a signed address."""


def key_for(url: str) -> str:
    """The key for a server: that of LABELKIT_API_KEY, else the keyring's for its host, else that of OPENAI_API_KEY.

    Servers on this machine may go without. Raises `UsageError` where a key is needed and there is none.
    """
    parts = urlsplit(url)
    key = os.environ.get(KEY) or keyring().get(parts.netloc) or keyring().get(parts.hostname or "")
    if key := key or os.environ.get(GENERAL_KEY):
        return key
    if parts.hostname in LOOPBACK:
        return NO_KEY
    line = f'"{parts.hostname}" = "KEY"'
    place = keyring_path() or f"a file that {KEYRING} names"
    raise UsageError(f"no API key: set {KEY} or {GENERAL_KEY} in the environment, or write {line} to {place}")


def keyring_path() -> Path | None:
    """Where the keyring is, if there is one; None where there is no home folder."""
    named, home = os.environ.get(KEYRING), home_folder()
    return Path(named) if named else home / ".config" / "labelkit" / "keys.toml" if home else None


def keyring() -> dict[str, str]:
    """Host, or host:port -> key; empty where there is no keyring. Raises `UsageError` where others may read it, or it
    is not TOML of that form; the message never shows its content.
    """
    path = keyring_path()
    if path is None or not os.access(path, os.R_OK) or not path.is_file():
        if KEYRING in os.environ:
            raise UsageError(f"{KEYRING} names {path}, which is no file that can be read")
        return {}
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(f"{path} holds keys and others may read it: chmod 600 {path}")
    try:
        keys = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        keys = {"": None}
    if not all(isinstance(key, str) for key in keys.values()):
        raise UsageError(f'{path}: expected lines of the form "api.example.org" = "KEY"')
    return keys


def secrets() -> dict[str, str]:
    """Every secret of this process -> where it stands: in the environment, the keyring, or the command line.

    Values that are too short to be one, and words of letters alone, are left out: they may stand in any text.
    """
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        inside = [password for _, password in logins(value)]
        if SECRET_NAME.search(name) and not names_a_file(value):
            inside += [value, *SECRET_PART.findall(value)]
        found |= dict.fromkeys(inside, f"the value of {name}")
    for word in sys.argv:
        inside = [password for _, password in logins(word)] + SIGNATURE.findall(word)
        found |= dict.fromkeys(inside, "a secret of the command line")
    try:
        found |= {key: f"the key of {host} in {keyring_path()}" for host, key in keyring().items()}
    except (UsageError, OSError, RuntimeError):
        """Said where a key is needed; here a message may be under way that must get through."""
    return {value: where for value, where in found.items() if len(value) >= SHORTEST_SECRET and not value.isalpha()}


def logins(text: str) -> Iterator[tuple[str, str]]:
    """User and password of the addresses in a text, as they stand and without their percent signs."""
    for user, password in LOGIN.findall(text) if "@" in text else ():
        yield from {(user, password), (unquote(user), unquote(password))}


def names_a_file(value: str) -> bool:
    """Whether a value is the path of a file that holds the secret."""
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError):  # a folder that may not be looked into; no home folder
        return False


def secret_forms(*always: str) -> tuple[str, ...]:
    """All texts that give a secret away, the longest first; `always` are secrets of any length.

    A secret may stand as it is, as JSON, in an address, or in a header of basic authentication.
    """
    forms = {form for value in (*secrets(), *always) if value not in ("", NO_KEY) for form in written(value)}
    for text in (*os.environ.values(), *sys.argv):
        for user, password in logins(text):
            forms |= {f"{user}:{password}@", base64.b64encode(f"{user}:{password}".encode()).decode()}
    return tuple(sorted(forms, key=len, reverse=True))


def written(value: str) -> Iterable[str]:
    """The ways to write a value in a text: as it is, as JSON, in an address."""
    return {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], quote(value, safe="")}


def blot(text: str, forms: Sequence[str] | None = None) -> str:
    """A text without the secrets of this process; `forms` spares finding them for every one of many texts."""
    for form in secret_forms() if forms is None else forms:
        text = text.replace(form, BLOT)
    return text
