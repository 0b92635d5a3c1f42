"""Shell blocks of the documentation: `sh` blocks run, `console` blocks are checked against the command line.

A `console` block shows a command behind `$` and its output. It is not executed, because it needs a model, a server or
much time; its command, its options and its arguments must still be ones that the program accepts. Commands and options
named inside sentences must exist, too.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_blocks import BLOCKS, FENCE, PAGES, REPOSITORY, commands_of, name_of, run, script_of

import labelkit.commands.app
import trainer.commands.app

FIRST = REPOSITORY / "docs" / "start.md"
"""The page whose folders the other pages continue with."""
NOT_EXECUTED = 51
"""Commands in `console` blocks; `make demo` runs ten of them, in README.md. The number may fall; raise it only for
commands that no test could run.
"""
LANGUAGES = {"sh", "console", "toml", "text", "python"}
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


def group_of(app: typer.Typer) -> Any:
    """The group of an app's commands, which typer types as a single command."""
    return typer.main.get_command(app)


PROGRAMS: dict[str, dict[str, Any]] = {
    "labelkit": group_of(labelkit.commands.app.app).commands,
    "trainer": group_of(trainer.commands.app.app).commands,
}
"""Program -> command -> the command as typer keeps it."""
OTHERS = {"export", "mkdir", "pre-commit", "printf", "twine"}
"""Programs of others whose options we do not check."""
OPTIONS_OF_OTHERS = {
    "--nproc-per-node",
    "--no-python",
    "--precision",
    "--levels",
    "--seeds",
    "--regimes",
    "--tiny",
    "--documents",
    "--help",
}


WITH_A_SERVER = REPOSITORY / "docs" / "api_judge.md"
"""The page whose commands need a server; test_api_judge.py runs them."""
EXECUTED = sorted({block.page for block in BLOCKS if block.language == "sh"} - {FIRST, WITH_A_SERVER})


@pytest.fixture(scope="module")
def after_first_steps(tmp_path_factory, encoder):
    """The folder in which all blocks of the first page have run."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    run(script_of(FIRST), folder, encoder)
    return folder


def test_the_first_steps_run(after_first_steps):
    made = {path.name for path in after_first_steps.iterdir()}
    assert {"my-data", "pool", "labels", "dataset"} <= made


@pytest.mark.parametrize("page", EXECUTED, ids=name_of)
def test_the_shell_blocks_of_a_page_run(page, after_first_steps, encoder):
    run(script_of(page), after_first_steps, encoder)


def test_every_block_says_what_it_is():
    unknown = [block.place for block in BLOCKS if block.language not in LANGUAGES]
    assert not unknown, f"blocks without a language, or with another than {LANGUAGES}: {unknown}"
    indented = [
        f"{name_of(page)}: {line.strip()}"
        for page in PAGES
        for line in FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
        if re.match(r" {4,}(labelkit|trainer|python|pip|make|\$) ", line)
    ]
    assert not indented, "write commands in fenced blocks: " + "; ".join(indented)


def test_no_more_commands_are_left_unexecuted():
    shown = [command for block in BLOCKS if block.language == "console" for command in commands_of(block)]
    assert all(any(commands_of(block)) for block in BLOCKS if block.language == "console")
    assert len(shown) <= NOT_EXECUTED, f"{len(shown)} commands are shown and not executed"


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language in ("sh", "console")], ids=lambda b: b.place
)
def test_the_commands_of_a_block_exist(block):
    for command in commands_of(block):
        check(command)


def check(command: list[str]) -> None:
    """Fail where a command could not be started as it is written."""
    program, *arguments = command
    name = Path(program).name
    if name == "torchrun":
        check(arguments[arguments.index("--no-python") + 1 :])
    elif name in PROGRAMS:
        parse(name, arguments)
    elif name == "make":
        assert arguments
        assert set(arguments) <= make_targets(), arguments
    elif name == "python":
        check_python(arguments)
    elif name == "pip":
        check_pip(arguments)
    else:
        assert name in OTHERS, f"unknown program {name}"


def parse(program: str, arguments: list[str]) -> None:
    """Parse arguments as the command line does, without running the command."""
    name, *rest = arguments
    assert name in PROGRAMS[program], f"{program} has no command {name}"
    PROGRAMS[program][name].make_context(name, rest)


def check_python(arguments: list[str]) -> None:
    """A script of the repository with options that it defines, or a module that is installed."""
    first, *rest = arguments
    if first == "-m":
        assert rest[0] in ("build", "pytest"), arguments
        assert all((REPOSITORY / path).exists() for path in rest[1:]), arguments
        return
    source = (REPOSITORY / first).read_text(encoding="utf-8")
    for option in (word for word in rest if word.startswith("-")):
        assert f'"{option}"' in source, f"{first} has no option {option}"


def check_pip(arguments: list[str]) -> None:
    """Extras that pyproject.toml declares, and tools of others by name."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
        assert set(named.split(",")) <= {*extras, "EXTRA"}, named


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}


ALL_OPTIONS = OPTIONS_OF_OTHERS | {
    option for commands in PROGRAMS.values() for command in commands.values() for option in options_of(command)
}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_in_sentences_exist(page):
    for code in INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        words = [word.partition("=")[0].strip("'\"()[],;") for word in code.split()]
        known = ALL_OPTIONS
        if words[0] in PROGRAMS and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            assert words[1] in PROGRAMS[words[0]], code
            known = options_of(PROGRAMS[words[0]][words[1]]) | {"--help"}
        elif words[0] == "make" and len(words) == 2:
            assert words[1] in make_targets(), code
        for option in (word for word in words if re.fullmatch(r"--[a-z][a-z-]*", word)):
            assert option in known, f"`{code}`: {option}"
