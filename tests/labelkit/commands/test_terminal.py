"""Texts from outside on a real terminal: nothing in them moves the cursor, sets the title or turns the text around."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from labelkit.storage.dataset import AUDIT
from labelkit.storage.folders import file_sha256

SHOWN = "[link=file:///etc]x[/y] :boom:"
EVIL = f"\x1b]0;pwned\x07 \x1b[2J \x1b[31m \x9b31m \x9d0;pwned\x9c \x7f \x08\r \u202edesrever\u2066 {SHOWN}"
"""Title, screen and colour in two encodings, delete, carriage return, reversed text, rich's markup and emoji."""
STYLE = re.compile(r"\x1b\[\d*(?:;\d+)*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\r\n?")
"""What rich itself sends: styles, the cursor away and back, up and clear for a bar."""
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Answers(BaseHTTPRequestHandler):
    """A judge's server whose every word holds escape sequences. It refuses each second request, and other keys."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Answers.asked += 1
        message = {"role": "assistant", "content": "2" if Answers.asked % 3 else f"2 {EVIL}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        told: dict[str, Any] = {"model": EVIL, "system_fingerprint": EVIL, "choices": [choice], "usage": {}}
        refused = Answers.asked % 2 == 0
        content = EVIL.encode() if refused else json.dumps(told).encode()
        known = self.headers["Authorization"] == "Bearer canary-0123456789"
        self.send_response((422 if refused else 200) if known else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        """The terminal is what is looked at."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def on_a_terminal(*arguments: object, key: str = "canary-0123456789") -> str:
    """All that a command sends to the terminal that it runs on, standard output and error."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "labelkit", *map(str, arguments)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "400", "LABELKIT_API_KEY": key}
    said = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        with suppress(OSError):  # how a terminal says that nobody writes to it any more
            while some := os.read(ours, 1 << 16):
                said += some
        process.wait(120)
    os.close(ours)
    return said.decode()


def harmless(said: str) -> str:
    """What a person reads, once it is sure that the terminal obeys nothing of it but rich's styles."""
    read = STYLE.sub("\n", said)
    assert CONTROLS.findall(read) == []
    assert "\x1b[31m " not in said, "the colour of a text from outside"
    assert "Traceback" not in read, read
    return read


@pytest.fixture
def data(write_beir: Callable[..., Path], tmp_path: Path) -> Path:
    passages = {f"p{n}": (EVIL, f"word{n} {EVIL}") for n in range(3)}
    queries = {f"q{n}": f"word{n} {EVIL}" for n in range(3)}
    return write_beir(tmp_path / f"data {EVIL}".replace("/", ""), passages, queries, {"q0": {"p0": 3, "p1": 0}})


@pytest.fixture
def annotate(data: Path, url: str, tmp_path: Path) -> Callable[..., str]:
    """Judge that data by that server; what the terminal got."""
    options = ("--engine", "openai", "--model", EVIL, "--base-url", url, "--allow-drift", "--concurrency", 1)
    return lambda **more: on_a_terminal("annotate", data, "-o", tmp_path / "labels", *options, **more)


@pytest.fixture
def labels(annotate: Callable[..., str], tmp_path: Path) -> Path:
    assert "pwned" in harmless(annotate())
    return tmp_path / "labels"


def test_the_reason_of_a_server_is_harmless(annotate):
    said = harmless(annotate(key="wrong"))
    assert "refuses the key in LABELKIT_API_KEY" in said
    assert SHOWN in said


def test_tables_of_judges_and_texts_are_harmless(labels, data, tmp_path):
    human, dataset = data / "qrels" / "test.tsv", tmp_path / "dataset"
    agreed = harmless(on_a_terminal("agree", labels, "--human", human, "--by", "length", "--data", data))
    assert SHOWN in agreed
    harmless(on_a_terminal("bias", labels, "--data", data))
    harmless(on_a_terminal("mix", "--data", data, "--human", human, "--llm", labels, "-o", dataset))
    shown = harmless(on_a_terminal("show", dataset, "--query", "q0"))
    assert shown.count(SHOWN) > 4
    finding = {"name": EVIL, "severity": EVIL, "found": 0, "what": EVIL, "cure": EVIL}
    (dataset / AUDIT).write_text(
        json.dumps({"dataset": file_sha256(dataset / "manifest.json"), "command": EVIL, "findings": [finding]})
    )
    harmless(on_a_terminal("audit", dataset))
    card = harmless(
        on_a_terminal("publish", dataset, "org/set", "--dry-run", "--license", EVIL, "--allow", "unaudited")
    )
    assert "license:" in card


def test_a_document_on_a_terminal_is_harmless_and_of_the_same_value(labels, data, tmp_path):
    human, dataset = data / "qrels" / "test.tsv", tmp_path / "dataset"
    on_a_terminal("mix", "--data", data, "--human", human, "--llm", labels, "-o", dataset)
    document = json.loads(harmless(on_a_terminal("show", dataset, "--query", "q0", "--json")))
    assert document["query"] == f"word0 {EVIL}"


def test_lines_of_errors_are_harmless(beir, tmp_path):
    for arguments in (
        ("verify", tmp_path / EVIL.replace("/", "")),
        ("pool", tmp_path / EVIL.replace("/", ""), "-o", tmp_path / "out"),
        ("verify", f"--{EVIL}"),
        (EVIL,),
        ("verify", tmp_path, EVIL),
        ("review", tmp_path, "-o", tmp_path / "out", "--name", "x", "--port", EVIL),
        ("annotate", beir, "-o", tmp_path / "out", "--engine", EVIL, "--model", "m"),
        ("prompts", EVIL),
    ):
        assert "pwned" in harmless(on_a_terminal(*arguments)), arguments


def test_a_prompt_goes_into_a_file_byte_for_byte_and_onto_a_terminal_harmless(labelkit, tmp_path):
    from labelkit.storage.shipped import SHIPPED

    content = (SHIPPED / "prompts" / "graded.toml").read_text()
    path = tmp_path / "prompt.toml"
    path.write_text(content.replace('citation = "', 'citation = "\u202eabc ', 1))
    assert "\u202eabc" in labelkit("prompts", path).out
    assert "abc" in harmless(on_a_terminal("prompts", path))


def test_an_unknown_error_and_a_warning_are_harmless():
    script = (
        "import logging, sys, warnings\nfrom labelkit.commands import console\n"
        "def work():\n    warnings.warn(sys.argv[1])\n    logging.getLogger('another').warning(sys.argv[1])\n"
        "    raise ValueError(sys.argv[1])\nconsole.run(work)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, EVIL], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("pwned") >= 3
    assert CONTROLS.findall(done.stderr) == []
