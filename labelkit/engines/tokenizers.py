"""Count tokens: the end of each token in a text, and the number of tokens in a whole prompt.

Token counts determine where passages are cut, how windows are filled and how costs are planned. If labelkit runs the
model, they come from its own tokenizer; for a server, from the tokenizer that the user names.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from labelkit.engines import Message, Settings
from labelkit.engines.chat_encoding import ChatEncoder
from labelkit.engines.text_encoding import TextEncoder
from labelkit.errors import EngineError, MissingPackageError, first_line

TURN_TOKENS = 8
"""Tokens assumed for the marks around a chat turn if no chat template is available."""
WORST_TURN_TOKENS = 16
"""Most tokens that an unknown chat template of a server is assumed to add to a turn."""


class Tokens(Protocol):
    """Interface of tokenizers."""

    def ends(self, text: str) -> list[int]:
        """Return the end of each token of a text in characters from its start, one number per token."""

    def prompt(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a whole prompt."""


class Words:
    """Words between white space, which the scripted judge counts instead of tokens."""

    def ends(self, text: str) -> list[int]:
        ends, end = list[int](), -1
        for word in text.split():
            end += 1 + len(word)
            ends.append(end)
        # The ends are right if single spaces are all that is between the words.
        return ends if end == len(text) else [match.end() for match in re.finditer(r"\S+", text)]

    def prompt(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) for message in messages)


def words(settings: Settings, tokenizer: str | None) -> Tokens:
    """Return the counter of words for an engine that counts no tokens."""
    return Words()


class ChatTokens:
    """The tokenizer and chat template of a transformers model."""

    def __init__(self, encoder: ChatEncoder) -> None:
        self._encoder = encoder

    def ends(self, text: str) -> list[int]:
        return self._encoder.text.ends(text)

    def prompt(self, messages: Sequence[Message]) -> int:
        return len(self._encoder.encode(messages))


class FileTokens:
    """A `tokenizer.json` without its model: counts like the server, except for the marks between chat turns.

    Raises `EngineError` if it cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingPackageError("tokenizers", "openai") from None
        path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
        try:
            tokenizer: Any = Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(name)
            tokenizer.no_truncation()
            tokenizer.no_padding()
        except Exception as error:  # the loader raises errors of any type for damaged files and unknown Hub ids
            raise EngineError(f"tokenizer {name!r} cannot be loaded: {first_line(error)}") from None
        self.ends = TextEncoder(tokenizer).ends

    def prompt(self, messages: Sequence[Message]) -> int:
        return sum(TURN_TOKENS + len(self.ends(message.content)) for message in messages) + TURN_TOKENS


def file_tokens(settings: Settings, tokenizer: str | None) -> Tokens | None:
    """Return the tokenizer that the user names for a model behind a server; None if the user names none."""
    return FileTokens(tokenizer) if tokenizer else None


def model_tokens(settings: Settings, tokenizer: str | None) -> Tokens:
    """Return the model's own tokenizer, for a model that runs here."""
    from labelkit.engines.local import load_encoder

    return ChatTokens(load_encoder(settings))


def stated_context(settings: Settings) -> int | None:
    """Return the context in tokens that the user states for a server; None if the user states none."""
    return settings.max_model_len


def bound(text: str) -> int:
    """Return the most tokens that a text can have with any tokenizer: one per byte (byte-level vocabularies)."""
    return len(text.encode())


def most_prompt_tokens(messages: Sequence[Message]) -> int:
    """Return the most tokens that a prompt can have with any tokenizer and chat template."""
    return sum(bound(message.content) + WORST_TURN_TOKENS for message in messages) + WORST_TURN_TOKENS
