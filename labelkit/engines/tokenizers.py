"""Token counts: where each token of a text ends, and how long a whole prompt is.

Passages are cut, windows are filled and prices are planned by these. The tokenizer is the model's own where labelkit
runs the model; for a server it is the one that the user names.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from labelkit.engines import Message, Settings
from labelkit.errors import EngineError, MissingPackageError, UsageError, first_line

TURN_TOKENS = 8
"""Allowed for the marks around a chat turn where no chat template is at hand to count them."""
WORST_TURN_TOKENS = 16
"""The most that a chat template is taken to add to a turn where the server alone knows it."""


class Tokens(Protocol):
    """A tokenizer as labelkit needs one."""

    def ends(self, text: str) -> list[int]:
        """Where each token of a text ends, in characters from its start: as many numbers as tokens."""

    def prompt(self, messages: Sequence[Message]) -> int:
        """Tokens of a whole prompt."""


class Words:
    """Words between white space, as the scripted judge counts them."""

    def ends(self, text: str) -> list[int]:
        return [match.end() for match in re.finditer(r"\S+", text)]

    def prompt(self, messages: Sequence[Message]) -> int:
        return sum(len(self.ends(message.content)) for message in messages)


def words(settings: Settings, tokenizer: str | None) -> Tokens:
    """Return the words of a judge that counts no tokens."""
    return Words()


class ChatTokens:
    """The tokenizer and chat template of a transformers model."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def ends(self, text: str) -> list[int]:
        return _ends(self._tokenizer.backend_tokenizer, text)

    def prompt(self, messages: Sequence[Message]) -> int:
        from labelkit.engines.local import encode_chat

        return len(encode_chat(self._tokenizer, messages))


class FileTokens:
    """A `tokenizer.json` without its model: what a server counts, but for the marks between chat turns."""

    def __init__(self, name: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingPackageError("tokenizers", "openai") from None
        path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(name)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        except Exception as error:  # whatever a damaged file or an unknown Hub id makes the loader raise
            raise EngineError(f"tokenizer {name!r} cannot be loaded: {first_line(error)}") from None

    def ends(self, text: str) -> list[int]:
        return _ends(self._tokenizer, text)

    def prompt(self, messages: Sequence[Message]) -> int:
        return sum(TURN_TOKENS + len(self.ends(message.content)) for message in messages) + TURN_TOKENS


def _ends(tokenizer: Any, text: str) -> list[int]:
    return [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]


def file_tokens(settings: Settings, tokenizer: str | None) -> Tokens | None:
    """Return the tokenizer that the user names for a model behind a server."""
    return FileTokens(tokenizer) if tokenizer else None


def model_tokens(settings: Settings, tokenizer: str | None) -> Tokens:
    """Return the tokenizer of a model that runs here. Raises `UsageError` where the user names another."""
    if tokenizer:
        raise UsageError("a model that runs here has its own tokenizer: it takes no --tokenizer")
    from labelkit.engines.local import load_tokenizer

    return ChatTokens(load_tokenizer(settings))


def stated_context(settings: Settings) -> int | None:
    """Return the context that the user states for a server."""
    return settings.max_model_len


def bound(text: str) -> int:
    """Return the most tokens that a text can have under any tokenizer: one per byte (byte-level vocabularies)."""
    return len(text.encode())


def most_prompt_tokens(messages: Sequence[Message]) -> int:
    """Return the most tokens that a prompt can have under any tokenizer and chat template."""
    return sum(bound(message.content) + WORST_TURN_TOKENS for message in messages) + WORST_TURN_TOKENS
