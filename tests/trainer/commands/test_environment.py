"""Training and measuring in poor environments."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
NOBODY = "54321"
UNKNOWN_USER = (
    *("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),  # the interpreter may be root's own
)
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LABELKIT_CACHE": "/proc/1/none"}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may read and write, down from the root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.parametrize(
    ("user", "variables"),
    [
        pytest.param(
            UNKNOWN_USER,
            {},
            marks=pytest.mark.skipif(
                os.getuid() != 0 or not shutil.which("setpriv"), reason="becoming another user needs root"
            ),
        ),
        ((), ASCII),
    ],
    ids=["unknown user without a home folder", "ASCII and no cache"],
)
def test_a_model_is_trained_and_measured(
    open_folder: Path, tiny_model: Path, toy_dataset: Path, beir: Path, user: tuple[str, ...], variables: dict[str, str]
) -> None:
    for source, name in ((tiny_model, "tiny"), (toy_dataset, "data"), (beir, "beir")):
        shutil.copytree(source, open_folder / name)
    environment = {"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", **variables}
    start = ("--model", "tiny", "--objective", "lsepair", "--max-steps", 2)
    compared = ("--objectives", "lsepair", "--seeds", 1, "--eval", "beir", "--max-steps", 1)
    for command in (
        ("fit", "data", "-o", "mödel", *start),
        ("eval", "mödel", "beir", "--runs", "rüns"),
        ("bakeoff", "data", "-o", "öff", "--model", "tiny", *compared),
    ):
        done = subprocess.run(
            [*user, sys.executable, "-m", "trainer", *map(str, command)],
            cwd=open_folder,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        assert b"files that can be derived again are kept in" in done.stderr
    assert (open_folder / "mödel" / "manifest.json").is_file()
    assert (open_folder / "öff" / "report.html").is_file()
    assert not (open_folder / "~").exists()
