"""The local engine against a plain forward pass, one prompt at a time."""

import json
import shutil
from pathlib import Path

import pytest

from labelkit.engines import Settings, open_engine
from labelkit.engines.chat_encoding import ChatEncoder
from labelkit.engines.local import common_prefix
from labelkit.errors import EngineError, UnknownNameError, UsageError

PASSAGES = [
    "cats sleep",
    "the day",
    "cats sleep in the day and hunt at night, " * 3,
    "",
    "ünïcode ☕ and {braces}",
    "dogs",
    "mail carrier " * 20,
    "the day",
    "cats sleep in the daylight",
]
QUERIES = ["why do cats sleep in the day", "tea", "which dogs bark at the mail carrier in the morning? " * 3]
LABELS = ("0", "1", "2", "3")


def engine_for(folder, **settings):
    return open_engine("local", Settings(str(folder), **{"dtype": "float32", **settings}))


@pytest.fixture(scope="module")
def slow_logprobs(tiny_qwen):
    """Label log-probabilities from a forward pass over the whole prompt, without cache, batch or padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen)
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen, dtype=torch.float32).eval()

    def compute(request):
        turns = [message._asdict() for message in request.messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(ids).logits[0, -1].double(), dim=-1)
        return {label: float(logprobs[tokenizer.encode(label)[0]]) for label in request.labels}

    return compute


def assert_logprobs(requests, replies, slow_logprobs):
    by_key = {reply.key: reply for reply in replies}
    assert len(by_key) == len(replies) == len(requests)
    for request in requests:
        reply = by_key[request.key]
        assert reply.label_logprobs == pytest.approx(slow_logprobs(request), abs=1e-5)
        assert reply.text == max(reply.label_logprobs, key=reply.label_logprobs.get)
        assert reply.completion_tokens == 1


def unique(requests):
    return list({request.key: request for request in requests}.values())


@pytest.mark.parametrize("rows", [1, 2, 3, 16])
def test_shared_prefixes_change_no_log_probability(tiny_qwen, ask, slow_logprobs, rows):
    sizes = (len(PASSAGES), 1, 4)
    requests = unique(
        ask(query, passage) for query, size in zip(QUERIES, sizes, strict=True) for passage in PASSAGES[:size]
    )
    assert_logprobs(requests, list(engine_for(tiny_qwen, concurrency=rows).run(requests)), slow_logprobs)


def test_interleaved_groups_change_no_log_probability(tiny_qwen, ask, slow_logprobs):
    requests = unique(ask(query, passage) for passage in PASSAGES[:4] for query in QUERIES)
    assert_logprobs(requests, list(engine_for(tiny_qwen, concurrency=4).run(requests)), slow_logprobs)


def test_a_second_run_of_one_engine_changes_no_log_probability(tiny_qwen, ask, slow_logprobs):
    engine = engine_for(tiny_qwen)
    for query in (QUERIES[2], QUERIES[1], QUERIES[2]):
        requests = unique(ask(query, passage) for passage in PASSAGES)
        assert_logprobs(requests, list(engine.run(requests)), slow_logprobs)


def test_one_passage_may_begin_another(tiny_qwen, ask, slow_logprobs):
    requests = [ask("tea", "green tea"), ask("tea", "green tea water")]
    requests = [request._replace(messages=request.messages[:1]) for request in requests]
    requests = [
        request._replace(messages=(request.messages[0]._replace(content=f"tea {n * 'x'}"),))
        for n, request in enumerate(requests)
    ]
    assert_logprobs(requests, list(engine_for(tiny_qwen).run(requests)), slow_logprobs)


def test_prompts_with_nothing_in_common_change_no_log_probability(tiny_qwen, ask, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(tiny_qwen, folder)
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    requests = [ask("q", passage) for passage in ("first", "second one", "third")]
    requests = [r._replace(messages=(r.messages[1]._replace(content=r.key.split("| ")[1]),)) for r in requests]
    together = list(engine_for(folder).run(requests))
    alone = [reply for request in requests for reply in engine_for(folder).run([request])]
    after = list(engine_for(folder).run([ask("x", "y"), ask("x", "z"), *requests]))[2:]
    for replies in (together, after):
        assert {reply.key for reply in replies} == {reply.key for reply in alone}
        for one in alone:
            (other,) = (reply for reply in replies if reply.key == one.key)
            assert other.label_logprobs == pytest.approx(one.label_logprobs, abs=1e-5)


def test_labels_of_several_tokens_are_read_at_their_first(tiny_qwen, ask, slow_logprobs):
    requests = [ask("tea", passage, ("Yes", "No")) for passage in PASSAGES[:3]]
    assert_logprobs(requests, list(engine_for(tiny_qwen).run(requests)), slow_logprobs)


def test_an_over_long_prompt_fails_alone(tiny_qwen, ask, slow_logprobs):
    long = ask("tea", "water " * 600)
    requests = [ask("tea", "a"), long, ask("tea", "b"), ask("dogs", "c")]
    replies = {reply.key: reply for reply in engine_for(tiny_qwen).run(requests)}
    assert "tokens is over the limit of 512" in replies[long.key].error
    assert replies[long.key].label_logprobs is None
    short = [request for request in requests if request is not long]
    assert_logprobs(short, [replies[request.key] for request in short], slow_logprobs)


def test_a_prompt_of_megabytes_is_not_tokenised_to_be_refused(tiny_qwen, ask):
    requests = [ask("tea", "a"), ask("tea", "water " * (10 << 20)), ask("cats " * (10 << 20), "b")]
    replies = {reply.key: reply.error for reply in engine_for(tiny_qwen).run(requests)}
    good, *long = (replies[request.key] for request in requests)
    assert good is None
    assert all("characters is over the limit of 512" in error for error in long)


def test_the_limit_counts_every_token_of_the_prompt(tiny_qwen, ask):
    from transformers import AutoTokenizer

    request = ask("tea", "green tea")
    length = len(ChatEncoder(AutoTokenizer.from_pretrained(tiny_qwen)).encode(request.messages))
    (fits,) = engine_for(tiny_qwen, max_model_len=length).run([request])
    (over,) = engine_for(tiny_qwen, max_model_len=length - 1).run([request])
    assert fits.prompt_tokens == length
    assert over.error == f"prompt of {length} tokens is over the limit of {length - 1}"


def test_only_over_long_prompts_and_no_prompts_give_no_answers(tiny_qwen, ask):
    engine = engine_for(tiny_qwen, max_model_len=16)
    assert all(reply.error for reply in engine.run([ask("tea", "a"), ask("tea", "b")]))
    assert list(engine.run([])) == []


def test_labels_that_share_a_first_token_are_refused(tiny_qwen):
    engine = engine_for(tiny_qwen)
    engine.check_labels(LABELS)
    engine.check_labels(("Yes", "No"))
    with pytest.raises(UsageError, match="labels 10, 12 share a first token"):
        engine.check_labels(("10", "12"))


def test_nothing_is_loaded_before_the_first_request(tiny_qwen, ask, tmp_path):
    folder = tmp_path / "no-weights"
    shutil.copytree(tiny_qwen, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    engine = engine_for(folder)
    assert list(engine.run([])) == []
    with pytest.raises(EngineError, match="cannot be loaded") as caught:
        list(engine.run([ask("tea", "a")]))
    assert "\n" not in str(caught.value)


def broken_copies(tiny_qwen, tmp_path):
    """Folders that are no model: (name, folder)."""
    yield tmp_path / "absent"
    (tmp_path / "empty").mkdir()
    yield tmp_path / "empty"
    for name, file, content in (
        ("bad-config", "config.json", "{"),
        ("unknown-type", "config.json", '{"model_type": "no-such-model"}'),
        ("bad-weights", "model.safetensors", "not weights"),
        ("bad-tokenizer", "tokenizer.json", "{}"),
    ):
        shutil.copytree(tiny_qwen, tmp_path / name)
        (tmp_path / name / file).write_text(content)
        yield tmp_path / name


@pytest.mark.parametrize("number", range(6))
def test_a_folder_that_is_no_model_is_one_line(tiny_qwen, ask, tmp_path, number):
    folder = list(broken_copies(tiny_qwen, tmp_path))[number]
    with pytest.raises(EngineError, match="cannot be loaded") as caught:
        list(engine_for(folder).run([ask("tea", "a")]))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_names_an_unknown_model(labelkit, pool, tmp_path):
    called = labelkit("annotate", pool, "-o", tmp_path / "labels", "--model", tmp_path / "absent")
    assert called.code == 1
    assert called.err.startswith(f"error: model '{tmp_path / 'absent'}' cannot be loaded")
    assert len(called.err.splitlines()) == 1
    assert not (tmp_path / "labels").exists()


def test_an_unknown_dtype_is_refused(tiny_qwen):
    with pytest.raises(UnknownNameError, match="choose one of: bfloat16, float16, float32"):
        engine_for(tiny_qwen, dtype="int8")


def test_a_judge_is_known_by_its_weights_and_dtype_and_not_by_its_path(labelkit, pool, tiny_qwen, tmp_path):
    def asked(folder, *options):
        command = ("annotate", pool, "-o", tmp_path / "labels", "--model", folder, "--json", "--limit", "4", *options)
        called = labelkit(*command)
        assert called.code == 0, called.err
        return json.loads(called.out)["asked"]

    assert asked(tiny_qwen, "--dtype", "float32") == 4
    assert asked(tiny_qwen, "--dtype", "float32", "--concurrency", "3") == 0
    assert asked(tiny_qwen, "--dtype", "bfloat16", "--add-judge") == 4
    copied = tmp_path / "moved" / tiny_qwen.name
    shutil.copytree(tiny_qwen, copied)
    assert asked(copied, "--dtype", "float32") == 0
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    assert asked(copied, "--dtype", "float32", "--add-judge") == 4


def test_closing_gives_the_weights_back(tiny_qwen, ask):
    engine = engine_for(tiny_qwen)
    first = list(engine.run([ask("tea", "a")]))
    engine.close()
    assert "_model" not in vars(engine)
    assert list(engine.run([ask("tea", "a")])) == first


def test_the_common_prefix_of_rows():
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2]]) == [1, 2]
    assert common_prefix([[1], [2]]) == common_prefix([[], [1]]) == common_prefix([]) == []


def test_provenance_names_a_local_folder_and_not_its_path(tiny_qwen):
    assert Settings(f"{tiny_qwen}/").called == engine_for(tiny_qwen).facts.model_answered == Path(tiny_qwen).name
    assert Settings("Qwen/Qwen2.5-7B-Instruct").called == "Qwen/Qwen2.5-7B-Instruct"


def test_a_model_that_computes_no_numbers_gives_no_grades(tiny_qwen, ask, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_qwen, tmp_path / "broken")
    weights = load_file(tiny_qwen / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    replies = list(engine_for(tmp_path / "broken").run([ask("tea", "cats"), ask("tea", "dogs")]))
    assert [reply.text for reply in replies] == [None, None]
    assert all("no finite probabilities; try another --dtype" in reply.error for reply in replies)
