"""Names of regimes, data and models become parts of file names, never of a path that leads elsewhere."""

import json
from pathlib import Path

import pytest

from labelkit.errors import ArtifactError, UsageError
from labelkit.storage.cache_folder import cache_folder
from trainer.bakeoffs.config import BakeoffConfig
from trainer.bakeoffs.runner import _path
from trainer.data.foreign import our_dataset


def test_a_folder_given_by_dots_is_kept_under_its_own_name(tmp_path, monkeypatch):
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    row = {"anchor": "a query", "positive": "a text", "negative": "another"}
    (data / "train.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(data / "sub")
    kept = our_dataset(Path(".."))
    assert kept.name == "data"
    assert kept.parent.parent == cache_folder() / "imported"
    assert [path.name for path in (cache_folder() / "imported").iterdir()] == [kept.parent.name]


@pytest.mark.parametrize("regime", ["../victim", "a/b", "a\\b", "a\nb", "a\x1b[2J", ""])
def test_a_regime_that_is_no_part_of_a_file_name_is_refused(tiny_model, regime):
    with pytest.raises(UsageError, match="becomes part of a file name"):
        BakeoffConfig(regimes={regime: ["all"]}, fit={"model": str(tiny_model), "epochs": 1})


def test_a_result_is_written_in_its_folder_alone(tmp_path):
    with pytest.raises(ArtifactError, match="is not the name of a file inside"):
        _path(tmp_path, "../../victim")
