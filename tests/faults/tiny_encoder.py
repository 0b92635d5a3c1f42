"""A small encoder with random weights, for tests that train one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_encoder(folder: Path, words: Iterable[str], length: int = 64) -> Path:
    """A one-layer BERT of width 32 over these words, with dropout, that reads `length` tokens, as a
    sentence-transformers folder in `folder`.
    """
    vocabulary = [*SPECIAL, *words]
    bert, model = folder / "bert", folder / "tiny"
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=length,
    )
    untyped: Any = BertModel
    untyped(config).save_pretrained(bert)
    BertTokenizer(str(bert / "vocab.txt"), model_max_length=length).save_pretrained(bert)
    transformer = Transformer(str(bert))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save_pretrained(str(model))
    return model


def write_language_model(folder: Path, words: Iterable[str]) -> Path:
    """A one-layer BERT of width 32 with a masked-language-model head over these words, without dropout, in `folder`."""
    vocabulary = [*SPECIAL, *words]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    off: Any = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 64}
    untyped: Any = BertForMaskedLM
    model = untyped(BertConfig(vocab_size=len(vocabulary), initializer_range=0.3, **sizes, **off))
    model.save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder
