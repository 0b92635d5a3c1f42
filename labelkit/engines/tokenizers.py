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


def tokens_of(engine: str, settings: Settings, tokenizer: str | None) -> Tokens | None:
    """The tokenizer of a judge; None for a server whose tokenizer the user does not name."""
    if engine == "scripted":
        return Words()
    if engine in ("openai", "openai-batch"):
        return FileTokens(tokenizer) if tokenizer else None
    if tokenizer:
        raise UsageError(f"engine {engine} has the model's own tokenizer: it takes no --tokenizer")
    from labelkit.engines.local import load_tokenizer

    return ChatTokens(load_tokenizer(settings))


def context_of(engine: str, settings: Settings) -> int | None:
    """Tokens that a prompt and its answer may have together; None where only the server knows."""
    if settings.max_model_len or engine in ("scripted", "openai", "openai-batch"):
        return settings.max_model_len
    if engine == "local":
        from labelkit.engines.local import model_context

        return model_context(settings)
    from labelkit.engines.vllm import MAX_MODEL_LEN

    return MAX_MODEL_LEN


def bound(text: str) -> int:
    """The most tokens that a text can have without a tokenizer at hand: one a byte (byte-level vocabularies)."""
    return len(text.encode())
