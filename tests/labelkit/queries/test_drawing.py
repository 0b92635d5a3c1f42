"""Passages for queries: long documents do not dominate, poor texts are left out, registers keep their shares."""

import json
from collections import Counter
from itertools import islice

import pytest

from labelkit.corpora.fields import USUAL
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.collection import stage_corpus
from labelkit.queries.drawing import draw, seconds, unfit
from labelkit.queries.registers import read_registers, spread
from labelkit.storage import tables

LONG = "every line of this long manual describes another lever valve pump gauge or bolt of machine number"


@pytest.fixture
def staged(tmp_path):
    """Stage a corpus and draw from it."""

    def run(rows, count, seed=0):
        path = tmp_path / "corpus.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with tables.session(tmp_path / "scratch") as db:
            folder = tmp_path / "scratch"
            collection = stage_corpus(db, [path], folder, fields=USUAL, report=lambda stage: None)
            sample = draw(db, collection, [path], fields=USUAL, count=count, seed=seed)
            return sample, seconds(collection, Bm25(collection.corpus), sample.drawn)

    return run


def manual(number, **more):
    return {"_id": f"m{number}", "title": "Manual", "text": f"{LONG} {number}"} | more


def leaflet(number):
    words = "flowers open early in spring when bumblebees look for nectar near hedges and meadows"
    return {"_id": f"l{number}", "title": f"Leaflet {number}", "text": f"{words} variety{number}"}


def test_every_document_gives_a_passage_before_any_gives_a_second_one(staged):
    sample, _ = staged([*map(manual, range(100)), *map(leaflet, range(4))], 6)
    titles = Counter(one.passage.title for one in sample.drawn)
    assert titles == {"Manual": 2} | {f"Leaflet {number}": 1 for number in range(4)}
    assert sample.left_out == {}


def test_documents_are_named_by_the_metadata_first(staged):
    rows = [manual(number, metadata={"source": f"part-{number % 3}.pdf"}) for number in range(30)]
    sample, _ = staged([*rows, leaflet(0)], 4)
    parts = {f"m{number}": f"part-{number % 3}.pdf" for number in range(30)}
    assert len({parts.get(one.passage.passage_id) for one in sample.drawn}) == 4


def test_a_larger_sample_begins_with_the_smaller_one_and_a_seed_changes_it(staged):
    rows = [*map(manual, range(20)), *map(leaflet, range(20))]
    few, many, other = (
        [one.passage.passage_id for one in staged(rows, count, seed)[0].drawn]
        for count, seed in ((5, 0), (25, 0), (5, 1))
    )
    assert many[:5] == few != other


def test_poor_texts_are_left_out_and_counted(staged):
    rows = [
        leaflet(0),
        {"_id": "short", "title": "", "text": "two words"},
        {"_id": "digits", "title": "", "text": " ".join(f"{number}.5" for number in range(40))},
        {
            "_id": "menu",
            "title": "",
            "text": "Home Contact Log in Sign up Privacy policy Terms of use Help News Blog Jobs",
        },
        {
            "_id": "loop",
            "title": "",
            "text": "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu " * 10,
        },
        {"_id": "one", "title": "", "text": LONG},
        {"_id": "two", "title": "", "text": LONG.upper()},
    ]
    sample, _ = staged(rows, 10)
    assert [one.passage.passage_id for one in sample.drawn] == ["l0"]
    assert sample.left_out == {
        "fewer than 12 different words": 1,
        "mostly digits and signs": 1,
        "menu or notice of a page": 1,
        "repeats the same words": 1,
        "the same text occurs more than once": 2,
    }


def test_texts_without_spaces_are_fit():
    assert unfit("猫は一日の大半を眠って過ごし、夜になると狩りに出かける動物である") is None
    assert unfit("แมวนอนเกือบทั้งวัน และออกล่าเหยื่อในเวลากลางคืน " * 3 + "a b c d e f g h i j k") is None


def test_a_second_passage_is_of_the_same_document_or_similar_and_no_copy(staged):
    meadow = {
        "_id": "far",
        "title": "Other",
        "text": "bumblebees and hedges in a spring meadow of an old village near the river bank",
    }
    rows = [manual(0), manual(1), leaflet(0), leaflet(1), meadow]
    sample, second = staged(rows, 5)
    found = {
        one.passage.passage_id: other and other.passage_id for one, other in zip(sample.drawn, second, strict=True)
    }
    assert (found["m0"], found["m1"]) == ("m1", "m0")
    assert found["l0"] == found["l1"] == "far"  # the two leaflets are near-duplicates of each other


def test_shares_hold_for_every_beginning_and_a_passage_gets_different_registers():
    registers = read_registers("question=0.5, keywords=0.25, claim=0.25")
    given = list(islice(spread(registers, 2), 100))
    for end in (2, 10, 100):
        counts = Counter(one.name for mine in given[:end] for one in mine)
        for one in registers:
            assert abs(counts[one.name] - one.share * 2 * end) <= 1
    assert all(len({one.name for one in mine}) == 2 for mine in given)
    (four,) = islice(spread(registers, 4), 1)
    assert len({one.name for one in four[:3]}) == 3


def test_a_prompt_of_your_own_is_a_register(tmp_path):
    path = tmp_path / "limerick.toml"
    path.write_text(
        'name = "limerick"\nversion = "1"\nmethod = "write"\ncitation = "none"\nmax_overlap = 0.4\n'
        'system = "Write."\nuser = "Passage: {passage}"\n'
    )
    mine, question = read_registers(f"{path}=3,question=1")
    assert (mine.name, mine.share, mine.prompt.max_overlap, question.share) == ("limerick", 0.75, 0.4, 0.25)
