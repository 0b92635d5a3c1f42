"""Texts encoded word by word have the tokens of the whole text, under every tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from labelkit.engines.text_encoding import TextEncoder, splits_before_spaces

TEXTS = [
    "Query: how many days off do I get?\n\nPassage: Staff have 25 days  off; they can't be carried over.\n",
    "Überstunden werden bezahlt. 休暇は25日です。 e\u0301te\u0301 été naïve 😀 x=1; y  =  2\n\t if True:\n\t\treturn\n",
]
SPECIAL = "<|end|>"
PIECES = [
    *"ab é中ア7٣!?'._-(€😀",
    " ",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\u00a0",
    "\u2028",
    "e\u0301",
    "'ll",
    "12",
    SPECIAL,
]
LLAMA = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)


def split(regex: str) -> pre_tokenizers.PreTokenizer:
    """Words by a regular expression, then bytes: the form of most models since Llama 3."""
    stages = [
        pre_tokenizers.Split(Regex(regex), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return pre_tokenizers.Sequence(stages)


def trained(splitter: pre_tokenizers.PreTokenizer, *special: str | AddedToken) -> Tokenizer:
    """A byte-level BPE tokenizer with a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=[SPECIAL, *special])
    )
    return tokenizer


def metaspace() -> Tokenizer:
    """A tokenizer whose tokens may hold a whole line."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -2.0), ("b", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer


GPT2, LLAMA3 = trained(pre_tokenizers.ByteLevel(add_prefix_space=False)), trained(split(LLAMA))
TOKENIZERS = {
    "GPT-2": GPT2,
    "Llama 3": LLAMA3,
    "a space in front": trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "words with spaces": trained(split(r"[^\n]+|\n+")),
    "a look back": trained(split(r"(?<=x) a|\S+|\s+")),
    "an added token that absorbs spaces": trained(split(LLAMA), AddedToken("<x>", lstrip=True)),
    "an added token with a space": trained(split(LLAMA), AddedToken("a b")),
    "sentencepiece": metaspace(),
}


@pytest.mark.slow
@given(text=st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_have_the_tokens_of_the_whole_text(name, text):
    tokenizer = TOKENIZERS[name]
    encoder = TextEncoder(tokenizer)
    for _ in range(2):  # the second time from memory
        whole = tokenizer.encode(text, add_special_tokens=False)
        assert encoder.ids(text) == whole.ids
        assert encoder.ends(text) == [end for _, end in whole.offsets]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_only_tokenizers_that_split_before_spaces_encode_words(name):
    assert splits_before_spaces(TOKENIZERS[name]) == (name in ("GPT-2", "Llama 3"))


def test_a_word_is_encoded_once():
    encoder = TextEncoder(LLAMA3)
    encoder.ids("Passage: days off days off")
    assert encoder._word.cache_info().misses == 3
