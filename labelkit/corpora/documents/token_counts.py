"""Open the tokenizer that bounds the length of passages, and find the window of its model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from labelkit.errors import DataError, first_line
from labelkit.storage import folders

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LETTERS = 6
"""Most characters of a token without a tokenizer. Counts are then 1.0 to 1.3 times the counts of MiniLM's and Qwen's
tokenizers on English prose and Markdown.
"""
USUAL_TOKENS = 256
"""Length of a passage without a tokenizer."""
LONGEST = 512
"""Longest window that is used unless the user states a length: a passage of thousands of tokens has several topics."""
WINDOWS = (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length"))
"""Files beside a tokenizer, and their fields with the length of the model's input."""


class TokenizerFiles(NamedTuple):
    """The files of a tokenizer."""

    path: Path | None
    """Path of `tokenizer.json`; None for the counts without a tokenizer."""
    sha256: str | None
    window: int
    """Length of a passage in tokens, if the user states none."""


def find_tokenizer(name: str | None) -> TokenizerFiles:
    """Find the tokenizer of a model folder, a `tokenizer.json` or a model of the Hugging Face Hub, which is downloaded
    unless it is in the cache. Raises `DataError` if there is none.
    """
    if name is None:
        return TokenizerFiles(None, None, USUAL_TOKENS)
    place = Path(name)
    if place.is_file():
        path, beside = place, place.parent
    elif place.is_dir():
        path, beside = place / "tokenizer.json", place
        if not path.is_file():
            raise DataError(f"{place} contains no tokenizer.json; give the folder of a model with a fast tokenizer")
    else:
        path = beside = downloaded(name)
        path = beside / "tokenizer.json"
    open_tokenizer(path)
    stated = (window for file, field in WINDOWS if (window := number_in(beside / file, field)))
    return TokenizerFiles(path, folders.file_sha256(path), min(next(stated, LONGEST), LONGEST))


def downloaded(name: str) -> Path:
    """Return the local folder of the tokenizer of a model of the Hub. Raises `DataError`."""
    from huggingface_hub import snapshot_download

    wanted = ["tokenizer.json", *(file for file, _ in WINDOWS)]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the Hub's client raises errors of many types
        raise DataError(
            f"tokenizer {name!r} is not a folder and cannot be fetched from the Hugging Face Hub: {first_line(error)}"
        ) from None
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{name} has no tokenizer.json on the Hugging Face Hub; choose a model with a fast tokenizer")
    return folder


def number_in(path: Path, field: str) -> int | None:
    """Return a positive whole number in a JSON file that is a plausible length; None if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))[field]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) and 0 < value < 1 << 20 else None


def open_tokenizer(path: Path | None) -> "Tokenizer":
    """Load a tokenizer; without a path, one that needs no file: parts of words of `LETTERS` characters, and punctuation
    marks. Raises `DataError` for a damaged file.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if path is None:
        plain = Tokenizer(models.WordLevel({"": 0}, unk_token=""))
        plain.normalizer = normalizers.BertNormalizer(
            clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False
        )
        parts = [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.FixedLength(LETTERS)]
        plain.pre_tokenizer = pre_tokenizers.Sequence(parts)
        return plain
    try:
        found = Tokenizer.from_file(str(path))
        found.no_truncation()
        found.no_padding()
    except Exception as error:  # the loader raises plain `Exception` for damaged files
        raise DataError(f"tokenizer {path} cannot be loaded: {first_line(error)}") from None
    return found
