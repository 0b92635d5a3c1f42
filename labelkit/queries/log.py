"""Take queries from a log of queries that people typed: counted, without personal data patterns and near-duplicates."""

import math
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.fields import QUERY_TEXTS, TEXT_LIKE, USUAL, Fields, Wanted, columns_of
from labelkit.corpora.files import READERS, column_names, file_rows, form_of, names_without_header
from labelkit.corpora.layout import layout_of
from labelkit.corpora.places import local_collection
from labelkit.corpora.rows import text_lines, text_of
from labelkit.corpora.words import words
from labelkit.errors import DataError
from labelkit.queries.checking import repeated_in
from labelkit.queries.folder import DROPPED, write_corpus, write_lines
from labelkit.queries.options import LogOptions
from labelkit.queries.personal_data import personal_data
from labelkit.storage import folders
from labelkit.storage.manifest import QUERIES, QueriesFacts
from labelkit.storage.outputs import refuse_own_input

LONGEST = 512
"""Most characters of a query; longer lines are texts that somebody pasted."""
NEAR = "near-duplicate of another query"


class Logged(NamedTuple):
    """A query of a log."""

    text: str
    line: str
    """Place of its first occurrence, `file:line`."""
    times: int
    """Number of lines with this text, apart from case and spaces."""


class LogQueries(NamedTuple):
    """The numbers of queries that were taken from a log."""

    lines_read: int
    different: int
    """Different queries that passed the checks of single lines."""
    kept: int
    left_out: dict[str, int]
    """Reason -> number of lines; for near-duplicates, number of different queries among those looked at."""

    def lines(self, folder: Path) -> list[str]:
        """Return the result for people."""
        return [
            f"{folder}: {self.kept} queries, from {self.lines_read} lines with {self.different} different queries",
            *(f"  {count} x left out: {reason}" for reason, count in self.left_out.items()),
        ]


def sample_log(
    data: Path | str, output: Path | str, options: LogOptions, *, command: str = "labelkit.sample_log"
) -> LogQueries:
    """Write a BEIR folder with the corpus of a collection and queries of a log, without any grades.

    A line with the form of an e-mail address, phone number, IBAN, card number, IP address or @handle, or with a run
    of seven digits, is left out; its text is written nowhere. Names of people have no form and stay: look through the
    result before you publish it.

    Args:
        data: collection with a corpus; may be at s3://, gs://, hf:// or irds:.
        output: the BEIR folder to write. `dropped.jsonl` lists the lines left out, with reasons and without texts.
        options: the log, and the queries to take from it.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        Numbers of lines, different queries, kept queries, and lines left out by reason.

    Raises:
        DataError: the log or the corpus is malformed, or no line of the log passes the checks.
    """
    target, folder = Path(output), local_collection(str(data))
    refuse_own_input(target, [folder])
    layout, path = layout_of(folder, needed=["corpus"]), options.log
    dropped = list[dict[str, str]]()
    found, lines_read = different_queries(path, options.text_field, dropped)
    if not found:
        raise DataError(f"{path}: none of {lines_read} lines is a query without personal data")
    kept = drawn(found, options, dropped)
    with folders.writing(target, QUERIES, command) as draft:
        write_corpus(draft, layout.corpus, USUAL)
        draft.rows["queries.jsonl"] = write_lines(draft.path / "queries.jsonl", map(row_of, kept))
        draft.rows[DROPPED] = write_lines(draft.path / DROPPED, dropped)
        draft.inputs = {str(each): folders.file_sha256(each) for each in (*layout.corpus, path)}
        left_out = dict(Counter(one["reason"] for one in dropped).most_common())
        settings = {"sample": options.sample, "by_frequency": options.by_frequency, "seed": options.seed}
        draft.facts = QueriesFacts(queries_by="log", settings=settings, left_out=left_out, kept={"log": len(kept)})
    return LogQueries(lines_read, len(found), len(kept), left_out=left_out)


def different_queries(path: Path, field: str | None, dropped: list[dict[str, str]]) -> tuple[list[Logged], int]:
    """Return the different queries of a log in the order of their first lines, and the number of lines.

    Queries that differ in case and spaces alone are one query. Lines that are no query are added to `dropped`.
    """
    first: dict[str, tuple[str, str]] = {}
    counts = Counter[str]()
    total = 0
    for where, line in logged(path, field):
        total += 1
        text = " ".join(line.split())
        if reason := refusal(text):
            dropped.append({"line": where, "reason": reason})
            continue
        counts[text.casefold()] += 1
        first.setdefault(text.casefold(), (text, where))
    return [Logged(*shown, times=counts[key]) for key, shown in first.items()], total


def logged(path: Path, field: str | None) -> Iterator[tuple[str, str]]:
    """Yield `file:line` and text of every line of a log. Raises `DataError`."""
    if form_of(path) not in READERS:
        yield from text_lines(path)
        return
    given = names_without_header(path, Fields(text=field), QUERY_TEXTS)
    if names := column_names(path, given):
        known = (field,) if field else QUERY_TEXTS
        (column,) = columns_of(names, [Wanted("the query", known, "--text-field", like=TEXT_LIKE)], str(path))
        for where, row in file_rows(path, given, [column]):
            yield where, text_of(row, column, where)


def refusal(text: str) -> str | None:
    """Return why a line is left out; None for a query."""
    if not words(text):
        return "no words"
    return f"longer than {LONGEST} characters" if len(text) > LONGEST else personal_data(text)


def drawn(found: list[Logged], options: LogOptions, dropped: list[dict[str, str]]) -> list[Logged]:
    """Draw queries by the hashes of their texts, without near-duplicates, which are added to `dropped`."""
    ordered = sorted(found, key=lambda one: place_of(one, options))
    wanted = options.sample or len(ordered)
    looked = wanted
    while True:
        part = ordered[:looked]
        copies = repeated_in([one.text for one in part])
        kept = [one for number, one in enumerate(part) if number not in copies]
        if len(kept) >= wanted or looked >= len(ordered):
            break
        looked = 2 * looked
    dropped += [{"line": part[number].line, "reason": NEAR, "of": part[first].line} for number, first in copies.items()]
    return kept[:wanted]


def place_of(one: Logged, options: LogOptions) -> float:
    """Return the place of a query in the order of drawing.

    Taking the smallest values of an exponential distribution whose rate is the weight draws by weight without
    replacement (Efraimidis and Spirakis, 2006).
    """
    digest = sha256(f"{options.seed} {one.text.casefold()}".encode()).digest()
    uniform = (int.from_bytes(digest[:7]) + 1) / (1 << 56)
    return -math.log(uniform) / (one.times if options.by_frequency else 1)


def row_of(one: Logged) -> dict[str, object]:
    """Return a query as a row of `queries.jsonl`. Its id follows from its text."""
    name = f"l-{sha256(one.text.casefold().encode()).hexdigest()[:16]}"
    return {"_id": name, "text": one.text, "metadata": {"written_by": "log", "count": one.times}}
