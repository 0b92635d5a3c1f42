"""Every command has quick help and a place in README.md."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

import labelkit.cli
import trainer.cli

REPOSITORY = Path(__file__).parents[2]
APPS = {"labelkit": labelkit.cli.app, "trainer": trainer.cli.app}


def commands(app: typer.Typer) -> list[str]:
    return sorted(typer.main.get_command(app).commands)


COMMANDS = [(program, name) for program, app in APPS.items() for name in commands(app)]


def best_of_three(*command: str) -> float:
    """Seconds of the fastest of three runs.

    The fastest says what the command itself costs; the others also say what else the machine did meanwhile, and a cold
    file cache.
    """
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.mark.parametrize(("program", "command"), [*COMMANDS, ("labelkit", ""), ("trainer", "")])
def test_help_answers_in_half_a_second(program, command):
    script = Path(sys.executable).with_name(program)
    assert best_of_three(str(script), *filter(None, [command]), "--help") < 0.5


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_the_readme_mentions_every_command(program, command):
    assert f"{program} {command}" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
