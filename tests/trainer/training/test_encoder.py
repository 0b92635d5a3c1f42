"""What can be trained, and in which ways: each a real run of a few steps, saved and loaded as an ordinary model."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from labelkit.errors import MissingPackageError, UsageError
from labelkit.storage import folders
from trainer.config.fit_config import FitConfig
from trainer.retrieval.search import load_model
from trainer.training.fit import FitReport, fit

from ..conftest import WORDS, Trap


def train(model: Path, dataset: Path, output: Path, **settings: Any) -> FitReport:
    quick: dict[str, Any] = {
        "objective": "lsepair",
        "max_steps": 12,
        "batch_size": 6,
        "learning_rate": 5e-3,
        "temperature": 0.2,
    }
    return fit(dataset, output, FitConfig(model=str(model), **(quick | settings)))


def assert_learnt(report: FitReport, output: Path) -> SentenceTransformer:
    first, last = report.stages[0].loss_at_ends()
    assert last < first
    model = SentenceTransformer(str(output), device="cpu")
    assert torch.isfinite(model.encode(["word1 word2"], convert_to_tensor=True)).all()
    return model


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """A one-layer Llama of width 32 without a padding token."""
    folder = tmp_path / "llama"
    vocabulary = {word: number for number, word in enumerate(("<s>", "</s>", "<unk>", *WORDS))}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **special).save_pretrained(folder)
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    untyped: Any = LlamaModel
    untyped(LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **size)).save_pretrained(folder)
    return folder


def test_a_decoder_with_the_vector_of_its_last_token(decoder: Path, toy_dataset: Path, tmp_path: Path) -> None:
    report = train(decoder, toy_dataset, tmp_path / "m", pooling="lasttoken", query_prompt="word5 word6 ")
    model = assert_learnt(report, tmp_path / "m")
    assert model[1].pooling_mode == "lasttoken"
    assert model.prompts["query"] == "word5 word6 "
    alone, padded = (model.encode(texts)[0] for texts in (["word1"], ["word1", "word1 word2 word3"]))
    assert alone == pytest.approx(padded, abs=1e-5)


def test_a_plain_encoder_with_cls_pooling(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    """`bert-base-uncased` as it comes: no modules.json, no pooling."""
    bert = tiny_model.parent / "bert"
    plain = tmp_path / "plain"
    transformer: Any = load_model(str(bert))[0]
    transformer.auto_model.save_pretrained(plain)
    load_model(str(bert)).tokenizer.save_pretrained(plain)
    model = assert_learnt(train(plain, toy_dataset, tmp_path / "m", pooling="cls"), tmp_path / "m")
    assert model[1].pooling_mode == "cls"


def test_adapters_are_merged_into_an_ordinary_model(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = assert_learnt(
        train(tiny_model, toy_dataset, tmp_path / "m", lora_rank=4, learning_rate=2e-2), tmp_path / "m"
    )
    before = SentenceTransformer(str(tiny_model), device="cpu").state_dict()
    after = model.state_dict()
    assert after.keys() == before.keys(), "nothing is left of the adapters"
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert not any("embeddings" in name or "LayerNorm" in name for name in changed), "only linear layers have any"
    with pytest.raises(UsageError, match=r"lora_targets .* match no layer"):
        train(tiny_model, toy_dataset, tmp_path / "n", lora_rank=4, lora_targets=("nowhere",))


def test_the_first_dimensions_work_alone(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    """The loss of a Matryoshka run is the mean of what each cut of the embedding has alone."""
    whole, cut, both = (
        train(tiny_model, toy_dataset, tmp_path / name, max_steps=1, matryoshka_dims=dims).stages[0].losses[0]["loss"]
        for name, dims in (("w", (32,)), ("c", (8,)), ("b", (32, 8)))
    )
    plain = train(tiny_model, toy_dataset, tmp_path / "p", max_steps=1).stages[0].losses[0]["loss"]
    assert whole == pytest.approx(plain, rel=1e-6)
    assert both == pytest.approx((whole + cut) / 2, rel=1e-6)
    with pytest.raises(UsageError, match="matryoshka_dims 64 is more than the 32 dimensions"):
        train(tiny_model, toy_dataset, tmp_path / "n", matryoshka_dims=(64,))


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"gradient_checkpointing": True}, {"workers": 1}])
def test_ways_of_computing(tiny_model: Path, toy_dataset: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    report = train(tiny_model, toy_dataset, tmp_path / "m", **settings)
    assert_learnt(report, tmp_path / "m")
    plain = train(tiny_model, toy_dataset, tmp_path / "plain")
    found, expected = ([point["loss"] for point in one.stages[0].losses] for one in (report, plain))
    if "precision" not in settings:
        assert found == pytest.approx(expected, rel=1e-4)
    else:
        assert found != expected
        assert found == pytest.approx(expected, rel=0.1, abs=0.1)


def test_half_precision_that_a_cpu_does_not_have(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp16 needs a GPU; on a CPU use bf16"):
        train(tiny_model, toy_dataset, tmp_path / "m", precision="fp16")


def test_tensorboard_gets_the_losses_and_an_absent_logger_the_install_line(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    train(tiny_model, toy_dataset, tmp_path / "m", max_steps=3, log_to=("tensorboard",))
    assert list((tmp_path / "m" / "logs" / "stage-1").glob("events.out.tfevents.*"))
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    monkeypatch.setattr("trainer.training.fit.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"run: pip install 'tensorboard>=\S+'$"):
        train(tiny_model, toy_dataset, tmp_path / "n", log_to=("tensorboard",))


def test_the_best_epoch_on_dev_is_kept_and_patience_ends_a_stage(
    tiny_model: Path, toy_dataset: Path, beir: Path, tmp_path: Path
) -> None:
    from trainer.training.dev import make_dev

    settings = {"max_steps": None, "epochs": 12, "dev": f"{beir}:test", "patience": 2, "learning_rate": 2e-2}
    (stage,) = train(tiny_model, toy_dataset, tmp_path / "m", **settings).stages
    values = [point["value"] for point in stage.dev]
    best = values.index(max(values))
    assert [point["step"] for point in stage.dev] == [2 * (n + 1) for n in range(len(values))]
    assert len(values) == min(12, best + 3), "two epochs after the best one"
    assert len(values) < 12, "or the test shows nothing"
    dev = make_dev(FitConfig(model="m", objective="lsepair", dev=f"{beir}:test"))
    assert dev is not None
    assert dev(SentenceTransformer(str(tmp_path / "m"), device="cpu")) == pytest.approx(max(values))


def test_code_that_comes_with_a_model_is_not_run(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "foreign"
    SentenceTransformer(str(tiny_model), device="cpu").save_pretrained(str(model))
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\nclass Evil: pass\n")
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["type"] = "evil.Evil"
    (model / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UsageError, match=r"would run code|cannot load the model"):
        load_model(str(model))
    assert not (tmp_path / "executed").exists()


def test_pickled_weights_that_do_more_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "foreign"
    SentenceTransformer(str(tiny_model), device="cpu").save_pretrained(str(model))
    (model / "model.safetensors").unlink()
    torch.save({"x": Trap(tmp_path / "executed")}, model / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"would run code|cannot load the model"):
        load_model(str(model))
    assert not (tmp_path / "executed").exists()


def test_sources_of_labels_are_watched(tiny_model: Path, two_sources: Path, tmp_path: Path) -> None:
    report = train(tiny_model, two_sources, tmp_path / "m", labels="human + llm", max_steps=3)
    for point in report.stages[0].losses:
        assert point["share_human"] + point["share_llm"] == pytest.approx(1)
        assert point["gradient_human"] > 0
        assert -1 <= point["cosine_human_llm"] <= 1
    alone = train(tiny_model, two_sources, tmp_path / "n", labels="human", max_steps=3)
    assert "share_human" not in alone.stages[0].losses[0]
    facts = folders.read_manifest(tmp_path / "m", "model").facts
    assert facts.stages[0]["losses"][0]["loss_llm"] > 0
