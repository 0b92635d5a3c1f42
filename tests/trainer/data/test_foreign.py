"""`trainer fit` on files of other tools, as they are."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelkit.errors import ArtifactError, UsageError
from labelkit.storage import folders
from trainer.config.fit_config import FitConfig
from trainer.data.foreign import our_dataset
from trainer.training.fit import fit

from ..conftest import WORDS

TEVATRON = [
    {
        "query_id": f"q{n}",
        "query": WORDS[n],
        "positive_passages": [{"docid": f"p{n}", "title": "", "text": f"{WORDS[n]} {WORDS[n + 20]}"}],
        "negative_passages": [{"docid": f"n{n}", "title": "", "text": WORDS[n + 40]}],
    }
    for n in range(6)
]
TUPLES = [{"anchor": WORDS[n], "positive": f"{WORDS[n]} {WORDS[n + 20]}", "negative": WORDS[n + 40]} for n in range(6)]


@pytest.mark.parametrize("rows", [TEVATRON, TUPLES], ids=["tevatron", "sentence-transformers"])
def test_a_file_of_another_tool_trains(tiny_model: Path, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = FitConfig(model=str(tiny_model), objective="singlelh", max_steps=2, batch_size=3)
    report = fit(path, tmp_path / "model", settings)
    assert report.stages[0].counts["queries"] == 6
    assert str(path) in folders.read_manifest(tmp_path / "model", "model").inputs
    made = our_dataset(path)
    written = (made / folders.MANIFEST).stat().st_mtime_ns
    assert our_dataset(path) == made
    assert (made / folders.MANIFEST).stat().st_mtime_ns == written, "imported once"


def test_a_file_without_a_row_is_no_dataset(tmp_path: Path) -> None:
    columns = ("anchor", "positive", "negative")
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in columns}), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match="neither a labelkit dataset nor in a format that can be read"):
        our_dataset(tmp_path / "train.parquet")


def test_what_is_no_dataset(tmp_path: Path, toy_dataset: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing\n")
    with pytest.raises(UsageError, match="neither a labelkit dataset nor in a format that can be read"):
        our_dataset(tmp_path / "notes.txt")
    assert our_dataset(toy_dataset) == toy_dataset
    (toy_dataset / folders.MANIFEST).unlink()
    settings = FitConfig(model="m", objective="lsepair")
    with pytest.raises(ArtifactError, match="it is not a finished dataset"):
        fit(toy_dataset, tmp_path / "model", settings)
