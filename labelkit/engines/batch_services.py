"""Send batches of chat completions to the batch API of a server, or write them to a folder for `vllm run-batch`."""

import asyncio
import json
import logging
import shlex
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

from labelkit.engines import Settings
from labelkit.engines.client import FIRST_PAUSE, TRIES, Client
from labelkit.engines.completions import MALFORMED, word
from labelkit.engines.http import CallError, DeadlineError, NotFoundError, RetriedError, refuse_error, spoken
from labelkit.engines.openai import OPENAI_URL
from labelkit.engines.stopping import FinalErrors, said
from labelkit.errors import EngineError, MissingPackageError, UsageError
from labelkit.storage.names import inside

log = logging.getLogger(__name__)

T = TypeVar("T")
TRANSFER_SECONDS = 3600.0
"""Deadline of an upload or a download in seconds."""
OUTPUT_BYTES = 1 << 30
FINAL = {
    **dict.fromkeys(("completed", "complete", "success", "succeeded", "partially_succeeded", "ended"), "completed"),
    **dict.fromkeys(("failed", "failure", "error", "errored"), "failed"),
    **dict.fromkeys(("expired", "timeout_exceeded"), "expired"),
    **dict.fromkeys(("cancelled", "canceled"), "cancelled"),
}
"""Final status of a batch in the words of several vendors -> OpenAI's word. Every other status means that the batch is
in progress, because a batch that is submitted again is paid for again.
"""
UNDER_WAY = (
    *("validating", "queued", "pending", "created", "scheduled", "submitted", "in_queue", "not_started", "started"),
    *("in_progress", "running", "processing", "active", "finalizing", "finalising", "paused"),
    *("cancelling", "canceling", "cancellation_requested"),
)
"""Known statuses of a batch in progress; a status that is in neither table is logged once."""
SKEW_SECONDS = 3600.0
"""Largest lag of the server's clock behind ours in seconds."""


class Ended(NamedTuple):
    """A batch that has ended, successfully or not."""

    status: str
    lines: Sequence[bytes] = ()
    """Replies, one JSON document per request, in any order."""
    code: str | None = None
    reason: str | None = None


class Service(Protocol):
    """Interface of services that take files of requests and return files of replies."""

    version: str

    def submit(self, name: str, at: float, content: bytes) -> str:
        """Submit a file under a name that was never used before; return the service's id of the batch."""

    def find(self, name: str, at: float) -> str | None:
        """Return the id of the batch submitted under this name at that time or later; None if it never arrived."""

    def poll(self, batch_id: str) -> Ended | None:
        """Return a batch that has ended; None while it is in progress."""

    def later(self, ids: Sequence[str]) -> str:
        """Return instructions for the user to get the missing replies."""

    def close(self) -> None:
        """Close connections."""


class Api:
    """OpenAI's endpoints for files and batches."""

    def __init__(self, settings: Settings) -> None:
        try:
            import aiohttp
        except ImportError:
            raise MissingPackageError("aiohttp", "openai") from None
        if len(settings.base_urls) > 1:
            raise UsageError("a batch goes to one server: give --base-url once")
        self.version = f"aiohttp {aiohttp.__version__}"
        self._client = Client(settings.base_urls or (OPENAI_URL,), ceiling=1, insecure=settings.insecure)
        self._runner: asyncio.Runner | None = None
        self._final_errors = FinalErrors(settings.model)
        self._odd: set[str] = set()
        """Unknown statuses that were logged."""

    def submit(self, name: str, at: float, content: bytes) -> str:
        return self._do(self._submit(name, at, content))

    def find(self, name: str, at: float) -> str | None:
        return self._do(self._find(name, at))

    def poll(self, batch_id: str) -> Ended | None:
        return self._do(self._poll(batch_id))

    def later(self, ids: Sequence[str]) -> str:
        return "run the same command again to collect the replies, or add --wait"

    def close(self) -> None:
        if self._runner is not None:
            self._runner.run(self._client.__aexit__())
            self._runner.close()
            self._runner = None

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._runner.run(self._client.__aenter__())
        try:
            return self._runner.run(work)
        except CallError as error:
            raise EngineError(f"the batch API failed: {self._problem(error)}") from None
        except MALFORMED as error:
            raise EngineError(f"the batch API sent an invalid answer: {spoken(error)}") from None

    def _problem(self, error: CallError) -> str:
        """Return the reason and the cure of a failed call. A server may have chat completions and no batches."""
        if error.status in (404, 405) and self._final_errors.certain(error) is None:
            cure = "judge with --engine openai, or correct --base-url, which ends before /files and /batches"
            return f"{error.url} has no batch API: {said(error)}; {cure}"
        return self._final_errors.problem(error) or spoken(error)

    async def _submit(self, name: str, at: float, content: bytes) -> str:
        import aiohttp

        def form() -> aiohttp.FormData:
            fields = aiohttp.FormData({"purpose": "batch"})
            fields.add_field("file", content, filename=f"{name}.jsonl", content_type="application/jsonl")
            return fields

        answer = await self._client.call("POST", "/files", form, seconds=TRANSFER_SECONDS)
        refuse_error(answer)
        uploaded = json.loads(answer)
        order = {
            "input_file_id": uploaded["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"labelkit": name},
        }
        for number in range(TRIES):
            try:
                return text(json.loads(await self._client.once("POST", "/batches", json.dumps(order).encode()))["id"])
            except (RetriedError, DeadlineError) as error:
                # The order may have arrived despite the error: look for it before submitting it again.
                await self._client.wait(error, FIRST_PAUSE * 2**number)
                if found := await self._find(name, at):
                    return found
                last = error
        raise last

    async def _find(self, name: str, at: float) -> str | None:
        after = ""
        while True:
            page = json.loads(await self._client.call("GET", f"/batches?limit=100{after}"))
            if page["data"] is None:  # an empty list in Go
                return None
            for batch in page["data"]:
                if (batch.get("metadata") or {}).get("labelkit") == name:
                    return text(batch["id"])
            if not page.get("has_more") or page["data"][-1]["created_at"] < at - SKEW_SECONDS:
                return None
            after = f"&after={part_of_address(page['data'][-1]['id'])}"

    async def _poll(self, batch_id: str) -> Ended | None:
        try:
            batch = json.loads(await self._client.call("GET", f"/batches/{part_of_address(batch_id)}"))
        except NotFoundError:
            # A server that has the list of batches has lost this one; without the list, the address is wrong.
            await self._client.call("GET", "/batches?limit=1")
            return Ended("gone", reason="the server no longer knows this batch")
        status = self._final(batch_id, batch["status"])
        if status is None:
            return None
        lines: list[bytes] = []
        files = [batch[field] for field in ("output_file_id", "error_file_id") if batch.get(field)]
        for file in files:
            lines += await self._lines(f"/files/{part_of_address(file)}/content", f"batch {batch_id} is {status}")
        if status == "completed" and not files:
            raise EngineError(
                f"batch {batch_id} is completed, but the server names no file of its replies; nothing is submitted "
                "again: run the same command later, or ask the provider"
            )
        errors = (batch.get("errors") or {}).get("data") or [{}]
        return Ended(status, lines, *(word(errors[0].get(name)) for name in ("code", "message")))

    def _final(self, batch_id: str, status: Any) -> str | None:
        """Return the final status of a batch in OpenAI's words; None while it is in progress."""
        plain = plain_status(status)
        if plain not in FINAL and plain not in UNDER_WAY and plain not in self._odd:
            self._odd.add(plain)
            log.info(f"batch {batch_id} has the unknown status {status!r}: labelkit takes it as still in progress")
        return FINAL.get(plain)

    async def _lines(self, path: str, ended: str) -> list[bytes]:
        """Download the lines of a file. Raises `EngineError`, which begins with how the batch `ended`."""
        try:
            content = await self._client.call("GET", path, most=OUTPUT_BYTES, seconds=TRANSFER_SECONDS)
        except CallError as error:
            reason = self._final_errors.certain(error) or spoken(error)
            raise EngineError(
                f"{ended}, but its replies cannot be downloaded from {path}: {reason}; nothing is submitted again: run "
                "the same command later, or ask the provider"
            ) from None
        return [line for line in content.split(b"\n") if line.strip()]


class Files:
    """A folder of files: requests are written to `NAME.requests.jsonl`, replies read from `NAME.replies.jsonl`."""

    version = "vllm run-batch"

    def __init__(self, settings: Settings, folder: Path) -> None:
        if settings.base_urls:
            raise UsageError("--batch-dir writes files and calls no server: leave out --base-url")
        self._folder = folder
        self._model = settings.model

    def submit(self, name: str, at: float, content: bytes) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        whole = self._requests(name)
        part = whole.with_suffix(".part")
        part.write_bytes(content)
        part.rename(whole)
        return name

    def find(self, name: str, at: float) -> str | None:
        return name if self._requests(name).is_file() else None

    def poll(self, batch_id: str) -> Ended | None:
        replies = self._replies(batch_id)
        if not replies.is_file():
            return None
        return Ended("read", [line for line in replies.read_bytes().split(b"\n") if line.strip()])

    def later(self, ids: Sequence[str]) -> str:
        paths = ((str(self._requests(name)), str(self._replies(name))) for name in ids)
        steps = (
            shlex.join(["vllm", "run-batch", "-i", requests, "-o", replies, "--model", self._model])
            for requests, replies in paths
        )
        return "\n".join(("run the following, then the same labelkit command again:", *steps))

    def _requests(self, name: str) -> Path:
        return inside(self._folder, f"{name}.requests.jsonl")

    def _replies(self, name: str) -> Path:
        return inside(self._folder, f"{name}.replies.jsonl")

    def close(self) -> None:
        """Do nothing: there are no connections."""


def plain_status(status: Any) -> str:
    """Return a status in lower case, with underscores, and without a prefix such as `JOB_STATE_`."""
    plain = "_".join(str(status).lower().replace("-", " ").replace("_", " ").split())
    return plain.removeprefix("job_state_").removeprefix("batch_state_")


def part_of_address(name: Any) -> str:
    """Return a server's id quoted as one segment of a URL path, so that it cannot lead to another path."""
    if text(name) in (".", ".."):
        raise ValueError(f"{name!r} is not a valid id")
    return quote(name, safe="")


def text(value: Any) -> str:
    """Return a string unchanged. Raises `TypeError` for any other type."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, not {value!r}")
    return value
