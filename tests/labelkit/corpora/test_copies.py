"""Copies inside a set of texts, found on disk, are those that a slow comparison of all pairs finds."""

import random
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pytest

from labelkit.corpora.copies import Repeated, groups, repeated
from labelkit.corpora.near_duplicates import NEAR, jaccard, normalised

WORDS = [
    f"{first}{second}" for first in ("ba", "ke", "li", "mo", "nu") for second in ("tra", "sel", "ming", "po", "du")
]


def family(seed: int, count: int) -> list[str]:
    """Texts of which some are copies of others with up to five of 40 words replaced."""
    numbers = random.Random(seed)
    texts = [" ".join(numbers.choices(WORDS, k=40)) for _ in range(count // 4)]
    while len(texts) < count:
        words = numbers.choice(texts).split()
        for _ in range(numbers.randrange(6)):
            words[numbers.randrange(len(words))] = numbers.choice(WORDS)
        texts.append(" ".join(words))
    numbers.shuffle(texts)
    assert normalised(pa.array(texts)).to_pylist() == texts
    return texts


def near(one: str, other: str) -> bool:
    return one == other or jaccard(one, other) >= NEAR


@pytest.mark.parametrize("seed", range(3))
def test_each_text_that_repeats_a_kept_one_is_found(seed: int, tmp_path: Path) -> None:
    texts = family(seed, 120)
    kept: list[int] = []
    expected = set()
    for number, text in enumerate(texts):
        if any(near(text, texts[other]) for other in kept):
            expected.add(number)
        else:
            kept.append(number)
    found = list(repeated(len(texts), texts.__getitem__, tmp_path, alike=lambda one, other: True))
    assert 20 < len(expected) < 100
    assert {one.number for one in found} == expected
    assert {one.kept for one in found} <= set(kept)


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_the_connected_texts(seed: int, tmp_path: Path) -> None:
    texts = family(seed, 100)
    label = list(range(len(texts)))
    for one, other in combinations(range(len(texts)), 2):
        if near(texts[one], texts[other]) and label[one] != label[other]:
            low, high = sorted((label[one], label[other]))
            label = [low if each == high else each for each in label]
    assert groups(len(texts), texts.__getitem__, tmp_path) == label


def test_how_a_text_is_repeated_and_that_others_are_kept(tmp_path: Path) -> None:
    long = " ".join(WORDS)
    texts = [long, long, long.upper() + "!", long + " tea", "", "...", "...", "tea"]
    found = list(repeated(len(texts), texts.__getitem__, tmp_path, alike=lambda one, other: True))
    assert [(one.number, one.kept, one.how) for one in found] == [
        (1, 0, "exact"),
        (2, 0, "normalised"),
        (3, 0, "near"),
        (6, 5, "exact"),
    ]
    other = list(repeated(len(texts), texts.__getitem__, tmp_path, alike=lambda one, other: False))
    assert [one.number for one in other] == [1, 2, 6]


def test_a_thousand_versions_of_a_text_repeat_the_first(tmp_path: Path) -> None:
    texts = [" ".join([*WORDS, str(number)]) for number in range(1000)]
    found = list(repeated(len(texts), texts.__getitem__, tmp_path, alike=lambda one, other: True))
    assert [one.kept for one in found] == [0] * 999
    assert set(groups(len(texts), texts.__getitem__, tmp_path)) == {0}


def test_no_texts(tmp_path: Path) -> None:
    nothing: list[Repeated] = list(repeated(0, lambda number: "", tmp_path, alike=lambda one, other: True))
    assert nothing == []
    assert groups(0, lambda number: "", tmp_path) == []
