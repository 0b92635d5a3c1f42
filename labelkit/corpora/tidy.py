"""Copy a BEIR folder without its malformed lines, and list these lines: `labelkit tidy`.

All commands are strict: a line that cannot be read stops them, and nothing is skipped silently. If malformed lines
cannot be repaired, `tidy` removes them once and records them; the other lines are copied byte for byte.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.corpus import corpus_row
from labelkit.corpora.qrels import is_header, qrels_row
from labelkit.corpora.queries import query_row
from labelkit.corpora.rows import lines
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
    reason: str


def tidy(
    data: Path | str, output: Path | str, *, scale: str | None = None, command: str = "labelkit.tidy"
) -> dict[str, int]:
    """Copy a BEIR folder without the lines that cannot be read, and list these with file, line and reason.

    If an id is duplicated with the same text, one line is kept; with different texts, no line is kept, because any of
    them could be meant. Qrels keep the pairs whose query and passage are kept.

    Args:
        data: BEIR folder with lines that cannot be read.
        output: the BEIR folder to write, with the list of lines in `set_aside.jsonl`.
        scale: text of the scale of the qrels' grades if they are not 0 to 3, such as 1-5. The grades are copied as they
            are.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The number of lines set aside, by file.

    Raises:
        DataError: no line of the corpus or of the queries can be read.
    """
    folder, target = Path(data), Path(output)
    aside: list[Aside] = []
    known: dict[str, set[str]] = {}
    refuse_own_input(target, [folder])
    with folders.writing(target, KIND, command) as draft:
        for name, read in (("corpus.jsonl", corpus_row), ("queries.jsonl", query_row)):
            check = Once(folder / name, read)
            draft.rows[name] = copy(folder / name, draft.path / name, check, aside=aside)
            if not draft.rows[name]:
                raise DataError(f"{folder / name}: no line can be read")
            known[name] = set(check.seen)
            draft.inputs[str(folder / name)] = folders.file_sha256(folder / name)
        for path in sorted((folder / "qrels").glob("*.tsv")):
            place = draft.path / "qrels" / path.name
            place.parent.mkdir(exist_ok=True)
            pairs = PairCheck(known["queries.jsonl"], known["corpus.jsonl"], scale)
            draft.rows[f"qrels/{path.name}"] = copy(path, place, pairs, aside=aside)
            draft.inputs[str(path)] = folders.file_sha256(path)
        text = "".join(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in aside)
        (draft.path / ASIDE).write_text(text, encoding="utf-8", errors="backslashreplace")
        counts = dict(Counter(row.file for row in aside))
        draft.facts = DataFacts(set_aside=counts)
    return counts


def copy(path: Path, target: Path, check: Callable[[bytes, str], None], aside: list[Aside]) -> int:
    """Copy lines for which `check` raises no `DataError`, and add the others to `aside`; return the number copied."""
    kept = 0
    with target.open("wb") as file:
        for where, raw in lines(path):
            try:
                check(raw, where)
            except DataError as error:
                reason = str(error).removeprefix(f"{where}: ")
                aside.append(Aside(str(path), int(where.rpartition(":")[2]), reason))
            else:
                file.write(raw + b"\n")
                kept += 1
    return kept


class Once:
    """Checks that a line can be read, and that its id is unique."""

    def __init__(self, path: Path, read: Callable[[bytes, str], tuple[str, ...]]) -> None:
        self._read = read
        self._texts: dict[str, bytes | None] = {}
        """Id -> digest of its text; None if the id has different texts."""
        self.seen: set[str] = set()
        for where, raw in lines(path):
            for key, *rest in readable(read, raw, where):
                text = digest_of(*rest)
                self._texts[key] = text if self._texts.get(key, text) == text else None

    def __call__(self, raw: bytes, where: str) -> None:
        key = self._read(raw, where)[0]
        if self._texts[key] is None:
            raise DataError(f"{where}: id {key!r} is duplicated with different texts")
        if key in self.seen:
            raise DataError(f"{where}: id {key!r} is duplicated with the same text")
        self.seen.add(key)


class PairCheck:
    """Checks that a line of qrels can be read, that its query and passage were kept, and that its pair is unique."""

    def __init__(self, queries: set[str], passages: set[str], scale: str | None) -> None:
        self._scale = scale
        self._queries = queries
        self._passages = passages
        self._seen: set[tuple[str, str]] = set()

    def __call__(self, raw: bytes, where: str) -> None:
        if where.endswith(":1") and is_header(raw):
            return
        query_id, passage_id, *_ = qrels_row(raw, where, self._scale)
        if query_id not in self._queries or passage_id not in self._passages:
            raise DataError(f"{where}: query {query_id!r} or passage {passage_id!r} is missing")
        if (query_id, passage_id) in self._seen:
            raise DataError(f"{where}: the pair {query_id!r}, {passage_id!r} is duplicated")
        self._seen.add((query_id, passage_id))


def readable(read: Callable[[bytes, str], tuple[str, ...]], raw: bytes, where: str) -> Iterator[tuple[str, ...]]:
    """Yield the fields of a line if it can be read."""
    try:
        yield read(raw, where)
    except DataError:
        return
