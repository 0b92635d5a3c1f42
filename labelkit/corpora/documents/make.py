"""Turn a folder of documents into a corpus of passages: `labelkit corpus`.

A passage keeps its id as long as its document keeps its place and the passage its title and text, so labels of a corpus
stay valid when other passages change. Documents are converted in a child process, one by one, and passages are kept on
disk, so that memory does not grow with the number of documents.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from labelkit.corpora.copies import repeated
from labelkit.corpora.documents.conversion import CONVERTERS, PACKAGES, check_packages
from labelkit.corpora.documents.converted import Refused
from labelkit.corpora.documents.finding import documents_in
from labelkit.corpora.documents.sections import named_by_file
from labelkit.corpora.documents.token_counts import find_tokenizer
from labelkit.corpora.documents.worker import Converter, Document, Row
from labelkit.corpora.options import CorpusOptions
from labelkit.corpora.queries import query_texts
from labelkit.errors import DataError
from labelkit.records import full_text
from labelkit.storage import folders
from labelkit.storage.atomic import UNFINISHED
from labelkit.storage.manifest import CORPUS, CorpusFacts
from labelkit.storage.names import missing
from labelkit.storage.outputs import place_of, refuse_own_input
from labelkit.storage.text_file import TextFile

log = logging.getLogger(__name__)

SOURCES, LEFT_OUT, REPEATED = "sources.jsonl", "left_out.jsonl", "repeated.jsonl"
LOG_SECONDS = 30.0
DIGITS = 12
"""Hexadecimal digits of an id that depend on title and text."""
UNSAFE = re.compile(r"[\s%#\x00-\x1f\x7f]")
"""Characters of paths that ids cannot contain: they would end an id in a qrels or run file."""


class CorpusCounts(NamedTuple):
    """Numbers of documents and passages of `labelkit corpus`."""

    documents: int
    """Documents with passages."""
    passages: int
    """Passages in the corpus."""
    repeated: int
    """Passages left out because they repeat another passage."""
    left_out: dict[str, int]
    """Kind of reason -> number of documents without passages."""
    skipped: dict[str, int]
    """Kind of file that is no document -> number of such files."""


def make_corpus(
    folder: Path | str,
    output: Path | str,
    options: CorpusOptions = CorpusOptions(),  # noqa: B008 (a frozen record)
    *,
    command: str = "labelkit.corpus",
) -> CorpusCounts:
    """Convert the documents of a folder, split them into passages, and write these as a corpus in the BEIR layout.

    The title of a passage is the title of its document and the headings above it, and its metadata have the file, the
    headings, and the range in the converted text in characters. Passages that repeat an earlier one are in
    `repeated.jsonl`, documents without passages with their reasons in `left_out.jsonl`, all documents in
    `sources.jsonl`.

    Args:
        folder: folder with text, Markdown, HTML, reStructuredText, PDF, Word documents and notebooks.
        output: the corpus folder to write.
        options: tokenizer, length of passages, and queries.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The numbers of documents and passages.

    Raises:
        MissingPackageError: a package of the extra `documents` is not installed.
        DataError: the folder does not exist, no document gives a passage, or the tokenizer or the queries cannot be
            read.
    """
    check_packages()
    source, target = Path(folder), Path(output)
    if not source.is_dir():
        raise DataError(
            f"{source} is a file; give the folder that contains it" if source.is_file() else missing(source)
        )
    refuse_own_input(target, [source])
    tokenizer = find_tokenizer(options.tokenizer)
    max_tokens = options.max_tokens or tokenizer.window
    queries = query_texts(options.queries) if options.queries else {}
    with folders.writing(target, CORPUS, command) as draft:
        own = (place_of(target).beside(suffix) for suffix in ("", UNFINISHED, ".lock", ".holder"))
        made = Making(source, draft.path, but={path.absolute() for path in own})
        with (
            Converter(tokenizer.path, max_tokens) as converter,
            TextFile(made.rows(converter), draft.path) as rows,
        ):
            if not len(rows):
                raise DataError(made.nothing())
            kept, repeats = write_passages(draft.path, rows)
        draft.rows = {"corpus.jsonl": kept}
        if options.queries:
            lines = ({"_id": query_id, "text": text} for query_id, text in queries.items())
            draft.rows["queries.jsonl"] = write_lines(draft.path / "queries.jsonl", lines)
            draft.inputs[str(options.queries)] = folders.file_sha256(options.queries)
        draft.inputs[str(source)] = folders.file_sha256(draft.path / SOURCES)
        draft.facts = CorpusFacts(
            max_tokens=max_tokens,
            tokenizer=options.tokenizer,
            tokenizer_sha256=tokenizer.sha256,
            converters={package: version(package) for package in PACKAGES.values()},
            documents=dict(sorted(made.documents.items())),
            left_out=dict(sorted(made.left_out.items())),
            skipped=dict(sorted(made.skipped.items())),
            repeated=dict(sorted(repeats.items())),
        )
    left_out, skipped = (dict(counts.most_common()) for counts in (made.left_out, made.skipped))
    return CorpusCounts(made.documents.total(), kept, repeats.total(), left_out=left_out, skipped=skipped)


class Making:
    """The conversion of a folder: counts, and the lists of its documents in the draft of the corpus."""

    def __init__(self, folder: Path, draft: Path, but: set[Path]) -> None:
        self._folder = folder
        self._draft = draft
        self._but = but
        self.documents: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._first = ""

    def rows(self, converter: Converter) -> Iterator[str]:
        """Yield the passages of all documents as lines of a corpus in JSON."""
        spoken, passages = time.monotonic(), 0
        with (
            (self._draft / SOURCES).open("w", encoding="utf-8") as sources,
            (self._draft / LEFT_OUT).open("w", encoding="utf-8") as left_out,
        ):
            for path in documents_in(self._folder.absolute(), self.skipped, self._but):
                name = os.fsencode(path.relative_to(self._folder.absolute())).decode("utf-8", "backslashreplace")
                try:
                    made = converter.convert(path)
                    if not made.passages:
                        raise Refused("no text", "the document contains no letters and digits")
                except Refused as refused:
                    self._first = self._first or f"{name}: {refused.reason}"
                    self.left_out[refused.kind] += 1
                    left_out.write(line_of({"source": name, "kind": refused.kind, "reason": refused.reason}))
                    continue
                self.documents[path.suffix.lower()] += 1
                passages += len(made.passages)
                sources.write(line_of(listed(name, made)))
                yield from (line_of(passage_of(name, row)) for row in made.passages)
                if time.monotonic() - spoken > LOG_SECONDS:
                    spoken = time.monotonic()
                    log.info(f"{self.documents.total():,} documents converted, {passages:,} passages")

    def nothing(self) -> str:
        """Explain that no document gave a passage."""
        if self._first:
            return f"{self._folder}: none of {self.left_out.total():,} documents can be read; the first: {self._first}"
        found = ", ".join(f"{count:,} {kind}" for kind, count in self.skipped.most_common(5)) or "nothing"
        return f"{self._folder} contains no documents ({', '.join(CONVERTERS)}); it contains {found}"


def listed(name: str, made: Document) -> dict[str, Any]:
    """Return the line of a document in the list of documents."""
    about = {"source": name, "title": made.title, "sha256": made.sha256}
    return about | {"characters": made.characters, "passages": len(made.passages)}


def passage_of(name: str, row: Row) -> dict[str, Any]:
    """Return a passage as a row of a corpus."""
    digest = hashlib.sha256(f"{row.title}\0{row.text}".encode()).hexdigest()[:DIGITS]
    path = UNSAFE.sub(lambda found: quote(found[0], safe=""), name)
    metadata = {"source": name, "headings": row.headings, "start": row.start, "end": row.end}
    return {"_id": f"{path}#{digest}", "title": row.title, "text": row.text, "metadata": metadata}


def write_passages(draft: Path, rows: TextFile) -> tuple[int, Counter[str]]:
    """Write the corpus without repeated passages, and the list of these; return the number of passages in the corpus,
    and of the others by the kind of repetition.
    """
    counts: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(dir=draft) as scratch,
        (draft / "corpus.jsonl").open("w", encoding="utf-8") as corpus,
        (draft / REPEATED).open("w", encoding="utf-8") as others,
    ):
        repeats = repeated(
            len(rows),
            lambda number: text_in(rows[number]),
            Path(scratch),
            alike=lambda one, other: same_subject(json.loads(rows[one]), json.loads(rows[other])),
        )
        found = next(repeats, None)
        for number in range(len(rows)):
            if found is None or found.number != number:
                corpus.write(rows[number])
                continue
            counts[found.how] += 1
            row, kept = json.loads(rows[number]), json.loads(rows[found.kept])["_id"]
            about = {"_id": row["_id"], "kept": kept, "how": found.how, "similarity": round(found.similarity, 4)}
            others.write(line_of(about | row["metadata"]))
            found = next(repeats, None)
    return len(rows) - counts.total(), counts


def text_in(line: str) -> str:
    """Return the full text of a passage in a line of a corpus."""
    row = json.loads(line)
    return full_text(row["title"], row["text"])


def same_subject(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two passages with similar texts have the same subject: the last heading above the passage, or the
    title of its document. The descriptions of two functions may be the same except for the name of the function.
    """
    first, second = (subject(row) for row in (one, other))
    return not first or not second or first == second


def subject(row: dict[str, Any]) -> str:
    """Return the last heading above a passage, or the title of its document; empty for the name of a file."""
    about = row["metadata"]
    last: str = about["headings"][-1] if about["headings"] else row["title"]
    return "" if last == named_by_file(Path(about["source"]).stem) else last.casefold()


def line_of(row: dict[str, Any]) -> str:
    """Return a row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as JSONL; return their number."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(line_of(row))
            count += 1
    return count
