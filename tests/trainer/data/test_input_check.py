"""Inputs that cannot be trained on are refused with the remedy, whatever the settings are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from labelkit.errors import ArtifactError, DataError, UsageError
from labelkit.storage.folders import writing
from trainer.data.input_check import check_dataset

from ..conftest import example, passage


def test_a_dataset_and_an_importable_collection_are_accepted(toy_dataset: Path, beir: Path) -> None:
    check_dataset(toy_dataset)
    check_dataset(beir)


@pytest.mark.parametrize(("kind", "remedy"), [("labels", "labelkit mix --data DATA --llm "), ("pool", "annotate ")])
def test_a_folder_of_an_earlier_step_names_the_next_command(tmp_path: Path, kind: str, remedy: str) -> None:
    needed = {
        "labels": ("judgements.parquet", "judges.parquet"),
        "pool": ("candidates.parquet", "queries.parquet", "passages.parquet"),
    }
    with writing(tmp_path / kind, kind, "test") as draft:
        for name in needed[kind]:
            (draft.path / name).touch()
    with pytest.raises(ArtifactError, match=f"contains a {kind}, but a dataset is needed; .*{remedy}"):
        check_dataset(tmp_path / kind)


def test_a_dataset_without_positives_is_refused(write_dataset: Callable[..., Path]) -> None:
    folder = write_dataset([example("q", [], ["a"])], [passage("a", "text")])
    with pytest.raises(DataError, match="has 1 queries and no positive"):
        check_dataset(folder)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist, but a dataset is needed"):
        check_dataset(tmp_path / "none")
    with pytest.raises(ArtifactError, match="is empty"):
        check_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="neither a labelkit dataset nor in a format"):
        check_dataset(tmp_path / "notes.txt")
    with pytest.raises(ArtifactError, match="not a finished dataset"):
        check_dataset(tmp_path)
