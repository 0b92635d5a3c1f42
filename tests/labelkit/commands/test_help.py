"""Every command has quick help and a place in README.md."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

import labelkit.commands.app
import trainer.commands.app

REPOSITORY = Path(__file__).parents[3]
APPS = {"labelkit": labelkit.commands.app.app, "trainer": trainer.commands.app.app}


def commands(app: typer.Typer) -> list[str]:
    return sorted(typer.main.get_command(app).commands)


COMMANDS = [(program, name) for program, app in APPS.items() for name in commands(app)]


# What one of them takes to import is most of the half second that a user waits for help without complaint.
SLOW = {"aiohttp", "datasets", "duckdb", "numpy", "openai", "pyarrow", "pydantic", "ray", "sentence_transformers"}
SLOW |= {"sklearn", "torch", "transformers", "vllm"}


def imported(*command: str) -> set[str]:
    """Top-level packages that a Python script imports on its way, by the interpreter's own account."""
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    names = (line.rpartition("|")[2].strip() for line in shown.stderr.splitlines() if line.startswith("import time:"))
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(("program", "command"), [*COMMANDS, ("labelkit", ""), ("trainer", "")])
def test_help_imports_nothing_slow(program, command):
    script = Path(sys.executable).with_name(program)
    found = imported(str(script), *filter(None, [command]), "--help")
    assert {program, "typer"} <= found
    assert found & SLOW == set()


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_the_readme_mentions_every_command(program, command):
    assert f"{program} {command}" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
