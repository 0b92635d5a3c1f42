"""An encoder of letters, whose similarities are known by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

LETTERS = "abcdefgh"


def write_bag_of_letters(folder: Path, similarity: Any = "cosine", weights: Sequence[float] = (1.0,) * 8) -> str:
    """A model that embeds a text as the mean of one axis a letter, so that similarities are known by hand."""
    vocabulary = {"[UNK]": 0} | {letter: number for number, letter in enumerate(LETTERS, 1)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    axes = torch.cat([torch.zeros(1, 8), torch.diag(torch.tensor(weights))])
    embedding = StaticEmbedding(tokenizer, embedding_weights=axes)
    SentenceTransformer(modules=[embedding], similarity_fn_name=similarity).save_pretrained(str(folder))
    return str(folder)
