"""The notebook of the examples runs from start to end, and shows what it says it shows."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run in an empty folder, by this interpreter."""
    folder = tmp_path_factory.mktemp("notebook")
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "tests", "language": "python"}))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder), prepend=os.pathsep)
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("LABELKIT_CACHE", str(folder / "cache"))
        patch.setenv("TMPDIR", str(folder))
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
        return client.execute()


def shown(executed: Any, start: str) -> str:
    """The text that the first code cell with this beginning shows."""
    cell = next(cell for cell in executed.cells if cell.cell_type == "code" and cell.source.startswith(start))
    return "".join(one.get("text", "") + one.get("data", {}).get("text/plain", "") for one in cell.outputs)


def test_every_step_shows_its_result(executed: Any) -> None:
    assert shown(executed, "pool =") == "13"
    assert "graded-overlap" in shown(executed, "judgements,")
    assert "'queries': 3" in shown(executed, "options =")
    assert "did you mean votes?" in shown(executed, "try:")
    if "LABELKIT_ENCODER" in os.environ:
        assert "4 steps" in shown(executed, "encoder =")
        assert "[" in shown(executed, "if encoder:")


def test_progress_shows_in_the_notebook(executed: Any) -> None:
    (cell,) = [cell for cell in executed.cells if cell.source.startswith("outcome =")]
    bars = [
        one
        for one in executed.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
        if one["model_name"] == "FloatProgressModel"
    ]
    assert [(bar["state"]["value"], bar["state"]["bar_style"]) for bar in bars] == [
        (bars[0]["state"]["max"], "success")
    ]
    assert not [one for one in cell.outputs if one.output_type == "error"]


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
