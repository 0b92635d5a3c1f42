"""BM25: ids and scores equal to bm25s's own, an index that is built once and never out of date, and other languages."""

import math
import os
import re
import tracemalloc
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.queries import query_rows
from labelkit.errors import UnknownNameError
from labelkit.pooling import bm25_index, bm25_kernels
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.bm25_index import Corpus, Words, digest_of, without_stop_words
from labelkit.pooling.languages import CODES, terms_of
from labelkit.pooling.options import PoolOptions
from labelkit.records import full_text

pytestmark = pytest.mark.slow  # numba compiles our search and that of bm25s

REPOSITORY = Path(__file__).parents[3]
SCIFACT = REPOSITORY / ".." / "shared" / "data" / "scifact"


def corpus_of(texts: list[str]) -> Corpus:
    return Corpus(lambda: texts, digest_of(texts), len(texts))


def searched(texts: list[str], queries: list[str], depth: int, language: str | None = None):
    found = Bm25(corpus_of(texts), language).search(queries, depth)
    return [(rows.tolist(), scores.tolist()) for rows, scores in found]


def by_bm25s(texts: list[str], queries: list[str], depth: int):
    """What bm25s finds with its numba backend, without the passages that share no word with the query."""
    words = bm25s.tokenize(texts, stopwords="en", show_progress=False)
    engine = bm25s.BM25(backend="numba")
    engine.index(words, show_progress=False)
    # bm25s refuses a first query without words.
    asked = [["", *words] for words in bm25s.tokenize(queries, stopwords="en", return_ids=False, show_progress=False)]
    engine.vocab_dict.pop("", None)
    rows, scores = engine.retrieve(asked, k=min(depth, len(texts)), show_progress=False)
    return [(found[marks > 0].tolist(), marks[marks > 0].tolist()) for found, marks in zip(rows, scores, strict=True)]


def paragraphs() -> tuple[list[str], list[str]]:
    """Paragraphs of this project's pages, each three times so that there are ties, and their first words as queries."""
    pages = [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "README.md", REPOSITORY / "LICENSE"]
    texts = [text for page in pages for text in re.split(r"\n\s*\n", page.read_text(encoding="utf-8")) if text.strip()]
    return texts * 3, [" ".join(text.split()[:9]) for text in texts]


def scifact() -> tuple[list[str], list[str]]:
    if not SCIFACT.is_dir():
        pytest.skip("SciFact is not here")
    texts = [full_text(title, text) for _, _, title, text in corpus_rows(SCIFACT / "corpus.jsonl")]
    return texts + texts[::7], [text for _, _, text in query_rows(SCIFACT / "queries.jsonl")][:300]


@pytest.mark.parametrize("collection", [paragraphs, scifact])
@pytest.mark.parametrize("depth", [1, 10, 2_000])
def test_ids_scores_and_the_order_of_ties_are_those_of_bm25s(collection, depth):
    texts, queries = collection()
    found = searched(texts, queries, depth)
    assert found == by_bm25s(texts, queries, depth)
    assert any(len(set(scores)) < len(scores) for _, scores in found) or depth == 1


WORDS = st.sampled_from(["ash", "birch", "cedar", "elm", "the", "fir", "oak"])
ASKED = st.sampled_from(["ash", "birch", "fir", "the", "zebra"])


@given(
    st.lists(st.lists(WORDS, max_size=6), min_size=1, max_size=90),
    st.lists(st.lists(ASKED, max_size=4), min_size=1, max_size=5),
    st.integers(1, 100),
)
@settings(max_examples=40, deadline=None)
def test_any_small_corpus_is_searched_as_by_bm25s(passages, queries, depth):
    texts, asked = [" ".join(words) for words in passages], [" ".join(words) for words in queries]
    expected = (
        by_bm25s(texts, asked, depth) if any(set(words) - {"the"} for words in passages) else [([], [])] * len(asked)
    )
    assert searched(texts, asked, depth) == expected


def test_a_corpus_of_several_tiles_and_groups_of_terms_is_searched_as_by_bm25s(monkeypatch):
    random = np.random.default_rng(0)
    numbers = random.zipf(1.3, (2 * bm25_kernels.TILE + 77, 5)) % 5_000
    texts = [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]
    queries = [" ".join(f"w{number}" for number in row) for row in numbers[::997, :3].tolist()]
    monkeypatch.setattr(bm25_index, "POSTINGS", 10_000)
    monkeypatch.setattr(bm25_index, "BLOCK", 5_000)
    assert searched(texts, queries, 30) == by_bm25s(texts, queries, 30)


def test_the_kept_index_is_one_that_bm25s_reads(monkeypatch, tmp_path):
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path))
    texts, queries = paragraphs()
    found = searched(texts, queries, 5)
    (folder,) = [path.parent for path in tmp_path.rglob("params.index.json")]
    engine = bm25s.BM25.load(folder, mmap=True)
    engine.backend = "numba"
    asked = bm25s.tokenize(queries, stopwords="en", return_ids=False, show_progress=False)
    rows, scores = engine.retrieve(asked, k=5, show_progress=False)
    assert [one[marks > 0].tolist() for one, marks in zip(rows, scores, strict=True)] == [one for one, _ in found]
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.index.{'json' if name in ('vocab', 'params') else 'npy'}"
        for name in ("data.csc", "indices.csc", "indptr.csc", "vocab", "params")
    }


def test_the_second_time_no_index_is_built(monkeypatch, tmp_path):
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path))
    first = searched(["red apples", "green tea"], ["tea"], 2)
    monkeypatch.setattr(bm25_index, "build", lambda *given: pytest.fail("the index is built again"))
    assert searched(["red apples", "green tea"], ["tea"], 2) == first


@pytest.mark.parametrize(
    "other", [["red apples", "green coffee"], ["red", "apples green tea"], ["green tea", "red apples"]]
)
def test_another_corpus_has_another_index(monkeypatch, tmp_path, other):
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path))
    searched(["red apples", "green tea"], ["tea"], 2)
    ((rows, _),) = searched(other, ["tea"], 2)
    assert rows == [row for row, text in enumerate(other) if "tea" in text]


def test_another_language_has_another_index(monkeypatch, tmp_path):
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path))
    assert searched(["Häuser"], ["Haus"], 1) == [([], [])]
    assert searched(["Häuser"], ["Haus"], 1, "german")[0][0] == [0]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-4]), os.remove])
@pytest.mark.parametrize("name", ["data.csc.index.npy", "vocab.index.json", "params.index.json"])
def test_a_damaged_index_is_built_again(monkeypatch, tmp_path, name, damage):
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path))
    first = searched(["red apples", "green tea"], ["tea", "apples"], 2)
    (path,) = tmp_path.rglob(name)
    damage(path)
    assert searched(["red apples", "green tea"], ["tea", "apples"], 2) == first


def test_an_index_that_was_never_finished_is_built_again(monkeypatch, tmp_path):
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(bm25_index, "write_postings", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            searched(["red apples", "green tea"], ["tea"], 2)
    assert list((tmp_path / "bm25").glob("*.unfinished"))
    assert searched(["red apples", "green tea"], ["tea"], 2)[0][0] == [1]
    assert not list((tmp_path / "bm25").glob("*.unfinished"))


def test_scores_of_pairs_are_those_of_the_search():
    texts, queries = paragraphs()
    engine = Bm25(corpus_of(texts))
    found = dict(enumerate(engine.search(queries, len(texts))))
    pairs = [(query, row) for query in range(0, len(queries), 3) for row in range(0, len(texts), 5)]
    expected = [
        dict(zip(found[query][0].tolist(), found[query][1].tolist(), strict=True)).get(row, 0.0) for query, row in pairs
    ]
    assert engine.scores(queries, pairs).tolist() == expected
    assert 0 < np.count_nonzero(expected) < len(expected)
    assert engine.scores(queries, []).tolist() == []


def test_a_score_is_lucene_s_formula_worked_out_by_hand():
    texts = ["tea tea water", "water", "coffee beans"]
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    by_hand = idf * 2 / (2 + 1.5 * (1 - 0.75 + 0.75 * 3 / 2))
    assert Bm25(corpus_of(texts)).scores(["tea"], [(0, 0), (0, 1)]).tolist() == pytest.approx([by_hand, 0])


def test_the_memory_of_a_build_does_not_grow_with_the_passages(monkeypatch, tmp_path):
    monkeypatch.setattr(bm25_index, "BLOCK", 500)
    monkeypatch.setattr(bm25_index, "POSTINGS", 2_000)

    def peak(passages: int) -> int:
        folder = tmp_path / str(passages)
        folder.mkdir()
        corpus = Corpus(lambda: (f"w{number % 300} w{number % 7} common" for number in range(passages)), "", passages)
        tracemalloc.start()
        bm25_index.build(corpus, terms_of(None), folder, lambda *told: None)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(500)
    few, many = peak(2_000), peak(8_000)
    # Two small numbers per passage remain in memory.
    assert (many - few) / 6_000 < 40


@pytest.mark.parametrize("language", sorted(CODES))
def test_every_language_has_terms(language):
    terms = terms_of(language)
    assert terms.name == CODES[language]
    assert terms_of(CODES[language].upper()).name == CODES[language]
    assert terms.of("BM25 2024") == ["bm25", "2024"]


@pytest.mark.parametrize(
    ("language", "passage", "query"),
    [
        ("german", "Die Häuser der Nachbarn", "haus"),
        ("french", "Les élèves mangeaient des pommes", "pomme mangeait"),
        ("ru", "кошки спят днём", "кошка"),
        ("hindi", "लड़कियां पानी पीती हैं", "पानी"),
        ("tamil", "மரங்கள் வளர்கின்றன", "மரம் மரங்கள்"),
        ("zh", "我爱北京天安门", "北京"),
        ("japanese", "吾輩は猫である", "猫である"),
        ("ko", "고양이는 낮에 잠을 잔다", "낮에"),
        ("greek", "οι γάτες κοιμούνται", "γάτα"),
    ],
)
def test_a_language_finds_its_inflected_words(language, passage, query):
    ((rows, _),) = searched(["BM25", passage, "2024"], [query], 3, language)
    assert rows == [1]


def test_stop_words_of_a_language_are_no_terms():
    assert terms_of("de").of("die und der Haus") == ["haus"]
    assert terms_of(None).of("the Houses of London") == ["houses", "london"]


def test_terms_without_a_language_are_those_of_bm25s():
    texts = [*paragraphs()[0], "a I U.S. naïve don't x_y 1st ½ ② e\u0301 \u2028 中文字 ß"]
    assert [terms_of(None).of(text) for text in texts] == bm25s.tokenize(
        texts, stopwords="en", return_ids=False, show_progress=False
    )


def test_an_unknown_language_is_refused_in_one_line_with_the_choices(labelkit, beir, tmp_path):
    with pytest.raises(UnknownNameError, match=r"klingon.*german"):
        PoolOptions(language="klingon")
    called = labelkit("pool", beir, "--language", "klingon", "-o", tmp_path / "pool")
    assert called.code == 2
    assert called.err.count("\n") == 1


def test_words_of_one_stem_are_one_term():
    words = Words(terms_of("en"))
    assert words["cats"] == words["cat"] == 0
    assert words["the"] == -1
    assert words.vocabulary == {"cat": 0}


def test_stop_words_are_removed_and_the_ends_of_passages_move():
    kept, ends = without_stop_words(np.array([-1, 4, 5, -1, -1, 6], np.int32), np.array([3, 0, 2, 1]))
    assert (kept.tolist(), ends.tolist()) == ([4, 5, 6], [2, 2, 2, 3])
