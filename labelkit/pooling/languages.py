"""Cut texts into the terms that BM25 counts: words, stop words and stemmer by language.

Stop words come from bm25s, stemmers from PyStemmer (Snowball). Chinese and Japanese are written without spaces, so
their terms are overlapping pairs of characters, as in Lucene's CJKAnalyzer.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from labelkit.corpora.words import ALONE, marks
from labelkit.errors import UnknownNameError

DEFAULT = "plain"
"""Name of the terms without a language: bm25s's words and English stop words, without a stemmer."""
CODES = {
    "arabic": "ar",
    "armenian": "hy",
    "basque": "eu",
    "catalan": "ca",
    "chinese": "zh",
    "czech": "cs",
    "danish": "da",
    "dutch": "nl",
    "english": "en",
    "esperanto": "eo",
    "estonian": "et",
    "finnish": "fi",
    "french": "fr",
    "german": "de",
    "greek": "el",
    "hindi": "hi",
    "hungarian": "hu",
    "indonesian": "id",
    "irish": "ga",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "lithuanian": "lt",
    "nepali": "ne",
    "norwegian": "no",
    "persian": "fa",
    "polish": "pl",
    "portuguese": "pt",
    "romanian": "ro",
    "russian": "ru",
    "serbian": "sr",
    "sesotho": "st",
    "spanish": "es",
    "swedish": "sv",
    "tamil": "ta",
    "turkish": "tr",
    "yiddish": "yi",
}
"""Name of a language -> its code in ISO 639-1."""
STOP_WORDS = frozenset(["da", "de", "en", "es", "fr", "it", "ko", "nl", "no", "pt", "ru", "sv", "tr", "zh"])
"""Codes of the languages of which bm25s has stop words."""
WITHOUT_STEMMER = frozenset(["ja", "ko", "zh"])
PAIRS = frozenset(["ja", "zh"])
"""Codes of the languages whose terms are pairs of characters."""

Cut = Callable[[str], list[str]]
"""Function from a text in lower case to its words."""


class Terms(NamedTuple):
    """Rules that turn a text into terms: cut it, remove stop words, stem the rest."""

    name: str
    cut: Cut
    stop_words: frozenset[str]
    stem: Callable[[str], str] | None

    def of(self, text: str) -> list[str]:
        """Return the terms of a text in its order."""
        kept = [word for word in self.cut(text.lower()) if word not in self.stop_words]
        return kept if self.stem is None else [self.stem(word) for word in kept]


def code_of(language: str) -> str:
    """Return the code of a language by its code or English name. Raises `UnknownNameError`."""
    code = CODES.get(language.lower(), language.lower())
    if code not in CODES.values():
        raise UnknownNameError("language", language, CODES)
    return code


def terms_of(language: str | None) -> Terms:
    """Return the rules of a language, by its code or English name; None for bm25s's defaults.

    Raises `UnknownNameError`.
    """
    import bm25s.tokenization

    if language is None:
        words = re.compile(r"(?u)\b\w\w+\b").findall
        return Terms(DEFAULT, words, _stop_words(bm25s.tokenization, "en"), stem=None)
    code = code_of(language)
    stemmer = None if code in WITHOUT_STEMMER else _stemmer(code)
    cut: Cut = _pairs if code in PAIRS else re.compile(rf"[\w{marks()}]{{2,}}").findall
    return Terms(code, cut, _stop_words(bm25s.tokenization, code), stem=stemmer)


def described(terms: Terms) -> dict[str, str]:
    """Return the terms in words for a manifest: tokenizer, stop words and stemmer with their versions."""
    import bm25s
    import Stemmer

    snowball = f"Snowball, PyStemmer {Stemmer.version()}"
    return {
        "language": "none given" if terms.name == DEFAULT else terms.name,
        "tokenizer": "pairs of characters" if terms.cut is _pairs else "words of two or more characters, in lower case",
        "stop_words": f"{len(terms.stop_words)} of bm25s {bm25s.__version__}" if terms.stop_words else "none",
        "stemmer": "none" if terms.stem is None else snowball,
    }


def _stop_words(tokenization: Any, code: str) -> frozenset[str]:
    words: Sequence[str] = tokenization._infer_stopwords(code) if code in STOP_WORDS else ()
    return frozenset(words)


def _stemmer(code: str) -> Callable[[str], str]:
    import Stemmer

    stem: Callable[[str], str] = Stemmer.Stemmer(code).stemWord
    return stem


def _pairs(text: str) -> list[str]:
    """Return words of two or more characters, and of Han and kana text all pairs of neighbouring characters."""
    found = []
    for run in _runs().findall(text):
        found += [run[place : place + 2] for place in range(len(run) - 1)] if _alone().match(run) else [run]
    return found


@lru_cache
def _runs() -> re.Pattern[str]:
    return re.compile(f"[{ALONE}]{{2,}}|(?:(?![{ALONE}])[\\w{marks()}]){{2,}}")


@lru_cache
def _alone() -> re.Pattern[str]:
    return re.compile(f"[{ALONE}]")
