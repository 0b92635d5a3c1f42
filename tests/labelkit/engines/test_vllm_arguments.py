"""`--engine-arg`: vLLM's own arguments, checked against the installed vLLM before any weights are loaded."""

import pytest

from labelkit.engines import Settings, open_engine
from labelkit.engines.vllm_arguments import OPTIONS, SAME_REPLIES, changing, known_arguments, parsed_arguments
from labelkit.errors import UsageError
from labelkit.judging.annotate import make_judge
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.prompts import load_prompt
from labelkit.judging.reading import Reading
from labelkit.judging.request_keys import identity_of


@pytest.mark.slow
def test_values_are_json_or_text():
    given = ("gpu_memory_utilization=0.8", "--enable-prefix-caching=false", "quantization=fp8", 'hf_overrides={"a": 1}')
    assert parsed_arguments(given, trusted=False) == {
        "gpu_memory_utilization": 0.8,
        "enable_prefix_caching": False,
        "quantization": "fp8",
        "hf_overrides": {"a": 1},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("gpu_memory_utilisation=0.8", "did you mean gpu_memory_utilization"),
        ("nothing_like_it=1", "see vLLM's documentation"),
        ("quantization", "write NAME=VALUE"),
        ("=1", "write NAME=VALUE"),
        ("tensor_parallel_size=2", "use --tensor-parallel"),
        ("pipeline_parallel_size=2", "use --pipeline-parallel"),
        ("load_format=pt", "add --trust-remote-code"),
        ("load_format=auto", "add --trust-remote-code"),
    ],
)
def test_a_wrong_argument_names_its_cure(given, cure):
    with pytest.raises(UsageError, match=cure):
        parsed_arguments([given], trusted=False)


def test_a_trusted_model_may_load_any_format():
    assert parsed_arguments(["load_format=pt"], trusted=True) == {"load_format": "pt"}


def test_every_argument_that_labelkit_names_is_one_of_vllm():
    assert set(OPTIONS) | SAME_REPLIES <= known_arguments()


def test_arguments_of_memory_and_speed_leave_the_judge_the_same():
    arguments = parsed_arguments(["gpu_memory_utilization=0.8", "quantization=fp8"], trusted=False)
    assert changing(arguments) == ('quantization="fp8"',)


def test_arguments_that_change_replies_are_another_judge(tiny_qwen):
    def judge(*given):
        options = AnnotateOptions(model=str(tiny_qwen), engine="vllm", dtype="float32", engine_arg=given)
        facts = open_engine("vllm", options.settings).facts
        return make_judge(facts, options, load_prompt("graded"), reading=Reading())

    plain, memory, other = judge(), judge("gpu_memory_utilization=0.5"), judge("quantization=fp8")
    assert plain == memory
    assert plain.judge_id != other.judge_id
    assert identity_of(plain) != identity_of(other), "their replies would be shared"
    assert "fp8" in str(other.decoding)


def test_a_wrong_argument_is_refused_before_the_model_is_loaded(tiny_qwen):
    with pytest.raises(UsageError, match="did you mean"):
        open_engine("vllm", Settings(str(tiny_qwen), engine_args=("quantisation=fp8",)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (("--engine-arg", "gpu_memory_utilisation=0.8"), "did you mean gpu_memory_utilization"),
        (("--engine-arg", "no_such_argument=1"), "the installed vLLM has no such argument"),
        (("--reasoning-parser", "qwem3"), "unknown reasoning parser 'qwem3'"),
        (("--thinking-tokens", "100"), "needs --reasoning-parser"),
    ],
)
def test_a_wrong_argument_is_refused_before_the_model_is_looked_up(labelkit, pool, tmp_path, given, cure):
    """Before: the Hub was asked for the model first, and its absence was the error."""
    missing = tmp_path / "no-such-model"
    called = labelkit("annotate", pool, "-o", tmp_path / "labels", "--engine", "vllm", "--model", missing, *given)
    assert (called.code, cure in called.err) == (2, True), called.err
    assert not (tmp_path / "labels").exists()
