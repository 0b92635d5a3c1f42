"""Chat models without a system turn, and base models without a chat template, are asked all the same."""

import shutil

import pytest
from transformers import AutoTokenizer

from labelkit.engines import Message, Settings, open_engine
from labelkit.engines.chat_encoding import ChatEncoder

TURNS = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
SILENT = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
MESSAGES = (Message("system", "Grade it."), Message("user", "Query: tea"))


@pytest.fixture
def tokenizer(tiny_qwen):
    return AutoTokenizer.from_pretrained(tiny_qwen)


def sent(tokenizer, messages=MESSAGES):
    return tokenizer.decode(ChatEncoder(tokenizer).encode(messages))


def test_a_system_turn_is_kept_where_the_template_has_one(tokenizer):
    assert sent(tokenizer).startswith("<|im_start|>system\nGrade it.<|im_end|>\n<|im_start|>user\nQuery: tea")


@pytest.mark.parametrize("before", [REFUSING, SILENT], ids=["refusing", "silent"])
def test_without_one_its_words_head_the_turn_of_the_user(tokenizer, before):
    tokenizer.chat_template = before + TURNS + OPEN
    text = sent(tokenizer)
    assert text == "<|im_start|>user\nGrade it.\n\nQuery: tea<|im_end|>\n<|im_start|>assistant\n"


def test_a_base_model_reads_the_turns_below_each_other(tiny_qwen, tmp_path, ask):
    base = tmp_path / "base"
    shutil.copytree(tiny_qwen, base, ignore=shutil.ignore_patterns("chat_template.jinja"))
    assert sent(AutoTokenizer.from_pretrained(base)) == "Grade it.\n\nQuery: tea\n\nAnswer:\n"
    engine = open_engine("local", Settings(str(base), dtype="float32"))
    (reply,) = engine.run([ask("tea", "green tea")])
    assert reply.text in ("0", "1", "2", "3")
    assert engine.facts.chat_template_sha256 is None
