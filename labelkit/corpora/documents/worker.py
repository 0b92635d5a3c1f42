"""Convert documents in a child process, which limits time and memory, so that a damaged document ends no command.

The parent writes a request per line, and the child answers with a line of JSON. A child that takes too long is ended,
and the next document gets a new one.
"""

import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from threading import Event, Timer
from types import TracebackType
from typing import Any, NamedTuple, Self

from labelkit.corpora.documents.conversion import FILE_BYTES, converted
from labelkit.corpora.documents.converted import Refused
from labelkit.corpora.documents.sections import sections_of, title_of
from labelkit.corpora.documents.splitting import PassageSplitter
from labelkit.corpora.documents.token_counts import open_tokenizer

SECONDS = 120.0
"""Most seconds for one document."""
MEMORY_BYTES = 6 << 30
"""Most bytes of address space of the child process."""
PACKAGE_ROOT = Path(__file__).parents[3]


class Row(NamedTuple):
    """A passage of a document."""

    title: str
    text: str
    start: int
    end: int
    headings: list[str]


class Document(NamedTuple):
    """A document that was converted."""

    sha256: str
    title: str
    characters: int
    """Length of the converted text."""
    passages: list[Row]


def split_document(path: Path, splitter: PassageSplitter) -> Document:
    """Read, convert and split a document. Raises `Refused` for one that gives no passages."""
    content = content_of(path)
    made = converted(content, path.suffix.lower())
    title = splitter.title(title_of(made, path.stem), [])
    rows = []
    for section in sections_of(made, title_of(made, path.stem)):
        named = splitter.title(title, section.headings)
        for piece in splitter.pieces(made, section, named):
            rows.append(Row(named, piece.text, piece.start, end=piece.end, headings=list(section.headings)))
    return Document(hashlib.sha256(content).hexdigest(), title, len(made.text), passages=rows)


def content_of(path: Path) -> bytes:
    """Read a regular file that is no link. Raises `Refused`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Refused("unreadable", str(error.strerror)) from None
    with open(handle, "rb") as file:  # noqa: PTH123 (a handle has no path)
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise Refused("unreadable", "not a regular file")
        if about.st_size > FILE_BYTES:
            raise Refused("too large", f"{about.st_size >> 20:,} MB, over {FILE_BYTES >> 20} MB")
        try:
            return file.read(FILE_BYTES)
        except OSError as error:
            raise Refused("unreadable", str(error.strerror)) from None


class Converter:
    """Converts and splits documents one after another in a child process. Use it in `with`."""

    def __init__(self, tokenizer: Path | None, max_tokens: int, seconds: float = SECONDS) -> None:
        self._arguments = json.dumps([str(tokenizer) if tokenizer else None, max_tokens])
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def convert(self, path: Path) -> Document:
        """Convert a document. Raises `Refused` for one that gives no passages, takes too long or ends the child."""
        child = self._child = self._child or self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        late = Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = Timer(self._seconds, end)
        timer.start()
        try:
            child.stdin.write(json.dumps(os.fsdecode(path)).encode() + b"\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = b""
        finally:
            timer.cancel()
        if not answer.endswith(b"\n"):
            code = self._end()
            if late.is_set():
                raise Refused("too slow", f"the conversion takes more than {self._seconds:g} seconds")
            raise Refused("crash", f"the conversion ended with code {code}")
        reply = json.loads(answer)
        if "reason" in reply:
            raise Refused(reply["kind"], reply["reason"])
        return Document(**reply | {"passages": [Row(*row) for row in reply["passages"]]})

    def _started(self) -> "subprocess.Popen[bytes]":
        paths = os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-P", "-m", __name__, self._arguments]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"},
        )

    def _end(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        child.kill()
        child.communicate()
        return child.returncode


def serve(arguments: str) -> None:
    """Answer requests from standard input until it ends."""
    tokenizer, max_tokens = json.loads(arguments)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # converters that print must not disturb the answers
    splitter = PassageSplitter(open_tokenizer(Path(tokenizer) if tokenizer else None), max_tokens)
    for line in sys.stdin.buffer:
        reply: dict[str, Any]
        try:
            reply = split_document(Path(json.loads(line)), splitter)._asdict()
        except Refused as refused:
            reply = {"kind": refused.kind, "reason": refused.reason}
        answers.write(json.dumps(reply).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
