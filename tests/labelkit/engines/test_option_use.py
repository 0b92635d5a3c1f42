"""Every option of a judge with every engine: it is used, or it is refused with the engines that use it."""

import re
from pathlib import Path
from typing import Any

import pytest

from labelkit.commands.declared import declared
from labelkit.engines import ENGINES, Settings
from labelkit.engines.option_use import USED_BY
from labelkit.engines.ray import WORKER_ENGINES
from labelkit.errors import UnknownNameError, UsageError
from labelkit.judging.options import AnnotateOptions, PlanOptions
from labelkit.quality.options import CascadeOptions, RedteamOptions
from labelkit.quality.redteam.run import judge_options

VALUES: dict[str, Any] = {
    "revision": "main",
    "max_model_len": 512,
    "tokenizer": "tokenizer.json",
    "dtype": "float32",
    "trust_remote_code": True,
    "base_url": ("http://127.0.0.1:1/v1",),
    "insecure": True,
    "allow_drift": True,
    "concurrency": 2,
    "tensor_parallel": 2,
    "pipeline_parallel": 2,
    "data_parallel": 2,
    "reasoning_parser": "qwen3",
    "thinking_tokens": 512,
    "reasoning_effort": "low",
    "engine_arg": ("seed=1",),
    "worker_engine": "local",
    "workers": 2,
    "wait": True,
    "batch_dir": Path("batches"),
}
FOR_ALL = {
    *("model", "engine", "method", "prompt", "limit", "passage_tokens", "passage_words", "permutations", "votes"),
    *("defence", "prices", "verify", "seed", "max_usd", "max_tokens", "cache", "retry_failed", "add_judge"),
}
"""Options of `annotate` that no engine reads."""
SETTING = {"base_url": "base_urls", "engine_arg": "engine_args"}


def test_the_table_has_every_option_that_an_engine_reads():
    assert set(USED_BY) == set(VALUES) == set(AnnotateOptions.model_fields) - FOR_ALL
    settings = {SETTING.get(name, name) for name in USED_BY} - {"tokenizer", "allow_drift"}
    assert settings == set(Settings._fields) - {"model", "folder"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("option", USED_BY)
def test_an_option_is_used_or_refused_with_the_engines_that_use_it(option, engine):
    given = {"model": "overlap", "engine": engine, option: VALUES[option]}
    # A cluster uses the options of its workers' engine, which is vllm by default and local in `VALUES`.
    worker = VALUES[option] if option == "worker_engine" else "vllm"
    engines = {engine, worker} if engine == "ray" else {engine}
    if engines & set(USED_BY[option]):
        assert getattr(AnnotateOptions(**given), option) == VALUES[option]
        return
    with pytest.raises(UsageError) as refused:
        AnnotateOptions(**given)
    flag = f"--{option.replace('_', '-')}"
    assert str(refused.value).startswith(f"{flag} (only for engine ")
    named = re.split(r", | or ", str(refused.value).partition(")")[0].removeprefix(f"{flag} (only for engine "))
    assert {name.removesuffix(" with such workers") for name in named} - {"ray"} == set(USED_BY[option]) - {"ray"}
    assert f"has no effect with engine {engine}" in str(refused.value)


@pytest.mark.parametrize("worker", WORKER_ENGINES)
@pytest.mark.parametrize("option", sorted(set(USED_BY) - {"worker_engine"}))
def test_a_cluster_uses_the_options_of_its_workers(option, worker):
    given = {"model": "overlap", "engine": "ray", "worker_engine": worker, option: VALUES[option]}
    if {"ray", worker} & set(USED_BY[option]):
        AnnotateOptions(**given)
        return
    with pytest.raises(UsageError, match=f"has no effect with engine ray with {worker} workers"):
        AnnotateOptions(**given)


@pytest.mark.parametrize("record", ["AnnotateOptions", "PlanOptions"])
def test_the_help_of_an_option_for_one_engine_begins_with_its_name(record):
    for name, field in declared(f"labelkit.judging.options:{record}").items():
        engines = USED_BY.get(name, ())
        named = field.help.partition(": ")[0] if field.help.partition(": ")[0] in ENGINES else None
        assert named == (engines[0] if len(engines) == 1 else None), name


def test_several_options_are_refused_together():
    with pytest.raises(UsageError, match=r"--dtype \(.*\), --wait \(.*\) have no effect .*: leave them out"):
        AnnotateOptions(model="m", engine="openai", dtype="float16", wait=True)


def test_a_default_value_is_no_option_that_was_given():
    AnnotateOptions(model="m", engine="openai", tensor_parallel=1, wait=False, engine_arg=())


def test_plan_and_redteam_refuse_the_same_options():
    with pytest.raises(UsageError, match=r"--tokenizer .* has no effect with engine local"):
        PlanOptions(model="m", tokenizer="t")
    options = RedteamOptions(human=Path("qrels.tsv"), model="m", base_url=("http://127.0.0.1:1/v1",))
    with pytest.raises(UsageError, match=r"--base-url .* has no effect with engine local"):
        judge_options(options, "graded", ())


def test_an_unknown_engine_is_refused_with_the_choices():
    with pytest.raises(UnknownNameError, match=r"unknown engine 'vlm'; choose one of: .*vllm"):
        AnnotateOptions(model="m", engine="vlm")


def test_a_strong_judge_of_another_engine_leaves_the_options_of_the_cheap_one():
    cheap = AnnotateOptions(model="m", engine="vllm", dtype="float16", tensor_parallel=2, votes=3)
    strong = CascadeOptions(model="big", engine="openai", base_url=("http://127.0.0.1:1/v1",)).judge(cheap)
    assert (strong.engine, strong.dtype, strong.tensor_parallel, strong.votes) == ("openai", None, 1, 3)
    assert CascadeOptions(model="big").judge(cheap).dtype == "float16"
    served = AnnotateOptions(model="m", engine="openai", base_url=("http://127.0.0.1:1/v1",))
    assert CascadeOptions(model="big", engine="local").judge(served).base_url == ()
    with pytest.raises(UsageError, match=r"--base-url .* has no effect with engine local"):
        CascadeOptions(model="big", engine="local", base_url=("http://127.0.0.1:1/v1",)).judge(served)
