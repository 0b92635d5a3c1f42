"""`plan --gpu`: the duration of a run from measured speeds."""

import pytest

from labelkit.errors import UnknownNameError, UsageError
from labelkit.judging import gpu_speed
from labelkit.judging.gpu_speed import billions, measured, tokens_per_second
from labelkit.judging.options import PlanOptions


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("Qwen/Qwen3-32B", 32),
        ("meta-llama/Llama-3.1-8B-Instruct", 8),
        ("Qwen2.5-Coder-1.5B-Instruct", 1.5),
        ("Qwen3-30B-A3B-Instruct-2507", 3),
        ("some-70b", 70),
    ],
)
def test_the_name_of_a_model_tells_its_size(model, size):
    assert billions(model) == size


@pytest.mark.parametrize("model", ["gpt-4o", "bge-m3", "phi-4bit", "model2b3"])
def test_a_name_without_a_size_asks_for_a_rate(model):
    with pytest.raises(UsageError, match="give --rate"):
        billions(model)


def test_measured_speeds_are_met_and_sizes_between_lie_between(monkeypatch):
    monkeypatch.setattr(gpu_speed, "measured", lambda: {"gpu": [(1.0, 100.0), (4.0, 25.0), (16.0, 10.0)]})
    speeds = [tokens_per_second("gpu", f"x-{size}B") for size in (0.5, 1, 2, 4, 16, 32)]
    assert speeds == pytest.approx([100, 100, 50, 25, 10, 5])


def test_an_unknown_gpu_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="h200"):
        tokens_per_second("abacus", "x-7B")


def test_larger_models_are_slower_on_every_gpu():
    for points in measured().values():
        assert points == sorted(points)
        assert [speed for _, speed in points] == sorted((speed for _, speed in points), reverse=True)


def test_a_rate_and_a_gpu_contradict_each_other():
    with pytest.raises(UsageError, match="not both"):
        PlanOptions(model="x-7B", rate=1.0, gpu="h200")
