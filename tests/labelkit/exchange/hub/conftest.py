"""The stand-in for the Hugging Face Hub, and the commands of a user of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
from hub_standin import Hub
from present import present

WAITING = """
import json, os, sys
import huggingface_hub.errors, jinja2, pyarrow.dataset
import labelkit.exchange.hub, labelkit.quality.agreement_metrics, labelkit.statistics.intervals
from huggingface_hub import HfApi, snapshot_download
from labelkit.commands import app
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        os.environ.update(asked["environment"])
        for number, path in enumerate(asked["outputs"], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["labelkit", *asked["arguments"]]
        app.main()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported the clients, with the stand-in in its environment as users have it, and runs each command
in a fork: importing them anew would take most of the time.
"""


@pytest.fixture(scope="session")
def server() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub) -> Hub:
    """The stand-in, empty."""
    server.reset()
    return server


@pytest.fixture(scope="session")
def environment(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a user of the stand-in: its address, a token, no Xet, and a home of his own."""
    return {**os.environ, **server.environment, "HF_HOME": str(tmp_path_factory.mktemp("home"))}


@pytest.fixture(scope="session")
def waiting(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, text=True) as process:
        yield process
        present(process.stdin).close()


@pytest.fixture
def labelkit(
    hub: Hub, waiting: subprocess.Popen[str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command; `more` changes its environment."""

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        outputs = [tmp_path / name for name in ("stdout.txt", "stderr.txt")]
        asked = {"arguments": list(map(str, arguments)), "environment": more, "outputs": list(map(str, outputs))}
        questions, answers = present(waiting.stdin), present(waiting.stdout)
        questions.write(json.dumps(asked) + "\n")
        questions.flush()
        code = int(answers.readline())
        return subprocess.CompletedProcess([], code, *(path.read_text(encoding="utf-8") for path in outputs))

    return run
