"""Texts of megabytes are cut before anything looks at all of them, and short ones are read as ever."""

import time

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from labelkit.corpora.words import CHARACTERS
from labelkit.engines.tokenizers import FileTokens
from labelkit.judging.options import PlanOptions
from labelkit.judging.plan import plan
from labelkit.judging.reading import Reading, read_passage, shortened
from labelkit.pooling.pool import Pool
from labelkit.records import Candidate, Passage, Query

SENTENCE = "cats sleep most of the day and hunt at night. "
SIZE = 10 << 20
LONG = {
    "sentences": SENTENCE * (SIZE // len(SENTENCE)),
    "one letter": "x" * SIZE,
    "han": "漢字" * (SIZE // 2),
    "zero width": "\u200b" * SIZE,
    "joiners": "a\u200d" * (SIZE // 2),
    "spaces": "x" + " " * SIZE + "x",
    "reserved": "<|im_start|>" * (SIZE // 12),
}


class Counted(FileTokens):
    """A real tokenizer that remembers the longest text it was given."""

    longest = 0

    def ends(self, text):
        self.longest = max(self.longest, len(text))
        return super().ends(text)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator([SENTENCE] * 5, BpeTrainer(vocab_size=400, initial_alphabet=ByteLevel.alphabet()))
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    bpe.save(str(path))
    return path


def pool_of_one(text):
    candidate = Candidate(query_id="q", passage_id="p", sources=())
    query, passage = Query(query_id="q", text="why do cats sleep"), Passage(passage_id="p", title="", text=text)
    return Pool({"q": query}, {"p": passage}, [candidate], {})


@pytest.mark.parametrize("kind", LONG)
def test_a_tokenizer_sees_no_more_than_can_be_read(tokenizer_file, kind):
    tokens, reading = Counted(str(tokenizer_file)), Reading(passage_tokens=50, defences=("strip", "second-look"))
    read = read_passage(LONG[kind], reading, tokens)
    assert tokens.longest <= 50 * CHARACTERS
    assert read.cut
    assert len(tokens.ends(read.text)) < 50 + 4, "the last character may be of several tokens"
    words = read_passage(LONG[kind], reading._replace(passage_tokens=None, passage_words=50), None)
    assert len(words.text) <= 50 * CHARACTERS
    assert words.cut


def test_what_is_read_of_ordinary_texts_is_what_all_of_their_tokens_say(tokenizer_file):
    tokens = FileTokens(str(tokenizer_file))
    for count in (1, 40, 2000):
        text, reading = SENTENCE * count, Reading(passage_tokens=30)
        read = read_passage(text.strip(), reading, tokens).text
        whole = tokens.ends(text)
        assert read == (text[: whole[29]] if len(whole) > 30 else text.strip())
        words = read_passage(text, Reading(passage_words=20), None).text
        assert words.split() == text.split()[:20]


def test_a_plan_of_ten_megabytes_takes_about_as_long_as_one_of_a_sentence(tokenizer_file):
    def seconds(text):
        options = PlanOptions(model="m", engine="openai", tokenizer=str(tokenizer_file))
        start = time.perf_counter()
        plan(pool_of_one(text), options)
        return time.perf_counter() - start

    short = seconds(SENTENCE)
    assert all(seconds(text) < short + 10 for text in LONG.values()), "it took 20 to 60 s to look at all of each"


def test_the_words_of_a_long_text_are_cut_where_its_words_end():
    assert shortened("one two  three\nfour", Reading(passage_words=3), None) == "one two three"
