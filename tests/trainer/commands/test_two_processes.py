"""Two trainings, one output folder: the second is told who holds it, before it loads what takes longer than that."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from holders import finished, holding

from labelkit.storage import folders

REPOSITORY = Path(__file__).parents[3]


def used() -> float:
    """Seconds of processor time of the children that ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@pytest.mark.parametrize("name", ["fit", "suspects", "bakeoff"])
def test_the_second_of_two_is_told_who_holds_the_output(
    name: str, tiny_model: Path, toy_dataset: Path, beir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [name, toy_dataset, "--model", tiny_model, "--max-steps", "1", "-o", output]
    command += {"fit": ["--objective", "lsepair"], "suspects": ["--objective", "lsepair", "--folds", "2"]}.get(
        name, ["--objectives", "lsepair", "--regime", "all", "--seeds", "1", "--eval", beir]
    )
    with holding("trainer", *command) as first:
        before = used()
        second = subprocess.run(
            [sys.executable, "-m", "trainer", *map(str, command)],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        # Of the processor, so that other work on the machine does not count: PyTorch alone would take 3 seconds.
        assert used() - before < 2
        assert (second.returncode, second.stdout) == (1, "")
        assert f"error: {output} is held by process {first.pid} on " in second.stderr
        assert f": trainer {name} " in second.stderr
        assert len(second.stderr.splitlines()) == 1
        if name == "suspects":
            return  # the others let the first one finish, which takes its time
        assert finished(first) == 0
    if name == "fit":
        folders.read_manifest(output, "model")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("out.")]
