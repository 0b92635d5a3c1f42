"""Read API keys from the environment or from a file that only its owner may read. Keys are stored nowhere else.

`secrets` lists all secrets that this process was given, and `blot` removes them from texts before they are shown or
written.
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
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NO_KEY = "none"
"""Key that is sent to a server that needs none."""
SHORTEST_SECRET = 8
"""Fewest characters of a secret; a shorter value protects nothing and may occur in any text."""
BLOT = "[secret]"
"""Replacement for a secret."""
SECRET_NAME = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PAT|SAS|CREDENTIALS?|CONNECTION_STRING)$|PASS(?:WORD|WD|PHRASE)$",
    re.IGNORECASE,
)
"""Matches names of environment variables with secret values: LABELKIT_API_KEY, HF_TOKEN, HUGGING_FACE_HUB_TOKEN,
WANDB_API_KEY, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, GOOGLE_API_KEY, AZURE_CLIENT_SECRET, PGPASSWORD and similar
names.
"""
SECRET_PART = re.compile(
    r'(?:(?:AccountKey|SharedAccessKey|SharedAccessSignature)=|"(?:private_key|client_secret|refresh_token)":\s*")([^;"\s]+)'
)
"""Matches the secret in a connection string (Azure) and in credentials as JSON (Google)."""
LOGIN = re.compile(r"(?:^|//)([^\s/:@]*):([^\s/]+)@")
"""Matches user and password in an address, such as that of a proxy."""
SIGNATURE = re.compile(r"[?&](?:[\w-]*(?:signature|token|key|secret|password)|sig)=([^&\s]+)", re.IGNORECASE)
"""Matches the secret in a signed address."""

WHOLE = re.compile(r"(\S+)")
AWS_LINE = re.compile(r"^\s*aws_(?:secret_access_key|session_token)\s*=\s*(\S+)", re.MULTILINE)
HUB_LINE = re.compile(r"^\s*hf_token\s*=\s*(\S+)", re.MULTILINE)
NETRC_LINE = re.compile(r"\bpassword\s+(\S+)")


def key_for(url: str) -> str:
    """Return the key for a server: LABELKIT_API_KEY, else the key for its host in the keyring, else OPENAI_API_KEY.

    Servers on this machine need no key. Raises `UsageError` if a key is needed and there is none.
    """
    if found := found_key(url):
        return found[0]
    if urlsplit(url).hostname in LOOPBACK:
        return NO_KEY
    raise UsageError(f"no API key: {key_cure(url)}")


def found_key(url: str) -> tuple[str, str] | None:
    """Return the key for a server and the name of its place; None if no place has one."""
    parts = urlsplit(url)
    if key := os.environ.get(KEY):
        return key, KEY
    for host in (parts.netloc, parts.hostname or ""):
        if key := keyring().get(host):
            return key, f"the keyring {keyring_path()}"
    return (key, GENERAL_KEY) if (key := os.environ.get(GENERAL_KEY)) else None


def key_cure(url: str) -> str:
    """Return what to do if a server needs a key and there is none."""
    line = f'"{urlsplit(url).hostname}" = "KEY"'
    place = keyring_path() or f"a file that {KEYRING} names"
    return f"set {KEY} or {GENERAL_KEY} in the environment, or write {line} to {place}"


def refused_key(url: str, words: str) -> str:
    """Return the error of a server that refuses the key, with the server's words, the place of the key and the cure."""
    if (found := found_key(url)) is None:
        return f"{url} asks for a key and none was sent: {words}; {key_cure(url)}"
    return f"{url} refuses the key in {found[1]}: {words}; correct it"


def keyring_path() -> Path | None:
    """Return the path of the keyring, which need not exist; None if there is no home folder."""
    named, home = os.environ.get(KEYRING), home_folder()
    return Path(named) if named else home / ".config" / "labelkit" / "keys.toml" if home else None


def keyring() -> dict[str, str]:
    """Return the keyring: host, or host:port -> key; empty if there is no keyring.

    Raises `UsageError` if others may read the file or it is malformed; the message never shows its content.
    """
    path = keyring_path()
    if path is None or not os.access(path, os.R_OK) or not path.is_file():
        if KEYRING in os.environ:
            raise UsageError(f"{KEYRING} is {path}, which is not a readable file")
        return {}
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(f"{path} contains keys and others may read it; run: chmod 600 {path}")
    try:
        keys = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        keys = {"": None}
    if not all(isinstance(key, str) for key in keys.values()):
        raise UsageError(f'{path}: expected lines of the form "api.example.org" = "KEY"')
    return keys


def secrets() -> dict[str, str]:
    """Return the secrets of this process -> their place: an environment variable, the keyring or the command line.

    Short values and words of letters only are omitted, because they may occur in any text.
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
    for path, pattern in login_files().items():
        found |= dict.fromkeys(pattern.findall(content_of(path)), f"a secret of {path}")
    try:
        found |= {key: f"the key of {host} in {keyring_path()}" for host, key in keyring().items()}
    except (UsageError, OSError, RuntimeError):
        """The fault is reported when a key is needed; here it must not replace a message that is being cleaned."""
    return {value: where for value, where in found.items() if len(value) >= SHORTEST_SECRET and not value.isalpha()}


def login_files() -> dict[Path, re.Pattern[str]]:
    """Return the files in which other programs store logins -> pattern of a secret in each: the files of the Hub, AWS
    and Google, and .netrc. The libraries that read them are not loaded for this.
    """
    environment, home = os.environ, home_folder() or Path("/nowhere")
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(environment.get("HF_TOKEN_PATH") or Path(environment.get("HF_HOME") or cache / "huggingface") / "token")
    google = home / ".config" / "gcloud" / "application_default_credentials.json"
    return {
        hub: WHOLE,
        hub.with_name("stored_tokens"): HUB_LINE,
        Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials"): AWS_LINE,
        Path(environment.get("GOOGLE_APPLICATION_CREDENTIALS") or google): SECRET_PART,
        Path(environment.get("NETRC") or home / ".netrc"): NETRC_LINE,
    }


def content_of(path: Path) -> str:
    """Return the text of a file; empty if it cannot be read."""
    try:
        return path.expanduser().read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except (OSError, RuntimeError):
        return ""


def logins(text: str) -> Iterator[tuple[str, str]]:
    """Yield user and password of the addresses in a text, as written and with percent signs decoded."""
    for user, password in LOGIN.findall(text) if "@" in text else ():
        yield from {(user, password), (unquote(user), unquote(password))}


def names_a_file(value: str) -> bool:
    """Return whether a value is the path of a file, which contains the secret."""
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError):  # a folder that may not be read; no home folder
        return False


def secret_forms(*always: str) -> tuple[str, ...]:
    """Return all texts that reveal a secret, longest first; `always` are further secrets of any length.

    A secret may be written plainly, as JSON, in an address, or in a header of basic authentication.
    """
    forms = {form for value in (*secrets(), *always) if value not in ("", NO_KEY) for form in written(value)}
    for text in (*os.environ.values(), *sys.argv):
        for user, password in logins(text):
            forms |= {f"{user}:{password}@", base64.b64encode(f"{user}:{password}".encode()).decode()}
    return tuple(sorted(forms, key=len, reverse=True))


def written(value: str) -> Iterable[str]:
    """Return the forms of a value in a text: plain, as JSON, and in an address."""
    return {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], quote(value, safe="")}


def blot(text: str, forms: Sequence[str] | None = None) -> str:
    """Return a text with the secrets of this process replaced; pass `forms` to find them once for many texts."""
    for form in secret_forms() if forms is None else forms:
        text = text.replace(form, BLOT)
    return text
