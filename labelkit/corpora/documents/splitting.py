"""Split sections into passages of a bounded number of tokens, at paragraphs and sentences, by semantic-text-splitter.

The bound applies to the text that encoders and judges read: the title, a space and the passage, with the special tokens
of the tokenizer. A passage that begins inside a code block or a table repeats its first lines, so that it can be
understood alone.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from labelkit.corpora.documents.converted import Converted
from labelkit.corpora.documents.sections import Section
from labelkit.records import full_text

if TYPE_CHECKING:
    from semantic_text_splitter import TextSplitter
    from tokenizers import Tokenizer

BETWEEN = " > "
"""Text between the parts of a title."""
TITLE_SHARE = 1 / 3
"""Share of the tokens of a passage that its title may have."""
FRAME_SHARE = 1 / 4
"""Share of the tokens of a passage that the repeated header of a table may have."""
CODE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?\n)?\1\2 *$", re.DOTALL | re.MULTILINE)
TABLE = re.compile(r"^(\|[^\n]*\|\n\|(?: *:?-+:? *\|)+\n)((?:\|[^\n]*(?:\n|\Z))+)", re.MULTILINE)


class Piece(NamedTuple):
    """A passage of a document."""

    text: str
    start: int
    end: int
    """Range in the converted text in characters. The lines that a passage repeats are not in it."""


class Frame(NamedTuple):
    """A code block or table, whose parts need its first or last lines."""

    start: int
    inner_start: int
    inner_end: int
    end: int
    before: str
    after: str


class PassageSplitter:
    """Splits sections with one tokenizer into passages of at most `max_tokens` tokens."""

    def __init__(self, tokenizer: "Tokenizer", max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._splitter = lru_cache(32)(self._new_splitter)
        self._tokens = lru_cache(1024)(lambda text: self.count(text) - self._special)

    def count(self, text: str) -> int:
        """Return the number of tokens of a text with the special tokens."""
        return len(self._tokenizer.encode(text).ids)

    def title(self, document: str, headings: Sequence[str]) -> str:
        """Return the title of a passage: the title of the document and the headings, without those in the middle if it
        is too long.
        """
        parts = [document, *headings]
        room = int(self._max_tokens * TITLE_SHARE)
        while self.count(BETWEEN.join(parts)) > room and len(parts) > 1:
            del parts[1 if len(parts) > 2 else 0]
        title = BETWEEN.join(parts)
        if self.count(title) > room:
            ends = [end for _, end in self._tokenizer.encode(title, add_special_tokens=False).offsets]
            title = title[: ends[max(0, room - self._special - 1)]]
        return title

    def pieces(self, document: Converted, section: Section, title: str) -> Iterator[Piece]:
        """Yield the passages of a section; parts without letters and digits are left out."""
        body = document.text[section.start : section.end]
        room = self._max_tokens - self.count(title) - 1
        frames = [frame for frame in frames_in(body) if self._cost(frame) <= room * FRAME_SHARE]
        for piece in self._split(body, frames if document.markdown else [], title, room=room):
            if any(character.isalnum() for character in piece.text):
                yield piece._replace(start=section.start + piece.start, end=section.start + piece.end)

    def _split(self, body: str, frames: Sequence[Frame], title: str, *, room: int) -> Iterator[Piece]:
        """Yield the pieces of a text; a piece that is too long with its frame is split again into smaller ones."""
        left = [(0, len(body), room)]
        while left:
            start, end, capacity = left.pop()
            around = overlapping(frames, start, end)
            piece = framed(body, start, end, frames=around)
            excess = self.count(full_text(title, piece.text)) - self._max_tokens
            if excess <= 0 or capacity < 1:
                yield piece
                continue
            capacity = min(capacity, room - max(map(self._cost, around), default=0))
            chunks = self._splitter(capacity if capacity < 32 else capacity // 8 * 8).chunk_indices(body[start:end])
            smaller = capacity - max(1, excess) if len(chunks) == 1 else capacity - 1
            left += [(start + at, start + at + len(chunk), smaller) for at, chunk in reversed(chunks)]

    def _cost(self, frame: Frame) -> int:
        return self._tokens(frame.before + frame.after)

    @cached_property
    def _special(self) -> int:
        return self._tokenizer.num_special_tokens_to_add(False)

    def _new_splitter(self, capacity: int) -> "TextSplitter":
        from semantic_text_splitter import TextSplitter

        return TextSplitter.from_huggingface_tokenizer(self._tokenizer, capacity)


def frames_in(text: str) -> list[Frame]:
    """Return the code blocks and tables of a Markdown text that `from_html` made."""
    found = []
    for block in CODE.finditer(text):
        inner = block.end(3) + 1
        before, after = f"{block[2]}{block[3]}\n", f"\n{block[2]}"
        found.append(
            Frame(block.start(), inner, inner + len(block[4] or ""), end=block.end(), before=before, after=after)
        )
    for table in TABLE.finditer(text):
        if not any(frame.start <= table.start() < frame.end for frame in found):
            inner, end = table.start(2), table.end()
            found.append(Frame(table.start(), inner, inner_end=end, end=end, before=table[1], after=""))
    return sorted(found)


def overlapping(frames: Sequence[Frame], start: int, end: int) -> Sequence[Frame]:
    """Return the blocks, of blocks in order, that share characters with a range."""
    first = bisect_right(frames, start, key=lambda frame: frame.end)
    return frames[first : bisect_left(frames, end, key=lambda frame: frame.start)]


def framed(body: str, start: int, end: int, *, frames: Sequence[Frame]) -> Piece:
    """Return a range of a text as a piece, with the first and last lines of the code block or table that it cuts."""
    before = after = ""
    for frame in frames:
        if start <= frame.start < end <= frame.inner_start:
            end = frame.start  # the range ends with nothing but the first lines of a block
        elif frame.inner_end <= start < frame.end:
            start = frame.end  # the range begins with nothing but its last lines
        else:
            if frame.start < start:
                before, start = frame.before, max(start, frame.inner_start)
            if frame.start < end < frame.end:
                after, end = frame.after, min(end, frame.inner_end)
    inner = body[start:end]
    text = inner.strip("\n").rstrip() if before else inner.strip()
    start += inner.find(text)
    return Piece(before + text + after if text else "", start, end=start + len(text))
