"""Answers in text: free, inside a pattern, drawn with a seed. Engine local against transformers' own generation."""

import re

import pytest

from labelkit.engines import Message, Request, Settings, open_engine

PATTERN = r"(none|\[(1|2|3)\](, \[(1|2|3)\]){0,2})"
PROMPT = (Message("user", "Query: green tea\n\nPassages:\n[1] tea that is green\n[2] dogs bark\n[3] green leaves"),)


def one(engine, **fields):
    (reply,) = engine.run([Request("k", "q", PROMPT, **fields)])
    return reply


@pytest.fixture(scope="module")
def engine(tiny_qwen):
    return open_engine("local", Settings(str(tiny_qwen), dtype="float32"))


def test_free_text_is_what_transformers_generates(engine, tiny_qwen):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen)
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen, dtype=torch.float32).eval()
    turns = [message._asdict() for message in PROMPT]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    slow = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    reply = one(engine, max_tokens=12)
    assert reply.text == tokenizer.decode(slow, skip_special_tokens=True)
    assert reply.label_logprobs is None
    assert (reply.prompt_tokens, reply.completion_tokens) == (ids["input_ids"].shape[1], 12)
    assert reply.finish_reason == "length"


def test_a_pattern_holds_whatever_the_model_would_say(engine):
    reply = one(engine, pattern=PATTERN, max_tokens=30)
    assert re.fullmatch(PATTERN, reply.text)
    assert reply.finish_reason == "stop"


def test_drawn_answers_differ_by_seed_and_by_nothing_else(engine):
    drawn = [one(engine, max_tokens=6, temperature=1.0, seed=seed).text for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_text_and_labels_come_from_one_run(engine, ask):
    text = Request("t", "q", PROMPT, max_tokens=3)
    both = {reply.key: reply for reply in engine.run([text, ask("q", "tea")])}
    assert both["t"] == next(iter(engine.run([text])))
    assert both["q | tea"] == next(iter(engine.run([ask("q", "tea")])))


def test_a_prompt_and_its_answer_must_fit_together(engine):
    assert one(engine, max_tokens=490).error.endswith("is over the limit of 512")
    assert "answer of 490" in one(engine, max_tokens=490).error


@pytest.mark.parametrize("name", ["scripted", "local"])
def test_labels_are_drawn_by_their_probabilities(name, tiny_qwen, ask):
    engine = open_engine(name, Settings({"scripted": "overlap", "local": str(tiny_qwen)}[name], dtype=None))
    request = ask("green tea leaves", "tea")
    (sure,) = engine.run([request])
    drawn = [next(iter(engine.run([request._replace(temperature=1.0, seed=seed)]))) for seed in range(40)]
    assert {reply.text for reply in drawn} > {sure.text}
    assert all(reply.label_logprobs == pytest.approx(sure.label_logprobs) for reply in drawn)
    cold = [next(iter(engine.run([request._replace(temperature=1e-3, seed=seed)]))).text for seed in range(5)]
    assert set(cold) == {sure.text}


def test_the_scripted_judge_selects_ranks_or_answers_as_the_pattern_allows():
    engine = open_engine("scripted", Settings("overlap"))
    assert one(engine, pattern=PATTERN).text == "[1], [3]"
    assert one(engine, pattern=r"\[\d\]( > \[\d\]){2}").text == "[1] > [3] > [2]"
    assert one(engine).text == "Query: green tea"


def test_openai_passes_pattern_length_temperature_and_seed_on(server, completion, Answer):
    engine = open_engine("openai", Settings("m", base_urls=(server.url,)))
    server.script = lambda body: Answer(completion("[1], [3]"))
    reply = one(engine, pattern=PATTERN, max_tokens=30, temperature=0.7, seed=5)
    (body,) = server.ledger
    assert body["structured_outputs"] == {"regex": PATTERN}
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (30, 0.7, 5)
    assert "logprobs" not in body
    assert reply.text == "[1], [3]"


def test_openai_asks_for_free_text_without_any_option(server, completion, Answer):
    engine = open_engine("openai", Settings("m", base_urls=(server.url,)))
    server.script = lambda body: Answer(completion("green tea is tea"))
    assert one(engine, max_tokens=20).text == "green tea is tea"
    assert not {"structured_outputs", "logprobs", "seed"} & set(server.ledger[0])
