"""What comes with a model is not executed unless a flag asks for it."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from labelkit.engines import Settings, open_engine
from labelkit.errors import UsageError
from labelkit.pooling.model_loading import load_encoder

REPOSITORY = Path(__file__).parents[3]


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self):
        return Path.write_text, (self._target, "executed")


@pytest.fixture
def proof(tmp_path):
    return tmp_path / "executed"


def custom_module(folder, proof):
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(proof)!r}).write_text('executed')\n")
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]))


def installed_module(folder, proof):
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "subprocess.Popen"}]))


def auto_map(folder, proof):
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(proof)!r}).write_text('executed')\n")
    kind = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": kind}))


def pickled(folder, proof):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(proof)))


ATTACKS = {"modules.json names": [custom_module, installed_module], "auto_map": [auto_map], "a pickle": [pickled]}
CASES = [(attack, why) for why, attacks in ATTACKS.items() for attack in attacks]


@pytest.mark.parametrize(("attack", "why"), CASES, ids=[attack.__name__ for attack, _ in CASES])
def test_an_encoder_that_brings_code_is_refused_unread(tmp_path, proof, attack, why):
    folder = tmp_path / "model"
    folder.mkdir()
    attack(folder, proof)
    with pytest.raises(UsageError, match=f"would run code.*{why}.*--trust-remote-code"):
        load_encoder(str(folder))
    assert not proof.exists()


@pytest.mark.parametrize("engine", ["local", "vllm"])
@pytest.mark.parametrize("attack", [auto_map, pickled], ids=["auto_map", "pickle"])
def test_a_judge_that_brings_code_is_refused_unread(tmp_path, proof, attack, engine):
    if engine == "vllm":
        pytest.importorskip("vllm")
    folder = tmp_path / "model"
    folder.mkdir()
    attack(folder, proof)
    with pytest.raises(UsageError, match="would run code"):
        open_engine(engine, Settings(str(folder)))
    assert not proof.exists()


def test_with_the_flag_the_code_of_a_model_runs(tmp_path, proof):
    folder = tmp_path / "model"
    folder.mkdir()
    custom_module(folder, proof)
    with pytest.raises(UsageError, match="cannot load the model"):
        load_encoder(str(folder), trust_remote_code=True)
    assert proof.exists()


def test_safetensors_beside_a_pickle_are_read_instead(tmp_path, proof):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast  # type: ignore[attr-defined]

    base = tmp_path / "base"
    base.mkdir()
    (base / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "tea", "cat"]))
    BertTokenizerFast(vocab_file=str(base / "vocab.txt")).save_pretrained(base)
    BertModel(
        BertConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(base)
    transformer = Transformer(str(base))
    SentenceTransformer(modules=[transformer, Pooling(8)]).save(str(tmp_path / "model"))
    shutil.rmtree(base)
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(proof)))
    assert load_encoder(str(tmp_path / "model")).encode(["tea"]).shape == (1, 8)
    assert not proof.exists()
