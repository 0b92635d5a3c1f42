"""Where a batch of chat completions goes: to the batch API of a server, or into a folder for `vllm run-batch`."""

import asyncio
import json
import shlex
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

from labelkit.engines import Settings
from labelkit.engines.client import FIRST_PAUSE, TRIES, Client
from labelkit.engines.completions import MALFORMED, word
from labelkit.engines.http import CallError, DeadlineError, NotFoundError, RetriedError, spoken
from labelkit.engines.openai import OPENAI_URL
from labelkit.errors import EngineError, MissingPackageError, UsageError
from labelkit.storage.names import inside

T = TypeVar("T")
TRANSFER_SECONDS = 3600.0
"""Deadline of an upload or a download."""
OUTPUT_BYTES = 1 << 30
UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")
SKEW_SECONDS = 3600.0
"""The server's clock may be so much behind ours."""


class Ended(NamedTuple):
    """A batch that is over, whatever became of it."""

    status: str
    lines: Sequence[bytes] = ()
    """What it gives back, one JSON document a request, in any order."""
    code: str | None = None
    reason: str | None = None


class Service(Protocol):
    """Takes files of requests and gives back files of replies."""

    version: str

    def submit(self, name: str, at: float, content: bytes) -> str:
        """Hand over a file under a name that was never used before; the service's own id for it."""

    def find(self, name: str, at: float) -> str | None:
        """The id of what was handed over under this name at that time or later; None where it never arrived."""

    def poll(self, batch_id: str) -> Ended | None:
        """What became of a batch; None while it is under way."""

    def later(self, ids: Sequence[str]) -> str:
        """What the user does to get the rest."""

    def close(self) -> None:
        """End connections."""


class Api:
    """The files and batches endpoints of OpenAI."""

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

    def submit(self, name: str, at: float, content: bytes) -> str:
        return self._do(self._submit(name, at, content))

    def find(self, name: str, at: float) -> str | None:
        return self._do(self._find(name, at))

    def poll(self, batch_id: str) -> Ended | None:
        return self._do(self._poll(batch_id))

    def later(self, ids: Sequence[str]) -> str:
        return "run the same command again to collect them, or with --wait"

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
            raise EngineError(f"the batch API does not work: {spoken(error)}") from None
        except MALFORMED as error:
            raise EngineError(f"the batch API sends what is no batch: {spoken(error)}") from None

    async def _submit(self, name: str, at: float, content: bytes) -> str:
        import aiohttp

        def form() -> aiohttp.FormData:
            fields = aiohttp.FormData({"purpose": "batch"})
            fields.add_field("file", content, filename=f"{name}.jsonl", content_type="application/jsonl")
            return fields

        uploaded = json.loads(await self._client.call("POST", "/files", form, seconds=TRANSFER_SECONDS))
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
                # The order may have arrived all the same: it is looked for before it is given again.
                await self._client.wait(error, FIRST_PAUSE * 2**number)
                if found := await self._find(name, at):
                    return found
                last = error
        raise last

    async def _find(self, name: str, at: float) -> str | None:
        after = ""
        while True:
            page = json.loads(await self._client.call("GET", f"/batches?limit=100{after}"))
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
            return Ended("gone", reason="the server does not know it any more")
        if batch["status"] in UNDER_WAY:
            return None
        lines: list[bytes] = []
        for field in ("output_file_id", "error_file_id"):
            if batch.get(field):
                lines += await self._lines(f"/files/{part_of_address(batch[field])}/content")
        errors = (batch.get("errors") or {}).get("data") or [{}]
        return Ended(text(batch["status"]), lines, *(word(errors[0].get(name)) for name in ("code", "message")))

    async def _lines(self, path: str) -> list[bytes]:
        content = await self._client.call("GET", path, most=OUTPUT_BYTES, seconds=TRANSFER_SECONDS)
        return [line for line in content.split(b"\n") if line.strip()]


class Files:
    """A folder: `NAME.requests.jsonl` goes in, `NAME.replies.jsonl` comes back, whoever makes it."""

    version = "vllm run-batch"

    def __init__(self, settings: Settings, folder: Path) -> None:
        if settings.base_urls:
            raise UsageError("--batch-dir writes files and asks no server: leave out --base-url")
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
        return "\n".join(("run this, then the same command again:", *steps))

    def _requests(self, name: str) -> Path:
        return inside(self._folder, f"{name}.requests.jsonl")

    def _replies(self, name: str) -> Path:
        return inside(self._folder, f"{name}.replies.jsonl")

    def close(self) -> None:
        """Nothing to end."""


def part_of_address(name: Any) -> str:
    """An id that a server gave, as one part of an address: it leads to no other one."""
    if text(name) in (".", ".."):
        raise ValueError(f"{name!r} is no id")
    return quote(name, safe="")


def text(value: Any) -> str:
    """A string, or `TypeError`."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, not {value!r}")
    return value
