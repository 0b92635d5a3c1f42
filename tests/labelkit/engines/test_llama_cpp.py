"""llama.cpp's server, of llama-cpp-python, with a tiny random model: `annotate` finds the grammar that it knows.

Run it with LLAMA_CPP_PYTHON pointing to a Python that has `llama-cpp-python[server]`, or where it is installed.
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from present import present

from labelkit.judging.journal import Journal
from labelkit.storage.labels import read_labels

PAIRS = 5
CONTEXT = 4096


@pytest.fixture(scope="module")
def sure_qwen(tiny_qwen: Path, llama_cpp_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen2, with large logits of the labels alone: a score needs them among the 20 most probable tokens."""
    from safetensors.numpy import load_file, save_file
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("sure") / "qwen"
    shutil.copytree(tiny_qwen, folder)
    weights = load_file(folder / "model.safetensors")
    vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    labels = [vocabulary[label] for label in "0123"]
    others = [number for number in range(len(weights["lm_head.weight"])) if number not in labels]
    weights["lm_head.weight"][others] *= 0.01
    weights["lm_head.weight"][labels] *= 12
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def gguf_file(sure_qwen: Path) -> Path:
    """The same model in llama.cpp's format."""
    gguf = pytest.importorskip("gguf")
    target = sure_qwen.with_suffix(".gguf")
    config = json.loads((sure_qwen / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "qwen2")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_chat_template((sure_qwen / "chat_template.jinja").read_text())
    add_vocabulary(writer, json.loads((sure_qwen / "tokenizer.json").read_text()), gguf.TokenType)
    add_weights(writer, sure_qwen, gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def add_vocabulary(writer: Any, tokenizer: dict[str, Any], kind: Any) -> None:
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    names = {number: token for token, number in (tokenizer["model"]["vocab"] | special).items()}
    tokens = [names[number] for number in range(len(names))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([kind.CONTROL if token in special else kind.NORMAL for token in tokens])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(special["<|im_end|>"])
    writer.add_pad_token_id(special["<|endoftext|>"])
    writer.add_add_bos_token(False)


def add_weights(writer: Any, folder: Path, names: Any) -> None:
    from safetensors.numpy import load_file

    for name, weights in load_file(folder / "model.safetensors").items():
        writer.add_tensor(present(names.get_name(name, try_suffixes=(".weight", ".bias"))), weights)


@pytest.fixture
def judged(labelkit, pool, llama_cpp_server, gguf_file, tmp_path):
    """Judge pairs at the server; the called command, and how often each status was answered to a completion."""

    def run(*options):
        log = tmp_path / "server.log"
        with llama_cpp_server(gguf_file, log, *options) as url:
            base = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "openai", "--model", gguf_file, "--json")
            called = labelkit(*base, "--base-url", url, "--limit", PAIRS)
        lines = [line for line in log.read_text().splitlines() if "POST /v1/chat/completions" in line]
        return called, Counter(int(line.split('"')[2].split()[0]) for line in lines)

    return run


def of_the_run(folder):
    """Judgements, options that were sent, and the texts in the journal, in their order."""
    rows, _, manifest = read_labels(folder)
    (sent,) = present(manifest.facts.sent).values()
    with Journal(folder) as journal:
        kept = [json.loads(reply) for _, _, reply, *_ in journal.records()]
    return rows, sent, [reply.get("text") for reply in kept if reply.get("error") is None]


def test_every_pair_has_the_grade_and_score_of_engine_local(judged, tmp_path, pool, sure_qwen, annotated):
    called, answers = judged()
    assert called.code == 0, called.err
    rows, sent, texts = of_the_run(tmp_path / "labels")
    assert sent == {"constraint": "grammar"}
    assert answers == {200: PAIRS + 3}, "three other constraints are ignored first"
    assert Counter(texts[3:]) == Counter(str(row.grade) for row in rows)
    given = ("--model", sure_qwen, "--dtype", "float32", "--limit", PAIRS)
    local = annotated(pool, tmp_path / "local", *given)
    for row in rows:
        other = local[row.passage_id]
        assert (row.grade, row.tokens) == (other.grade, other.tokens)
        assert row.score == pytest.approx(other.score, abs=0.02)


def test_a_server_without_all_logits_gives_grades_alone(judged, tmp_path):
    called, answers = judged("--logits_all", "false")
    assert called.code == 0, called.err
    rows, sent, _ = of_the_run(tmp_path / "labels")
    assert sent == {"constraint": "grammar", "logprobs": 0}
    assert all(row.grade in range(4) and row.score is None for row in rows)
    assert answers == {200: PAIRS + 3, 500: 3}
    assert f"{PAIRS} x grade without a score: no log-probabilities" in called.err
