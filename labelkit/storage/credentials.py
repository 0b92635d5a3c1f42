"""API keys: out of the environment, or out of a file that nobody but its owner may read. They are kept nowhere else."""

import os
import stat
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from labelkit.errors import UsageError

KEY, GENERAL_KEY = "LABELKIT_API_KEY", "OPENAI_API_KEY"
KEYRING = "LABELKIT_KEYRING"
PLACES = f"{KEY}, {GENERAL_KEY} or the keyring"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NO_KEY = "none"
"""What a server gets that wants none."""
SHORTEST_SECRET = 8
"""Characters; what is shorter guards nothing, and may stand in any text."""


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
    raise UsageError(f"no API key: set {KEY} or {GENERAL_KEY} in the environment, or write {line} to {keyring_path()}")


def keyring_path() -> Path:
    """Where the keyring is, if there is one."""
    return Path(os.environ.get(KEYRING) or Path.home() / ".config" / "labelkit" / "keys.toml")


def keyring() -> dict[str, str]:
    """Host, or host:port -> key; empty where there is no keyring. Raises `UsageError` where others may read it, or it
    is not TOML of that form; the message never shows its content.
    """
    path = keyring_path()
    if not path.is_file():
        if KEYRING in os.environ:
            raise UsageError(f"{KEYRING} names {path}, which is no file")
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
