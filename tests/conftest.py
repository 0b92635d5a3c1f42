"""A real browser, headless Chromium, driven over its DevTools protocol; and the mark `slow`.

Every test that needs a model, a browser, a cluster, a server or another process, or that runs a whole command, is
marked `slow`, and `make test-fast` leaves it out. The mark follows from the code of the test, of its fixtures and of
the helpers that they use, so that nobody has to keep a list. Few tests are slow for another reason and carry the mark.
"""

import asyncio
import base64
import gc
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


CLOSING = -1
"""Number of the commands that close a dialog."""


class Page:
    """One page. Every request it makes is in `requests`; every dialog it opens is in `dialogs`, and closed."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self._open(address)
        self.call("Network.enable")
        self.call("Page.enable")

    def _open(self, address: str) -> None:
        import aiohttp

        async def connect() -> tuple[Any, Any]:
            session = aiohttp.ClientSession()
            return session, await session.ws_connect(address, max_msg_size=0)

        self._session, self._socket = self._loop.run_until_complete(connect())

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        return self._loop.run_until_complete(self._call(self._number, method, parameters))

    async def _call(self, number: int, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await asyncio.wait_for(self._socket.receive(), 30)).data)
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") == "Page.javascriptDialogOpening":
                self.dialogs.append(message["params"]["message"])
                await self._close_dialog()
            if message.get("id") == CLOSING and "error" in message:
                # It was announced before it could be closed.
                await asyncio.sleep(0.05)
                await self._close_dialog()
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    async def _close_dialog(self) -> None:
        closing = {"id": CLOSING, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
        await self._socket.send_json(closing)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + 20
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}; the page says {self.text()!r}"
            time.sleep(0.02)

    def text(self) -> str:
        """What is to be read on the page."""
        return str(self.run("document.body.innerText"))

    def press(self, key: str) -> None:
        """Press a key, as a person does."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def goto(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && typeof now !== 'undefined' && now !== null")

    def picture(self, path: Path, *, dark: bool, width: int = 900, height: int = 800) -> None:
        """A screenshot in the light or dark colours."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self._loop.run_until_complete(self._socket.close())
        self._loop.run_until_complete(self._session.close())
        self._loop.close()


@pytest.fixture(scope="session")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    folder = tmp_path_factory.mktemp("chromium")
    command = [CHROMIUM, *QUIET, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        port = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (port.is_file() and port.read_text().count("\n")):
            assert process.poll() is None, "Chromium ended at its start"
            assert time.monotonic() < end, "Chromium does not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        process.terminate()


@pytest.fixture
def page(devtools: str) -> Iterator[Page]:
    from urllib.request import Request, urlopen

    with urlopen(Request(f"{devtools}/json/new?about:blank", method="PUT")) as answer:
        target = json.load(answer)
    page = Page(target["webSocketDebuggerUrl"])
    yield page
    page.close()
    urlopen(f"{devtools}/json/close/{target['id']}").close()


HEAVY = {
    "NotebookClient",
    "Popen",
    "Process",
    "SentenceTransformer",
    "ThreadingHTTPServer",
    "check_output",
    "fork",
    "get_context",
    "from_pretrained",
    "init_process_group",
    "save_pretrained",
    "spawn",
    "subprocess",
    "write_encoder",
}
"""Names of functions and classes that start a process or a server, or make a model."""
TIMED_MARKS = ("judge", "vllm")
WHOLE_COMMAND = "labelkit"
"""Fixture that runs a whole command of `labelkit` in the process of the tests."""


def names_in(code: CodeType) -> Iterator[str]:
    """Every name that a piece of code and the functions inside it refer to."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


@cache
def is_ours(module: str) -> bool:
    """Whether a module is a file of the tests."""
    return Path(__file__).parent in Path(getattr(sys.modules.get(module), "__file__", None) or "/").parents


def helpers_of(function: FunctionType) -> Iterator[Callable[..., Any]]:
    """Yield the test helpers that a function uses: functions and classes, also as attributes of their module."""
    names = set(names_in(function.__code__))
    named = [function.__globals__.get(name) for name in names]
    named += [getattr(module, name, None) for module in named if isinstance(module, ModuleType) for name in names]
    yield from (one for one in named if callable(one) and is_ours(getattr(one, "__module__", None) or ""))
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", None)
    if inner is not None:
        yield inner


@cache
def needs_more(function: Callable[..., Any]) -> bool:
    """Whether a function, or one of the test helpers that it uses, starts a process or a server or makes a model."""
    seen: set[int] = set()
    left = [function]
    while left:
        one = left.pop()
        one = getattr(one, "__wrapped__", one)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, type):
            left += [each for each in vars(one).values() if callable(each)]
        elif isinstance(one, FunctionType):
            if HEAVY.intersection(names_in(one.__code__)):
                return True
            left += helpers_of(one)
    return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        fixtures = [one for found in item._fixtureinfo.name2fixturedefs.values() for one in found]
        whole_command = WHOLE_COMMAND in item._fixtureinfo.name2fixturedefs
        timed = any(item.get_closest_marker(name) for name in TIMED_MARKS)
        heavy = any(needs_more(one) for one in (item.function, *(each.func for each in fixtures)))
        if whole_command or timed or heavy:
            item.add_marker(pytest.mark.slow)


def pytest_collection() -> None:
    gc.disable()  # imports make no garbage


def pytest_collection_finish() -> None:
    gc.freeze()  # else every collection of garbage walks through all imported packages
    gc.enable()
