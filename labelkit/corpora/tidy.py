"""Copy a collection without its malformed lines, as a BEIR folder, and list these lines: `labelkit tidy`.

All commands are strict: a line that cannot be read stops them, and nothing is skipped silently. If malformed lines
cannot be repaired, `tidy` removes them once and records them. The other lines of a BEIR folder are copied byte for
byte; collections in other layouts become a BEIR folder.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.layout import layout_of
from labelkit.corpora.options import ColumnOptions
from labelkit.corpora.places import local_collection
from labelkit.corpora.raw_lines import Line, Values, grade_lines, passage_lines, query_lines
from labelkit.errors import DataError
from labelkit.storage import folders
from labelkit.storage.manifest import DATA, DataFacts
from labelkit.storage.outputs import refuse_own_input
from labelkit.storage.sqlite_file import digest_of

KIND = DATA
ASIDE = "set_aside.jsonl"


class Aside(NamedTuple):
    """A line that is set aside, with the reason."""

    file: str
    line: int
    """Line number in the file; row number in a file without lines."""
    reason: str


def tidy(
    data: Path | str,
    output: Path | str,
    options: ColumnOptions = ColumnOptions(),  # noqa: B008 (a frozen record)
    *,
    scale: str | None = None,
    command: str = "labelkit.tidy",
) -> dict[str, int]:
    """Copy a collection as a BEIR folder, without the lines that cannot be read, and list these with file, line and
    reason.

    If an id is duplicated with the same text, or a pair with the same grade, one line is kept; if the texts or grades
    differ, no line is kept, because any of them could be meant. Qrels keep the pairs whose query and passage are kept.

    Args:
        data: collection with lines that cannot be read; may be at s3://, gs://, hf:// or irds:.
        output: the BEIR folder to write, with the list of lines in `set_aside.jsonl`.
        options: names of columns.
        scale: text of the scale of the qrels' grades if they are not 0 to 3, such as 1-5. The grades are copied as they
            are.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The number of lines set aside, by file.

    Raises:
        DataError: no line of the corpus or of the queries can be read.
    """
    folder, target = local_collection(str(data)), Path(output)
    layout = layout_of(folder)
    aside: list[Aside] = []
    refuse_own_input(target, [folder])
    with folders.writing(target, KIND, command) as draft:
        passages = Once(partial(passage_lines, layout.corpus, options.fields), text_of_key)
        queries = Once(partial(query_lines, layout.queries, options.fields), text_of_key)
        for name, paths, kept in (("corpus", layout.corpus, passages), ("queries", layout.queries, queries)):
            draft.rows[f"{name}.jsonl"] = copy(kept.lines(aside), draft.path / f"{name}.jsonl")
            if not kept.seen:
                raise DataError(
                    f"{paths[0]}: no line can be read" + (f"; the first: {aside[0].reason}" if aside else "")
                )
        for split, files in layout.qrels.items():
            place = draft.path / "qrels" / f"{split}.tsv"
            place.parent.mkdir(exist_ok=True)
            pairs = Once(
                partial(grade_lines, files, scale), grades_of_pair, partial(unknown, queries.seen, passages.seen)
            )
            draft.rows[f"qrels/{split}.tsv"] = copy(pairs.lines(aside), place)
        read = [*layout.corpus, *layout.queries, *(path for files in layout.qrels.values() for path in files)]
        draft.inputs = {str(path): folders.file_sha256(path) for path in read}
        text = "".join(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in aside)
        (draft.path / ASIDE).write_text(text, encoding="utf-8", errors="backslashreplace")
        counts = dict(Counter(row.file for row in aside))
        draft.facts = DataFacts(set_aside=counts)
    return counts


def copy(lines: Iterable[bytes], target: Path) -> int:
    """Write lines to a file; return their number."""
    count = 0
    with target.open("wb") as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
    return count


class Once:
    """Keeps the lines that can be read and whose key is unique, or repeated with the same value; the first of these."""

    def __init__(
        self,
        read: Callable[[], Iterator[Line]],
        conflict: Callable[[Values, set[str]], str],
        reject: Callable[[Values], str | None] = lambda key: None,
    ) -> None:
        self._read = read
        self._conflict = conflict
        self._reject = reject
        self.seen: set[Values] = set()
        """Keys of the lines that were kept."""
        values: dict[Values, bytes] = {}
        self._conflicting: dict[Values, set[str]] = {}
        """Key with several values -> its values."""
        for line in read():
            if line.key and values.setdefault(line.key, digest_of(line.value)) != digest_of(line.value):
                self._conflicting[line.key] = set()
        for line in read() if self._conflicting else ():
            if line.key in self._conflicting:
                self._conflicting[line.key].add(line.value)

    def lines(self, aside: list[Aside]) -> Iterator[bytes]:
        """Yield the lines to keep, and add the others to `aside`."""
        for line in self._read():
            if reason := line.error or (line.key and self._refusal(line.key)):
                place = re.fullmatch(r"(?s)(.*?)(?::|, row )(\d+)", line.where)
                assert place is not None
                aside.append(Aside(place[1], int(place[2]), reason))
                continue
            if line.key:
                self.seen.add(line.key)
            yield line.raw

    def _refusal(self, key: Values) -> str | None:
        """Return why a line that can be read is not kept; None if it is kept."""
        if reason := self._reject(key):
            return reason
        if key in self._conflicting:
            return self._conflict(key, self._conflicting[key])
        if key in self.seen:
            what, value = ("id", "text") if len(key) == 1 else ("the pair", "grade")
            return f"{what} {', '.join(map(repr, key))} is duplicated with the same {value}"
        return None


def text_of_key(key: Values, texts: set[str]) -> str:
    """Describe an id with several texts."""
    return f"id {key[0]!r} is duplicated with different texts"


def grades_of_pair(key: Values, grades: set[str]) -> str:
    """Describe a pair with several grades."""
    return f"the pair {key[0]!r}, {key[1]!r} has the grades {' and '.join(sorted(grades))}"


def unknown(queries: set[Values], passages: set[Values], pair: Values) -> str | None:
    """Return why a pair is not kept if its query or passage was not kept."""
    if (pair[0],) not in queries or (pair[1],) not in passages:
        return f"query {pair[0]!r} or passage {pair[1]!r} is missing"
    return None
