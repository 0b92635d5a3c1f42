"""Settings from a file and from flags, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from labelkit.errors import UnknownNameError, UsageError
from trainer.config.fit_config import OBJECTIVE_NAMES, read_config
from trainer.objectives.objectives import OBJECTIVES

NEEDED = {"model": "m", "objective": "jointlh"}


def test_the_defaults() -> None:
    config = read_config(None, NEEDED)
    assert (config.epochs, config.max_steps) == (1, None)
    assert (config.batch_size, config.group_size, config.max_positives) == (32, 8, 4)
    assert (config.similarity, config.temperature, config.learning_rate) == ("cosine", 0.05, 2e-5)


def test_the_names_of_objectives_are_those_of_the_table() -> None:
    assert set(OBJECTIVE_NAMES) == set(OBJECTIVES)


def test_flags_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fit.toml"
    path.write_text('model = "m"\nobjective = "jointlh"\nseed = 3\nepochs = 4\n')
    config = read_config(path, {"objective": "lsepair", "seed": None})
    assert (config.objective, config.seed, config.epochs) == ("lsepair", 3, 4)
    assert read_config(path, {"max_steps": 10}).epochs is None, "a flag for one drops the file's other"


def test_dot_products_are_not_divided_unless_asked() -> None:
    assert read_config(None, NEEDED | {"similarity": "dot"}).temperature == 1.0
    assert read_config(None, NEEDED | {"similarity": "dot", "temperature": 0.1}).temperature == 0.1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": 2, "max_steps": 5}, "set only one of them"),
        ({"false_negative_margin": 0.0, "false_negative_ratio": 0.9}, "exclude each other; set only one of them"),
        ({"false_negative_margin": 0.0, "in_batch_negatives": False}, "have no effect without in_batch_negatives"),
        ({"source_weights": {"llm": 0.0}}, "source_weights.llm = 0.0: input should be greater than 0"),
        ({"source_weights": {"gpt": 1.0}}, "input should be 'human', 'llm' or 'imported'"),
        ({"max_positives": 9}, "lower max_positives or raise group_size"),
        ({"learnin_rate": 1e-5}, "unknown setting 'learnin_rate'; did you mean learning_rate?"),
        ({"zzz": 1}, "unknown setting 'zzz'; settings are: model, architecture"),
        ({"temperature": 0.0}, "temperature = 0.0: input should be greater than 0"),
        ({"learning_rate": float("inf")}, "learning_rate = inf"),
        ({"similarity": "euclidean"}, "input should be 'cosine' or 'dot'"),
        ({"seed": -1}, "seed = -1"),
        ({"batch_size": 2.5}, "batch_size = 2.5"),
    ],
)
def test_refused_settings_name_the_fix(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        read_config(None, NEEDED | flags)
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_a_missing_setting_and_an_unknown_objective() -> None:
    with pytest.raises(UsageError, match="objective is not set; give --objective or put objective into"):
        read_config(None, {"model": "m"})
    with pytest.raises(UnknownNameError, match="unknown objective 'infonce'; choose one of: bixse, gce, jointlh, "):
        read_config(None, {"model": "m", "objective": "infonce"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the settings in"),
        ("seed = ", "is not valid TOML"),
        ("sed = 1", "fit.toml: unknown setting"),
    ],
)
def test_settings_files_that_cannot_be_used(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "fit.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError) as error:
        read_config(path, NEEDED)
    assert message in str(error.value)
