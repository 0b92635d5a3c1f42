"""Read the output of the processes that an engine starts, to state why a start failed.

vLLM loads a model in processes of its own. If one of them fails, the main process only knows that it failed; the reason
is a traceback in the output of that process. So standard output and standard error go to a file while the processes
start, which they inherit, and a thread shows on the screen what arrives in it.
"""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2
"""Longest time in seconds until output is shown."""
REASON_LENGTH = 300
"""Most characters of a reason."""
MOST_BYTES = 1 << 20
"""Most bytes at the end of the output that are searched for a reason."""
TRACE = re.compile(rb"^.*(?:Traceback \(most recent call last\)|ERROR \d\d-\d\d )", re.MULTILINE)
"""Beginning of a failure in the output, which is not shown while processes start, but kept in the file."""
COLOUR = re.compile(r"\x1b\[[\d;]*m")
"""Escape sequence for a colour, with which earlier releases of vLLM mark their processes."""
PREFIX = re.compile(r"^(?:\([^()]*pid=\d+\) ?)?(?:ERROR \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?")
"""Beginning of a line of vLLM: process, level, time and place."""
RAISED = re.compile(r"(?:[\w.]*\.)?([A-Z]\w*(?:Error|Exception|NotFound)): (.+)")
"""Last line of a traceback."""
WITHOUT_REASON = re.compile(
    r"(?:Engine core|WorkerProc) initialization failed|see (?:stack trace|root cause)|Executor failed", re.IGNORECASE
)
"""Messages that only refer to another one."""
SIGNALS = {
    4: "this CPU lacks instructions that this build of vLLM needs",
    6: "it aborted",
    7: "memory ran out in /dev/shm",
    9: "the system killed it, most often because memory ran out",
    11: "it crashed with a segmentation fault",
}
"""Number of a signal that ends a process -> its meaning."""
CURES = (
    (
        re.compile(r"KV cache|max_model_len|max_num_batched_tokens|model len", re.IGNORECASE),
        "give a lower --max-model-len, or more memory for the cache (--engine-arg gpu_memory_utilization=0.95, or on a "
        "CPU the environment variable VLLM_CPU_KVCACHE_SPACE)",
    ),
    (
        re.compile(r"out of memory|memory ran out|free memory|not enough memory|can't allocate memory", re.IGNORECASE),
        "free memory, give a lower --max-model-len, or choose a smaller or quantised model, or more GPUs by "
        "--tensor-parallel",
    ),
    (
        re.compile(
            r"safetensors|header|shape|size mismatch|dimension size|weights? file|not initialized from", re.IGNORECASE
        ),
        "the files of the model are incomplete or damaged: fetch them again",
    ),
)
"""Words of a reason -> what the user can do."""


class ChildOutput:
    """Output of the processes that are started inside `inherited`."""

    def __init__(self) -> None:
        file, name = tempfile.mkstemp(prefix="labelkit-engine-", suffix=".log")
        self.path = Path(name)
        """File with the output; removed by `close` unless it is kept."""
        self._file = file
        self._shown = 0
        self._starting = self._open = True
        self._screen = os.dup(2)
        self._thread = threading.Thread(target=self._show_all, daemon=True)
        self._thread.start()

    @contextmanager
    def inherited(self) -> Iterator[None]:
        """Redirect standard output and standard error to the file, for this process and those that it starts."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        kept = [os.dup(number) for number in (1, 2)]
        try:
            with self.path.open("ab") as target:
                for number in (1, 2):
                    os.dup2(target.fileno(), number)
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):
                    stream.flush()
            for number, original in zip((1, 2), kept, strict=True):
                os.dup2(original, number)
                os.close(original)

    def started(self) -> None:
        """Show everything from now on, since the start succeeded."""
        self._starting = False

    def text(self) -> str:
        """Return the end of the output as text."""
        size = os.fstat(self._file).st_size
        return os.pread(self._file, MOST_BYTES, max(0, size - MOST_BYTES)).decode(errors="replace")

    def close(self, *, keep: bool = False) -> None:
        """Stop showing the output, and remove the file unless it is kept."""
        if self._open:
            self._open = False
            self._thread.join()
            self._show()
            os.close(self._screen)
            os.close(self._file)
            if not keep:
                self.path.unlink(missing_ok=True)

    def _show_all(self) -> None:
        wait = threading.Event()
        while self._open:
            wait.wait(POLL_SECONDS)
            self._show()

    def _show(self) -> None:
        """Show what arrived; while processes start, only up to the beginning of a failure."""
        found = os.pread(self._file, MOST_BYTES, self._shown)
        if self._starting and (failure := TRACE.search(found)):
            found = found[: failure.start()]
        self._shown += len(found)
        with suppress(OSError):
            os.write(self._screen, found)


def root_cause(output: str) -> str | None:
    """Return the first exception in the output of a failed start, as type and message; None if there is none."""
    lines = [PREFIX.sub("", line).rstrip() for line in COLOUR.sub("", output).splitlines()]
    for number, line in enumerate(lines):
        found = RAISED.fullmatch(line)
        if found is None or WITHOUT_REASON.search(line):
            continue
        kind, message = found.groups()
        if "validation error" in message and number + 2 < len(lines):
            # pydantic states the reason two lines below.
            message = lines[number + 2].strip().removeprefix("Value error, ").split(" [type=", 1)[0]
        return f"{kind}: {message}"
    return None


def stated_by(problem: Mapping[str, Any]) -> str:
    """Return a problem that pydantic found, with the name of the argument."""
    name, text = ".".join(map(str, problem["loc"])), str(problem["msg"]).removeprefix("Value error, ")
    return f"{name}: {text}" if name else text


def reason_of(error: Exception, output: str) -> str:
    """Return why a start failed, on one line, with what the user can do.

    The reason is the error itself, or if that only refers to the output of another process, the first exception there
    or the signal that ended the process.
    """
    stated = str(error).strip()
    if errors := getattr(error, "errors", None):  # pydantic
        stated = "; ".join(stated_by(one) for one in errors())
    if not stated or WITHOUT_REASON.search(stated):
        codes = re.findall(r": (-\d+)", stated)
        ended = [SIGNALS.get(-int(code), f"it was ended by signal {-int(code)}") for code in codes]
        stated = root_cause(output) or (f"a process of vLLM ended: {ended[0]}" if ended else stated)
    reason = next(iter(stated.splitlines()), type(error).__name__).rstrip(". ")
    reason = reason if len(reason) <= REASON_LENGTH else f"{reason[:REASON_LENGTH]}…"
    cure = next((cure for words, cure in CURES if words.search(reason)), None)
    return f"{reason}; {cure}" if cure else reason
