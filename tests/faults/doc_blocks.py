"""Shell blocks of the documentation, and how they are run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").glob("*.md"),
    REPOSITORY / "benchmarks" / "README.md",
    REPOSITORY / "data_cards" / "README.md",
    REPOSITORY / "examples" / "pydocs" / "README.md",
]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


class Block(NamedTuple):
    page: Path
    language: str
    text: str
    line: int

    @property
    def place(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        body = "\n".join(line.removeprefix(fence[1]) for line in fence[3].splitlines())
        yield Block(page, fence[2], body, text.count("\n", 0, fence.start()) + 1)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def script_of(page: Path) -> str:
    """The commands of the blocks of a page that are executed."""
    return "\n".join(block.text for block in BLOCKS if block.page == page and block.language == "sh")


def commands_of(block: Block) -> Iterator[list[str]]:
    """The commands of a block, as the shell would split them."""
    joined = block.text.replace("\\\n", " ")
    for line in joined.splitlines():
        if block.language == "sh" and line.strip():
            yield shlex.split(line)
        elif line.startswith("$ "):
            yield shlex.split(line.removeprefix("$ "))


def run(script: str, folder: Path, encoder: Path) -> None:
    """Run a script in bash; the first command that fails ends it."""
    programs = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "ENCODER": str(encoder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # the models are tiny; threads that wait for each other cost more than they do
        "LABELKIT_CACHE": str(folder / "cache"),
    }
    command = ["bash", "-euo", "pipefail", "-xc", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
