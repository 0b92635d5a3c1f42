"""A small encoder with random weights, for tests that train one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

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
