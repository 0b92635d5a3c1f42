"""Commands in poor environments: no home folder, a user that nobody knows, an ASCII locale, a cache in the way."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
NOBODY = "54321"
UNKNOWN_USER = (
    *("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),  # the interpreter may be root's own
)
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
PASSAGES = {"p1": ("Straße", "cats sleep in the straße"), "p2": ("", "dogs bark 漢字"), "p3": ("", "green tea water")}
QUERIES = {"q1": "why do cats sleep in the straße", "q2": "green tea water 漢字"}


def run(folder, *arguments, user=(), module="labelkit", **variables):
    """Run a command with these environment variables alone."""
    environment = {"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", **variables}
    command = [*user, sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, check=False, encoding="utf-8", errors="replace"
    )


@pytest.fixture
def place(write_beir):
    """A folder that everybody may read and write, down from the root, with a collection that is not ASCII."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        write_beir(Path(folder) / "beir", PASSAGES, QUERIES, {"q1": {"p1": 2}, "q2": {"p3": 2}})
        yield Path(folder)


def whole_job(place, **settings):
    """From a pool to a report; what the commands said."""
    said = ""
    for command in (
        ("pool", "beir", "-o", "pöol"),
        ("annotate", "pöol", "-o", "läb", "--engine", "scripted", "--model", "overlap"),
        ("mix", "--data", "beir", "--human", "beir/qrels/test.tsv", "--llm", "läb", "-o", "mäde"),
        ("show", "mäde", "--query", "q1"),
        ("show", "mäde", "--query", "q1", "--json"),
        ("report", "mäde", "-o", "r.html"),
        ("publish", "mäde", "a/b", "--dry-run", "--license", "mit", "--allow", "unaudited"),
    ):
        done = run(place, *command, **settings)
        assert done.returncode == 0, (command, done.stderr)
        said += done.stdout + done.stderr
    assert (place / "mäde" / "manifest.json").is_file()
    return said


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="becoming another user needs root")
def test_a_user_without_a_name_and_a_home_folder(place):
    assert "Traceback" not in whole_job(place, user=UNKNOWN_USER)
    keyless = ("annotate", "pöol", "-o", "x", "--engine", "openai", "--model", "m", "--base-url", "https://api.example")
    done = run(place, *keyless, user=UNKNOWN_USER)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no API key: set LABELKIT_API_KEY")
    assert "a file that LABELKIT_KEYRING names" in done.stderr


def test_an_ascii_locale_without_utf8_mode(place):
    said = whole_job(place, **ASCII, HOME=str(place))
    assert "stra\\xdfe" in said, "characters that the terminal lacks are escaped"
    assert '"query": "why do cats sleep in the stra\\u00dfe"' in said
    done = run(place, "show", "mäde", "--query", "straße", **ASCII, HOME=str(place))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_home_folder_that_may_not_be_looked_into_is_none(place):
    (place / "closed").write_text("no folder")
    assert "Traceback" not in whole_job(place, HOME=str(place / "closed"))


def test_an_encoder_is_used_without_a_cache_that_can_be_written(place):
    from tiny_encoder import write_encoder

    write_encoder(place / "encoder", ["cats", "sleep", "green", "tea", "water"])
    (place / "in the way").write_text("no folder")
    for number, variables in enumerate(({"LABELKIT_CACHE": str(place / "in the way")}, {"HOME": "/proc/1/none"})):
        done = run(place, "pool", "beir", "-o", f"pool-{number}", "--dense", "encoder/tiny:2", **variables)
        assert done.returncode == 0, done.stderr
        assert "cannot be written: files that can be derived again are kept in" in done.stderr
        kept = Path(done.stderr.partition("are kept in ")[2].partition(" until")[0])
        assert kept.name.startswith("labelkit-cache-")
        assert not kept.exists(), "it ends with the command"
