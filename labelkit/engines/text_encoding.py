"""Encode texts as token ids and token ends, word by word, with a cache of words.

Tokenizers with a vocabulary of bytes (GPT-2 and most later models: Llama 3, Qwen, Mistral, DeepSeek, GLM) never put a
space into one token with a preceding character other than white space. A text that is cut there and encoded in parts
therefore has the same ids as the whole text. With other tokenizers, each text is encoded as a whole.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

WORDS = 200_000
"""Number of words whose tokens are cached, which takes about 60 MB."""
LINES = 4096
"""Number of lines of prompts whose tokens are cached, which takes about 60 MB with passages of 400 tokens. The rubric
is in all prompts of a run, a query in all prompts of its pool, and a passage in the pools of several queries.
"""
FIRST_WORD = re.compile(r"(?<=\n)\S+(?= )")
"""Matches the first word of a line. Prompts are cut after it, because templates write `Passage: ...` and `[3] ...`."""
CONTEXT = re.compile(r"\(\?<[=!]|\\b|\\B|\\A|\\G|\^(?!\\)")
"""Matches parts of a regular expression that depend on the text before a match."""
PROBES = ("a", "é", "中", "ア", "7", "٣", "!", "?!", "(", "'s", "_", "€", "😀", "e\u0301", "\u0e33", "a.", "7a")
"""Words of every class of characters that the regular expressions of tokenizers distinguish."""


class Encoded(NamedTuple):
    """The tokens of a text."""

    ids: list[int]
    ends: list[int]
    """End of each token in characters from the start of the text."""


class TextEncoder:
    """A `tokenizers.Tokenizer` with a cache of words and lines. No special tokens are added."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._in_words = splits_before_spaces(tokenizer)
        self._word = lru_cache(maxsize=WORDS)(self._encoded)
        self._line = lru_cache(maxsize=LINES)(self._ids_of_line)

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        if not self._in_words:
            return self._encoded(text).ids
        start, ids = 0, []
        for word in FIRST_WORD.finditer(text):
            ids += self._line(text[start : word.end()])
            start = word.end()
        return ids + self._line(text[start:])

    def ends(self, text: str) -> list[int]:
        """Return the end of each token of a text in characters from its start, one number per token."""
        if not self._in_words:
            return self._encoded(text).ends
        start, ends = 0, []
        for word in words(text):
            for end in self._word(word).ends:
                ends.append(start + end)
            start += len(word)
        return ends

    def _ids_of_line(self, line: str) -> list[int]:
        return [token for word in words(line) for token in self._word(word).ids]

    def _encoded(self, text: str) -> Encoded:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return Encoded(encoding.ids, [end for _, end in encoding.offsets])


def words(text: str) -> Iterator[str]:
    """Yield the parts of a text that is cut before every space that follows a character other than white space."""
    word = None
    for piece in text.split(" "):
        if word is None:
            word = piece
        elif not word or word[-1].isspace():
            word = f"{word} {piece}"
        else:
            yield word
            word = f" {piece}"
    yield word or ""


def splits_before_spaces(tokenizer: Any) -> bool:
    """Return whether a tokenizer certainly begins a new token at every space that follows another character.

    This is true for byte-level BPE after regular expressions that do not look back, if no added token contains or
    absorbs white space. In addition, the expressions are tested on `PROBES`.
    """
    if type(tokenizer.model).__name__ != "BPE" or tokenizer.model.dropout:
        return False
    parts = tokenizer.normalizer, tokenizer.pre_tokenizer
    normalizer, splitter = (part and json.loads(part.__getstate__()) for part in parts)
    if normalizer and normalizer["type"] != "NFC":
        return False
    stages = splitter["pretokenizers"] if splitter and splitter["type"] == "Sequence" else [splitter]
    if not (stages[-1] and stages[-1]["type"] == "ByteLevel") or not all(map(_looks_ahead_only, stages)):
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip or token.single_word or re.search(r"\s", token.content) for token in added):
        return False
    return all(_cut_at_space(tokenizer.pre_tokenizer, f"{one} {two}", len(one)) for one in PROBES for two in PROBES)


def _looks_ahead_only(stage: dict[str, Any]) -> bool:
    """Return whether a stage of a pre-tokenizer splits a text from left to right without looking back."""
    if stage["type"] == "ByteLevel":
        return not stage["add_prefix_space"]
    if stage["type"] == "Split":
        regex = stage["pattern"].get("Regex", "")
        return bool(regex) and stage["behavior"] == "Isolated" and not CONTEXT.search(regex)
    return bool(stage["type"] == "Digits")


def _cut_at_space(pre_tokenizer: Any, text: str, place: int) -> bool:
    return any(start == place for _, (start, _) in pre_tokenizer.pre_tokenize_str(text))
